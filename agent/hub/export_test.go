package hub

import "github.com/slipway-deploy/slipway/agent/fleet"

// Core is the engine without goroutines, for the simulator.
type Core = core

// NewCore makes one.
func NewCore(cfg Config) *Core { return newCore(cfg) }

// Ready says that the store has been read.
func (c *core) Ready() bool { return c.ready() }

// The records of the store, for those who check invariants.
type (
	RolloutRecord = rolloutRecord
	HoldRecord    = holdRecord
	HostRecord    = hostRecord
	SlotRecord    = slotRecord
	TallyRecord   = tallyRecord
)

// ParseKey takes a key apart.
func ParseKey(fleet, key string) (kind string, g Group, rest []string, ok bool) {
	return newKeys(fleet).parse(key)
}

// Fence is what a hold is called.
func Fence(h *HoldRecord, it Item) int64 {
	return fenceOf(row[holdRecord]{val: h, created: it.Created})
}

// LimitOf is a cell's limit by a rollout's record.
func LimitOf(r *RolloutRecord, cell string) int { return r.Limits.of(cell) }

// PlusCounts adds.
var PlusCounts = plus

// CountOf is one host with a result.
func CountOf(r fleet.Result) fleet.Counts { return count(fleet.Counts{}, r, 1) }

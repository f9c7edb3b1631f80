package hub

import (
	"maps"
	"slices"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
)

// haltRecord exists while the whole fleet is halted. Every grant compares its absence.
type haltRecord struct {
	Stop fleet.Stop `json:"stop"`
}

// rolloutRecord is the state of a group's rollout. It holds nothing signed but digests: the plan itself every hub reads
// through TUF. Whatever changes who may go, the budget included, rewrites it, so every grant in flight fails its comparison.
type rolloutRecord struct {
	ID       string          `json:"id"`
	Sequence int64           `json:"sequence"`
	Document release.Digest  `json:"document"`
	Epoch    int64           `json:"epoch,omitempty"` // of the newest emergency document any hub has seen
	Version  release.Version `json:"version,omitzero"`
	Digest   release.Digest  `json:"digest,omitzero"`
	State    string          `json:"state"`
	// Was is the state that reconcile goes back to.
	Was  string      `json:"was,omitempty"`
	Stop *fleet.Stop `json:"stop,omitempty"`
	// Wave is the last one open and Since when it was opened.
	Wave  string    `json:"wave,omitempty"`
	Since time.Time `json:"since"`
	// Limits is the budget at the revision of this record.
	Limits limits `json:"limits"`
	// Failed and Lost are the sums of the tallies: exact, because every transaction that changes one rewrites this record.
	Failed int `json:"failed,omitempty"`
	Lost   int `json:"lost,omitempty"`
	// Excused is how many had failed when an operator resumed: only another failure stops the rollout again.
	Excused int       `json:"excused,omitempty"`
	Started time.Time `json:"started"`
	// Taken are the rollouts that were taken back, newest last: none is taken back twice.
	Taken []string `json:"taken,omitempty"`
	News  int64    `json:"news"`
	// Known is the highest fence that may have been lost with an old copy of the store and has been reconciled since: a fence
	// up to it that nobody knows is stale, one above it is proof of another loss.
	Known int64 `json:"known,omitempty"`
}

func (r *rolloutRecord) clone() *rolloutRecord {
	if r == nil {
		return nil
	}
	c := *r
	c.Taken = slices.Clone(r.Taken)
	return &c
}

// The states of a hold.
const (
	holdHeld      = "held"
	holdLost      = "lost"      // silent past its deadline
	holdUnhealthy = "unhealthy" // reported, and the app does not serve
)

// holdRecord is a host's grant: at most one per host and group. Its slots are keys of their own, made and deleted with it.
type holdRecord struct {
	Install   string          `json:"install"`
	Rollout   string          `json:"rollout"`
	Direction fleet.Direction `json:"direction"`
	Wave      string          `json:"wave,omitempty"`
	Slots     []slotName      `json:"slots"`
	State     string          `json:"state"`
	Since     time.Time       `json:"since"`
	Deadline  time.Time       `json:"deadline"`
	Boot      string          `json:"boot,omitempty"`
	Reason    string          `json:"reason,omitempty"`
	// Fence overrides the revision that made the record: of a grant that took over an unhealthy host's slots, or of one rebuilt
	// from what the host remembers after the store forgot it.
	Fence int64 `json:"fence,omitempty"`
}

// slotName is one numbered slot of a cell.
type slotName struct {
	Cell string `json:"cell"`
	N    int    `json:"n"`
}

// slotRecord says whose a slot is; the hold of that host says the rest.
type slotRecord struct {
	Host string `json:"host"`
}

// hostRecord is what a host last told and how its updates ended.
type hostRecord struct {
	Install  string            `json:"install,omitempty"`
	Clone    string            `json:"clone,omitempty"` // another installation that uses this host id
	Labels   map[string]string `json:"labels,omitempty"`
	Runs     *fleet.Runs       `json:"runs,omitempty"`
	Phase    string            `json:"phase,omitempty"`
	Why      string            `json:"why,omitempty"`
	Wave     string            `json:"wave,omitempty"`
	Rollout  string            `json:"rollout,omitempty"`
	Sequence int64             `json:"sequence,omitempty"`
	Seen     time.Time         `json:"seen"`
	// Ended is the highest fence of this host that is over. A fence above it that no hold knows is one the store forgot.
	Ended int64 `json:"ended,omitempty"`
	// Claim is a fence the host says it holds while the store is known to have forgotten some.
	Claim    int64    `json:"claim,omitempty"`
	ClaimFor string   `json:"claim_for,omitempty"`
	Last     *outcome `json:"last,omitempty"` // forward
	Back     *outcome `json:"back,omitempty"`
}

func (h *hostRecord) clone() *hostRecord {
	if h == nil {
		return &hostRecord{}
	}
	c := *h
	return &c
}

// outcome is how an update ended on a host.
type outcome struct {
	Rollout string       `json:"rollout"`
	Fence   int64        `json:"fence"`
	Result  fleet.Result `json:"result"`
	Serving bool         `json:"serving"`
	Wave    string       `json:"wave,omitempty"`
	Cause   string       `json:"cause,omitempty"`
	Reason  string       `json:"reason,omitempty"`
	Took    int          `json:"took,omitempty"`
	At      time.Time    `json:"at"`
}

// tallyRecord counts how hosts ended, by wave, as far as one hub recorded it. Only the sum over all hubs means anything: a
// host that one hub counted as lost may be counted as committed by another, which takes the first one back.
type tallyRecord struct {
	Waves map[string]fleet.Counts `json:"waves"`
	Last  time.Time               `json:"last"`
	// Grants is how many this hub gave. Every grant compares and rewrites its own hub's tally: a store that has forgotten this
	// hub's last one fails the comparison, before another is given on top of it.
	Grants int64 `json:"grants,omitempty"`
}

func (t *tallyRecord) clone() *tallyRecord {
	if t == nil {
		return &tallyRecord{Waves: map[string]fleet.Counts{}}
	}
	return &tallyRecord{Waves: maps.Clone(t.Waves), Last: t.Last, Grants: t.Grants}
}

// hubRecord is one hub's presence: it goes away by itself when the hub does.
type hubRecord struct {
	Since time.Time `json:"since"`
}

// sweeperRecord is the one hub that sweeps.
type sweeperRecord struct {
	ID string `json:"id"`
}

// count adds n hosts with a result.
func count(c fleet.Counts, r fleet.Result, n int) fleet.Counts {
	switch r {
	case fleet.Committed:
		c.Committed += n
	case fleet.Reverted:
		c.Reverted += n
	case fleet.Stuck:
		c.Stuck += n
	case fleet.Lost:
		c.Lost += n
	case fleet.FailedBefore:
		c.FailedBefore += n
	case fleet.Skipped:
		c.Skipped += n
	}
	return c
}

func plus(a, b fleet.Counts) fleet.Counts {
	return fleet.Counts{Committed: a.Committed + b.Committed, Reverted: a.Reverted + b.Reverted, Stuck: a.Stuck + b.Stuck,
		Lost: a.Lost + b.Lost, FailedBefore: a.FailedBefore + b.FailedBefore, Skipped: a.Skipped + b.Skipped}
}

func failed(r fleet.Result) bool { return r == fleet.Reverted || r == fleet.Stuck || r == fleet.Lost }

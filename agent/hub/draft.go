package hub

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// draft is a transaction in the making: what it compares, what it writes, and whom it answers once it is committed. It
// judges everything by the record of the rollout as the draft itself will leave it.
type draft struct {
	c   *core
	g   *group
	s   *signed // nil without a signed plan
	now time.Time

	conds map[string]int64
	order []string
	ops   []Op

	roll      *rolloutRecord
	rollDirty bool
	tally     *tallyRecord // of this hub, for the rollout in force; nil until it changes
	waves     map[string]fleet.Counts
	all       fleet.Counts
	audit     []auditEntry
	grants    int
	finishes  int

	hosts  map[string]bool         // hosts this draft already writes
	taken  map[string]map[int]bool // slots this draft takes
	used   map[string]int          // slots in use per cell, with those taken here
	staged []func(revision int64)  // called once committed

	read       []string // keys that must be read before anything can be said
	readers    []*job
	incomplete bool // slots may be missing in the cache
	more       bool // an act needs another transaction after this one
	final      Txn  // once sealed
}

func (c *core) draft(g *group) *draft {
	d := &draft{c: c, g: g, s: g.signed, now: c.now(), conds: map[string]int64{}, hosts: map[string]bool{},
		taken: map[string]map[int]bool{}, used: map[string]int{}, roll: g.rollout.val.clone()}
	if d.roll != nil {
		d.waves, d.all, _ = g.tallied(d.roll.ID)
	}
	return d
}

// reserve is what the shared keys of a transaction may need: halt, rollout, tally, and audit entries with their head.
const reserve = 8

// room says whether so many conditions and operations still fit.
func (d *draft) room(conds, ops int) bool {
	return len(d.conds)+conds+reserve <= MaxOps && len(d.ops)+ops+reserve <= MaxOps
}

// need adds a condition.
func (d *draft) need(key string, mod int64) {
	if _, ok := d.conds[key]; !ok {
		d.order = append(d.order, key)
	}
	d.conds[key] = mod
}

func (d *draft) put(key string, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("cannot write %s: %v", key, err)) // our own records
	}
	d.ops = append(d.ops, Op{Key: key, Value: text})
}

func (d *draft) delete(key string) { d.ops = append(d.ops, Op{Key: key}) }

// note adds an audit entry about what this draft does.
func (d *draft) note(by, act, why, done string) {
	d.audit = append(d.audit, auditEntry{At: d.now, By: by, Act: act, On: d.g.name.String(), Why: why, Done: done})
}

// ownTally is this hub's tally, which the transaction will rewrite.
func (d *draft) ownTally() *tallyRecord {
	if d.tally == nil {
		d.tally = d.g.tallies[d.roll.ID][d.c.ID].val.clone()
	}
	return d.tally
}

// count moves a host from one result to another, zero meaning none.
func (d *draft) count(wave string, from fleet.Result, fromWave string, to fleet.Result) {
	tally := d.ownTally()
	add := func(wave string, r fleet.Result, n int) {
		tally.Waves[wave] = count(tally.Waves[wave], r, n)
		d.waves[wave], d.all = count(d.waves[wave], r, n), count(d.all, r, n)
	}
	if from != "" {
		add(fromWave, from, -1)
	}
	if to != "" {
		add(wave, to, 1)
	}
	tally.Last = d.now
	if failed(from) || failed(to) {
		d.roll.Failed, d.roll.Lost, d.rollDirty = d.roll.Failed+b2i(failed(to))-b2i(failed(from)),
			d.roll.Lost+b2i(to == fleet.Lost)-b2i(from == fleet.Lost), true
		d.roll.Excused = min(d.roll.Excused, d.roll.Failed)
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// enter moves the rollout to a state and leaves the audit entry of it.
func (d *draft) enter(state string, stop *fleet.Stop, by, act, why, done string) {
	d.roll.State, d.roll.Stop, d.rollDirty = state, stop, true
	d.roll.News++
	d.note(by, act, why, done)
}

// seal finishes the transaction: shared keys are compared and written once, whatever the number of hosts.
func (d *draft) seal() {
	if d.tally != nil {
		key := d.c.keys.tally(d.g.name, d.roll.ID, d.c.ID)
		d.need(key, d.g.tallies[d.roll.ID][d.c.ID].mod)
		d.put(key, d.tally)
	}
	if d.rollDirty {
		key := d.c.keys.rollout(d.g.name)
		d.need(key, d.g.rollout.mod)
		d.put(key, d.roll)
	}
	d.sealAudit()
	d.final.Then = d.ops
	for _, key := range d.order {
		d.final.If = append(d.final.If, Cond{Key: key, Mod: d.conds[key]})
	}
}

func (d *draft) sealAudit() {
	if len(d.audit) == 0 {
		return
	}
	head := d.c.cache.head
	prev := head.val
	for _, e := range d.audit {
		e = e.Sealed(prev)
		d.put(d.c.keys.audit(e.N), e)
		prev = &e
	}
	d.need(d.c.keys.auditHead(), head.mod)
	d.put(d.c.keys.auditHead(), prev)
	d.audit = nil
}

// committed answers everybody whose request is in the transaction. The caller holds the core's lock.
func (d *draft) committed(revision int64) {
	for _, f := range d.staged {
		f(revision)
	}
	d.c.stats.Grants += int64(d.grants)
	d.c.stats.Finishes += int64(d.finishes)
	if d.roll != nil && d.roll.Known >= d.g.suspect {
		d.g.suspect = 0
		d.c.forgetSuspicion()
	}
}

// settle does what must be true before any host is answered: the newest plan is in force and a loss of the store is written
// down. It reports whether that takes a transaction of its own.
func (d *draft) settle() bool {
	if d.adopt() || d.markRestored() {
		return true
	}
	if d.roll != nil && max(d.g.whole, d.c.cache.watched) < d.g.rollout.mod {
		d.incomplete = true
		return true
	}
	return false
}

// adopt puts the newest signed plan in force. A new rollout starts from nothing but keeps what protects the fleet: the
// slots, which are keys of their own, and a loss of the store that nobody has reconciled.
func (d *draft) adopt() bool {
	s, old := d.s, d.g.rollout.val
	switch {
	case s == nil:
		return false
	case old != nil && old.Sequence >= s.Deployment.Sequence && old.Epoch >= s.epoch():
		return false
	case old != nil && old.Sequence >= s.Deployment.Sequence:
		d.roll.Epoch, d.rollDirty = s.epoch(), true
		d.roll.News++
		d.note(byHub, "epoch", "", sentence("emergency document %d is in force", s.epoch()))
		return true
	}
	d.roll = successor(old, s, d.now)
	d.rollDirty = true
	d.note(byHub, "plan", s.Deployment.Reason, sentence("deployment %d, rollout %s, is in force", d.roll.Sequence, d.roll.ID))
	d.markRestored()
	return true
}

// successor is the record of a newer plan.
func successor(old *rolloutRecord, s *signed, now time.Time) *rolloutRecord {
	dep := s.Deployment
	next := &rolloutRecord{State: fleet.StateOpen, Since: now, Started: now}
	if old != nil {
		if old.ID == dep.RolloutID {
			next = old.clone()
		}
		next.News, next.Known, next.Taken = old.News, old.Known, slices.Clone(old.Taken)
		if old.State == fleet.StateRestored && next.State != fleet.StateRestored {
			next.State, next.Was, next.Stop = fleet.StateRestored, fleet.StateOpen, old.Stop
		}
		next.Epoch = old.Epoch
	}
	next.ID, next.Sequence, next.Document, next.Digest, next.Version = dep.RolloutID, dep.Sequence, s.Document, s.digest(), s.version()
	next.Epoch, next.Limits = max(next.Epoch, s.epoch()), s.limits
	next.News++
	if wave := s.waveName(s.unjudged(s.waveIndex(next.Wave))); wave != next.Wave {
		next.Wave, next.Since = wave, now
	}
	return next
}

// state is the group's, with what the signers want counted in: a rollout that they take back is not halted any more, however
// it was stopped before. Only a pause holds that up.
func (d *draft) state() string {
	if d.s != nil && d.s.reverting() && (d.roll.State == fleet.StateOpen || d.roll.State == fleet.StateHalted) {
		return fleet.StateReverting
	}
	return d.roll.State
}

func sentence(format string, args ...any) string { return fmt.Sprintf(format, args...) }

package hub_test

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/hub/storetest"
	"github.com/slipway-deploy/slipway/agent/release"
)

// checker looks at every revision of the store, and at what machines really do, and fails the world if an invariant does not
// hold. Numbers in its messages are those of docs/fleet-invariants.md.
type checker struct {
	w        *world
	revision int64
	roll     *hub.RolloutRecord
	halted   bool
	holds    map[string]held
	slots    map[string]map[int]string
	hosts    map[string]*hub.HostRecord
	tallies  map[string]map[string]*hub.TallyRecord
	audit    *hub.AuditEntry
	// sent are the fences a host has reported the end of; freeing is those of them that may free the slot.
	freeing map[string]map[int64]bool
	// excused are the machines, by installation, whose slot an operator gave away; forgotten those that act under a grant
	// which a restored copy of the store does not know.
	excused, forgotten map[string]bool
	// byHand are rollouts that people pushed on, so that bounds on what happens by itself do not apply. limitOf is the highest
	// budget each rollout had.
	byHand  map[string]bool
	limitOf map[string]int
	// stopSince is since when nobody may begin; zero if somebody may.
	stopSince time.Duration
	stopped   bool
	calmSince time.Duration
	restored  bool
	// waiting is from when a hub wrote down that the store has forgotten something until an operator reconciles.
	waiting bool
	grants  int
}

type held struct {
	rec   *hub.HoldRecord
	fence int64
}

func newChecker(w *world) *checker {
	c := &checker{w: w, freeing: map[string]map[int64]bool{}, excused: map[string]bool{}, forgotten: map[string]bool{},
		byHand: map[string]bool{}, limitOf: map[string]int{}}
	c.clear()
	return c
}

func (c *checker) clear() {
	c.roll, c.halted, c.audit = nil, false, nil
	c.holds, c.slots, c.hosts = map[string]held{}, map[string]map[int]string{}, map[string]*hub.HostRecord{}
	c.tallies = map[string]map[string]*hub.TallyRecord{}
}

// advance takes in every revision since the last time.
func (c *checker) advance() {
	changes, kept := c.w.store.since(c.revision)
	if !kept {
		return
	}
	for _, ch := range changes {
		c.take(ch)
		c.revision = ch.Revision
	}
	if len(changes) > 0 {
		c.w.changed()
	}
}

// reset reads a restored store.
func (c *checker) reset() {
	s := c.w.model.Snapshot()
	c.clear()
	for _, it := range s.Items("") {
		c.set(it)
	}
	c.revision = s.Revision
	c.waiting = c.roll != nil && c.roll.State == fleet.StateRestored
	c.sums()
}

// restoring notes who is acting under a grant that the old copy does not know.
func (c *checker) restoring(old storetest.Snapshot) {
	known := map[string]int64{}
	for _, it := range old.Items(hub.Prefix(c.w.fleet) + "hold/") {
		var r hub.HoldRecord
		_ = json.Unmarshal(it.Value, &r)
		_, _, rest, _ := hub.ParseKey(c.w.fleet, it.Key)
		known[rest[0]] = hub.Fence(&r, it)
	}
	for host, h := range c.holds {
		if known[host] != h.fence {
			c.forgotten[h.rec.Install] = true
		}
	}
	c.restored = true
}

func decode[T any](it hub.Item) *T {
	if it.Created == 0 {
		return nil
	}
	v := new(T)
	if err := json.Unmarshal(it.Value, v); err != nil {
		panic(err)
	}
	return v
}

// set puts one item into the checker's picture and returns its kind.
func (c *checker) set(it hub.Item) (kind string, rest []string) {
	kind, _, rest, ok := hub.ParseKey(c.w.fleet, it.Key)
	if !ok {
		return "", nil
	}
	switch kind {
	case "halt":
		c.halted = it.Created != 0
	case "rollout":
		c.roll = decode[hub.RolloutRecord](it)
	case "hold":
		if delete(c.holds, rest[0]); it.Created != 0 {
			r := decode[hub.HoldRecord](it)
			c.holds[rest[0]] = held{r, hub.Fence(r, it)}
		}
	case "slot":
		n, _ := strconv.Atoi(rest[1])
		if c.slots[rest[0]] == nil {
			c.slots[rest[0]] = map[int]string{}
		}
		if delete(c.slots[rest[0]], n); it.Created != 0 {
			c.slots[rest[0]][n] = decode[hub.SlotRecord](it).Host
		}
	case "host":
		c.hosts[rest[0]] = decode[hub.HostRecord](it)
	case "tally":
		if c.tallies[rest[0]] == nil {
			c.tallies[rest[0]] = map[string]*hub.TallyRecord{}
		}
		c.tallies[rest[0]][rest[1]] = decode[hub.TallyRecord](it)
	}
	return kind, rest
}

// take checks one revision.
func (c *checker) take(ch hub.Change) {
	before := *c
	before.holds = map[string]held{}
	var wrote, acts []hub.Item
	newSlots := map[string]int{}
	for _, it := range ch.Items {
		kind, _, rest, _ := hub.ParseKey(c.w.fleet, it.Key)
		if kind == "hold" {
			if old, ok := c.holds[rest[0]]; ok {
				before.holds[rest[0]] = old
			}
		}
		switch kind, rest = c.set(it); {
		case kind == "hold" || kind == "rollout" || kind == "host" || kind == "halt":
			wrote = append(wrote, it)
		case kind == "slot" && it.Created == ch.Revision:
			newSlots[rest[0]]++
		case kind == "audit":
			acts = append(acts, it)
		}
	}
	c.chain(acts)
	for _, it := range wrote {
		kind, _, rest, _ := hub.ParseKey(c.w.fleet, it.Key)
		switch kind {
		case "hold":
			c.heldBy(rest[0], &before, len(acts) > 0)
		case "rollout":
			c.rolled(before.roll, len(acts))
		case "halt":
			if len(acts) != 1 {
				c.w.fail("18: the fleet's halt changed with %d audit entries", len(acts))
			}
		}
	}
	c.budgets(newSlots, &before)
	c.sums()
	c.stops()
	c.truth("at revision %d", ch.Revision)
}

// chain checks that audit entries follow each other.
func (c *checker) chain(items []hub.Item) {
	for _, it := range items {
		e := decode[hub.AuditEntry](it)
		if err := hub.VerifyAudit(c.audit, []hub.AuditEntry{*e}); err != nil && (c.audit != nil || !c.restored) {
			c.w.fail("18: %v", err)
		}
		if c.audit = e; e.By == "ops" && e.Act != fleet.ActPause && e.Act != fleet.ActHalt && c.roll != nil {
			c.byHand[c.roll.ID] = true
		}
		c.waiting = e.Act == "restored" || c.waiting && e.Act != fleet.ActReconcile
		c.w.logf("audit %d by %s on %s: %s, %s (%s)", e.N, e.By, e.On, e.Act, e.Done, e.Why)
	}
}

// heldBy checks a hold that was made, changed or deleted.
func (c *checker) heldBy(host string, before *checker, audited bool) {
	now, ok := c.holds[host]
	old, was := before.holds[host]
	switch {
	case !ok:
		forgotten := audited && (c.audit.Act == fleet.ActForget)
		if forgotten {
			c.excused[old.rec.Install] = true
		}
		if was && !forgotten && !c.freeing[host][old.fence] {
			c.w.fail("16: the slot of %s, fence %d, was freed without its report", host, old.fence)
		}
	case now.rec.State == "held" && (!was || old.fence != now.fence || old.rec.State != "held"):
		c.granted(host, now, before, audited)
	}
}

// granted checks that nothing forbade a grant at its revision.
func (c *checker) granted(host string, now held, before *checker, audited bool) {
	c.grants++
	if audited && c.audit.Act == fleet.ActReconcile || before.roll != nil && before.roll.State == fleet.StateRestored && now.rec.Fence != 0 {
		delete(c.forgotten, now.rec.Install)
		return // rebuilt
	}
	c.w.logf("granted: %s, fence %d, %s", host, now.fence, now.rec.Direction)
	r := before.roll
	switch {
	case before.halted:
		c.w.fail("4: %s was granted fence %d while the fleet was halted", host, now.fence)
	case r == nil || r.ID != now.rec.Rollout:
		c.w.fail("4: %s was granted a slot of rollout %s, which is not in force", host, now.rec.Rollout)
	case before.waiting:
		c.w.fail("19: %s was granted fence %d before the store was reconciled", host, now.fence)
	case now.rec.Direction == fleet.Forward && r.State != fleet.StateOpen:
		c.w.fail("4: %s was granted fence %d while the rollout was %s", host, now.fence, r.State)
	case now.rec.Direction == fleet.Back && r.State == fleet.StatePaused:
		c.w.fail("4: %s was granted fence %d to go back while the rollout was %s", host, now.fence, r.State)
	}
	c.wavesOf(host, now, r)
}

// wavesOf checks the waves, and that a release that fails everywhere never leaves the first one by itself.
func (c *checker) wavesOf(host string, now held, r *hub.RolloutRecord) {
	if r == nil || now.rec.Direction != fleet.Forward || now.rec.Wave == "" || now.rec.Wave == "canary" {
		return
	}
	if r.Wave == "canary" {
		c.w.fail("10: %s of wave %s was granted a slot while only %s was open", host, now.rec.Wave, r.Wave)
	}
	if c.w.fates[r.Digest].fails == 1 && !c.byHand[r.ID] {
		c.w.fail("6: release %s fails everywhere and %s of wave %s was granted a slot", r.Version, host, now.rec.Wave)
	}
}

// rolled checks a rollout's record that was rewritten.
func (c *checker) rolled(old *hub.RolloutRecord, acts int) {
	now := c.roll
	if old == nil || now == nil {
		return
	}
	if (old.State != now.State || old.Wave != now.Wave || old.Sequence != now.Sequence || old.Epoch != now.Epoch) && acts == 0 {
		c.w.fail("18: the rollout went from %s, %s, %d to %s, %s, %d without an audit entry", old.State, old.Wave, old.Sequence, now.State, now.Wave, now.Sequence)
	}
	if acts > 2 {
		c.w.fail("18: one change of the rollout has %d audit entries", acts)
	}
	if now.Sequence < old.Sequence || now.Epoch < old.Epoch {
		c.w.fail("13: the rollout's record went from %d, %d to %d, %d", old.Sequence, old.Epoch, now.Sequence, now.Epoch)
	}
	if old.ID == now.ID && old.Wave == "rest" && now.Wave == "canary" && len(c.w.published.Deployment.Waves) > 0 {
		c.w.fail("10: wave rest closed again")
	}
	if old.ID == now.ID && old.Wave == "canary" && now.Wave == "rest" && now.Sequence == old.Sequence && !c.promotedByHand() {
		c.proven(now)
	}
}

func (c *checker) promotedByHand() bool { return c.audit != nil && c.audit.By == "ops" }

// proven checks that the wave a hub judged has a host that runs the release in good health.
func (c *checker) proven(now *hub.RolloutRecord) {
	// What a host told may have been overtaken by an older message; how its update ended may not.
	h := c.hosts[c.w.inventory[0].ID]
	if h != nil && (h.Runs != nil && h.Runs.Digest == now.Digest && h.Runs.Healthy || h.Last != nil && h.Last.Rollout == now.ID && h.Last.Result == fleet.Committed) {
		return
	}
	c.w.fail("7: wave rest opened although nobody of wave canary runs %s in good health", now.Version)
}

// budgets checks every cell in which this revision took a slot, and that slots and holds are two sides of one thing.
func (c *checker) budgets(taken map[string]int, before *checker) {
	for cell, n := range taken {
		if n == 0 || before.roll == nil || before.roll.State == fleet.StateRestored {
			continue
		}
		if limit := hub.LimitOf(c.roll, cell); limit >= 0 && len(c.slots[cell]) > limit {
			c.w.fail("1: %d slots of %s are in use, the limit is %d", len(c.slots[cell]), cell, limit)
		}
	}
	for host, h := range c.holds {
		for _, s := range h.rec.Slots {
			if c.slots[s.Cell][s.N] != host {
				c.w.fail("3: %s holds slot %d of %s, which says %q", host, s.N, s.Cell, c.slots[s.Cell][s.N])
			}
		}
	}
	for cell, slots := range c.slots {
		for n, host := range slots {
			if !holdsSlot(c.holds[host].rec, cell, n) {
				c.w.fail("3: slot %d of %s is %s's, who does not hold it", n, cell, host)
			}
		}
	}
}

func holdsSlot(r *hub.HoldRecord, cell string, n int) bool {
	if r == nil {
		return false
	}
	for _, s := range r.Slots {
		if s.Cell == cell && s.N == n {
			return true
		}
	}
	return false
}

// sums checks that the tallies of the rollout in force are the sum of its reports.
func (c *checker) sums() {
	if c.roll == nil {
		return
	}
	var tallied, reports fleet.Counts
	for _, t := range c.tallies[c.roll.ID] {
		for _, n := range t.Waves {
			tallied = hub.PlusCounts(tallied, n)
		}
	}
	for _, h := range c.hosts {
		if h != nil && h.Last != nil && h.Last.Rollout == c.roll.ID {
			reports = hub.PlusCounts(reports, hub.CountOf(h.Last.Result))
		}
	}
	if tallied != reports {
		c.w.fail("17: the tallies say %+v, the reports %+v", tallied, reports)
	}
	if c.roll.Failed != reports.Failed() || c.roll.Lost != reports.Lost {
		c.w.fail("17: the rollout says %d failed, %d lost, the reports %+v", c.roll.Failed, c.roll.Lost, reports)
	}
	c.touched(reports.Failed())
}

// touched checks how many hosts a bad release can reach: the one that reaches the limit, and those in flight then.
func (c *checker) touched(failed int) {
	r := c.roll
	d := c.w.published.Deployment
	limit := r.Limits.All
	if limit < 0 {
		limit = len(c.w.hosts) // only sites are bounded
	}
	c.limitOf[r.ID] = max(c.limitOf[r.ID], limit)
	if d.RolloutID != r.ID || c.byHand[r.ID] || c.restored {
		return
	}
	if bound := d.Halt.MaxFailures - 1 + c.limitOf[r.ID]; failed > bound {
		c.w.fail("5: %d hosts failed, at most %d may", failed, bound)
	}
}

// stops remembers since when nobody may begin.
func (c *checker) stops() {
	stopped := c.halted || c.roll != nil && (c.roll.State == fleet.StateHalted && !c.signedBack() || c.roll.State == fleet.StatePaused || c.roll.State == fleet.StateRestored)
	if stopped && !c.stopped {
		c.stopSince = c.w.now
	}
	c.stopped = stopped
}

// signedBack says that the signers may be taking the release back, which no halt stops.
func (c *checker) signedBack() bool { return c.w.published.Deployment.State == release.StateRevert }

// reported notes that a host sent the end of a fence.
func (c *checker) reported(host string, f fleet.Finish) {
	if c.freeing[host] == nil {
		c.freeing[host] = map[int64]bool{}
	}
	if f.Serving {
		c.freeing[host][f.Fence] = true
	}
}

// swaps checks a machine at the moment of its swap.
func (c *checker) swaps(h *simHost, a *attempt) {
	if c.stopped && c.w.now-c.stopSince > 30*time.Second {
		c.w.fail("21: %s swaps %v after the stop", h.id, c.w.now-c.stopSince)
	}
	hold, ok := c.holds[h.id]
	excused := c.excused[h.install] || c.forgotten[h.install]
	if !excused && (!ok || hold.fence != a.fence || hold.rec.Install != h.install) {
		c.w.fail("2: %s swaps under fence %d, the store says %+v", h.id, a.fence, hold)
	}
	for _, other := range c.w.hosts {
		if other != h && other.id == h.id && !other.dead && !c.excused[other.install] && (other.disrupted || other.disk.attempt != nil && other.disk.attempt.swapped) {
			c.w.fail("3: two machines called %s act at once", h.id)
		}
	}
	if a.dir == fleet.Back && h.disk.taken[a.rollout] {
		c.w.fail("14: %s is taken back twice in rollout %s", h.id, a.rollout)
	}
	if a.dir == fleet.Forward && h.disk.quarantined[a.to.SHA256] == a.sequence {
		c.w.fail("14: %s tries a quarantined release again", h.id)
	}
	if d := h.plan.Deployment; a.dir == fleet.Forward && h.now().Before(d.Created) {
		c.w.fail("15: %s starts before the signed floor", h.id)
	}
	if a.dir == fleet.Forward && h.plan.Deployment.State != release.StateActive {
		c.w.fail("15: %s starts although the signers say %s", h.id, h.plan.Deployment.State)
	}
}

// truth checks the one thing that matters: whoever is down because of an update is in the budget.
func (c *checker) truth(format string, args ...any) {
	for _, h := range c.w.hosts {
		if !h.disrupted {
			if h.disk.attempt == nil && h.disk.journal.Fence == 0 {
				delete(c.excused, h.install)
				delete(c.forgotten, h.install)
			}
			continue
		}
		if _, ok := c.holds[h.id]; !ok && !c.excused[h.install] && !c.forgotten[h.install] {
			c.w.fail("2: %s is down because of an update and holds no slot "+format, append([]any{h.id}, args...)...)
		}
	}
}

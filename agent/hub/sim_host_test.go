package hub_test

import (
	"context"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"

	"github.com/slipway-deploy/slipway/agent/hub"
)

// simHost is one machine: the real rollout.Decide and the real fleet.Member over a disk, a service and a network that the
// world makes fail. What is in disk survives a crash, everything else does not.
type simHost struct {
	w       *world
	id      string
	install string
	labels  map[string]string
	disk    disk
	offset  time.Duration

	alive, dead bool // dead machines never come back
	cut         bool // from every hub
	stale       bool // from the repository
	// disrupted is the truth that no store can know: the service is down because of an update.
	disrupted bool
	life      int
	work      *task
	plan      *hub.Plan
	order     fleet.Direction
	hint      int64
}

// disk is what a machine keeps.
type disk struct {
	journal     fleet.Record
	runs        *release.Reference
	attempt     *attempt
	quarantined map[release.Digest]int64 // under which sequence
	interrupted map[release.Digest]int
	taken       map[string]bool // rollouts that were taken back here
}

// attempt is an update under way.
type attempt struct {
	fence    int64
	dir      fleet.Direction
	from, to *release.Reference
	sequence int64
	rollout  string
	swapped  bool
	ended    *fleet.Finish
}

// Load implements fleet.Journal.
func (h *simHost) Load() (fleet.Record, error) { return h.disk.journal, nil }

// Save implements fleet.Journal. The machine may die before it, and after it.
func (h *simHost) Save(r fleet.Record) error {
	h.save(func() { h.disk.journal = r })
	return nil
}

func (h *simHost) save(f func()) {
	h.w.sleep(h.w.between(0, 5*time.Millisecond))
	f()
	h.w.sleep(h.w.between(0, 5*time.Millisecond))
}

func (h *simHost) now() time.Time { return h.w.wall().Add(h.offset) }

func (h *simHost) member() *fleet.Member {
	return &fleet.Member{Transport: line{h}, Journal: h, Install: h.install, At: "hub", Now: h.now}
}

func (h *simHost) start() {
	h.alive, h.plan, h.order = true, h.w.published, ""
	h.life++
	h.work = h.w.spawn(h.main)
}

// crash ends everything on the machine at the point where it waits, and starts it again after a while.
func (h *simHost) crash(forGood bool) {
	if !h.alive {
		return
	}
	h.w.logf("%s (%s) crashes, for good: %v", h.id, h.install, forGood)
	h.alive = false
	h.dead = h.dead || forGood
	h.w.kill(h.work)
	if !h.dead {
		h.w.after(h.w.between(5*time.Second, 6*time.Minute), h.boot)
	}
}

func (h *simHost) boot() {
	if !h.alive && !h.dead {
		h.start()
	}
}

// main is the daemon.
func (h *simHost) main() {
	h.recover()
	for {
		h.w.sleep(h.w.between(10*time.Second, 30*time.Second))
		h.poll()
	}
}

// recover ends what a crash left open: an update that was not swapped is given up, one that was is reverted.
func (h *simHost) recover() {
	a := h.disk.attempt
	switch {
	case a == nil:
		return
	case a.ended != nil:
	case !a.swapped:
		h.save(func() {
			a.ended = &fleet.Finish{Fence: a.fence, Result: fleet.Skipped, Serving: !h.disrupted, Reason: "crashed before the swap"}
		})
	case a.dir == fleet.Back:
		h.w.sleep(h.w.between(time.Second, 10*time.Second))
		h.disrupted = false
		h.save(func() { a.ended = h.tookBack(a) })
	default:
		h.w.sleep(h.w.between(time.Second, 10*time.Second))
		h.revert(a, "interrupted", true)
	}
	h.end(a)
}

// running is what `current` names, as the wire tells it.
func (h *simHost) running() *fleet.Runs {
	_, v, _ := release.ParseReleasePath(h.disk.runs.Path)
	return &fleet.Runs{Version: v, Digest: h.disk.runs.SHA256, Healthy: !h.disrupted}
}

func (h *simHost) decide(slot rollout.Slot) rollout.Decision {
	slot.Order = h.order == fleet.Back
	r := h.running()
	p := h.plan
	in := rollout.Input{Deployment: p.Deployment, Emergency: p.Emergency, Inventory: p.Inventory, InventoryDigest: p.InventoryDigest,
		Schedule: h.w.schedules[p.Deployment], Host: rollout.Host{ID: h.id, Environment: production, Labels: h.labels}, Now: h.now(), ClockTrusted: true, Issued: h.now().Add(-time.Minute),
		Current: &rollout.Running{Version: r.Version, Digest: r.Digest, Healthy: r.Healthy}, Slot: slot,
		WentBack: h.disk.taken[p.Deployment.RolloutID]}
	if target := p.Deployment.Release; target != nil && h.disk.quarantined[target.SHA256] == p.Deployment.Sequence {
		in.Quarantined = ptr("it failed here")
	}
	return rollout.Decide(in)
}

// poll is one look at the repository and one question to a hub.
func (h *simHost) poll() {
	if !h.stale && (h.w.chance(0.5) || h.w.calm) {
		h.plan = h.w.published
	}
	h.heal(0.1)
	d, dep := h.decide(rollout.Slot{}), h.plan.Deployment
	if d.Act && d.Verb == rollout.VerbRevert && d.Target != nil {
		h.goBack(d.Target)
		return
	}
	t := fleet.Turn{App: billing, Rollout: dep.RolloutID, Sequence: dep.Sequence, Document: h.plan.Document, Labels: h.labels,
		Runs: h.running(), Phase: "idle", Why: d.Because, Wave: d.Wave}
	if e := h.plan.Emergency; e != nil {
		t.Epoch = e.Epoch
	}
	switch {
	case d.Rule != rollout.RuleCoordinator:
	case d.Verb == rollout.VerbActivate:
		t.Want = fleet.Forward
	case d.Verb == rollout.VerbRevert:
		t.Want = fleet.Back
	}
	a, err := h.member().Turn(context.Background(), t)
	if err != nil {
		h.w.fail("%s: turn: %v", h.id, err)
		return
	}
	h.order = a.Order
	if a.Hint > h.hint && !h.stale {
		h.hint, h.plan = a.Hint, h.w.published
	}
	if a.Granted {
		h.granted(t.Want, a.Fence)
	}
}

// heal lets an operator bring the service of a stuck host back by hand, after a while; the host then says so.
func (h *simHost) heal(chance float64) {
	r := h.disk.journal
	if !h.disrupted || h.disk.attempt != nil || h.w.rng.Float64() > chance && !h.w.calm {
		return
	}
	if h.disrupted = false; r.Report == nil {
		return // its report was stale: an operator gave its slot away
	}
	f := *r.Report
	f.Serving, f.Runs = true, h.running()
	_ = h.member().End(context.Background(), f)
}

// goBack is a revert that needs no slot: the signers want it without one, or the host does not serve anyway.
func (h *simHost) goBack(to *release.Reference) {
	h.w.logf("%s goes back to %s without a slot", h.id, to.Path)
	h.save(func() {
		h.disk.taken[h.plan.Deployment.RolloutID] = true
		h.disk.quarantined[h.disk.runs.SHA256] = h.plan.Deployment.Sequence
		h.disk.runs = to
	})
	h.w.sleep(h.w.between(time.Second, 10*time.Second))
	h.heal(1)
}

// granted goes if Decide, asked again with the slot, says so.
func (h *simHost) granted(want fleet.Direction, fence int64) {
	d, dep := h.decide(rollout.Slot{Answer: rollout.AnswerGranted, Back: want == fleet.Back}), h.plan.Deployment
	goes := want == fleet.Forward && d.Verb == rollout.VerbActivate || want == fleet.Back && d.Verb == rollout.VerbRevert
	if d.Act && goes && d.Target != nil {
		h.update(&attempt{fence: fence, dir: want, from: h.disk.runs, to: d.Target, sequence: dep.Sequence, rollout: dep.RolloutID})
	}
}

// update is the order of activation: state before effect, the last check, swap, trial, verdict.
func (h *simHost) update(a *attempt) {
	w := h.w
	h.save(func() { h.disk.attempt = a })
	began := w.now
	within, err := h.member().Check(context.Background(), a.fence)
	if err == nil {
		w.sleep(w.between(0, 3*time.Second))
	}
	if err != nil || w.now-began > within {
		h.save(func() {
			a.ended = &fleet.Finish{Fence: a.fence, Result: fleet.Skipped, Serving: !h.disrupted, Reason: "no check"}
		})
		h.end(a)
		return
	}
	w.check.swaps(h, a)
	w.logf("%s swaps to %s under fence %d", h.id, a.to.Path, a.fence)
	a.swapped, h.disk.runs, h.disrupted = true, a.to, true
	w.sleep(w.between(time.Second, 20*time.Second))
	if a.dir == fleet.Back {
		h.disrupted = false
		h.save(func() { a.ended = h.tookBack(a) })
		h.end(a)
		return
	}
	h.trial(a)
}

func (h *simHost) tookBack(a *attempt) *fleet.Finish {
	h.disk.taken[a.rollout] = true
	h.disk.quarantined[a.from.SHA256] = a.sequence
	return &fleet.Finish{Fence: a.fence, Result: fleet.Committed, Serving: true, Runs: h.running()}
}

func (h *simHost) trial(a *attempt) {
	w := h.w
	switch fate := w.fates[a.to.SHA256]; {
	case w.rng.Float64() >= fate.fails:
		h.disrupted = false
		w.sleep(30 * time.Second)
		h.save(func() {
			a.ended = &fleet.Finish{Fence: a.fence, Result: fleet.Committed, Serving: true, Runs: h.running()}
		})
	case fate.how == "silent":
		w.after(0, func() { h.crash(true) })
		w.sleep(time.Hour)
	default:
		w.sleep(w.between(time.Second, 40*time.Second))
		h.revert(a, "unhealthy", fate.how != "stuck")
	}
	h.end(a)
}

// revert is the host's one way back.
func (h *simHost) revert(a *attempt, cause string, serves bool) {
	h.save(func() { h.disk.runs = a.from })
	h.w.sleep(h.w.between(time.Second, 10*time.Second))
	h.disrupted = !serves
	h.save(func() {
		if h.disk.interrupted[a.to.SHA256]++; cause != "interrupted" || h.disk.interrupted[a.to.SHA256] > 2 {
			h.disk.quarantined[a.to.SHA256] = a.sequence
		}
		result := fleet.Reverted
		if !serves {
			result = fleet.Stuck
		}
		a.ended = &fleet.Finish{Fence: a.fence, Result: result, Serving: serves, Runs: h.running(), Cause: cause, Reason: cause}
	})
}

// end reports an attempt's outcome, which is on the disk, and forgets it once the journal has it.
func (h *simHost) end(a *attempt) {
	h.w.logf("%s ends fence %d: %s, serving %v", h.id, a.fence, a.ended.Result, a.ended.Serving)
	_ = h.member().End(context.Background(), *a.ended)
	h.save(func() { h.disk.attempt = nil })
}

func ptr[T any](v T) *T { return &v }

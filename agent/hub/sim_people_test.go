package hub_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/hub/storetest"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
)

// scenario is what one seed draws: a fleet, a plan, how bad releases and the weather are.
type scenario struct {
	store     backend
	model     *storetest.Model // nil on a real etcd
	fleet     string
	hosts     []*simHost
	hubs      []*simHub
	check     *checker
	published *hub.Plan
	fates     map[release.Digest]fate
	inventory []release.InventoryHost
	storeDown bool
	// loss and storeLoss are chances of accidents, of a message and of an answer of the store.
	loss, storeLoss float64
	// lag is how late a watch may be.
	lag      time.Duration
	sabotage *sabotage // nil: the hubs are what they should be
	version  int
	failure  string
	// schedules saves ranking an inventory for every decision.
	schedules map[*release.Deployment]*rollout.Schedule
}

// fate is how a release fares: how likely it fails on a host, and whether the host then reverts, stays down or falls silent.
type fate struct {
	fails float64
	how   string
}

func (w *world) fail(format string, args ...any) {
	if w.failure == "" {
		w.failure = fmt.Sprintf("%v: ", w.now) + fmt.Sprintf(format, args...)
		w.logf("FAILED %s", w.failure)
	}
}

func pick[T any](w *world, list ...T) T { return list[w.rng.IntN(len(list))] }

// draw makes the scenario of the world's seed.
func (w *world) draw(on func() (backend, string)) {
	w.scenario = &scenario{fates: map[release.Digest]fate{}, schedules: map[*release.Deployment]*rollout.Schedule{}, version: 7,
		loss: pick(w, 0, 0.02, 0.1, 0.25), storeLoss: pick(w, 0, 0, 0.02, 0.1), lag: pick(w, time.Second, time.Second, 30*time.Second)}
	n := 2 + w.rng.IntN(6)
	for i := range n {
		w.inventory = append(w.inventory, release.InventoryHost{ID: fmt.Sprint("web-", i), Labels: map[string]string{"site": pick(w, "ams", "fra")}})
	}
	w.fates[ref("2.4.0").SHA256] = fate{}
	w.published = w.sign(w.newRollout())
	w.store, w.fleet = on()
	if m, ok := w.store.(modelBackend); ok {
		w.model = m.Model
	}
	w.check = newChecker(w)
	for i := range 1 + w.rng.IntN(3) {
		w.hubs = append(w.hubs, w.newHub(i+1))
	}
	for i, member := range w.inventory {
		w.addHost(member, fmt.Sprint("install-", i))
	}
	if w.rng.Float64() < 0.1 {
		w.addHost(w.inventory[0], "clone")
	}
	for _, h := range w.hosts {
		w.after(w.between(0, 20*time.Second), h.start)
	}
}

func (w *world) addHost(m release.InventoryHost, install string) {
	w.hosts = append(w.hosts, &simHost{w: w, id: m.ID, install: install, labels: m.Labels, offset: w.between(-2*time.Second, 2*time.Second),
		disk: disk{runs: ref("2.4.0"), quarantined: map[release.Digest]int64{}, interrupted: map[release.Digest]int{}, taken: map[string]bool{}}})
}

// newRollout draws a deployment of a new release.
func (w *world) newRollout() *release.Deployment {
	w.version++
	version := fmt.Sprintf("2.5.%d", w.version)
	w.fates[ref(version).SHA256] = fate{pick(w, 0.0, 0, 0, 0.3, 1), pick(w, "revert", "revert", "stuck", "silent")}
	return deployment(func(d *release.Deployment) {
		d.Sequence, d.RolloutID, d.Created = int64(w.version), fmt.Sprint("r-", w.version), w.wall().Add(-time.Minute).UTC()
		d.Release = ref(version)
		d.Population = int64(len(w.inventory))
		d.Health = &release.TrialPolicy{MinHealthyTime: release.Duration(30 * time.Second)}
		d.Budget = &release.Budget{Count: 1 + w.rng.IntN(3)}
		if w.rng.Float64() < 0.3 {
			d.Budget = &release.Budget{PercentBP: pick(w, 2000, 5000)}
		}
		if w.rng.Float64() < 0.3 {
			d.Budget.GroupBy = []string{"site"}
		}
		d.Halt.MaxFailures, d.Halt.UpdateDeadline = 1+w.rng.IntN(3), release.Duration(3*time.Minute)
		d.Halt.OnHalt = pick(w, "stop", "revert")
		d.Revert = pick(w, nil, &release.RevertPolicy{MaxUnavailable: 1 + w.rng.IntN(2)})
		if w.rng.Float64() < 0.6 {
			d.Waves = []release.Wave{{Name: "canary", Hosts: []string{w.inventory[0].ID}}, {Name: "rest", PercentBP: 10000, Advance: pick(w, "auto", "auto", "signed")}}
		}
	})
}

// sign makes a plan of a deployment: with the inventory pinned or not, and the emergency document in force.
func (w *world) sign(d *release.Deployment) *hub.Plan {
	var hosts []release.InventoryHost
	if w.published == nil && w.rng.IntN(2) == 0 || w.published != nil && w.published.Inventory != nil {
		hosts = w.inventory
	}
	p := planOf(d, hosts...)
	if w.published != nil {
		p.Emergency = w.published.Emergency
	}
	w.schedules[d] = rollout.NewSchedule(d, p.Inventory, p.InventoryDigest)
	return p
}

// publish makes a plan public; every hub fetches it in its own time.
func (w *world) publish(p *hub.Plan, what string) {
	w.logf("published: %s, sequence %d, rollout %s", what, p.Deployment.Sequence, p.Deployment.RolloutID)
	w.published = p
	if p.Deployment.MaxWave == "rest" {
		w.check.byHand[p.Deployment.RolloutID] = true // signers open it, whatever the hosts say
	}
	for _, h := range w.hubs {
		w.after(w.between(0, 40*time.Second), func() { h.plan = newer(h.plan, p) })
	}
}

func newer(a, b *hub.Plan) *hub.Plan {
	if a != nil && (a.Deployment.Sequence > b.Deployment.Sequence || epochOf(a) > epochOf(b)) {
		return a
	}
	return b
}

func epochOf(p *hub.Plan) int64 {
	if p.Emergency == nil {
		return 0
	}
	return p.Emergency.Epoch
}

// signers change the plan.
func (w *world) signers() {
	d := *w.published.Deployment
	d.Halt = ptr(*d.Halt)
	what := "a new budget"
	switch w.rng.IntN(5) {
	case 0:
		d, what = *w.newRollout(), "a new release"
	case 1:
		d.MaxWave, what = "", "max_wave"
		if len(d.Waves) > 0 {
			d.MaxWave = d.Waves[w.rng.IntN(len(d.Waves))].Name
		}
	case 2:
		d.State = pick(w, release.StateActive, release.StatePaused, release.StateRevert)
		what = "state " + string(d.State)
	case 3:
		w.emergency()
		return
	default:
		d.Budget = &release.Budget{Count: 1 + w.rng.IntN(3)}
	}
	if d.Sequence <= int64(w.version) {
		w.version++
		d.Sequence = int64(w.version)
	}
	w.publish(w.sign(&d), what)
}

// emergency signs a halt of some minutes.
func (w *world) emergency() {
	p := *w.published
	e := &release.Emergency{Schema: release.EmergencySchema, Environment: production, Epoch: epochOf(&p) + 1, Issued: w.wall().UTC(),
		Entries: []release.EmergencyEntry{{Kind: "halt", Until: ptr(w.wall().Add(w.between(time.Minute, 4*time.Minute)).UTC()), Reason: "on call says so"}}}
	p.Emergency = e
	w.publish(&p, "an emergency halt")
}

// weather is one accident.
func (w *world) weather() {
	switch w.rng.IntN(8) {
	case 0, 1:
		pick(w, w.hosts...).crash(w.rng.IntN(12) == 0)
	case 2:
		h := pick(w, w.hubs...)
		if h.alive {
			h.crash()
			w.after(w.between(time.Second, time.Minute), h.rise)
		}
	case 3:
		h := pick(w, w.hosts...)
		h.cut = true
		w.after(w.between(10*time.Second, 5*time.Minute), func() { h.cut = false })
	case 4:
		h := pick(w, w.hosts...)
		h.stale = true
		w.after(w.between(10*time.Second, 5*time.Minute), func() { h.stale = false })
	case 5:
		h := pick(w, w.hubs...)
		h.noStore = true
		w.after(w.between(time.Second, time.Minute), func() { h.noStore = false })
	case 6:
		w.storeDown = true
		w.after(w.between(time.Second, 90*time.Second), func() { w.storeDown = false })
	default:
		if w.rng.IntN(4) == 0 && w.model != nil {
			w.restore()
		}
	}
}

func (h *simHub) rise() {
	if !h.alive {
		h.start()
	}
}

// restore puts an old copy of the store back. Most do it as the manual says, which moves the revision ahead; without that, the
// hubs must be stopped before.
func (w *world) restore() {
	old := w.model.Snapshot()
	after := w.between(time.Second, 2*time.Minute)
	bump := pick(w, hub.Bump, hub.Bump, 0)
	w.after(after, func() {
		w.logf("the store goes back to revision %d, ahead by %d", old.Revision, bump)
		w.check.restoring(old)
		w.model.Restore(old, int64(bump))
		w.check.reset()
		for _, h := range w.hubs {
			if h.alive && (bump == 0 || w.rng.IntN(2) == 0) {
				h.crash()
				w.after(w.between(time.Second, time.Minute), h.rise)
			}
		}
		w.changed()
	})
}

// operator does one act through some hub, and repeats it until it is answered.
func (w *world) operator(name string, a fleet.Act) {
	a.Reason = "because"
	w.spawn(func() {
		for range 5 {
			h := pick(w, w.hubs...)
			if !h.alive {
				w.sleep(5 * time.Second)
				continue
			}
			p := &promise[error]{}
			h.do(func() {
				answer, err := h.core.Act(context.Background(), "ops", name, a)
				w.logf("operator: %s %s: %s %v", name, a.Host, answer.Done, err)
				p.keep(err)
			})
			err, ok := await(w, p, 20*time.Second)
			if ok && !errors.Is(err, hub.ErrUnavailable) {
				return
			}
			w.sleep(2 * time.Second)
		}
	})
}

// someAct is what an operator may do at any time, sensible or not.
func (w *world) someAct() {
	a := fleet.Act{Environment: production, App: billing}
	r := w.check.roll
	if r != nil {
		a.Rollout = r.ID
	}
	switch name := pick(w, fleet.ActHalt, fleet.ActResume, fleet.ActResume, fleet.ActPause, fleet.ActPromote, fleet.ActRevert, fleet.ActForget, fleet.ActReconcile, "fleet", "fleet"); name {
	case "fleet":
		w.operator(pick(w, fleet.ActHalt, fleet.ActResume), fleet.Act{})
	case fleet.ActForget:
		a.Host = pick(w, w.hosts...).id
		w.operator(name, a)
	case fleet.ActPromote:
		a.Wave = "rest"
		w.operator(name, a)
	default:
		w.operator(name, a)
	}
}

// care is what a good operator does in calm weather: heal, resume, reconcile after everybody was heard, forget the dead.
func (w *world) care() {
	a := fleet.Act{Environment: production, App: billing}
	r := w.check.roll
	for _, h := range w.hosts {
		if h.install == "clone" && h.alive {
			h.crash(true)
		}
		hold, holds := w.check.holds[h.id]
		known := w.check.hosts[h.id]
		if h.dead && (holds && hold.rec.Install == h.install || known != nil && known.Install == h.install) {
			a.Host = h.id
			w.operator(fleet.ActForget, a)
		}
	}
	a.Host = ""
	if w.check.halted {
		w.operator(fleet.ActResume, fleet.Act{})
	}
	if r == nil {
		return
	}
	switch {
	case r.State == fleet.StateRestored:
		w.operator(fleet.ActReconcile, a)
	case r.State == fleet.StatePaused, r.State == fleet.StateHalted && r.Stop.By != "hub":
		w.operator(fleet.ActResume, a)
	case r.State == fleet.StateOpen && r.Wave == "canary" && w.waited(10*time.Minute):
		a.Rollout, a.Wave = r.ID, "rest"
		w.operator(fleet.ActPromote, a)
	}
	if d := w.published.Deployment; d.State == release.StatePaused || len(d.Waves) > 1 && d.MaxWave != "rest" && w.waited(5*time.Minute) {
		next := *d
		w.version++
		next.Sequence, next.State = int64(w.version), release.StateActive
		if len(d.Waves) > 1 {
			next.MaxWave = "rest"
		}
		w.publish(w.sign(&next), "what lets everybody go")
	}
}

func (w *world) waited(d time.Duration) bool { return w.now-w.check.calmSince > d }

// settled says that everything that can go well has: every machine that lives is where the rollout's state wants it, and
// nobody holds a slot.
func (w *world) settled() bool {
	r := w.check.roll
	if r == nil || len(w.check.holds) > 0 || r.Sequence != w.published.Deployment.Sequence {
		return false
	}
	state := r.State
	if w.published.Deployment.State == release.StateRevert {
		state = fleet.StateReverting
	}
	for _, h := range w.hosts {
		if h.dead {
			continue
		}
		runs := h.disk.runs.SHA256 == r.Digest
		switch {
		case !h.alive, h.disrupted, h.disk.attempt != nil, h.disk.journal.Fence != 0:
			return false
		case state == fleet.StateReverting && runs && !h.disk.taken[r.ID]:
			return false
		case state == fleet.StateOpen && !runs && h.disk.quarantined[r.Digest] != r.Sequence:
			return false
		}
	}
	return slices.Contains([]string{fleet.StateOpen, fleet.StateReverting, fleet.StateHalted}, state)
}

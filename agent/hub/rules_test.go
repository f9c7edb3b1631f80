package hub_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
)

func TestALoweredBudgetDrainsFirst(t *testing.T) {
	b := newBench(t, planOf(deployment(func(d *release.Deployment) { d.Budget.Count = 3 })))
	fences := map[string]int64{}
	for _, h := range []string{"web-1", "web-2", "web-3"} {
		fences[h] = b.granted(h)
	}
	b.plans.plan = planOf(deployment(func(d *release.Deployment) { d.Sequence, d.Budget.Count = 8, 2 }))
	b.waits("web-4", fleet.RuleBudget)
	b.finish("web-1", fences["web-1"], fleet.Committed, true)
	b.waits("web-4", fleet.RuleBudget)
	b.finish("web-2", fences["web-2"], fleet.Committed, true)
	b.granted("web-4")
}

func TestASlotOfTheRolloutBeforeStillCounts(t *testing.T) {
	b := newBench(t, planOf(deployment(nil)))
	fence := b.granted("web-1")
	b.plans.plan = planOf(deployment(func(d *release.Deployment) {
		d.Sequence, d.RolloutID, d.Release = 8, "r-8", ref("2.4.2")
		d.Budget = &release.Budget{Count: 1, GroupBy: []string{"site"}}
	}))
	b.waits("web-2", fleet.RuleBudget)
	if c := b.check("web-1", fence); c.OK {
		t.Error("a host of the rollout before may swap")
	}
	q := b.question("web-1", fleet.Forward)
	q.Fence = 0
	if a := b.serve(hub.Request{Caller: caller("web-1"), Turn: &q}).Turn; a.Rule != fleet.RuleHeld || a.Fence != fence || a.Rollout != "r-7" {
		t.Errorf("a host that holds a slot of the rollout before is told %+v", a)
	}
	b.finish("web-1", fence, fleet.Skipped, true)
	b.granted("web-2")
	if s := b.status(); s.Counts != (fleet.Counts{}) {
		t.Errorf("the rollout before is counted in the new one: %+v", s.Counts)
	}
}

func TestEveryCombinationOfLabelsHasItsOwnBudget(t *testing.T) {
	var hosts []release.InventoryHost
	for i := range 6 {
		hosts = append(hosts, release.InventoryHost{ID: fmt.Sprint("web-", i), Labels: map[string]string{"site": []string{"ams", "fra/1"}[i%2]}})
	}
	b := newBench(t, planOf(deployment(func(d *release.Deployment) {
		d.Budget = &release.Budget{Count: 2, GroupBy: []string{"site"}, MinAvailable: 2}
	}), hosts...))
	b.granted("web-0")
	b.waits("web-2", fleet.RuleBudget)
	b.granted("web-1")
	b.waits("web-3", fleet.RuleBudget)
	if s := b.status(); len(s.Cells) != 2 || s.Cells[0].Limit != 1 || s.Cells[0].Held != 1 || s.Cells[1].Held != 1 {
		t.Errorf("the cells: %+v", s.Cells)
	}
}

func TestAWaveInWhichNobodyWentNeverPasses(t *testing.T) {
	b := newBench(t, planOf(deployment(func(d *release.Deployment) {
		d.Waves = []release.Wave{{Name: "canary", Hosts: []string{"web-1", "web-2"}, MinHosts: 2}, {Name: "all", PercentBP: 10000, Advance: "auto"}}
	}), release.InventoryHost{ID: "web-1"}, release.InventoryHost{ID: "web-2"}, release.InventoryHost{ID: "web-3"}))
	b.sweep(3 * time.Hour)
	b.waits("web-3", fleet.RuleWave)
	for _, h := range []string{"web-1", "web-2"} {
		b.finish(h, b.granted(h), fleet.Skipped, true)
	}
	b.sweep(3 * time.Hour)
	b.waits("web-3", fleet.RuleWave)
	b.finish("web-1", b.granted("web-1"), fleet.Committed, true)
	b.sweep(3 * time.Hour)
	b.waits("web-3", fleet.RuleWave)
	b.finish("web-2", b.granted("web-2"), fleet.Committed, true)
	b.sweep(time.Minute)
	b.granted("web-3")
}

func TestAnEmergencyStopsGrantsAndChecks(t *testing.T) {
	b := newBench(t, planOf(deployment(nil)))
	other := b.hub("hub-2")
	fence := b.granted("web-1")
	withEmergency := *b.plans.plan
	until := b.clock.at.Add(time.Hour)
	withEmergency.Emergency = &release.Emergency{Schema: release.EmergencySchema, Environment: production, Epoch: 3, Issued: noon,
		Entries: []release.EmergencyEntry{{Kind: "halt", Until: &until, Reason: "incident 12"}}}
	before := b.plans.plan
	b.plans.plan = &withEmergency
	if c := b.check("web-1", fence); c.OK || c.Rule != fleet.RuleHalted {
		t.Errorf("the check: %+v", c)
	}
	b.waits("web-2", fleet.RuleHalted)
	if s := b.status(); s.State != fleet.StateHalted {
		t.Errorf("the status: %s, %s", s.State, s.Why)
	}
	// Another hub that has not fetched the document yet grants nothing either: the rollout's record tells it what it lacks.
	b.plans.plan, b.core = before, other
	if _, err := other.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.waits("web-3", fleet.RulePlan)
}

func TestAFleetIsTakenBackAlthoughNobodyServes(t *testing.T) {
	b := newBench(t, planOf(deployment(func(d *release.Deployment) {
		d.Budget.Count, d.Halt.OnHalt, d.Halt.MaxFailures = 2, "revert", 2
	})))
	b.finish("web-1", b.granted("web-1"), fleet.Committed, true)
	b.finish("web-2", b.granted("web-2"), fleet.Stuck, false)
	b.finish("web-3", b.granted("web-3"), fleet.Stuck, false)
	if s := b.status(); s.State != fleet.StateReverting {
		t.Fatalf("it is %s: %s", s.State, s.Why)
	}
	back := func(host string, healthy bool) fleet.TurnAnswer {
		q := b.question(host, fleet.Back)
		q.Runs = runs("2.4.1")
		q.Runs.Healthy = healthy
		return b.serve(hub.Request{Caller: caller(host), Turn: &q}).Turn
	}
	for _, h := range []string{"web-1", "web-2", "web-3"} {
		if a := back(h, h == "web-1"); a.Answer != fleet.Granted {
			t.Errorf("%s: %+v", h, a)
		}
	}
}

func TestARolloutInWhichNothingEndsHalts(t *testing.T) {
	b := newBench(t, planOf(deployment(func(d *release.Deployment) { d.Halt.ProgressDeadline = release.Duration(30 * time.Minute) })))
	b.turn("web-1", fleet.Nowhere)
	b.sweep(20 * time.Minute)
	b.turn("web-1", fleet.Nowhere)
	if s := b.status(); s.State != fleet.StateOpen {
		t.Errorf("after 20 minutes it is %s: %s", s.State, s.Why)
	}
	b.sweep(11 * time.Minute)
	if s := b.status(); s.State != fleet.StateHalted {
		t.Errorf("after 31 minutes it is %s: %s", s.State, s.Why)
	}
}

func TestALostHostThatTheOwnersRemovedFreesItsSlot(t *testing.T) {
	list := []release.InventoryHost{{ID: "web-1"}, {ID: "web-2"}}
	b := newBench(t, planOf(deployment(nil), list...))
	b.granted("web-1")
	b.plans.plan = planOf(deployment(func(d *release.Deployment) { d.Sequence = 8 }), list[1:]...)
	b.sweep(time.Minute)
	b.waits("web-2", fleet.RuleBudget)
	b.sweep(11 * time.Minute)
	b.granted("web-2")
}

func TestOperatorsAreRefusedWithTheRuleAndTheRemedy(t *testing.T) {
	b := newBench(t, planOf(deployment(func(d *release.Deployment) {
		d.Waves = []release.Wave{{Name: "canary", Hosts: []string{"web-1"}}, {Name: "all", PercentBP: 10000, Advance: "signed"}}
		d.Revert = &release.RevertPolicy{Signed: true}
	})))
	b.sweep(0)
	for _, c := range []struct {
		act  string
		a    fleet.Act
		what string
	}{
		{"dance", fleet.Act{}, "unknown"},
		{fleet.ActPromote, fleet.Act{Wave: "all"}, "refused"},
		{fleet.ActPromote, fleet.Act{Wave: "other"}, "stale"},
		{fleet.ActHalt, fleet.Act{Rollout: "r-6"}, "stale"},
		{fleet.ActRevert, fleet.Act{Rollout: "r-7"}, "refused"},
		{fleet.ActRevert, fleet.Act{}, "refused"},
	} {
		_, err := b.try(c.act, c.a)
		var refused *hub.RefusedError
		if !asRefused(err, &refused) || refused.Kind() != c.what {
			t.Errorf("%s %+v: %v", c.act, c.a, err)
		}
	}
}

func TestHostsGoBackInTheReverseOfTheWayForward(t *testing.T) {
	var hosts []release.InventoryHost
	for i := range 4 {
		hosts = append(hosts, release.InventoryHost{ID: fmt.Sprint("web-", i)})
	}
	b := newBench(t, planOf(deployment(func(d *release.Deployment) {
		d.State, d.Revert = release.StateRevert, &release.RevertPolicy{MaxUnavailable: 1}
	}), hosts...))
	s := rollout.NewSchedule(b.plans.plan.Deployment, b.plans.plan.Inventory, b.plans.plan.InventoryDigest)
	slices.SortFunc(hosts, func(x, y release.InventoryHost) int {
		return cmp.Compare(s.Reverse(rollout.Host{ID: x.ID}), s.Reverse(rollout.Host{ID: y.ID}))
	})
	back := func(host string) fleet.TurnAnswer {
		q := b.question(host, fleet.Back)
		q.Runs = runs("2.4.1")
		return b.serve(hub.Request{Caller: caller(host), Turn: &q}).Turn
	}
	b.turn("web-0", fleet.Nowhere)
	first := back(hosts[3].ID) // it asks first, so it goes first: nobody knows yet who else will ask
	for _, i := range []int{2, 1, 0} {
		back(hosts[i].ID)
	}
	b.finish(hosts[3].ID, first.Fence, fleet.Committed, true)
	for _, i := range []int{2, 1} {
		if a := back(hosts[i].ID); a.Answer != fleet.Wait || a.Rule != fleet.RuleBudget {
			t.Errorf("host %d goes before others: %+v", i, a)
		}
	}
	if a := back(hosts[0].ID); a.Answer != fleet.Granted {
		t.Errorf("the last forward is not the first back: %+v", a)
	}
}

func TestASlotThatIsFreedIsNotTakenInTheSameTransaction(t *testing.T) {
	b := newBench(t, planOf(deployment(nil)))
	b.turn("web-2", fleet.Nowhere)
	other := b.hub("hub-2")
	fence := b.granted("web-1")
	// The other hub's watch is late: it reads the host's hold to judge the report, and knows nothing of the slot.
	b.core = other
	f := fleet.Finish{App: billing, Rollout: "r-7", Install: "install-web-1", Fence: fence, Result: fleet.Committed, Serving: true, Runs: runs("2.4.1")}
	q := b.question("web-2", fleet.Forward)
	answers := other.Serve(t.Context(), group, []hub.Request{{Caller: caller("web-2"), Turn: &q}, {Caller: caller("web-1"), Finish: &f}})
	for _, a := range answers {
		if a.Err != nil {
			t.Error(a.Err)
		}
	}
	if !answers[1].Finish.Accepted {
		t.Errorf("the report: %+v", answers[1].Finish)
	}
	b.granted("web-2")
}

func TestALostHostThatStillWaitsWithItsSlotIsToldToGiveItBack(t *testing.T) {
	b := newBench(t, planOf(deployment(nil)))
	fence := b.granted("web-1")
	b.sweep(11 * time.Minute)
	b.act(fleet.ActHalt, fleet.Act{})
	q := b.question("web-1", fleet.Forward)
	q.Fence = fence
	if a := b.serve(hub.Request{Caller: caller("web-1"), Turn: &q}).Turn; a.Rule != fleet.RuleHeld || a.Fence != fence {
		t.Errorf("it is told %+v", a)
	}
}

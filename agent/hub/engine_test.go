package hub_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/release"
)

func TestABudgetOfOneLetsOneHostGoAfterTheOther(t *testing.T) {
	b := newBench(t, planOf(deployment(nil)))
	fence := b.granted("web-1")
	b.waits("web-2", fleet.RuleBudget)
	if c := b.check("web-1", fence); !c.OK || c.Within != 30 {
		t.Errorf("the check: %+v", c)
	}
	if f := b.finish("web-1", fence, fleet.Committed, true); !f.Accepted {
		t.Errorf("the report: %+v", f)
	}
	if next := b.granted("web-2"); next <= fence {
		t.Errorf("fence %d follows %d", next, fence)
	}
	if s := b.status(); s.Counts.Committed != 1 || len(s.Slots) != 1 || s.Cells[0].Held != 1 {
		t.Errorf("the status: %+v", s)
	}
}

func TestTheSameQuestionGetsTheSameAnswer(t *testing.T) {
	b := newBench(t, planOf(deployment(nil)))
	fence := b.granted("web-1")
	if again := b.granted("web-1"); again != fence {
		t.Errorf("asked again, fence %d became %d", fence, again)
	}
	for range 2 {
		if f := b.finish("web-1", fence, fleet.Committed, true); !f.Accepted {
			t.Errorf("the report: %+v", f)
		}
	}
	if s := b.status(); s.Counts.Committed != 1 {
		t.Errorf("counted %+v", s.Counts)
	}
}

func TestAPollWithNothingNewCostsTheStoreNothing(t *testing.T) {
	b := newBench(t, planOf(deployment(nil)))
	b.granted("web-1")
	b.waits("web-2", fleet.RuleBudget)
	b.turn("web-3", fleet.Nowhere)
	before := b.core.Stats()
	for range 100 {
		b.waits("web-2", fleet.RuleBudget)
		b.turn("web-3", fleet.Nowhere)
	}
	if after := b.core.Stats(); after != before {
		t.Errorf("200 polls: %+v became %+v", before, after)
	}
}

func TestOneTransactionGrantsManySlots(t *testing.T) {
	b := newBench(t, planOf(deployment(func(d *release.Deployment) { d.Budget.Count = 100 })))
	var reqs []hub.Request
	for i := range 25 {
		host := string(rune('a' + i))
		q := b.question(host, fleet.Forward)
		reqs = append(reqs, hub.Request{Caller: caller(host), Turn: &q})
	}
	b.turn("warm", fleet.Nowhere)
	before := b.core.Stats()
	for i, a := range b.core.Serve(t.Context(), group, reqs) {
		if a.Turn.Answer != fleet.Granted {
			t.Errorf("request %d: %+v", i, a.Turn)
		}
	}
	if s := b.core.Stats(); s.Commits-before.Commits != 1 || s.Grants != 25 {
		t.Errorf("it took %+v, before %+v", s, before)
	}
}

func TestTheFailureThatReachesTheLimitHaltsInItsOwnTransaction(t *testing.T) {
	b := newBench(t, planOf(deployment(func(d *release.Deployment) { d.Budget.Count = 5 })))
	f1, f2, f3 := b.granted("web-1"), b.granted("web-2"), b.granted("web-3")
	b.finish("web-1", f1, fleet.Reverted, true)
	b.granted("web-4")
	b.finish("web-2", f2, fleet.Reverted, true)
	b.waits("web-5", fleet.RuleHalted)
	if c := b.check("web-3", f3); c.OK || c.Rule != fleet.RuleHalted {
		t.Errorf("a holder's check after the halt: %+v", c)
	}
	if s := b.status(); s.State != fleet.StateHalted || s.Counts.Reverted != 2 || len(s.Failures) != 2 {
		t.Errorf("the status: %+v", s)
	}
	b.act(fleet.ActResume, fleet.Act{})
	b.sweep(0)
	b.granted("web-5")
	b.finish("web-3", f3, fleet.Reverted, true)
	b.waits("web-6", fleet.RuleHalted)
}

func TestASilentHostIsLostAndKeepsItsSlotUntilItComesBack(t *testing.T) {
	b := newBench(t, planOf(deployment(nil)))
	fence := b.granted("web-1")
	b.sweep(11 * time.Minute)
	b.waits("web-2", fleet.RuleBudget)
	if s := b.status(); s.Counts.Lost != 1 || s.Cells[0].Lost != 1 || s.Slots[0].State != "lost" {
		t.Errorf("the status: %+v", s)
	}
	if c := b.check("web-1", fence); c.OK {
		t.Error("a lost host may swap")
	}
	if f := b.finish("web-1", fence, fleet.Committed, true); !f.Accepted {
		t.Errorf("its late report: %+v", f)
	}
	if s := b.status(); s.Counts != (fleet.Counts{Committed: 1}) {
		t.Errorf("counted %+v", s.Counts)
	}
	b.granted("web-2")
}

func TestAForgottenHostsOldFenceIsStale(t *testing.T) {
	b := newBench(t, planOf(deployment(nil)))
	fence := b.granted("web-1")
	var refused *hub.RefusedError
	if _, err := b.try(fleet.ActForget, fleet.Act{Host: "web-1"}); !errors.As(err, &refused) {
		t.Errorf("a host in the middle of its update was forgotten: %v", err)
	}
	b.sweep(11 * time.Minute)
	b.act(fleet.ActForget, fleet.Act{Host: "web-1"})
	b.granted("web-2")
	if f := b.finish("web-1", fence, fleet.Committed, true); f.Accepted || !f.Stale {
		t.Errorf("the report of a forgotten host: %+v", f)
	}
}

func TestAHostThatDoesNotServeKeepsItsSlot(t *testing.T) {
	b := newBench(t, planOf(deployment(nil)))
	fence := b.granted("web-1")
	b.finish("web-1", fence, fleet.Stuck, false)
	b.waits("web-2", fleet.RuleBudget)
	b.finish("web-1", fence, fleet.Reverted, true)
	b.granted("web-2")
	if s := b.status(); s.Counts != (fleet.Counts{Reverted: 1}) {
		t.Errorf("counted %+v", s.Counts)
	}
}

func TestACloneIsRefusedAndFlagged(t *testing.T) {
	b := newBench(t, planOf(deployment(func(d *release.Deployment) { d.Budget.Count = 5 })))
	fence := b.granted("web-1")
	q := b.question("web-1", fleet.Forward)
	q.Install = "another"
	if a := b.serve(hub.Request{Caller: caller("web-1"), Turn: &q}).Turn; a.Rule != fleet.RuleClone || a.Fence != 0 {
		t.Errorf("the clone is told %+v", a)
	}
	f := fleet.Finish{App: billing, Rollout: "r-7", Install: "another", Fence: fence, Result: fleet.Committed, Serving: true}
	if a := b.serve(hub.Request{Caller: caller("web-1"), Finish: &f}).Finish; a.Accepted {
		t.Errorf("the clone's report is taken")
	}
	list, err := b.core.Hosts(t.Context(), production, billing)
	if err != nil || len(list) != 1 || !list[0].Clone {
		t.Errorf("the hosts: %+v, %v", list, err)
	}
}

func TestWavesOpenOneAfterTheOther(t *testing.T) {
	b := newBench(t, planOf(deployment(func(d *release.Deployment) {
		d.Budget.Count = 5
		d.Waves = []release.Wave{{Name: "canary", Hosts: []string{"web-1"}}, {Name: "all", PercentBP: 10000, Advance: "auto"}}
	}), release.InventoryHost{ID: "web-1"}, release.InventoryHost{ID: "web-2"}, release.InventoryHost{ID: "web-3"}))
	b.waits("web-2", fleet.RuleWave)
	b.sweep(time.Minute)
	b.waits("web-2", fleet.RuleWave)
	b.finish("web-1", b.granted("web-1"), fleet.Committed, true)
	b.sweep(time.Second)
	b.waits("web-2", fleet.RuleWave)
	b.sweep(time.Minute)
	b.granted("web-2")
	b.waits("web-9", fleet.RuleUnknown)
	if s := b.status(); s.Wave != "all" || s.Waves[0].Counts.Committed != 1 || s.Waves[1].Hosts != 2 {
		t.Errorf("the status: %+v", s)
	}
}

// Between two hosts of a later wave no slot is in use, and the first wave is watched again because something ended just now.
func TestARolloutIsNotDoneBeforeTheLastWaveIs(t *testing.T) {
	b := newBench(t, planOf(deployment(func(d *release.Deployment) {
		d.Waves = []release.Wave{{Name: "canary", Hosts: []string{"web-1"}, Advance: "auto"}, {Name: "all", PercentBP: 10000, Advance: "auto"}}
	})))
	for _, host := range []string{"web-1", "web-2", "web-3"} {
		b.turn(host, fleet.Nowhere)
	}
	b.finish("web-1", b.granted("web-1"), fleet.Committed, true)
	b.sweep(10 * time.Minute)
	b.finish("web-2", b.granted("web-2"), fleet.Committed, true)
	if s := b.status(); s.State != fleet.StateOpen || !strings.Contains(s.Why, "1 hosts of the open waves are still to go") {
		t.Fatalf("with one host to go: %s, %s", s.State, s.Why)
	}
	b.finish("web-3", b.granted("web-3"), fleet.Committed, true)
	if s := b.status(); s.State != fleet.StateDone {
		t.Errorf("with none to go: %s, %s", s.State, s.Why)
	}
}

func TestTheAuditLogVerifiesAndShowsAChange(t *testing.T) {
	b := newBench(t, planOf(deployment(nil)))
	b.granted("web-1")
	b.act(fleet.ActHalt, fleet.Act{})
	b.act(fleet.ActHalt, fleet.Act{})
	b.act(fleet.ActResume, fleet.Act{})
	if _, err := b.core.Act(t.Context(), "ops", fleet.ActHalt, fleet.Act{Reason: "fire"}); err != nil {
		t.Fatal(err)
	}
	b.waits("web-2", fleet.RuleHalted)
	list, err := b.core.AuditSince(t.Context(), 0, 100)
	if err != nil || len(list) != 4 || hub.VerifyAudit(nil, list) != nil {
		t.Fatalf("the log: %+v, %v", list, err)
	}
	list[1].Why = "nothing happened"
	if hub.VerifyAudit(nil, list) == nil {
		t.Error("a changed entry verifies")
	}
}

func TestARestoredStoreGrantsNothingUntilReconciled(t *testing.T) {
	for name, bump := range map[string]int64{"as the manual says": hub.Bump, "by hand": 0} {
		t.Run(name, func(t *testing.T) { testRestored(t, bump) })
	}
}

func testRestored(t *testing.T, bump int64) {
	b := newBench(t, planOf(deployment(func(d *release.Deployment) { d.Budget.Count = 2 })))
	b.turn("web-2", fleet.Nowhere)
	old := b.model.Snapshot()
	fence := b.granted("web-1")
	b.model.Restore(old, bump)
	_ = b.turn("web-2", fleet.Forward)
	if _, err := b.core.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.waits("web-2", fleet.RuleRestored)
	q := b.question("web-1", fleet.Nowhere)
	q.Fence = fence
	b.serve(hub.Request{Caller: caller("web-1"), Turn: &q})
	if f := b.finish("web-1", fence, fleet.Committed, true); f.Accepted || f.Stale {
		t.Errorf("a report during the loss: %+v", f)
	}
	b.act(fleet.ActReconcile, fleet.Act{})
	if s := b.status(); len(s.Slots) != 1 || s.Slots[0].Fence != fence {
		t.Errorf("the rebuilt slots: %+v", s.Slots)
	}
	b.granted("web-2")
	b.waits("web-3", fleet.RuleBudget)
	if f := b.finish("web-1", fence, fleet.Committed, true); !f.Accepted {
		t.Errorf("the report after it: %+v", f)
	}
}

func TestABadRolloutIsTakenBackOnceAndOnlyWithItsOwnBudget(t *testing.T) {
	b := newBench(t, planOf(deployment(func(d *release.Deployment) {
		d.Budget.Count, d.Halt.OnHalt, d.Revert = 5, "revert", &release.RevertPolicy{MaxUnavailable: 1}
	})))
	for _, h := range []string{"web-1", "web-2"} {
		b.finish(h, b.granted(h), fleet.Committed, true)
	}
	for _, h := range []string{"web-3", "web-4"} {
		b.finish(h, b.granted(h), fleet.Reverted, true)
	}
	back := func(host string) fleet.TurnAnswer {
		q := b.question(host, fleet.Back)
		q.Runs = runs("2.4.1")
		return b.serve(hub.Request{Caller: caller(host), Turn: &q}).Turn
	}
	first := back("web-1")
	if first.Answer != fleet.Granted || first.Order != fleet.Back {
		t.Fatalf("the first back: %+v", first)
	}
	if a := back("web-2"); a.Rule != fleet.RuleBudget || a.Order != fleet.Back {
		t.Errorf("the second: %+v", a)
	}
	b.waits("web-5", fleet.RuleReverted)
	b.finish("web-1", first.Fence, fleet.Reverted, true)
	if a := back("web-2"); a.Answer != fleet.Granted {
		t.Errorf("the second, later: %+v", a)
	}
	b.act(fleet.ActPause, fleet.Act{})
	b.act(fleet.ActResume, fleet.Act{})
	if s := b.status(); s.State != fleet.StateReverting {
		t.Errorf("after pause and resume it is %s", s.State)
	}
}

package rollout

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// orderable is a host that runs the deployment's release, under a hub whose order the signers let count.
func orderable() Input {
	return with(func(in *Input) {
		in.Deployment.Coordinator, in.Current = hub, running("2.4.1")
		in.Slot = Slot{Answer: AnswerGranted, Back: true, Order: true}
	})
}

func TestAHubsOrderTakesAHostToTheSignedFallbackIfTheSignersLetIt(t *testing.T) {
	cases := []struct {
		name   string
		change func(*Input)
		act    bool
		rule   Rule
	}{
		{"ordered and granted", func(*Input) {}, true, RuleOrder},
		{"everything else in the way", func(in *Input) {
			slot := in.Slot
			blockEverything(in)
			in.Slot = slot
		}, true, RuleOrder},
		{"no slot yet", func(in *Input) { in.Slot.Answer = AnswerWait }, false, RuleCoordinator},
		{"hub lost since", func(in *Input) { in.Slot.Answer = AnswerLost }, false, RuleCoordinator},
		{"a slot for the other way", func(in *Input) { in.Slot.Back = false }, false, RuleCoordinator},
		{"down already", func(in *Input) { in.Slot.Answer, in.Current.Healthy = AnswerWait, false }, true, RuleOrder},
		{"kept to signatures", func(in *Input) { in.Deployment.Revert = &release.RevertPolicy{Signed: true} }, false, RuleUpToDate},
		{"kept to signatures, but a halt reverts", func(in *Input) {
			in.Deployment.Revert, in.Deployment.Halt = &release.RevertPolicy{Signed: true}, &release.HaltPolicy{OnHalt: "revert"}
		}, true, RuleOrder},
		{"tighten only", func(in *Input) { in.Deployment.Coordinator = &release.Coordinator{Kind: "hub", TightenOnly: true} }, false, RuleUpToDate},
		{"a lock server has no orders", func(in *Input) { in.Deployment.Coordinator = &release.Coordinator{Kind: "fleetlock"} }, false, RuleUpToDate},
		{"no coordinator is signed", func(in *Input) { in.Deployment.Coordinator = nil }, false, RuleUpToDate},
		{"no fallback is signed", func(in *Input) { in.Deployment.Fallback = nil }, false, RuleUpToDate},
		{"the fallback is revoked", func(in *Input) { in.Emergency = revoke("2.4.0") }, false, RuleUpToDate},
		{"once is enough", func(in *Input) { in.WentBack = true }, false, RuleUpToDate},
		{"runs something else", func(in *Input) { in.Current = running("2.3.0") }, false, RuleCoordinator},
	}
	for _, c := range cases {
		in := orderable()
		c.change(&in)
		got := Decide(in)
		if got.Act != c.act || got.Rule != c.rule || got.Act && (got.Verb != VerbRevert || *got.Target != *ref("2.4.0")) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestAGrantToGoBackIsNoneToGoForward(t *testing.T) {
	got := Decide(with(func(in *Input) {
		in.Deployment.Coordinator, in.Slot = hub, Slot{Answer: AnswerGranted, Back: true}
	}))
	if got.Act || got.Rule != RuleCoordinator {
		t.Errorf("%+v", got)
	}
}

func TestTightenOnlyLeavesTheOpeningOfWavesToSignatures(t *testing.T) {
	in := with(func(in *Input) {
		in.Deployment.Coordinator, in.Slot = &release.Coordinator{Kind: "hub", TightenOnly: true}, Slot{Answer: AnswerGranted}
		in.Deployment.Waves = []release.Wave{{Name: "canary", Hosts: []string{"db-1"}, Advance: "auto"}, {Name: "rest", PercentBP: 10000}}
	})
	if got := Decide(in); got.Act || got.Rule != RuleAdvance {
		t.Errorf("a hub that may only tighten opened a wave: %+v", got)
	}
	in.Deployment.MaxWave = "rest"
	if got := Decide(in); !got.Act {
		t.Errorf("%+v", got)
	}
}

// someSlot is anything a coordinator that is owned by somebody else could make a host believe.
func someSlot(r *rand.Rand) Slot {
	return Slot{
		Answer: []Answer{AnswerNone, AnswerGranted, AnswerWait, AnswerLost, "whatever"}[r.IntN(5)],
		Since:  somewhere(r, week).Add(-2 * day), Reason: "because", Back: chance(r, 50), Order: chance(r, 50),
	}
}

// hostile is a random input whose deployment may name a coordinator, on a host that may run anything.
func hostile(r *rand.Rand) Input {
	in := someInput(r)
	d := ptr(*in.Deployment)
	in.Deployment = d
	in.Current = running([]string{"2.4.0", "2.4.1", "2.3.0"}[r.IntN(3)])
	in.Current.Healthy, in.Current.Stopped = chance(r, 80), chance(r, 10)
	if chance(r, 80) {
		d.Coordinator = &release.Coordinator{Kind: []string{"hub", "hub", "fleetlock", "none"}[r.IntN(4)], TightenOnly: chance(r, 30)}
		d.OnCoordinatorLoss = []string{"", "hold", "signed-schedule"}[r.IntN(3)]
		d.CoordinatorGrace = release.Duration(r.Int64N(int64(2 * day)))
	}
	if chance(r, 30) {
		d.Revert = &release.RevertPolicy{Signed: chance(r, 50), MaxUnavailable: r.IntN(3)}
	}
	if chance(r, 30) {
		d.Halt = &release.HaltPolicy{OnHalt: []string{"", "stop", "revert"}[r.IntN(3)]}
	}
	if chance(r, 20) {
		d.Fallback = nil
	}
	in.WentBack = chance(r, 20)
	return in
}

// TestWhateverACoordinatorSaysNothingStartsBeforeItsSignedFloor asks as a host whose coordinator is an adversary: everything
// that signatures, clock, calendar and operators say still holds, so all it can do is delay.
func TestWhateverACoordinatorSaysNothingStartsBeforeItsSignedFloor(t *testing.T) {
	r := random(t)
	started := 0
	for range 8000 {
		in := hostile(r)
		now := somewhere(r, 10*day)
		in.Issued, in.Now = in.Issued.Add(now.Sub(in.Now)), now
		in.Slot = someSlot(r)
		got := Decide(in)
		if !got.Act || got.Verb != VerbActivate && got.Verb != VerbRemove {
			continue
		}
		started++
		alone := in
		alone.Deployment = ptr(*in.Deployment)
		alone.Deployment.Coordinator, alone.Slot = nil, Slot{}
		if in.Deployment.Coordinator != nil && in.Deployment.Coordinator.Kind == "hub" && !in.Deployment.Coordinator.TightenOnly {
			alone.Deployment.Coordinator, alone.Slot = hub, Slot{Answer: AnswerGranted} // which may open waves, and no more
		}
		if by := Decide(alone); !by.Act {
			t.Fatalf("it starts at %s with slot %+v\nand signatures alone say %+v", now, in.Slot, by)
		}
		if starts := NewSchedule(in.Deployment, in.Inventory, in.InventoryDigest).Starts([]Host{in.Host}); starts[0].At.IsZero() || now.Before(starts[0].At) {
			t.Fatalf("it starts at %s, its floor is %s", now, starts[0].At)
		}
	}
	if started < 300 {
		t.Errorf("only %d started: the generator shows nothing", started)
	}
}

// TestAnOrderChangesNothingButARevertToTheSignedFallback compares each decision with the one without the order.
func TestAnOrderChangesNothingButARevertToTheSignedFallback(t *testing.T) {
	r := random(t)
	changed := 0
	for range 8000 {
		in := hostile(r)
		now := somewhere(r, 10*day)
		in.Issued, in.Now = in.Issued.Add(now.Sub(in.Now)), now
		in.Slot = someSlot(r)
		in.Slot.Order = true
		silent := in
		silent.Slot.Order = false
		with, without := Decide(in), Decide(silent)
		if same(with, without) {
			continue
		}
		changed++
		d := in.Deployment
		allowed := d.Halt != nil && d.Halt.OnHalt == "revert" || d.Revert == nil || !d.Revert.Signed
		if with.Verb != VerbRevert || with.Target == nil || *with.Target != *d.Fallback || !allowed || in.WentBack ||
			d.Coordinator.Kind != "hub" || d.Coordinator.TightenOnly || in.Current.Digest != d.Release.SHA256 {
			t.Fatalf("the order led to %+v\nof %+v", with, in)
		}
		if with.Act && in.Current.Healthy && !(in.Slot.Answer == AnswerGranted && in.Slot.Back) {
			t.Fatalf("a host that serves went back without a slot: %+v", in.Slot)
		}
	}
	if changed < 300 {
		t.Errorf("only %d orders counted: the generator shows nothing", changed)
	}
}

func same(a, b Decision) bool {
	return a.Act == b.Act && a.Verb == b.Verb && a.Rule == b.Rule && a.Because == b.Because && a.Until.Equal(b.Until)
}

// TestMoreOfAnyStopNeverMakesAnOrderedHostActEarlier is the monotonicity of all other inputs in the presence of an order.
func TestMoreOfAnyStopNeverMakesAnOrderedHostActEarlier(t *testing.T) {
	r := random(t)
	for range 400 {
		base := hostile(r)
		base.Slot = someSlot(r)
		for _, restrict := range restrictions {
			if restrict.name == "coordinator" {
				continue // it sets the slot itself
			}
			tighter := base
			tighter.Deployment = ptr(*base.Deployment)
			restrict.apply(r, &tighter)
			now := somewhere(r, 10*day).Add(time.Minute)
			if loose, tight := on(base, now), on(tighter, now); tight.Act && !loose.Act {
				t.Fatalf("%s makes a host act\nwithout %+v\nwith    %+v", restrict.name, loose, tight)
			}
		}
	}
}

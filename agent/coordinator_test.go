package agent_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
)

// underHub makes a deployment ask a hub, with a signed fallback.
func underHub(fallback *ship, more ...deployOption) deployOption {
	return func(d *release.Deployment) {
		d.Coordinator, d.RolloutID = &release.Coordinator{Kind: "hub"}, "r-"+string(rune('0'+d.Sequence))
		if fallback != nil {
			d.Fallback = fallback.ref()
		}
		for _, o := range more {
			o(d)
		}
	}
}

// hubStory is a host that runs 1.0, installed without a coordinator, and a hub that it can ask from now on.
func hubStory(t *testing.T, f func(w *world)) {
	t.Helper()
	story(t, func(w *world) {
		w.hub = newDesk("")
		w.installed(1, v10())
		f(w)
	})
}

func (w *world) reported(fence int64, result fleet.Result) func() bool {
	return func() bool { return w.hub.report(fence).Result == result }
}

func TestAnUpdateWaitsForItsSlotIsCheckedBeforeTheSwapAndReported(t *testing.T) {
	hubStory(t, func(w *world) {
		w.hub.wait = "3 of 3 slots are taken"
		atCheck := ""
		w.hub.checked = func() {
			st := w.read()
			atCheck = string(st.Phase) + " " + w.current().String()
			if st.Attempt == nil || st.Attempt.Fence != 1 || w.state.Marker(billing) == nil || len(w.sup.Guards) == 0 {
				t.Errorf("the check came before everything was ready: %+v", st.Attempt)
			}
		}
		w.deploy(2, v11(), underHub(v10()))
		w.until("it waits", func() bool { return strings.Contains(w.why(), "3 of 3 slots are taken") })
		w.pass(5 * time.Minute)
		if w.current() != v10().id || w.read().Phase != state.Waiting {
			t.Fatalf("it went without a slot: %s", w.current())
		}
		w.hub.set(func(d *desk) { d.wait = "" })
		w.until("1.1 is committed", w.rests(v11()))
		w.until("that is reported", w.reported(1, fleet.Committed))
		if f := w.hub.report(1); !f.Serving || f.Install != "install-1" || w.hub.held() != 0 || atCheck != "activating "+v10().id.String() {
			t.Errorf("report %+v, held %d, at the check: %s", f, w.hub.held(), atCheck)
		}
		w.settledOn(v11())
	})
}

func TestACheckThatFailsEndsTheActivationBeforeTheSwapWithoutBlame(t *testing.T) {
	for name, trouble := range map[string]func(*desk){
		"halted": func(d *desk) { d.no = "3 hosts failed" },
		"hangs":  func(d *desk) { d.hangs = time.Hour },
		"down":   func(d *desk) { d.checked = func() { d.set(func(d *desk) { d.down = true }) } },
	} {
		t.Run(name, func(t *testing.T) {
			hubStory(t, func(w *world) {
				w.hub.set(trouble)
				w.deploy(2, v11(), underHub(v10()))
				w.until("it is given up", func() bool { return w.outcome().Result == "aborted" })
				if _, bad := w.quarantine(v11()); bad || w.current() != v10().id || len(w.sup.Starts) != 1 {
					t.Errorf("quarantined %v, current %s, started %v", bad, w.current(), w.sup.Starts)
				}
				w.nothingInFlight()
				w.hub.set(func(d *desk) { d.no, d.hangs, d.down, d.checked = "", 0, false, nil })
				w.until("the slot is given back", w.reported(1, fleet.Skipped))
				began := time.Now()
				w.until("it is committed then", w.rests(v11()))
				if took := time.Since(began); took > 3*time.Minute {
					t.Errorf("it took %s to try again", took)
				}
				w.until("and reported", w.reported(w.hub.Last, fleet.Committed))
			})
		})
	}
}

func TestAHubThatIsGoneAfterTheSwapChangesNothingAndIsToldWhenItIsBack(t *testing.T) {
	for name, ends := range map[string]struct {
		temper temper
		result fleet.Result
		rests  func() *ship
	}{
		"good": {temper{}, fleet.Committed, v11}, "bad": {temper{DiesAfter: 10 * time.Second}, fleet.Reverted, v10},
	} {
		t.Run(name, func(t *testing.T) {
			hubStory(t, func(w *world) {
				w.temper(v11(), ends.temper)
				w.deploy(2, v11(), underHub(v10()))
				w.until("it is in trial", w.phase(state.Trial))
				w.hub.set(func(d *desk) { d.down = true })
				w.until("the trial ends", func() bool { return w.phase(state.Idle)() && w.read().Last.Fence == 1 })
				w.settledOn(ends.rests())
				w.pass(time.Hour)
				w.start() // a restart forgets nothing
				w.pass(time.Hour)
				if w.hub.held() != 1 {
					t.Fatal("the slot came free without a report")
				}
				w.hub.set(func(d *desk) { d.down = false })
				began := time.Now()
				w.until("it is reported", w.reported(1, ends.result))
				if took := time.Since(began); took > 2*time.Minute {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

func TestWhatTheGuardRevertedIsReportedByTheNextDaemon(t *testing.T) {
	hubStory(t, func(w *world) {
		w.deploy(2, v11(), underHub(v10()))
		w.until("it is in trial", w.phase(state.Trial))
		a := w.read().Attempt
		w.halt()
		w.pass(10 * time.Minute)
		must(t, w.newMachine().Guard(context.Background(), agent.Ticket{App: billing, Attempt: a.ID}, func(context.Context) error { return nil }))
		w.start()
		w.until("it is reported", w.reported(1, fleet.Reverted))
		if f := w.hub.report(1); !f.Serving || f.Cause != string(state.CauseGuard) {
			t.Errorf("%+v", f)
		}
	})
}

func TestAHostWhoseAppIsDownKeepsItsSlotUntilItServes(t *testing.T) {
	hubStory(t, func(w *world) {
		w.temper(v11(), temper{DiesAfter: 10 * time.Second})
		w.temper(v10(), temper{FailStart: true})
		w.deploy(2, v11(), underHub(v10()))
		w.until("it is stuck", w.phase(state.Stuck))
		w.until("it is reported", w.reported(1, fleet.Stuck))
		if w.hub.held() != 1 {
			t.Fatal("the slot is free and the app is down")
		}
		w.temper(v10(), temper{})
		_ = w.sup.ResetFailed(context.Background(), "billing.service")
		must(t, w.sup.Job(context.Background(), "start", "billing.service"))
		w.until("the slot is free", func() bool { return w.hub.held() == 0 })
	})
}

func onLoss(policy string, grace time.Duration) deployOption {
	return func(d *release.Deployment) {
		d.OnCoordinatorLoss, d.CoordinatorGrace = policy, release.Duration(grace)
	}
}

func TestALostHubHoldsOrLetsTheSignedScheduleTakeOverAsSigned(t *testing.T) {
	hubStory(t, func(w *world) {
		w.hub.down = true
		w.deploy(2, v11(), underHub(v10(), onLoss("hold", 0)))
		w.pass(24 * time.Hour)
		if w.current() != v10().id || !strings.Contains(w.why(), "cannot be reached") {
			t.Fatalf("%s: %s", w.current(), w.why())
		}
		w.deploy(3, v11(), underHub(v10(), onLoss("signed-schedule", 30*time.Hour)))
		w.pass(5 * time.Hour)
		w.start() // an outage does not become young by a restart
		if w.pass(30 * time.Minute); w.current() != v10().id {
			t.Fatal("it did not wait for the grace")
		}
		began := time.Now()
		w.until("the signed schedule takes over", w.rests(v11()))
		if took := time.Since(began); took > 40*time.Minute {
			t.Errorf("the outage was counted anew: %s", took)
		}
	})
}

func TestARefusalIsNeverTakenForALostHub(t *testing.T) {
	hubStory(t, func(w *world) {
		w.hub.clone = true
		w.deploy(2, v11(), underHub(v10(), onLoss("signed-schedule", time.Minute)))
		w.pass(24 * time.Hour)
		if w.current() != v10().id || !strings.Contains(w.why(), "another machine uses this host id") {
			t.Errorf("%s: %s", w.current(), w.why())
		}
	})
}

func TestAnOrderTakesTheHostToTheSignedFallbackOnceAndItStaysThere(t *testing.T) {
	hubStory(t, func(w *world) {
		w.src.publish(v12())
		w.deploy(2, v11(), underHub(v12())) // a fallback this host never had
		w.until("1.1 is committed", w.rests(v11()))
		w.until("and reported", w.reported(1, fleet.Committed))
		w.hub.set(func(d *desk) { d.order, d.wait = true, "1 of 1 slots to go back is taken" })
		w.until("it waits for a slot back", func() bool { return strings.Contains(w.why(), "takes this rollout back") })
		w.pass(10 * time.Minute)
		if w.current() != v11().id {
			t.Fatal("it went back without a slot")
		}
		w.hub.set(func(d *desk) { d.wait = "" })
		w.until("it is back", func() bool { return w.phase(state.Idle)() && w.current() == v12().id })
		w.until("that is reported", w.reported(2, fleet.Committed))
		w.settledOn(v12())
		if q, bad := w.quarantine(v11()); !bad || q.Cause != state.CauseOrdered || q.RolloutID != "r-2" {
			t.Errorf("%+v", q)
		}
		w.deploy(3, v11(), underHub(v12(), func(d *release.Deployment) { d.RolloutID = "r-2" })) // an amendment is no new rollout
		w.pass(24 * time.Hour)
		w.start()
		w.pass(24 * time.Hour)
		if w.current() != v12().id {
			t.Errorf("it flipped back to %s", w.current())
		}
		if _, err := w.machine.Retry(context.Background(), command(w), release.Digest{}); err != nil {
			t.Fatal(err)
		}
		w.until("an operator's retry brings 1.1 again", w.rests(v11()))
		w.pass(24 * time.Hour)
		if w.current() != v11().id {
			t.Error("the same rollout was taken back twice")
		}
	})
}

func TestAnOrderIsNotObeyedWhereTheSignersDoNotAllowIt(t *testing.T) {
	for name, o := range map[string]deployOption{
		"tighten only": func(d *release.Deployment) { d.Coordinator.TightenOnly = true },
		"signed only":  func(d *release.Deployment) { d.Revert = &release.RevertPolicy{Signed: true} },
		"no fallback":  func(d *release.Deployment) { d.Fallback = nil },
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			hubStory(t, func(w *world) {
				w.deploy(2, v11(), underHub(v10(), o))
				w.until("1.1 is committed", w.rests(v11()))
				w.hub.set(func(d *desk) { d.order = true })
				w.pass(time.Hour)
				if w.current() != v11().id {
					t.Errorf("it went to %s", w.current())
				}
			})
		})
	}
}

func TestARemovalTakesASlotAndASignedRevertDoesSoAsFarAsItIsThere(t *testing.T) {
	hubStory(t, func(w *world) {
		w.deploy(2, v11(), underHub(v10()))
		w.until("1.1 is reported", w.reported(1, fleet.Committed))
		w.hub.set(func(d *desk) { d.wait = "all taken" })
		paced := func(d *release.Deployment) {
			d.Created, d.State, d.Revert, d.CoordinatorGrace = time.Now().UTC().Truncate(time.Second), release.StateRevert, &release.RevertPolicy{MaxUnavailable: 1}, release.Duration(700*time.Hour)
		}
		w.deploy(3, v11(), underHub(v10(), paced))
		w.until("the revert waits for a slot", func() bool { return strings.Contains(w.why(), "the revert waits for a slot") })
		w.hub.set(func(d *desk) { d.wait = "" })
		w.until("it is back", func() bool { return w.phase(state.Idle)() && w.current() == v10().id })
		w.until("that is reported", w.reported(2, fleet.Committed))
		w.deploy(4, v11(), underHub(v10()))
		w.until("1.1 again", w.reported(3, fleet.Committed))
		w.hub.set(func(d *desk) { d.down = true })
		w.deploy(5, v11(), underHub(v10(), paced))
		w.until("a lost hub does not keep a signed revert", func() bool { return w.phase(state.Idle)() && w.current() == v10().id })
		w.hub.set(func(d *desk) { d.down, d.wait = false, "all taken" })
		w.deploy(6, nil, underHub(nil))
		w.until("the removal waits", func() bool { return strings.Contains(w.why(), "all taken") })
		if w.current().IsZero() {
			t.Fatal("it was removed without a slot")
		}
		w.hub.set(func(d *desk) { d.wait = "" })
		w.until("it is removed", func() bool { return w.phase(state.Idle)() && w.current().IsZero() })
		w.until("and reported", w.reported(4, fleet.Committed))
	})
}

func TestASlotThatCannotBeUsedIsGivenBack(t *testing.T) {
	hubStory(t, func(w *world) {
		w.sup.set(func(s *supervisor) { s.exit["migrate"] = 1 })
		hooked := build(billing, "1.5", withHooks)
		w.deploy(2, hooked, underHub(v10()))
		w.until("the hook fails and the slot is given back", w.reported(1, fleet.Skipped))
		if w.hub.held() != 0 || w.current() != v10().id {
			t.Errorf("slot %d is held", w.hub.held())
		}
		if _, err := w.machine.Hold(context.Background(), command(w), time.Time{}); err != nil {
			t.Fatal(err)
		}
		w.pass(2 * time.Hour)
		if w.hub.held() != 0 {
			t.Errorf("a held host sits on slot %d", w.hub.held())
		}
	})
}

func TestAHostTellsAtItsPollsAndAtTheHubsPace(t *testing.T) {
	hubStory(t, func(w *world) {
		w.deploy(2, v11(), underHub(v10()))
		w.until("1.1 is reported", w.reported(1, fleet.Committed))
		count := func(d time.Duration) int {
			n := len(w.hub.turns())
			w.pass(d)
			return len(w.hub.turns()) - n
		}
		if n := count(time.Hour); n < 95 || n > 121 {
			t.Errorf("%d turns in an hour, every 30 to 36 s are meant", n)
		}
		w.hub.set(func(d *desk) { d.poll = 300 })
		w.pass(time.Minute)
		for range 10 { // being woken is no reason to ask
			w.machine.Wake()
			synctest.Wait()
		}
		if n := count(time.Hour); n < 9 || n > 13 {
			t.Errorf("%d turns in an hour at a poll of 5 m", n)
		}
		turns := w.hub.turns()
		if last := turns[len(turns)-1]; last.Want != fleet.Nowhere || last.Runs == nil || last.Runs.Digest != v11().digest || !last.Runs.Healthy || last.Rollout != "r-2" {
			t.Errorf("%+v", last)
		}
	})
}

func TestAHostWhoseIdentityIsAnothersStartsNothingAndStillReverts(t *testing.T) {
	hubStory(t, func(w *world) {
		w.installed(2, v11())
		s := w.settings
		s.Unfit = "this machine is a copy of another"
		w.machine.SetSettings(s)
		w.deploy(3, v12())
		w.pass(time.Hour)
		if w.current() != v11().id || !strings.Contains(w.why(), "a copy of another") {
			t.Errorf("%s: %s", w.current(), w.why())
		}
		w.deploy(4, v11(), func(d *release.Deployment) { d.State, d.Fallback = release.StateRevert, v10().ref() })
		w.until("a signed revert happens", func() bool { return w.phase(state.Idle)() && w.current() == v10().id })
	})
}

func TestHintsRefreshOnceInThirtySecondsAtMost(t *testing.T) {
	prebuild()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir(), "")
		defer w.log.Close()
		w.hub = newDesk("")
		h := agent.NewHost(w.deps())
		h.Configure(map[release.App]agent.Settings{billing: w.settings}, 24*time.Hour, 0)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); h.Run(ctx) }()
		defer func() { cancel(); <-done }()
		w.deploy(1, v10(), underHub(nil))
		w.until("it is installed", w.rests(v10()))
		w.hub.set(func(d *desk) { d.poll = 1 })
		w.pass(time.Minute)
		w.src.set(func(s *source) { s.refreshed = 0 })
		w.pass(10 * time.Minute)
		if w.src.refreshes() != 0 {
			t.Fatalf("%d refreshes without a hint", w.src.refreshes())
		}
		for range 600 { // news every second
			w.hub.set(func(d *desk) { d.hint++ })
			w.pass(time.Second)
		}
		if n := w.src.refreshes(); n < 15 || n > 21 {
			t.Errorf("%d refreshes in ten minutes", n)
		}
	})
}

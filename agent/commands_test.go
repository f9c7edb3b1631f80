package agent_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
)

var background = context.Background()

func TestAnOperatorRevertsToTheFallbackAndItStaysReverted(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.installed(2, v11())
		_, err := w.machine.Revert(background, command(w))
		must(t, err)
		w.until("it is reverted", w.ended("reverted"))
		w.settledOn(v10())
		if q, _ := w.quarantine(v11()); q.Cause != state.CauseOperator || !q.Cause.Sticky() {
			t.Errorf("quarantine %+v", q)
		}
		w.pass(3 * time.Hour)
		w.settledOn(v10())
		_, err = w.machine.Retry(background, command(w), v11().digest)
		must(t, err)
		w.until("retry gives it another chance", w.rests(v11()))
	})
}

func TestAnOperatorRevertsATrial(t *testing.T) {
	story(t, func(w *world) {
		w.inTrial()
		_, err := w.machine.Revert(background, command(w))
		must(t, err)
		w.until("it is reverted", w.ended("reverted"))
		w.settledOn(v10())
		w.mustTell("an operator (ann) reverted it: because")
	})
}

func TestAReleaseWithoutAnEarlierOneCannotBeReverted(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		before := w.read().Revision
		if _, err := w.machine.Revert(background, command(w)); kindOf(err) != "no-fallback" {
			t.Errorf("got %v", err)
		}
		w.settledOn(v10())
		if w.read().Revision != before {
			t.Error("a refused command changed the state")
		}
	})
}

func TestARevertNeverGoesBelowTheRollbackFloor(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.deploy(2, v13())
		w.until("it is refused", w.told1("may be gone back to from 1.3.0"))
		w.settledOn(v10())
	})
}

func TestAHoldStopsStartsUntilItsEndAndAResumeEndsItEarlier(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		_, err := w.machine.Hold(background, agent.Command{By: "ann", Reason: "lunch"}, time.Now().Add(time.Hour))
		must(t, err)
		began := time.Now()
		w.deploy(2, v11())
		w.until("the hold is named", func() bool { return w.told("held here by ann") })
		w.until("the hold is over", w.rests(v11()))
		if took := time.Since(began); took < time.Hour {
			t.Errorf("it was held for %s only", took)
		}
		_, err = w.machine.Hold(background, agent.Command{By: "ann", Reason: "for good"}, time.Time{})
		must(t, err)
		w.deploy(3, v12())
		w.pass(3 * time.Hour)
		w.settledOn(v11())
		_, err = w.machine.Resume(background, command(w))
		must(t, err)
		w.until("it is resumed", w.rests(v12()))
		if _, err := w.machine.Resume(background, command(w)); kindOf(err) != "refused" {
			t.Errorf("resume without a hold: %v", err)
		}
	})
}

func TestAHoldDoesNotStopARevert(t *testing.T) {
	story(t, func(w *world) {
		w.temper(v11(), temper{DiesAfter: 5 * time.Second})
		w.inTrial()
		_, err := w.machine.Hold(background, agent.Command{By: "ann"}, time.Time{})
		must(t, err)
		w.until("it is reverted", w.ended("reverted"))
		w.settledOn(v10())
	})
}

func TestACommandForAStateThatMovedDoesNothing(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		old := command(w)
		w.installed(2, v11())
		for name, do := range map[string]func() (int64, error){
			"revert": func() (int64, error) { return w.machine.Revert(background, old) },
			"resume": func() (int64, error) { return w.machine.Resume(background, old) },
			"retry":  func() (int64, error) { return w.machine.Retry(background, old, release.Digest{}) },
			"remove": func() (int64, error) { return w.machine.Remove(background, old) },
		} {
			var stale *agent.StaleError
			if _, err := do(); !errors.As(err, &stale) || stale.Expected != old.Expect || stale.Is != w.read().Revision {
				t.Errorf("%s: %v", name, err)
			}
		}
		w.pass(time.Hour)
		w.settledOn(v11())
	})
}

func TestACommandThatWasReplayedDoesNothing(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.installed(2, v11())
		c := command(w)
		_, err := w.machine.Revert(background, c)
		must(t, err)
		w.until("it is reverted", w.ended("reverted"))
		if _, err := w.machine.Revert(background, c); kindOf(err) != "stale" {
			t.Errorf("got %v", err)
		}
	})
}

func TestARemovedAppStaysAwayUntilItHasLeftTheConfiguration(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		_, err := w.machine.Remove(background, command(w))
		must(t, err)
		w.until("it is off the host", w.ended("removed"))
		if !w.current().IsZero() || w.sup.running(billing) != "" {
			t.Errorf("current %s, running %q", w.current(), w.sup.running(billing))
		}
		w.nothingInFlight()
		w.deploy(2, v11())
		w.pass(time.Hour)
		if !w.current().IsZero() {
			t.Error("it came back by itself")
		}
	})
}

func TestARemovalDuringATrialIsRefused(t *testing.T) {
	story(t, func(w *world) {
		w.inTrial()
		var busy *agent.BusyError
		if _, err := w.machine.Remove(background, command(w)); !errors.As(err, &busy) || busy.Phase != state.Trial {
			t.Errorf("got %v", err)
		}
		w.until("the trial goes on", w.rests(v11()))
	})
}

func TestAPlanSaysWhatWouldHappenAndDoesNothing(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.halt()
		w.deploy(2, v11())
		act, plan, err := w.machine.Plan(background)
		if err != nil || !act || len(plan) != 3 {
			t.Errorf("act %v, plan %q, error %v", act, plan, err)
		}
		w.settledOn(v10())
	})
}

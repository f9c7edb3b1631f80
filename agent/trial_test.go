package agent_test

import (
	"context"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
)

func TestAFreshInstallCommits(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.settledOn(v10())
		if got := w.fallback(); !got.IsZero() {
			t.Errorf("a first install has fallback %s", got)
		}
		if o := w.outcome(); o.Result != "committed" || o.Sequence != 1 {
			t.Errorf("outcome %+v", o)
		}
		w.mustTell("is committed: healthy for 20s")
	})
}

func TestAnUpgradeCommitsAndKeepsTheFallback(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.installed(2, v11())
		w.settledOn(v11())
		if got := w.fallback(); got != v10().id {
			t.Errorf("fallback is %s", got)
		}
		if names, _ := w.units.Owned(billing); len(names) != 1 {
			t.Errorf("the timer that 1.1 no longer ships is left: %v", names)
		}
	})
}

func TestAReleaseThatTurnsUnhealthyIsRevertedAndQuarantined(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.temper(v11(), temper{DiesAfter: 5 * time.Second})
		w.deploy(2, v11())
		w.until("it is reverted", w.ended("reverted"))
		w.settledOn(v10())
		q, ok := w.quarantine(v11())
		if !ok || q.Cause != state.CauseUnhealthy || !q.RetryAt.IsZero() {
			t.Errorf("quarantine %+v %v", q, ok)
		}
		w.pass(3 * time.Hour)
		if n := len(w.read().History); n != 2 {
			t.Errorf("it was tried again by itself: %+v", w.read().History)
		}
		w.deploy(3, v11())
		w.until("a new sequence tries it again", func() bool { return len(w.read().History) == 3 })
	})
}

func TestAReleaseThatFailsToStartIsReverted(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.temper(v11(), temper{FailStart: true})
		w.deploy(2, v11())
		w.until("it is reverted", w.ended("reverted"))
		w.settledOn(v10())
		if q, _ := w.quarantine(v11()); q.Cause != state.CauseUnhealthy {
			t.Errorf("quarantine %+v", q)
		}
	})
}

func TestAReleaseThatIsNeverReadyIsRevertedAtTheDeadline(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.temper(v11(), temper{NeverReady: true})
		w.deploy(2, v11())
		w.until("the trial runs", w.phase(state.Trial))
		began := time.Now()
		w.until("it is reverted", w.ended("reverted"))
		if took := time.Since(began); took < 2*time.Minute || took > 3*time.Minute {
			t.Errorf("the revert took %s of a two minute trial", took)
		}
		w.settledOn(v10())
	})
}

func TestAReleaseWhoseStartHangsIsRevertedAtTheDeadlineWithoutTheGuard(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.temper(v11(), temper{HangStart: true})
		began := time.Now()
		w.deploy(2, v11())
		w.until("it is reverted", w.ended("reverted"))
		if took := time.Since(began); took > 3*time.Minute {
			t.Errorf("the revert took %s of a two minute trial", took)
		}
		w.settledOn(v10())
	})
}

func TestAReleaseThatRestartsByItselfIsReverted(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.temper(v11(), temper{ChurnsAfter: 2 * time.Second})
		w.deploy(2, v11())
		w.until("it is reverted", w.ended("reverted"))
		w.settledOn(v10())
	})
}

func TestAFailedFirstInstallLeavesNoCurrentAndNoUnits(t *testing.T) {
	story(t, func(w *world) {
		w.temper(v10(), temper{FailStart: true})
		w.start()
		w.deploy(1, v10())
		w.until("it is reverted", w.ended("reverted"))
		if got := w.current(); !got.IsZero() {
			t.Errorf("current is %s", got)
		}
		if names, err := w.units.Owned(billing); err != nil || len(names) > 0 {
			t.Errorf("units are left: %v %v", names, err)
		}
		w.nothingInFlight()
		w.mustTell("nothing to go back to")
		w.pass(time.Hour)
		if n := len(w.read().History); n != 1 {
			t.Errorf("it was tried again by itself: %+v", w.read().History)
		}
	})
}

func TestAFallbackThatIsUnhealthyTooStopsEverything(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.temper(v11(), temper{DiesAfter: 5 * time.Second})
		w.deploy(2, v11())
		w.until("the trial runs", w.phase(state.Trial))
		w.temper(v10(), temper{FailStart: true})
		w.until("the app is stuck", w.phase(state.Stuck))
		w.mustTell("billing IS DOWN")
		starts := len(w.sup.Starts)
		w.pass(3 * time.Hour)
		if len(w.sup.Starts) != starts || w.current() != v10().id {
			t.Errorf("it flip-flops: %v", w.sup.Starts)
		}
	})
}

func TestAnInterruptedReleaseIsNotTriedAgainFromStuckByItself(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.temper(v11(), temper{NeverReady: true})
		w.deploy(2, v11())
		w.until("the trial runs", w.phase(state.Trial))
		w.sup.set(func(s *supervisor) { s.unreachable = true })
		w.until("nobody can tell", w.phase(state.Reverting))
		w.temper(v10(), temper{FailStart: true})
		w.sup.set(func(s *supervisor) { s.unreachable = false })
		w.until("the app is stuck", w.phase(state.Stuck))
		starts := len(w.sup.Starts)
		w.pass(3 * time.Hour)
		if w.read().Phase != state.Stuck || len(w.sup.Starts) != starts {
			t.Errorf("phase %s, ran %v", w.read().Phase, w.sup.Starts)
		}
		w.temper(v10(), temper{})
		w.temper(v11(), temper{})
		w.deploy(3, v11())
		w.until("a new sequence is tried", w.ended("failed-before"))
		w.settledOn(v11())
	})
}

func TestABaselineThatWasFailingIsToldApartAndNotCommitted(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.temper(v10(), temper{DiesAfter: time.Second})
		w.deploy(2, v11())
		w.until("the trial ended", w.ended("failed-before"))
		if _, good := w.read().Good(v11().id); good {
			t.Error("it is recorded as known good")
		}
		w.settledOn(v11())
		_, err := w.machine.Retry(context.Background(), command(w), release.Digest{})
		must(t, err)
		w.until("a trial on its own merit was passed", w.ended("committed"))
		if _, good := w.read().Good(v11().id); !good {
			t.Error("it passed a trial of its own and is not recorded as known good")
		}
	})
}

func TestATrialThatCannotBeginAnewLeavesWhatRunsAlone(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.sup.set(func(s *supervisor) { delete(s.Units, "billing.service") })
		w.deploy(2, v11())
		w.until("the trial ended", w.ended("failed-before"))
		w.sup.set(func(s *supervisor) { s.armFails = true })
		if _, err := w.machine.Retry(background, command(w), release.Digest{}); err == nil {
			t.Error("a trial without a guard began")
		}
		w.pass(time.Hour)
		w.settledOn(v11())
		w.sup.set(func(s *supervisor) { s.armFails = false })
		_, err := w.machine.Retry(background, command(w), release.Digest{})
		must(t, err)
		w.until("it passes its trial", w.rests(v11()))
	})
}

func TestAFailingBaselineIsNotBlamedOnTheReleaseThatFailsToo(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.temper(v10(), temper{DiesAfter: time.Second})
		w.temper(v11(), temper{DiesAfter: time.Second})
		w.deploy(2, v11())
		w.until("the trial ended", w.ended("failed-before"))
		q, ok := w.quarantine(v11())
		if !ok || q.Cause != state.CauseFailedBefore || w.current() != v10().id {
			t.Errorf("current %s, quarantine %+v", w.current(), q)
		}
	})
}

func TestATrialIsNotLostToAManagerThatDoesNotAnswerForAWhile(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.deploy(2, v11())
		w.until("the trial runs", w.phase(state.Trial))
		w.sup.set(func(s *supervisor) { s.unreachable = true })
		w.pass(15 * time.Second)
		w.sup.set(func(s *supervisor) { s.unreachable = false })
		w.until("it is committed", w.rests(v11()))
		w.settledOn(v11())
	})
}

func TestATrialNobodyCouldJudgeIsRevertedWithoutBlame(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.temper(v11(), temper{NeverReady: true})
		w.deploy(2, v11())
		w.until("the trial runs", w.phase(state.Trial))
		w.sup.set(func(s *supervisor) { s.unreachable = true })
		w.until("it goes back", w.phase(state.Reverting))
		w.pass(time.Minute)
		w.sup.set(func(s *supervisor) { s.unreachable = false })
		w.until("it is reverted", w.ended("reverted"))
		q, _ := w.quarantine(v11())
		if q.Cause != state.CauseCannotTell || q.RetryAt.IsZero() {
			t.Errorf("quarantine %+v", q)
		}
		w.settledOn(v10())
	})
}

func TestASocketIsStartedAndNeverRestarted(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, vSocket())
		w.installed(2, v11())
		w.installed(3, vSocket())
		w.settledOn(vSocket())
		for _, did := range w.sup.did() {
			if did == "restart billing.socket" {
				t.Error("the socket was restarted")
			}
		}
	})
}

func TestHooksRunOnceAroundAnActivationUnderTheAppsUser(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.installed(2, vHooks())
		if got := w.sup.tasks; len(got) != 2 || got[0] != "migrate as billing" || got[1] != "announce as billing" {
			t.Errorf("tasks %v", got)
		}
		w.temper(v11(), temper{DiesAfter: time.Second})
		w.deploy(3, v11())
		w.until("it is reverted", w.ended("reverted"))
		if got := w.sup.tasks; len(got) != 3 || got[2] != "regret as billing" {
			t.Errorf("tasks %v", got)
		}
	})
}

func TestAFailingMigrationActivatesNothing(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.sup.set(func(s *supervisor) { s.exit["migrate"] = 3 })
		w.deploy(2, vHooks())
		w.until("it is told", func() bool { return w.told("hook pre-activate exited with 3") })
		w.settledOn(v10())
		w.sup.set(func(s *supervisor) { s.exit["migrate"] = 0 })
		w.until("it is tried again later", w.rests(vHooks()))
	})
}

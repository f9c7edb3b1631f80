package agent_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
)

func onFirstFailure(what string) deployOption {
	return func(d *release.Deployment) { d.OnFirstFailure = what }
}

// bootLinks are the links that would start the app's units at boot.
func (w *world) bootLinks() []string {
	links, _ := filepath.Glob(filepath.Join(w.dir, "units", "*.wants", "*"))
	return links
}

func (w *world) keptStopped(s *ship) {
	w.t.Helper()
	if got := w.current(); got != s.id {
		w.t.Errorf("current is %s, want %s kept", got, s.id)
	}
	if got := w.sup.running(s.app); got != "" {
		w.t.Errorf("%s runs", got)
	}
	if links := w.bootLinks(); len(links) > 0 {
		w.t.Errorf("a boot would start it: %v", links)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "units", "billing.service")); err != nil {
		w.t.Errorf("the unit cannot be looked at: %v", err)
	}
	w.nothingInFlight()
}

func TestAFailedFirstInstallationIsTakenOffUnlessItsSignersKeepIt(t *testing.T) {
	for _, signed := range []string{"", "remove"} {
		t.Run("signed-"+signed, func(t *testing.T) {
			story(t, func(w *world) {
				w.temper(v10(), temper{DiesAfter: time.Second})
				w.start()
				w.deploy(1, v10(), onFirstFailure(signed))
				w.until("it failed", w.ended("reverted"))
				if names, err := w.units.Owned(billing); err != nil || len(names) > 0 || !w.current().IsZero() || w.sup.running(billing) != "" {
					t.Errorf("current %q, units %v %v, running %q", w.current(), names, err, w.sup.running(billing))
				}
				w.nothingInFlight()
			})
		})
	}
}

func TestAFailedFirstInstallationIsKeptStoppedForInspection(t *testing.T) {
	story(t, func(w *world) {
		w.temper(v10(), temper{DiesAfter: time.Second})
		w.start()
		w.deploy(1, v10(), onFirstFailure("keep"))
		w.until("it failed", w.ended("reverted"))
		w.keptStopped(v10())
		if o := w.outcome(); o.To != v10().id || o.Cause != state.CauseUnhealthy {
			t.Errorf("outcome: %+v", o)
		}
		w.mustTell("kept for inspection")
		w.pass(3 * time.Hour)
		w.keptStopped(v10())
		if !strings.Contains(w.why(), "quarantine") {
			t.Errorf("why: %s", w.why())
		}
		w.halt()
		w.sup.powerOff()
		w.clock.reboot()
		must(t, w.newMachine().Boot(context.Background()))
		w.sup.powerOn()
		w.keptStopped(v10())
		w.start()
		w.pass(time.Hour)
		w.keptStopped(v10())

		w.deploy(2, v11(), onFirstFailure("keep"))
		w.until("the next release is installed", w.rests(v11()))
		w.settledOn(v11())
		if o := w.outcome(); !o.From.IsZero() || w.read().Kept != (release.ID{}) {
			t.Errorf("it was no first installation: %+v, kept %s", o, w.read().Kept)
		}
	})
}

func TestAKeptReleaseIsTriedAgainOnRetryAndTakenOffWhenSignedAbsent(t *testing.T) {
	story(t, func(w *world) {
		w.temper(v10(), temper{FailStart: true})
		w.start()
		w.deploy(1, v10(), onFirstFailure("keep"))
		w.until("it failed", w.ended("reverted"))
		w.pass(time.Minute)
		w.keptStopped(v10())
		if _, err := w.machine.Revert(context.Background(), command(w)); kindOf(err) != "no-fallback" {
			t.Errorf("a revert of what does not run: %v", err)
		}
		first := w.outcome().Attempt
		_, err := w.machine.Retry(context.Background(), command(w), release.Digest{})
		must(t, err)
		w.until("it failed again", func() bool { return w.ended("reverted")() && w.outcome().Attempt != first })
		w.keptStopped(v10())
		w.deploy(2, nil)
		w.until("it is off the host", w.ended("removed"))
		if names, _ := w.units.Owned(billing); len(names) > 0 || !w.current().IsZero() {
			t.Errorf("left: %v, current %s", names, w.current())
		}
	})
}

func TestAFirstInstallationThatSignersTakeBackIsNotKept(t *testing.T) {
	story(t, func(w *world) {
		w.start()
		w.deploy(1, v10(), onFirstFailure("keep"))
		w.until("in trial", w.phase(state.Trial))
		w.src.publish(v11())
		w.deploy(2, v10(), onFirstFailure("keep"), func(d *release.Deployment) { d.State, d.Fallback = release.StateRevert, v11().ref() })
		w.until("it is taken back", w.ended("reverted"))
		if !w.current().IsZero() {
			t.Errorf("current is %s", w.current())
		}
	})
}

func TestAnUpgradeThatFailsGoesBackWhateverIsSignedForFirstInstallations(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.temper(v11(), temper{DiesAfter: time.Second})
		w.deploy(2, v11(), onFirstFailure("keep"))
		w.until("it failed", w.ended("reverted"))
		w.settledOn(v10())
	})
}

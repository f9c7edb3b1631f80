package agent_test

import (
	"context"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/gate"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
)

// slowly makes staging take hours, unless it is broken off.
func (w *world) slowly() {
	w.src.set(func(s *source) {
		s.slow = func(ctx context.Context, _ func(agent.Progress)) {
			select {
			case <-ctx.Done():
			case <-time.After(3 * time.Hour):
			}
		}
	})
}

// revoke has the emergency key revoke s.
func (w *world) revoke(s *ship) {
	w.t.Helper()
	data, err := release.Encode(&release.Emergency{
		Schema: release.EmergencySchema, Environment: production, Epoch: 1, Issued: time.Now(),
		Entries: []release.EmergencyEntry{{Kind: "revoke", Digest: &s.digest, Reason: "it leaks"}},
	})
	must(w.t, err)
	w.src.put(release.EmergencyPath(production), data)
	w.machine.Wake()
}

func revertsTo(back *ship) deployOption {
	return func(d *release.Deployment) { d.State, d.Fallback = release.StateRevert, back.ref() }
}

// soon fails the test if what follows began takes longer than a person would watch.
func (w *world) soon(began time.Time) {
	w.t.Helper()
	if took := time.Since(began); took > time.Minute {
		w.t.Errorf("the revert waited %s", took)
	}
}

// heldUpOnTheWayTo12 is a host that runs 1.1, could go back to 1.0, and is held up by what hold does on the way to 1.2.
func (w *world) heldUpOnTheWayTo12(hold func()) {
	w.t.Helper()
	w.installed(1, v10())
	w.installed(2, v11())
	hold()
	w.deploy(3, v12(), func(d *release.Deployment) { d.OnRevoked = "revert" })
}

func TestNoRevertWaitsForAStaging(t *testing.T) {
	for name, revert := range map[string]func(w *world){
		"by an operator": func(w *world) {
			_, err := w.machine.Revert(background, command(w))
			must(w.t, err)
		},
		"signed":  func(w *world) { w.deploy(4, v11(), revertsTo(v10())) },
		"revoked": func(w *world) { w.revoke(v11()) },
	} {
		t.Run(name, func(t *testing.T) {
			story(t, func(w *world) {
				w.heldUpOnTheWayTo12(w.slowly)
				w.until("1.2.0 is being staged", w.phase(state.Staging))
				began := time.Now()
				revert(w)
				w.until("1.1.0 is reverted", w.ended("reverted"))
				w.soon(began)
				w.settledOn(v10())
				if name != "signed" {
					w.until("1.2.0 comes all the same", w.rests(v12()))
				}
			})
		})
	}
}

// slowGate looks for hours.
type slowGate struct{}

func (slowGate) Name() string { return "slow" }

func (slowGate) Check(ctx context.Context, _ gate.Subject) error {
	select {
	case <-ctx.Done():
	case <-time.After(3 * time.Hour):
	}
	return ctx.Err()
}

func TestASignedRevertWaitsForNoGate(t *testing.T) {
	story(t, func(w *world) {
		w.heldUpOnTheWayTo12(func() {
			w.gates = []gate.Gate{slowGate{}}
			w.start()
		})
		w.until("1.2.0 is on the disk", func() bool { _, _, err := w.tree.Release(v12().id); return err == nil })
		w.pass(time.Minute)
		began := time.Now()
		w.deploy(4, v11(), revertsTo(v10()))
		w.until("1.1.0 is reverted", w.ended("reverted"))
		w.soon(began)
		w.settledOn(v10())
	})
}

func TestANewerReleaseEndsTheStagingOfTheOneBefore(t *testing.T) {
	story(t, func(w *world) {
		w.heldUpOnTheWayTo12(w.slowly)
		w.until("1.2.0 is being staged", w.phase(state.Staging))
		w.src.set(func(s *source) { s.slow = nil })
		began := time.Now()
		w.deploy(4, vHooks())
		w.until("1.4.0 is there", w.rests(vHooks()))
		w.soon(began)
	})
}

func TestNewsThatChangeNothingDoNotEndAStaging(t *testing.T) {
	story(t, func(w *world) {
		w.heldUpOnTheWayTo12(w.slowly)
		w.until("1.2.0 is being staged", w.phase(state.Staging))
		for range 10 {
			w.pass(10 * time.Minute)
			w.machine.Wake()
		}
		w.until("1.2.0 is there", w.rests(v12()))
		w.src.mu.Lock()
		defer w.src.mu.Unlock()
		if w.src.staged != 3 {
			t.Errorf("three releases were staged %d times", w.src.staged)
		}
	})
}

func TestAHoldStopsTheActivationAndNotTheStaging(t *testing.T) {
	story(t, func(w *world) {
		w.heldUpOnTheWayTo12(w.slowly)
		w.until("1.2.0 is being staged", w.phase(state.Staging))
		_, err := w.machine.Hold(background, agent.Command{By: "ann", Reason: "lunch"}, time.Time{})
		must(t, err)
		w.until("1.2.0 is staged and waits", w.phase(state.Waiting))
		w.pass(time.Hour)
		w.settledOn(v11())
		w.src.mu.Lock()
		defer w.src.mu.Unlock()
		if w.src.staged != 3 {
			t.Errorf("three releases were staged %d times", w.src.staged)
		}
	})
}

// The release hangs in its start, within a trial of two minutes.
func TestNoRevertWaitsForAStartThatHangs(t *testing.T) {
	for name, c := range map[string]struct {
		revert func(w *world)
		cause  state.Cause
	}{
		"by an operator": {func(w *world) {
			_, err := w.machine.Revert(background, command(w))
			must(w.t, err)
		}, state.CauseOperator},
		"signed":  {func(w *world) { w.deploy(4, v12(), revertsTo(v11())) }, ""},
		"revoked": {func(w *world) { w.revoke(v12()) }, state.CauseRevoked},
	} {
		t.Run(name, func(t *testing.T) {
			story(t, func(w *world) {
				w.heldUpOnTheWayTo12(func() { w.temper(v12(), temper{HangStart: true}) })
				w.until("1.2.0 is starting", func() bool { return w.current() == v12().id })
				began := time.Now()
				c.revert(w)
				w.until("1.2.0 is reverted", w.ended("reverted"))
				w.soon(began)
				w.settledOn(v11())
				if q, _ := w.quarantine(v12()); q.Cause != c.cause {
					t.Errorf("quarantine %+v", q)
				}
			})
		})
	}
}

func TestACommandMadeBeforeAnActivationDoesNotEndIt(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		old := command(w)
		w.temper(v11(), temper{HangStart: true})
		w.deploy(2, v11())
		w.until("1.1.0 is starting", func() bool { return w.current() == v11().id })
		if _, err := w.machine.Revert(background, old); kindOf(err) != "stale" && kindOf(err) != "locked" {
			t.Errorf("got %v", err)
		}
		w.until("it is reverted at its deadline", w.ended("reverted"))
		if q, _ := w.quarantine(v11()); q.Cause != state.CauseUnhealthy {
			t.Errorf("quarantine %+v", q)
		}
	})
}

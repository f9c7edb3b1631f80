package agent_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
)

// hosted runs the world's app below a whole host, as the daemon does.
func (w *world) hosted(others ...release.App) *agent.Host {
	w.t.Helper()
	h := agent.NewHost(w.deps())
	apps := map[release.App]agent.Settings{w.app: w.settings}
	for _, app := range others {
		apps[app] = w.settings
	}
	h.Configure(apps, 5*time.Minute, 0)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); h.Run(ctx) }()
	w.stop = func() { cancel(); <-done }
	w.machine, _ = h.Machine(w.app)
	return h
}

func TestABlockedMachineIsReportedAsHung(t *testing.T) {
	story(t, func(w *world) {
		blocked := make(chan struct{})
		w.sup.onJob = func(verb, unit string) { <-blocked }
		h := w.hosted()
		w.deploy(1, v10())
		w.pass(time.Minute)
		if err := h.Hung(); err != nil {
			t.Errorf("after a minute of a start that may take longer: %v", err)
		}
		w.pass(time.Hour)
		err := h.Hung()
		if hung := new(agent.HungError); !errors.As(err, &hung) || !strings.Contains(err.Error(), "the loop of billing") {
			t.Errorf("after an hour: %v", err)
		}
		close(blocked)
		w.until("the loop lives again", func() bool { return h.Hung() == nil })
	})
}

func TestAStagingThatGoesOnIsNotHungAndOneThatStandsStillIs(t *testing.T) {
	story(t, func(w *world) {
		still := make(chan struct{})
		w.src.slow = func(ctx context.Context, progress func(agent.Progress)) {
			for i := range 6 * 60 {
				time.Sleep(time.Minute)
				progress(agent.Progress{Step: "fetching", Done: int64(i)})
			}
			<-still
		}
		h := w.hosted()
		w.deploy(1, v10())
		w.until("staging", w.phase(state.Staging))
		for range 5 * 60 {
			w.pass(time.Minute)
			if err := h.Hung(); err != nil {
				t.Fatalf("a slow staging counts as hung: %v", err)
			}
		}
		w.pass(3 * time.Hour)
		if h.Hung() == nil {
			t.Error("a staging that stands still for hours does not count as hung")
		}
		close(still)
		w.until("committed", w.rests(v10()))
	})
}

func TestAnAppThatWaitsForItsTurnToStageIsNotHung(t *testing.T) {
	story(t, func(w *world) {
		w.slots <- struct{}{}
		h := w.hosted()
		w.deploy(1, v10())
		w.pass(24 * time.Hour)
		if err := h.Hung(); err != nil || !w.phase(state.Staging)() {
			t.Errorf("in phase %s: %v", w.read().Phase, err)
		}
		<-w.slots
		w.until("committed", w.rests(v10()))
	})
}

func TestALongHookIsNotHung(t *testing.T) {
	story(t, func(w *world) {
		w.sup.taskTakes = 50 * time.Minute
		h := w.hosted()
		w.deploy(1, vHooks())
		for range 55 {
			w.pass(time.Minute)
			if err := h.Hung(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestARefreshThatHangsIsGivenUpBeforeItCountsAsHung(t *testing.T) {
	story(t, func(w *world) {
		w.src.set(func(s *source) { s.refreshHangs = true })
		h := w.hosted()
		for range 24 * 60 {
			w.pass(time.Minute)
			if err := h.Hung(); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.RefreshState().Err; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the refresh ended with %v", err)
		}
		synctest.Wait()
	})
}

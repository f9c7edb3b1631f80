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

func TestAnAppThatLeavesInTheMiddleOfAStepHoldsNoOtherUp(t *testing.T) {
	story(t, func(w *world) {
		blocked := make(chan struct{})
		w.sup.onJob = func(_, unit string) {
			if unit == "billing.service" {
				<-blocked
			}
		}
		h := w.hosted()
		left := w.machine
		w.deploy(1, v10())
		w.until("billing is being started", w.phase(state.Activating))
		w.pass(time.Second)
		only := map[release.App]agent.Settings{shop: w.settings}
		both := map[release.App]agent.Settings{billing: w.settings, shop: w.settings}
		began := time.Now()
		h.Configure(only, 5*time.Minute, 0)
		if took := time.Since(began); took > 0 {
			t.Errorf("the configuration took %s to come into force", took)
		}
		w.app, w.tree = shop, w.store.App(shop)
		w.machine, _ = h.Machine(shop)
		w.deploy(1, vShop())
		w.until("shop is installed", w.rests(vShop()))
		w.app, w.tree = billing, w.store.App(billing)
		h.Configure(both, 5*time.Minute, 0)
		w.pass(time.Minute)
		if again, ok := h.Machine(billing); !ok || again == left || again.View().Why != "" {
			t.Errorf("billing came back as the same machine (%v) or already works: %q", again == left, again.View().Why)
		}
		close(blocked)
		w.machine, _ = h.Machine(billing)
		w.until("billing goes on where it was", w.rests(v10()))
	})
}

func TestAHostSaysCalmlyThatItWaitsForItsFirstMetadataAndLoudlyThatItCannotHaveThem(t *testing.T) {
	story(t, func(w *world) {
		w.src.set(func(s *source) { s.errs["known"], s.refreshHangs = errors.New("no trust"), true })
		h := w.hosted()
		w.pass(time.Second)
		w.mustTell("waiting for the first metadata")
		if w.told("cannot") {
			t.Error("a new host complains before it has asked")
		}
		w.src.set(func(s *source) { s.refreshHangs = false })
		w.pass(time.Hour)
		if h.RefreshState().Err == nil || !strings.Contains(w.why(), "cannot trust any metadata yet") {
			t.Errorf("refresh: %v, why: %s", h.RefreshState().Err, w.why())
		}
		w.src.set(func(s *source) { delete(s.errs, "known") })
		w.deploy(1, v10())
		w.until("installed", w.rests(v10()))
		synctest.Wait()
	})
}

func TestAnActivationGivenUpBeforeTheSwapIsNotTriedAgainBeforeItsTime(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.sup.set(func(s *supervisor) { s.armFails = true })
		w.deploy(2, v11())
		w.until("given up", w.ended("aborted"))
		first := w.outcome().Attempt
		for range 10 {
			w.machine.Wake()
			w.pass(time.Second)
		}
		if again := w.outcome().Attempt; again != first {
			t.Errorf("tried again within ten seconds: %s", w.why())
		}
		if !strings.Contains(w.why(), "cannot activate billing 1.1.0: waiting until") {
			t.Errorf("why: %s", w.why())
		}
		w.sup.set(func(s *supervisor) { s.armFails = false })
		w.machine.Nudge()
		w.until("`apply` does not wait", w.phase(state.Trial))
		w.until("committed", w.rests(v11()))
		if _, err := w.machine.Retry(context.Background(), command(w), release.Digest{}); kindOf(err) != "refused" {
			t.Errorf("a back-off is left: %v", err)
		}
	})
}

package hub_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/hub/storetest"
	"github.com/slipway-deploy/slipway/agent/release"
)

type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now() }

// running starts an engine as a process would.
func running(t *testing.T, m *storetest.Model, id string, plans hub.Plans) (*hub.Engine, func()) {
	e := hub.New(hub.Config{Fleet: "test", ID: id, Store: m.Client(id), Plans: plans, Clock: wallClock{}})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { _ = e.Run(ctx) })
	return e, func() { cancel(); all.Wait() }
}

// present is a deployment for whatever time it is.
func present(change func(*release.Deployment)) *hub.Plan {
	d := deployment(change)
	d.Created = time.Now()
	return planOf(d)
}

func TestTwoRunningHubsShareOneBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := storetest.NewModel()
		plans := &signedPlans{present(func(d *release.Deployment) { d.Budget.Count, d.Halt = 7, nil })}
		one, stopOne := running(t, m, "hub-1", plans)
		defer stopOne()
		two, stopTwo := running(t, m, "hub-2", plans)
		defer stopTwo()
		synctest.Wait()
		var all sync.WaitGroup
		var mu sync.Mutex
		inFlight, most := 0, 0
		for i := range 60 {
			e, host := []*hub.Engine{one, two}[i%2], fmt.Sprintf("web-%d", i)
			all.Go(func() {
				fence := until(t, e, plans.plan, host)
				mu.Lock()
				inFlight++
				most = max(most, inFlight)
				mu.Unlock()
				time.Sleep(time.Minute)
				mu.Lock()
				inFlight--
				mu.Unlock()
				f := fleet.Finish{App: billing, Rollout: "r-7", Install: "i", Fence: fence, Result: fleet.Committed, Serving: true, Runs: runs("2.4.1")}
				if a, err := e.Finish(t.Context(), caller(host), f); err != nil || !a.Accepted {
					t.Errorf("%s: %+v, %v", host, a, err)
				}
			})
		}
		all.Wait()
		if most != 7 {
			t.Errorf("%d hosts at once under a budget of 7", most)
		}
		synctest.Wait()
		s, err := two.Status(t.Context())
		if err != nil || s.Rollouts[0].Counts.Committed != 60 || s.Rollouts[0].State != fleet.StateDone {
			t.Errorf("the status: %+v, %v", s, err)
		}
	})
}

// until polls as a host does, until it is granted.
func until(t *testing.T, e *hub.Engine, p *hub.Plan, host string) int64 {
	for {
		a, err := e.Turn(t.Context(), caller(host), fleet.Turn{App: billing, Rollout: "r-7", Sequence: 7, Document: p.Document,
			Install: "i", Want: fleet.Forward, Runs: runs("2.4.0")})
		if err != nil {
			t.Errorf("%s: %v", host, err)
			return 0
		}
		if a.Answer == fleet.Granted {
			return a.Fence
		}
		time.Sleep(5 * time.Second)
	}
}

func TestAnEngineComesBackWhenItsStoreDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := storetest.NewModel()
		var mu sync.Mutex
		down := true
		m.Fault = func(string, string, bool) bool { mu.Lock(); defer mu.Unlock(); return down }
		plans := &signedPlans{present(nil)}
		e, stop := running(t, m, "hub-1", plans)
		defer stop()
		time.Sleep(time.Hour)
		q := fleet.Turn{App: billing, Rollout: "r-7", Sequence: 7, Document: plans.plan.Document, Install: "i", Want: fleet.Forward}
		if a, err := e.Turn(t.Context(), caller("web-1"), q); err != nil || a.Rule != fleet.RuleBusy {
			t.Errorf("without a store: %+v, %v", a, err)
		}
		mu.Lock()
		down = false
		mu.Unlock()
		time.Sleep(time.Minute)
		if a, err := e.Turn(t.Context(), caller("web-1"), q); err != nil || a.Answer != fleet.Granted {
			t.Errorf("with it: %+v, %v", a, err)
		}
	})
}

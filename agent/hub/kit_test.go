package hub_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/hub/storetest"
	"github.com/slipway-deploy/slipway/agent/release"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	billing    = must(release.ParseApp("billing"))
	production = must(release.ParseEnvironment("production"))
	noon       = must(time.Parse(time.RFC3339, "2026-11-26T12:00:00Z"))
	group      = hub.Group{Environment: production, App: billing}
)

func ref(version string) *release.Reference {
	v := must(release.ParseVersion(version))
	return &release.Reference{Path: release.ReleasePath(billing, v), SHA256: release.Sum([]byte(version))}
}

func runs(version string) *fleet.Runs {
	return &fleet.Runs{Version: must(release.ParseVersion(version)), Digest: release.Sum([]byte(version)), Healthy: true}
}

// deployment wants 2.4.1 with one host down at a time, and nothing else in the way.
func deployment(change func(*release.Deployment)) *release.Deployment {
	d := &release.Deployment{
		Schema: release.DeploymentSchema, App: billing, Environment: production, Sequence: 7, RolloutID: "r-7",
		State: release.StateActive, Release: ref("2.4.1"), Fallback: ref("2.4.0"), Created: noon,
		Budget: &release.Budget{Count: 1}, Coordinator: &release.Coordinator{Kind: "hub"},
		Halt: &release.HaltPolicy{MaxFailures: 2, UpdateDeadline: release.Duration(10 * time.Minute)},
	}
	if change != nil {
		change(d)
	}
	return d
}

// signedPlans is what a hub's TUF client would have verified.
type signedPlans struct{ plan *hub.Plan }

func (p *signedPlans) Plan(_ context.Context, env release.Environment, app release.App) (*hub.Plan, error) {
	if p.plan == nil || env != production || app != billing {
		return nil, hub.ErrNoPlan
	}
	return p.plan, nil
}

func (p *signedPlans) Groups(context.Context) ([]hub.Group, error) {
	if p.plan == nil {
		return nil, nil
	}
	return []hub.Group{group}, nil
}

func planOf(d *release.Deployment, hosts ...release.InventoryHost) *hub.Plan {
	p := &hub.Plan{Deployment: d, Issued: d.Created}
	if hosts != nil {
		p.Inventory = &release.Inventory{Schema: release.InventorySchema, Environment: production, Issued: noon, Hosts: hosts}
		p.InventoryDigest = release.Sum([]byte(fmt.Sprint(hosts)))
		d.Inventory = &release.InventoryRef{SHA256: p.InventoryDigest}
	}
	p.Document = release.Sum([]byte(fmt.Sprintf("%d %s %s %+v %v", d.Sequence, d.RolloutID, d.State, d.Waves, d.MaxWave)))
	return p
}

type clock struct{ at time.Time }

func (c *clock) Now() time.Time { return c.at }

// bench is one hub over a model store, driven by hand.
type bench struct {
	t     *testing.T
	model *storetest.Model
	plans *signedPlans
	clock *clock
	core  *hub.Core
}

func newBench(t *testing.T, plan *hub.Plan) *bench {
	b := &bench{t: t, model: storetest.NewModel(), plans: &signedPlans{plan}, clock: &clock{noon.Add(time.Hour)}}
	b.core = b.hub("hub-1")
	return b
}

// hub starts another hub over the same store.
func (b *bench) hub(id string) *hub.Core {
	c := hub.NewCore(hub.Config{Fleet: "test", ID: id, Store: b.model.Client(id), Plans: b.plans, Clock: b.clock})
	if _, err := c.Load(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (b *bench) question(host string, want fleet.Direction) fleet.Turn {
	p := b.plans.plan
	t := fleet.Turn{App: billing, Rollout: p.Deployment.RolloutID, Sequence: p.Deployment.Sequence, Document: p.Document,
		Install: "install-" + host, Want: want, Runs: runs("2.4.0")}
	if p.Emergency != nil {
		t.Epoch = p.Emergency.Epoch
	}
	return t
}

func caller(host string) hub.Caller { return hub.Caller{Environment: production, Host: host} }

func (b *bench) serve(r hub.Request) hub.Answer {
	b.t.Helper()
	a := b.core.Serve(b.t.Context(), group, []hub.Request{r})[0]
	if a.Err != nil {
		b.t.Fatal(a.Err)
	}
	return a
}

func (b *bench) turn(host string, want fleet.Direction) fleet.TurnAnswer {
	b.t.Helper()
	t := b.question(host, want)
	return b.serve(hub.Request{Caller: caller(host), Turn: &t}).Turn
}

// granted asks for a slot and insists on it.
func (b *bench) granted(host string) int64 {
	b.t.Helper()
	a := b.turn(host, fleet.Forward)
	if a.Answer != fleet.Granted || a.Fence == 0 {
		b.t.Fatalf("%s is not granted a slot: %+v", host, a)
	}
	return a.Fence
}

// waits asks for a slot and insists on being told to wait by a rule.
func (b *bench) waits(host, rule string) {
	b.t.Helper()
	if a := b.turn(host, fleet.Forward); a.Answer != fleet.Wait || a.Rule != rule {
		b.t.Fatalf("%s should wait by rule %s: %+v", host, rule, a)
	}
}

func (b *bench) check(host string, fence int64) fleet.CheckAnswer {
	b.t.Helper()
	return b.serve(hub.Request{Caller: caller(host), Check: &fleet.Check{App: billing, Rollout: b.plans.plan.Deployment.RolloutID,
		Install: "install-" + host, Fence: fence}}).Check
}

func (b *bench) finish(host string, fence int64, result fleet.Result, serving bool) fleet.FinishAnswer {
	b.t.Helper()
	r := runs("2.4.0")
	if result == fleet.Committed {
		r = runs("2.4.1")
	}
	r.Healthy = serving
	return b.serve(hub.Request{Caller: caller(host), Finish: &fleet.Finish{App: billing, Rollout: b.plans.plan.Deployment.RolloutID,
		Install: "install-" + host, Fence: fence, Result: result, Serving: serving, Runs: r, Reason: "test"}}).Finish
}

func (b *bench) sweep(after time.Duration) {
	b.t.Helper()
	b.clock.at = b.clock.at.Add(after)
	if err := b.core.Sweep(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) act(name string, a fleet.Act) fleet.ActAnswer {
	b.t.Helper()
	answer, err := b.try(name, a)
	if err != nil {
		b.t.Fatalf("%s: %v", name, err)
	}
	return answer
}

func (b *bench) try(name string, a fleet.Act) (fleet.ActAnswer, error) {
	a.Environment, a.App, a.Reason = production, billing, "test"
	return b.core.Act(b.t.Context(), "ops", name, a)
}

func (b *bench) status() fleet.RolloutStatus {
	b.t.Helper()
	s, err := b.core.Status(b.t.Context())
	if err != nil || len(s.Rollouts) != 1 {
		b.t.Fatalf("status: %+v, %v", s, err)
	}
	return s.Rollouts[0]
}

func asRefused(err error, into **hub.RefusedError) bool { return errors.As(err, into) }

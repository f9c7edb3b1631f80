package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/config"
	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/agent/state"
)

var _ agent.Coordinator = (*coordinator)(nil)

// coordinator is the machine's view of whoever a deployment names: it finds the client and keeps the journal of each app.
type coordinator struct {
	identity *identity
	state    *state.Dir
	clock    clock
	log      hclog.Logger

	mu      sync.Mutex
	cfg     *config.Host
	clients map[string]fleet.Transport
	hubs    []string // of the last deployment that named one
}

func newCoordinator(d *wired) *coordinator {
	return &coordinator{identity: d.identity, state: d.state, clock: d.clock, log: d.log.Named("fleet"), cfg: d.cfg, clients: map[string]fleet.Transport{}}
}

// use takes another configuration into force.
func (c *coordinator) use(cfg *config.Host) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cfg, c.clients = cfg, map[string]fleet.Transport{}
}

// place is where slots are taken. Its JSON text is what the journal keeps.
type place struct {
	Kind  string   `json:"kind"`
	URLs  []string `json:"urls"`
	Group string   `json:"group,omitempty"`
}

func (p place) String() string {
	data, _ := json.Marshal(p) // strings always can be
	return string(data)
}

// placeOf is where a deployment sends this host.
func (c *coordinator) placeOf(signed *release.Coordinator) place {
	p := place{Kind: signed.Kind, URLs: signed.URLs, Group: signed.Group}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.Kind == "hub" && len(c.cfg.Fleet.URLs) > 0 {
		p.URLs = c.cfg.Fleet.URLs
	}
	if p.Kind == "hub" {
		c.hubs = p.URLs
	}
	return p
}

// client returns the transport to a place, made once for each configuration.
func (c *coordinator) client(app release.App, at string) (fleet.Transport, error) {
	var p place
	if err := json.Unmarshal([]byte(at), &p); err != nil {
		return nil, fmt.Errorf("cannot tell where the slot of %s was taken: %w", app, err)
	}
	key := at + " " + app.String()
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.Kind == "hub" { // which takes who asks from the certificate
		if _, err := c.identity.leaf(c.cfg); err != nil {
			return nil, err
		}
	}
	if t := c.clients[key]; t != nil {
		return t, nil
	}
	mine := c.cfg.Fleet
	o := fleet.Options{URLs: p.URLs, Credentials: c.identity.credentials(mine), UserAgent: "slipwayd/" + version}
	var t fleet.Transport
	var err error
	if p.Kind == "fleetlock" {
		if mine.Cert == "" && !c.identity.home.Enrolled() {
			o.Credentials = fleet.Credentials{CA: mine.CA} // a lock server may do without
		}
		t, err = fleet.NewFleetLock(o, c.identity.host+"/"+app.String(), p.Group)
	} else {
		t, err = fleet.NewClient(o)
	}
	if err != nil {
		return nil, err
	}
	c.clients[key] = t
	return t, nil
}

// nobody stands for a coordinator that cannot even be asked.
type nobody struct{ err error }

func (n nobody) Turn(context.Context, fleet.Turn) (fleet.TurnAnswer, error) {
	return fleet.TurnAnswer{}, n.err
}

func (n nobody) Check(context.Context, fleet.Check) (fleet.CheckAnswer, error) {
	return fleet.CheckAnswer{}, n.err
}

func (n nobody) Finish(context.Context, fleet.Finish) (fleet.FinishAnswer, error) {
	return fleet.FinishAnswer{}, n.err
}

func (c *coordinator) journal(app release.App) fleet.FileJournal {
	return fleet.FileJournal{Path: filepath.Join(c.state.Path(app), "slot.json"), Damaged: func(err error) { c.log.Error("A JOURNAL OF SLOTS IS DAMAGED", "app", app, "error", err) }}
}

// member is the host's part in the protocol at a place. A slot that was taken elsewhere is settled there.
func (c *coordinator) member(app release.App, at string) *fleet.Member {
	m := &fleet.Member{Journal: c.journal(app), Install: c.identity.install.ID, At: at, Now: c.clock.Now}
	t, err := c.client(app, at)
	if err == nil {
		err = c.identity.usable()
	}
	if m.Transport = t; err != nil {
		m.Transport = nobody{&fleet.LocalError{What: err.Error()}}
	}
	return m
}

// Ask implements agent.Coordinator.
func (c *coordinator) Ask(ctx context.Context, q agent.SlotQuestion) agent.SlotAnswer {
	app, at := q.Deployment.App, c.placeOf(q.Deployment.Coordinator).String()
	if err := c.settleElsewhere(ctx, app, at); err != nil {
		return agent.SlotAnswer{Slot: rollout.Slot{Answer: rollout.AnswerWait, Reason: err.Error()}, Rule: fleet.RuleHeld}
	}
	t := fleet.Turn{
		App: app, Rollout: q.Deployment.RolloutID, Sequence: q.Deployment.Sequence, Document: q.Document, Epoch: q.Epoch, Boot: c.clock.BootID(),
		Labels: q.Labels, Want: fleet.Direction(q.Want), Wave: q.Wave, Runs: runs(q.Current, q.Digest, q.Serves), Phase: q.Phase, Why: q.Why,
	}
	a, err := c.member(app, at).Turn(ctx, t)
	if err != nil {
		c.log.Error("a slot cannot be asked for", "app", app, "error", err)
		return agent.SlotAnswer{Slot: rollout.Slot{Answer: rollout.AnswerWait, Reason: err.Error()}, Rule: "journal"}
	}
	return answerOf(a)
}

func answerOf(a fleet.Answer) agent.SlotAnswer {
	out := agent.SlotAnswer{
		Slot: rollout.Slot{Answer: rollout.AnswerWait, Reason: a.Reason, Order: a.Order == fleet.Back}, Fence: a.Fence, Rule: a.Rule, Hint: a.Hint, Poll: a.Poll,
	}
	switch {
	case a.Granted:
		out.Answer = rollout.AnswerGranted
	case !a.Silent.IsZero():
		out.Answer, out.Since = rollout.AnswerLost, a.Silent
	}
	return out
}

func runs(id release.ID, digest release.Digest, serves bool) *fleet.Runs {
	if id.IsZero() {
		return nil
	}
	return &fleet.Runs{Version: id.Version(), Digest: digest, Healthy: serves}
}

// settleElsewhere ends what is held of a coordinator that this deployment does not name any more.
func (c *coordinator) settleElsewhere(ctx context.Context, app release.App, at string) error {
	r, err := c.journal(app).Load()
	if err != nil || r.Fence == 0 || r.At == at || r.At == "" {
		return err
	}
	m := c.member(app, r.At)
	if r.Report == nil && !r.Begun {
		return m.End(ctx, fleet.Finish{Fence: r.Fence, Result: fleet.Skipped, Serving: true, Reason: "the deployment names another coordinator"})
	}
	return m.Deliver(ctx)
}

// Check implements agent.Coordinator.
func (c *coordinator) Check(ctx context.Context, app release.App, fence int64) (time.Duration, error) {
	r, err := c.journal(app).Load()
	if err != nil {
		return 0, err
	}
	return c.member(app, r.At).Check(ctx, fence)
}

// results are the outcomes of updates in the words of the wire.
var results = map[string]fleet.Result{
	"committed": fleet.Committed, "removed": fleet.Committed, "reverted": fleet.Reverted, "failed-before": fleet.FailedBefore,
	"stuck": fleet.Stuck, "aborted": fleet.Skipped, "skipped": fleet.Skipped,
}

// End implements agent.Coordinator.
func (c *coordinator) End(ctx context.Context, app release.App, e agent.SlotEnd) error {
	r, err := c.journal(app).Load()
	if err != nil {
		return err
	}
	result := results[e.Result]
	if r.Direction == fleet.Back && result == fleet.Reverted {
		result = fleet.Committed // going back is what that slot was for
	}
	return c.member(app, r.At).End(ctx, fleet.Finish{
		Fence: e.Fence, Result: result, Serving: e.Serves || result == fleet.Skipped, Runs: runs(e.Current, e.Digest, e.Serves), Cause: e.Cause, Reason: e.Reason,
	})
}

// Held implements agent.Coordinator.
func (c *coordinator) Held(app release.App) (agent.HeldSlot, error) {
	r, err := c.journal(app).Load()
	out := agent.HeldSlot{Fence: r.Fence, Begun: r.Begun, Ended: r.Report != nil}
	if r.Report != nil {
		out.Serves = r.Report.Serving
	}
	return out, err
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent/config"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/tuf/client"
)

// plans reads what is signed, through a TUF client that starts from the same pinned root as the hosts'. It follows the repository
// by itself and answers from memory.
type plans struct {
	client   *client.Client
	interval time.Duration
	jitter   float64
	log      hclog.Logger

	mu     sync.RWMutex
	plans  map[hub.Group]*hub.Plan
	checks time.Time // of the last refresh that verified
	failed error
	// parsed are documents by path, so that what did not change keeps its identity.
	parsed map[string]parsed
}

type parsed struct {
	sha256 string
	digest release.Digest
	doc    any
}

func openPlans(ctx context.Context, cfg *config.Hub, log hclog.Logger) (*plans, error) {
	root, err := os.ReadFile(cfg.Repository.Root)
	if err != nil {
		return nil, fmt.Errorf("cannot read the pinned root: %w; it is the same root.json as on the hosts", err)
	}
	c := client.Config{Dir: cfg.Paths.TUF(), Root: root, Logger: log.Named("tuf"), MaxBundleAge: cfg.Repository.MaxBundleAge, HTTP: client.HTTP{
		Proxy: cfg.Repository.Proxy, CAFile: cfg.Repository.CAFile, CertFile: cfg.Repository.ClientCert, KeyFile: cfg.Repository.ClientKey,
		AuthHeaderFile: cfg.Repository.AuthHeaderFile, UserAgent: "slipway-hub/" + version,
	}}
	for _, m := range cfg.Repository.Mirrors {
		c.Mirrors = append(c.Mirrors, client.Mirror{Metadata: m.Metadata, Targets: m.Targets})
	}
	tuf, err := client.Open(c)
	if err != nil {
		return nil, err
	}
	p := &plans{client: tuf, interval: cfg.Poll.Interval, jitter: cfg.Poll.Jitter, log: log, plans: map[hub.Group]*hub.Plan{}, parsed: map[string]parsed{}}
	p.recall(ctx)
	return p, nil
}

// recall takes up what was verified before the hub stopped, so that hosts in the middle of an update are answered at once.
func (p *plans) recall(ctx context.Context) {
	t, err := p.client.Trusted()
	if err != nil {
		return // nothing yet
	}
	if err := p.read(ctx, t, nil); err != nil {
		p.log.Warn("cannot take up all plans that were known before", "error", err)
	}
}

// run follows the repository until ctx ends. What was verified before stays in force while it cannot be reached; the signed
// times in it go on counting.
func (p *plans) run(ctx context.Context) {
	for {
		if err := p.refresh(ctx); err != nil && ctx.Err() == nil {
			p.log.Warn("cannot follow the repository; the plans known so far stay in force", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(p.interval + time.Duration(rand.Float64()*p.jitter*float64(p.interval))):
		}
	}
}

func (p *plans) refresh(ctx context.Context) error {
	t, err := p.client.Refresh(ctx)
	if err != nil {
		t, _ = p.client.Trusted() // what it knows may have expired meanwhile
	}
	err = errors.Join(err, p.read(ctx, t, err))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed = err; err == nil {
		p.checks = time.Now()
	}
	return err
}

// read builds every plan anew. A group whose documents cannot be read now keeps the plan it has.
func (p *plans) read(ctx context.Context, t client.Trusted, expired error) error {
	groups, err := p.signedGroups()
	if err != nil {
		return err
	}
	next := map[hub.Group]*hub.Plan{}
	var failed error
	for _, g := range groups {
		plan, err := p.plan(ctx, g)
		switch {
		case err == nil && plan != nil:
			plan.Issued, plan.MetadataExpired = t.Issued, expiredRole(expired)
			next[g] = plan
		case err != nil:
			failed = errors.Join(failed, fmt.Errorf("%s: %w", g, err))
			if old := p.known(g); old != nil {
				kept := *old
				kept.MetadataExpired = expiredRole(err)
				next[g] = &kept
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plans = next
	return failed
}

func expiredRole(err error) *rollout.Expired {
	var e *client.ErrExpired
	if errors.As(err, &e) {
		return &rollout.Expired{Role: e.Role, At: e.At}
	}
	return nil
}

func (p *plans) known(g hub.Group) *hub.Plan {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.plans[g]
}

// signedGroups are the environments and apps that the repository has a deployment role for.
func (p *plans) signedGroups() ([]hub.Group, error) {
	all, err := p.client.Metadata()
	if err != nil {
		return nil, err
	}
	var targets struct {
		Signed struct {
			Delegations struct {
				Roles []struct {
					Name string `json:"name"`
				} `json:"roles"`
			} `json:"delegations"`
		} `json:"signed"`
	}
	if err := json.Unmarshal(all["targets"], &targets); err != nil {
		return nil, fmt.Errorf("cannot read the delegations: %w", err)
	}
	var out []hub.Group
	for _, r := range targets.Signed.Delegations.Roles {
		rest, ok := strings.CutPrefix(r.Name, "deploy.")
		env, app, two := strings.Cut(rest, ".")
		e, err1 := release.ParseEnvironment(env)
		a, err2 := release.ParseApp(app)
		if ok && two && err1 == nil && err2 == nil {
			out = append(out, hub.Group{Environment: e, App: a})
		}
	}
	return out, nil
}

// plan is nil for a group that has published nothing yet, or whose deployment names no hub.
func (p *plans) plan(ctx context.Context, g hub.Group) (*hub.Plan, error) {
	d, digest, err := document(ctx, p, release.DeploymentPath(g.Environment, g.App), release.ParseDeployment)
	if err != nil || d == nil {
		return nil, err
	}
	if d.App != g.App || d.Environment != g.Environment {
		return nil, fmt.Errorf("the deployment is for %s in %s", d.App, d.Environment)
	}
	if d.Coordinator == nil || d.Coordinator.Kind != "hub" {
		return nil, nil
	}
	out := &hub.Plan{Deployment: d, Document: digest}
	e, _, err := document(ctx, p, release.EmergencyPath(g.Environment), release.ParseEmergency)
	var expired *client.ErrExpired
	switch {
	case errors.As(err, &expired) && strings.HasPrefix(expired.Role, "emergency."):
		out.EmergencyExpired = true
	case err != nil:
		return nil, err
	}
	out.Emergency = e
	if d.Inventory != nil {
		if out.Inventory, out.InventoryDigest, err = document(ctx, p, release.InventoryPath(g.Environment), release.ParseInventory); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// document is nil if nothing is published under the path. Bytes that did not change give the same document as before.
func document[T any](ctx context.Context, p *plans, path string, parse func([]byte) (*T, error)) (*T, release.Digest, error) {
	t, err := p.client.Lookup(ctx, path)
	if errors.As(err, new(*client.ErrNotFound)) || errors.As(err, new(*client.ErrUnpublished)) {
		return nil, release.Digest{}, nil
	}
	if err != nil {
		return nil, release.Digest{}, err
	}
	if old, ok := p.parsed[path]; ok && old.sha256 == t.SHA256 && t.SHA256 != "" {
		return old.doc.(*T), old.digest, nil
	}
	data, err := p.client.Read(ctx, t)
	if err != nil {
		return nil, release.Digest{}, err
	}
	doc, err := parse(data)
	if err != nil {
		return nil, release.Digest{}, err
	}
	p.parsed[path] = parsed{t.SHA256, release.Sum(data), doc}
	return doc, release.Sum(data), nil
}

// Plan implements hub.Plans.
func (p *plans) Plan(_ context.Context, env release.Environment, app release.App) (*hub.Plan, error) {
	if plan := p.known(hub.Group{Environment: env, App: app}); plan != nil {
		return plan, nil
	}
	return nil, hub.ErrNoPlan
}

// Groups implements hub.Plans.
func (p *plans) Groups(context.Context) ([]hub.Group, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	out := make([]hub.Group, 0, len(p.plans))
	for g := range p.plans {
		out = append(out, g)
	}
	return out, nil
}

// age is how long ago the repository last verified as a whole, and why it does not now.
func (p *plans) age() (time.Duration, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.checks.IsZero() {
		return 0, p.failed
	}
	return time.Since(p.checks), p.failed
}

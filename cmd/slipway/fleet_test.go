package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/hub/ca"
	"github.com/slipway-deploy/slipway/agent/hub/roster"
	"github.com/slipway-deploy/slipway/agent/hub/serve"
	"github.com/slipway-deploy/slipway/agent/hub/storetest"
	"github.com/slipway-deploy/slipway/agent/release"
)

// scriptHub is a real engine and a real server over a store in memory, with one signed deployment and the script's clock.
type scriptHub struct {
	engine    *hub.Engine
	authority *ca.Authority
	plan      *hub.Plan
	fences    map[string]int64

	mu sync.Mutex
	at time.Time
}

// Now implements hub.Clock.
func (h *scriptHub) Now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at
}

// Plan implements hub.Plans.
func (h *scriptHub) Plan(_ context.Context, env release.Environment, app release.App) (*hub.Plan, error) {
	if d := h.plan.Deployment; env != d.Environment || app != d.App {
		return nil, hub.ErrNoPlan
	}
	return h.plan, nil
}

// Groups implements hub.Plans.
func (h *scriptHub) Groups(context.Context) ([]hub.Group, error) {
	return []hub.Group{{Environment: h.plan.Deployment.Environment, App: h.plan.Deployment.App}}, nil
}

func (s *script) fleetLine(verb, rest string) bool {
	host, more, _ := strings.Cut(rest, " ")
	switch verb {
	case "hub":
		s.startHub(rest)
	case "as":
		s.operator(rest)
	case "turn":
		want := fleet.Forward
		if more != "" {
			want = fleet.Direction(more)
		}
		s.hubTurn(host, want)
	case "finish":
		result, why, _ := strings.Cut(more, " ")
		s.hubFinish(host, fleet.Result(result), why)
	case "later":
		d, err := time.ParseDuration(rest)
		s.must(err)
		s.hub.mu.Lock()
		s.hub.at = s.hub.at.Add(d)
		s.hub.mu.Unlock()
	default:
		return false
	}
	return true
}

func (s *script) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%s: %v", s.where, err)
	}
}

func (s *script) startHub(file string) {
	d, err := release.ParseDeployment([]byte(s.files[file]))
	s.must(err)
	h := &scriptHub{at: now, fences: map[string]int64{}, plan: &hub.Plan{Deployment: d, Document: release.Sum([]byte(s.files[file])), Issued: now}}
	s.hub = h
	_, rootKey, err := ed25519.GenerateKey(rand.Reader)
	s.must(err)
	h.authority, err = ca.NewRoot("acme", rootKey, time.Now())
	s.must(err)
	root, _ := h.authority.Root()
	store := storetest.NewModel().Client("hub")
	h.engine = hub.New(hub.Config{Fleet: "acme", ID: "hub-1", Store: store, Plans: h, Clock: h})
	members := roster.New(roster.Config{Fleet: "acme", Store: store, Prefix: hub.Prefix("acme")})
	own, err := ca.NewServer(h.authority, []string{"127.0.0.1"}, time.Now)
	s.must(err)
	srv := serve.New(serve.Config{Engine: h.engine, Roster: members, Trust: serve.Trust{Fleet: "acme", Own: []*x509.Certificate{root}}, Certificate: own.Certificate,
		Roles: serve.Roles{Viewer: []string{"vera"}, Operator: []string{"otto"}, Maintainer: []string{"mia"}}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { h.engine.Run(ctx) })
	parts.Go(func() { members.Run(ctx) })
	parts.Go(func() { srv.Serve(ctx, l) })
	s.t.Cleanup(func() { cancel(); parts.Wait() })
	s.t.Setenv("SLIPWAY_HUB", "https://"+l.Addr().String())
	s.t.Setenv("SLIPWAY_FLEET_CONFIG", filepath.Join(s.dir, "fleet.toml"))
	for deadline := time.Now().Add(10 * time.Second); members.Admit(fleet.Identity{}, now) != nil || s.engineSleeps(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatal("the hub does not start")
		}
	}
}

func (s *script) engineSleeps() bool {
	_, err := s.hub.engine.Status(s.t.Context())
	return err != nil
}

func (s *script) operator(name string) {
	key, err := ca.NewKey()
	s.must(err)
	c, err := s.hub.authority.Issue(fleet.Identity{Fleet: "acme", Operator: name}, key.Public(), time.Now(), time.Time{}, time.Hour)
	s.must(err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	s.must(err)
	root, _ := s.hub.authority.Root()
	file := filepath.Join(s.dir, name+".pem")
	text := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), ca.EncodeCertificates(c, root)...)
	s.must(os.WriteFile(file, text, 0o600))
	s.t.Setenv("SLIPWAY_FLEET_CERTIFICATE", file)
}

func (s *script) caller(host string) hub.Caller {
	return hub.Caller{Environment: s.hub.plan.Deployment.Environment, Host: host}
}

func (s *script) hubTurn(host string, want fleet.Direction) {
	d := s.hub.plan.Deployment
	_, before, err := release.ParseReleasePath(d.Fallback.Path)
	s.must(err)
	a, err := s.hub.engine.Turn(s.t.Context(), s.caller(host), fleet.Turn{App: d.App, Rollout: d.RolloutID, Sequence: d.Sequence, Document: s.hub.plan.Document,
		Install: "install-" + host, Want: want, Runs: &fleet.Runs{Version: before, Digest: d.Fallback.SHA256, Healthy: true}, Phase: "waiting"})
	s.must(err)
	s.hub.fences[host] = a.Fence
	text, err := json.Marshal(a)
	s.must(err)
	s.out.Reset()
	s.out.Write(text)
}

func (s *script) hubFinish(host string, result fleet.Result, why string) {
	d := s.hub.plan.Deployment
	a, err := s.hub.engine.Finish(s.t.Context(), s.caller(host), fleet.Finish{App: d.App, Rollout: d.RolloutID, Install: "install-" + host,
		Fence: s.hub.fences[host], Result: result, Serving: true, Reason: why})
	s.must(err)
	if !a.Accepted {
		s.t.Fatalf("%s: the report was not accepted: %+v", s.where, a)
	}
}

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/config"
	"github.com/slipway-deploy/slipway/agent/release"
)

// rig is a host directory with a configuration; nothing of it runs as a daemon.
type rig struct {
	t   *testing.T
	dir string
}

func newRig(t *testing.T, apps ...string) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	text := "environment = \"production\"\nhost_id = \"h1\"\nsupervisor = \"process\"\n[[repository.mirrors]]\nurl = \"file:///nowhere\"\n[paths]\n"
	for _, p := range []string{"install", "state", "run", "units"} {
		text += fmt.Sprintf("%s = %q\n", p, filepath.Join(r.dir, p))
	}
	r.write("slipway.toml", text)
	for _, a := range apps {
		r.add(a)
	}
	return r
}

func (r *rig) etc() string { return filepath.Join(r.dir, "etc") }

func (r *rig) write(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.etc(), name)
	must(r.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(r.t, os.WriteFile(path, []byte(text), 0o644))
}

func (r *rig) add(app string) { r.write("apps.d/"+app+".toml", "") }

func (r *rig) load() *config.Host {
	r.t.Helper()
	cfg, err := config.Load(r.etc())
	must(r.t, err)
	return cfg
}

// boot wires a daemon anew over the same directories, as a restart does.
func (r *rig) boot() *control {
	r.t.Helper()
	d, err := wire(r.t.Context(), r.load(), hclog.NewNullLogger(), false)
	must(r.t, err)
	r.t.Cleanup(func() { d.manager.Close() })
	must(r.t, d.adopt(r.load()))
	return &control{d: d}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func held(t *testing.T, c *control, app string) bool {
	t.Helper()
	a, err := c.App(t.Context(), app)
	must(t, err)
	return a.Hold != nil
}

func status(t *testing.T, c *control) api.Status {
	t.Helper()
	s, err := c.Status(t.Context())
	must(t, err)
	return s
}

func TestAHostWideHoldTakesInAppsThatAppearLaterAndSurvivesARestart(t *testing.T) {
	r := newRig(t, "billing")
	c := r.boot()
	if s := status(t, c); s.Hold != nil {
		t.Fatalf("held from the start: %+v", s.Hold)
	}
	before := status(t, c).Revision
	_, err := c.Hold(t.Context(), "", api.HoldRequest{Reason: "stocktaking"})
	must(t, err)
	s := status(t, c)
	if s.Hold == nil || s.Hold.Reason != "stocktaking" || s.Hold.By == "" || s.Revision <= before || !held(t, c, "billing") {
		t.Fatalf("status %+v, billing held: %v", s, held(t, c, "billing"))
	}
	r.add("web")
	must(t, c.d.adopt(r.load()))
	if !held(t, c, "web") {
		t.Error("an app that was added later is not held")
	}
	r.add("mail")
	c = r.boot()
	if s := status(t, c); s.Hold == nil || !held(t, c, "billing") || !held(t, c, "web") || !held(t, c, "mail") {
		t.Errorf("after a restart: %+v", s)
	}
	data, err := os.ReadFile(filepath.Join(r.dir, "state", "audit", "events.jsonl"))
	must(t, err)
	for _, want := range []string{"hold of the whole host by slipwayd: stocktaking", "hold of billing", "web is held with the whole host", "mail is held with the whole host"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("the record has no %q:\n%s", want, data)
		}
	}
}

func TestAnAppThatWasResumedByNameStaysResumedUnderAHostWideHold(t *testing.T) {
	r := newRig(t, "billing", "web")
	c := r.boot()
	_, err := c.Hold(t.Context(), "", api.HoldRequest{})
	must(t, err)
	a, err := c.App(t.Context(), "web")
	must(t, err)
	_, err = c.Resume(t.Context(), "web", api.ResumeRequest{ExpectRevision: a.Revision})
	must(t, err)
	must(t, c.d.adopt(r.load()))
	c = r.boot()
	if held(t, c, "web") || !held(t, c, "billing") || status(t, c).Hold == nil {
		t.Errorf("web held %v, billing held %v, host %+v", held(t, c, "web"), held(t, c, "billing"), status(t, c).Hold)
	}
}

func TestResumeAllEndsEveryHoldOnceAndOnlyForWhoSawTheLatest(t *testing.T) {
	r := newRig(t, "billing", "web")
	c := r.boot()
	refused := func(expect int64, kind string) {
		t.Helper()
		_, err := c.Resume(t.Context(), "", api.ResumeRequest{ExpectRevision: expect})
		if api.Wire(err).Kind() != kind || err == nil {
			t.Errorf("resume --all at revision %d: %v, want %s", expect, err, kind)
		}
	}
	refused(status(t, c).Revision, api.KindRefused)
	early := status(t, c).Revision
	_, err := c.Hold(t.Context(), "web", api.HoldRequest{})
	must(t, err)
	_, err = c.Hold(t.Context(), "", api.HoldRequest{})
	must(t, err)
	refused(early, api.KindStale)
	if !held(t, c, "web") || !held(t, c, "billing") {
		t.Fatal("a stale resume ended a hold")
	}
	_, err = c.Resume(t.Context(), "", api.ResumeRequest{ExpectRevision: status(t, c).Revision})
	must(t, err)
	if held(t, c, "web") || held(t, c, "billing") || status(t, c).Hold != nil {
		t.Errorf("still held: %+v", status(t, c))
	}
	r.add("mail")
	if c = r.boot(); held(t, c, "mail") || status(t, c).Hold != nil {
		t.Error("the hold came back with a restart")
	}
}

func TestAShorterHoldOfOneAppDoesNotEndBeforeTheHosts(t *testing.T) {
	c := newRig(t, "billing").boot()
	until := time.Now().Add(3 * time.Hour).UTC().Round(time.Second)
	_, err := c.Hold(t.Context(), "", api.HoldRequest{Until: until})
	must(t, err)
	_, err = c.Hold(t.Context(), "billing", api.HoldRequest{Until: time.Now().Add(time.Hour)})
	must(t, err)
	if a, err := c.App(t.Context(), "billing"); err != nil || a.Hold == nil || !a.Hold.Until.Equal(until) {
		t.Errorf("billing: %+v, %v; want held until %s", a.Hold, err, until)
	}
}

func TestAHoldThatHasRunOutTakesInNobody(t *testing.T) {
	r := newRig(t)
	c := r.boot()
	_, err := c.Hold(t.Context(), "", api.HoldRequest{Until: time.Now().Add(-time.Second)})
	must(t, err)
	r.add("web")
	must(t, c.d.adopt(r.load()))
	if held(t, c, "web") || status(t, c).Hold != nil {
		t.Error("held by a hold that is over")
	}
}

func TestADamagedHoldFileHoldsTheHostUntilSomebodyResumes(t *testing.T) {
	r := newRig(t, "billing")
	r.boot()
	for name, text := range map[string]string{"torn": "{", "foreign": `{"schema":"x","revision":1}`, "unknown field": `{"schema":"slipway.hold/v1","revision":1,"a":2}`} {
		t.Run(name, func(t *testing.T) {
			must(t, os.WriteFile(filepath.Join(r.dir, "state", "hold.json"), []byte(text), 0o600))
			c := r.boot()
			s := status(t, c)
			if s.Hold == nil || !strings.Contains(s.Hold.Reason, "hold.json is damaged") || !held(t, c, "billing") {
				t.Fatalf("status %+v", s)
			}
			_, err := c.Resume(t.Context(), "", api.ResumeRequest{ExpectRevision: s.Revision})
			must(t, err)
			if c = r.boot(); status(t, c).Hold != nil || held(t, c, "billing") {
				t.Error("still held after resume and restart")
			}
		})
	}
}

func TestAHoldThatCannotBeSavedIsNotPromised(t *testing.T) {
	r := newRig(t, "billing")
	c := r.boot()
	c.d.hold.path = filepath.Join(r.dir, "absent", "hold.json")
	if _, err := c.Hold(t.Context(), "", api.HoldRequest{}); err == nil || status(t, c).Hold != nil {
		t.Errorf("err = %v, status %+v", err, status(t, c).Hold)
	}
	var stale *agent.StaleError
	if _, err := c.d.hold.change(41, func(*heldHost) {}); !errors.As(err, &stale) || stale.Expected != 41 {
		t.Errorf("err = %v", err)
	}
	app, err := release.ParseApp("billing")
	must(t, err)
	if h := c.d.hold.covers(app, time.Now()); h != nil {
		t.Errorf("covers = %+v", h)
	}
}

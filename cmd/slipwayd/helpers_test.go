package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/config"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
)

// unfinished leaves an activation of billing that ended before the swap, as a killed daemon does.
func (r *rig) unfinished() string {
	r.t.Helper()
	app, err := release.ParseApp("billing")
	must(r.t, err)
	dir, err := state.Open(filepath.Join(r.dir, "state"))
	must(r.t, err)
	tx, err := dir.Lock(r.t.Context(), app)
	must(r.t, err)
	defer tx.Unlock()
	v, err := release.ParseVersion("1.1.0")
	must(r.t, err)
	digest := release.Sum([]byte("1.1.0"))
	to := release.NewID(v, digest)
	tx.State.Attempt = &state.Attempt{ID: "a1", Sequence: 2, Digest: digest, To: to, Started: time.Now(), BootID: "another", MaxBoots: 2, Baseline: "none"}
	must(r.t, tx.Advance(state.Activating))
	return "billing:a1:none:" + to.Short()
}

func (r *rig) phase() state.Phase {
	r.t.Helper()
	app, err := release.ParseApp("billing")
	must(r.t, err)
	st, err := state.At(filepath.Join(r.dir, "state")).Read(app)
	must(r.t, err)
	return st.Phase
}

func TestTheGuardWorksWithAConfigurationThatContradictsItself(t *testing.T) {
	r := newRig(t, "billing")
	ticket := r.unfinished()
	r.add("billing-web") // whose units and users belong to billing by name
	if _, err := new(wired).settings(r.load()); err == nil {
		t.Fatal("the configuration is not contradictory any more")
	}
	must(t, guard(t.Context(), r.etc(), ticket))
	if got := r.phase(); got != state.Idle {
		t.Errorf("billing is %s, want idle", got)
	}
}

func TestTheGuardWorksWithTheKeptCopyOfADamagedConfiguration(t *testing.T) {
	r := newRig(t, "billing")
	c := r.boot()
	c.d.keep(r.load())
	ticket := r.unfinished()
	r.write("slipway.toml", "environment = [")
	must(t, guard(t.Context(), r.etc(), ticket))
	if got := r.phase(); got != state.Idle {
		t.Errorf("billing is %s, want idle", got)
	}
}

// TestGuardAndBootGuardianWorkWithBuiltInDefaults has the defaults with this test's directories: the real ones are the host's.
func TestGuardAndBootGuardianWorkWithBuiltInDefaults(t *testing.T) {
	r := newRig(t)
	ticket := r.unfinished()
	cfg, own := builtIn(), r.load()
	cfg.Supervisor, cfg.Paths = own.Supervisor, own.Paths
	d, err := assistWith(t.Context(), cfg, nil, true)
	must(t, err)
	defer d.manager.Close()
	if got := len(d.host.Machines()); got != 1 {
		t.Fatalf("%d machines, want billing's", got)
	}
	must(t, d.endAttempt(t.Context(), ticket))
	if got := r.phase(); got != state.Idle {
		t.Errorf("billing is %s, want idle", got)
	}
	must(t, d.host.Machines()[0].Boot(t.Context()))
}

func TestAnInstallationOfItsOwnWithoutAnyConfigurationIsAnError(t *testing.T) {
	dir := t.TempDir()
	if _, err := assist(t.Context(), dir, false); err == nil || !strings.Contains(err.Error(), "slipway.toml") {
		t.Errorf("err = %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestTheBuiltInDefaultsAreThoseOfTheConfiguration(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "slipway.toml"), []byte("environment = \"x\"\n[[repository.mirrors]]\nurl = \"https://example.com\"\n"), 0o644))
	want, err := config.LoadCopy(dir, config.DefaultDir)
	must(t, err)
	want.Environment, want.Repository.Mirrors, want.Files = "", nil, nil
	if got := builtIn(); !reflect.DeepEqual(got, want) {
		t.Errorf("built in: %+v\nconfiguration's: %+v", got, want)
	}
}

package main

import (
	"bytes"
	"context"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/tuf/tuftest"
)

// shipRelease packs and signs a real release of billing 1.0.0, so that a host can stage it.
func shipRelease(t *testing.T, r *tuftest.Repository) *release.Reference {
	t.Helper()
	tree := t.TempDir()
	for name, text := range map[string]string{"bin/billing": "#!/bin/sh\nexec sleep 60\n", "billing.service": "[Service]\nUser=billing\nExecStart=@current@/bin/billing\n"} {
		path := filepath.Join(tree, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), 0o755))
	}
	version, unit := parsed(release.ParseVersion("1.0.0")), parsed(release.ParseUnitName("billing.service"))
	rel := &release.Release{
		Schema: release.ReleaseSchema, App: haltApp, Version: version, Created: time.Now().UTC().Truncate(time.Second), Platforms: map[release.Platform]release.Artifact{},
		Restart: release.RestartModeRestart, Units: []release.UnitFile{{Name: unit, Path: "billing.service"}}, Users: []release.User{{Name: "billing"}},
	}
	for _, name := range []string{"linux/amd64", "linux/arm64"} {
		platform := parsed(release.ParsePlatform(name))
		var archive bytes.Buffer
		m, info, err := release.Pack(t.Context(), tree, haltApp, version, platform, &archive)
		must(t, err)
		manifest := parsed(release.Encode(m))
		a := release.Artifact{Unpacked: info.Unpacked, Files: info.Files}
		a.Archive = release.File{Path: release.ArchivePath(haltApp, version, platform), SHA256: release.Sum(archive.Bytes()), Length: int64(archive.Len())}
		a.Manifest = release.File{Path: release.ManifestPath(haltApp, version, platform), SHA256: release.Sum(manifest), Length: int64(len(manifest))}
		r.AddFile(a.Archive.Path, archive.Bytes())
		r.AddFile(a.Manifest.Path, manifest)
		rel.Platforms[platform] = a
	}
	doc := parsed(release.Encode(rel))
	r.AddTarget("app.billing", release.ReleasePath(haltApp, version), doc)
	return &release.Reference{Path: release.ReleasePath(haltApp, version), SHA256: release.Sum(doc)}
}

// freezing serves a repository as it is, or as it was when freeze was called.
type freezing struct {
	repo   *tuftest.Repository
	frozen atomic.Pointer[map[string][]byte]
}

func (f *freezing) freeze() { files := f.repo.Files(); f.frozen.Store(&files) }
func (f *freezing) thaw()   { f.frozen.Store(nil) }

func (f *freezing) serve(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		files := f.frozen.Load()
		if files == nil {
			next.ServeHTTP(w, r)
			return
		}
		data, ok := (*files)[strings.TrimPrefix(r.URL.Path, "/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Write(data)
	})
}

// living is a whole daemon, asked over its socket.
type living struct {
	t      *testing.T
	client *api.Client
	waits  chan api.Event
}

// live runs the daemon over a mirror until the test ends.
func live(t *testing.T, repo *tuftest.Repository, url string) *living {
	t.Helper()
	dir, err := os.MkdirTemp("", "slw") // a socket's path must be short
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &rig{t: t, dir: dir}
	text := "environment = \"production\"\nhost_id = \"h1\"\nsupervisor = \"process\"\npoll.interval = \"1h\"\nclock.unsafe_unsynchronised = true\n"
	text += "log.level = \"error\"\nspace.reserve = \"1MB\"\n[[repository.mirrors]]\nurl = \"" + url + "\"\n[paths]\n"
	for _, p := range []string{"install", "state", "run", "units"} {
		text += p + " = \"" + filepath.Join(dir, p) + "\"\n"
	}
	r.write("slipway.toml", text)
	r.write("root.json", string(repo.Root()))
	r.add("billing")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- daemon(ctx, r.etc()) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
	})
	l := &living{t: t, client: api.NewClient(filepath.Join(dir, "run", "slipway.sock"), filepath.Join(dir, "run", "slipway-ro.sock"), version), waits: make(chan api.Event, 100)}
	l.follow(ctx)
	return l
}

// follow collects why nothing happens, as the event stream tells it.
func (l *living) follow(ctx context.Context) {
	l.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		if _, err := l.client.Status(ctx); err == nil {
			break
		} else if time.Now().After(deadline) {
			l.t.Fatal(err)
		}
	}
	go func() {
		_ = l.client.Events(ctx, api.EventQuery{App: "billing", Follow: true}, func(e api.Event) error {
			if e.Kind == "wait" {
				l.waits <- e
			}
			return nil
		})
	}()
}

// until waits until the daemon says that a rule is in the way, and gives the host's turn as slipway why gets it.
func (l *living) until(rule string) *api.Turn {
	l.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case e := <-l.waits:
			if e.Cause != rule {
				continue
			}
			a, err := l.client.App(l.t.Context(), "billing")
			must(l.t, err)
			if a.Turn == nil || a.Turn.Act || a.Turn.Because != a.Why || a.Turn.Rule != rule {
				l.t.Fatalf("the event says %q; status: %+v, turn %+v", e.Message, a, a.Turn)
			}
			return a.Turn
		case <-timeout:
			a, _ := l.client.App(l.t.Context(), "billing")
			l.t.Fatalf("rule %s was never in the way: %+v", rule, a)
		}
	}
}

func (l *living) refresh() {
	l.t.Helper()
	_, err := l.client.Refresh(l.t.Context())
	must(l.t, err)
}

// TestADaemonSaysWhereItsHostStandsAndAHaltReachesItThroughAMirrorThatHidesIt is the whole path: signed documents over HTTP, the
// daemon, its socket, and the client that slipway why uses.
func TestADaemonSaysWhereItsHostStandsAndAHaltReachesItThroughAMirrorThatHidesIt(t *testing.T) {
	repo := fleetRepo(t, time.Now)
	mirror := &freezing{repo: repo}
	server := repo.Serve(mirror.serve)
	ref := shipRelease(t, repo)
	d := publishDeployment(t, repo, func(d *release.Deployment) {
		d.Release = ref
		d.Waves = []release.Wave{{Name: "canary", Hosts: []string{"other"}}, {Name: "rest", PercentBP: 10000, StartAfter: release.Duration(time.Hour)}}
	})
	host := live(t, repo, server.URL)

	turn := host.until(rollout.RuleWave)
	if turn.Wave != "rest" || math.Abs(turn.Position-rollout.Position("r1", "h1")) > 1e-12 || !turn.Earliest.Equal(d.Created.Add(time.Hour)) || !turn.Until.Equal(turn.Earliest) {
		t.Errorf("in a later wave: %+v", turn)
	}

	publishStop(t, repo, 1, haltEntry("halt"))
	host.refresh()
	if turn := host.until(rollout.RuleEmergency); turn.Wave != "rest" || !strings.Contains(turn.Because, "payments fail") || turn.Until.Before(d.Created.Add(23*time.Hour)) {
		t.Errorf("halted: %+v", turn)
	}

	// The halt is lifted, and the host's turn comes in seven seconds. Then the mirror freezes, and a second halt is hidden by it.
	opens := time.Now().UTC().Truncate(time.Second).Add(7 * time.Second)
	publishStop(t, repo, 2)
	publishDeployment(t, repo, func(d *release.Deployment) {
		d.Sequence, d.Release, d.RolloutID, d.NotBefore, d.Freshness = 2, ref, "r2", &opens, release.Duration(4*time.Second)
	})
	host.refresh()
	host.until(rollout.RuleNotBefore)
	mirror.freeze()
	publishStop(t, repo, 3, haltEntry("halt"))
	turn = host.until(rollout.RuleFreshness)
	if now := time.Now(); now.Before(opens) || !turn.Until.IsZero() {
		t.Errorf("at %s, its turn being %s: %+v", now, opens, turn)
	}
	a, err := host.client.App(t.Context(), "billing")
	must(t, err)
	if a.Current != "" || a.Phase != "waiting" {
		t.Errorf("a host behind a frozen mirror started: %+v", a)
	}
	repo.PublishTimestamp()
	mirror.thaw()
	host.refresh()
	if turn := host.until(rollout.RuleEmergency); turn.Until.IsZero() {
		t.Errorf("the hidden halt: %+v", turn)
	}
}

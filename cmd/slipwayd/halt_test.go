package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/audit"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/tuf/client"
	"github.com/slipway-deploy/slipway/tuf/tuftest"
)

var (
	haltApp = parsed(release.ParseApp("billing"))
	haltEnv = parsed(release.ParseEnvironment("production"))
)

func parsed[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// fleetRepo is a repository with a deployment of billing that every host may start, and room for an emergency document.
func fleetRepo(t *testing.T, now func() time.Time) *tuftest.Repository {
	t.Helper()
	r := tuftest.NewAt(t, now)
	for role, path := range map[string]string{"app.billing": "releases/billing/*/*", "deploy.production.billing": "deployments/production/billing.json", "emergency.production": "emergency/production.json"} {
		r.Delegate(role, "targets", []string{path}, 1, tuftest.NewKey(t))
	}
	return r
}

func publishDeployment(t *testing.T, r *tuftest.Repository, change func(*release.Deployment)) *release.Deployment {
	t.Helper()
	version := parsed(release.ParseVersion("1.0.0"))
	d := &release.Deployment{
		Schema: release.DeploymentSchema, App: haltApp, Environment: haltEnv, Sequence: 1, RolloutID: "r1", State: release.StateActive,
		Release: &release.Reference{Path: release.ReleasePath(haltApp, version), SHA256: release.Sum([]byte("1.0.0"))}, Created: time.Now().UTC().Truncate(time.Second),
	}
	change(d)
	r.AddTarget("deploy.production.billing", release.DeploymentPath(haltEnv, haltApp), parsed(release.Encode(d)))
	r.Publish()
	return d
}

// publishStop signs and publishes one emergency entry: what slipway-repo emergency does in one act.
func publishStop(t *testing.T, r *tuftest.Repository, epoch int64, entries ...release.EmergencyEntry) {
	t.Helper()
	e := &release.Emergency{Schema: release.EmergencySchema, Environment: haltEnv, Epoch: epoch, Issued: time.Now().UTC().Truncate(time.Second), Entries: entries}
	r.AddTarget("emergency.production", release.EmergencyPath(haltEnv), parsed(release.Encode(e)))
	r.Publish()
}

func haltEntry(kind string) release.EmergencyEntry {
	until := time.Now().UTC().Truncate(time.Second).Add(24 * time.Hour)
	return release.EmergencyEntry{Kind: kind, Until: &until, Reason: "payments fail"}
}

// follower is one host: the daemon's own poll loop and TUF client, and the rules asked with what they last brought.
type follower struct {
	source
	t  *testing.T
	id string

	mu        sync.Mutex
	meta      agent.Metadata
	emergency *release.Emergency
	deployed  *release.Deployment
	lastAct   time.Time
}

// Refresh does what the daemon does at a poll, and reads what came.
func (f *follower) Refresh(ctx context.Context) (agent.Metadata, error) {
	meta, err := f.source.Refresh(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.meta = meta
	if doc, err := f.Document(ctx, release.DeploymentPath(haltEnv, haltApp)); err == nil {
		f.deployed = parsed(release.ParseDeployment(doc.Bytes))
	}
	if doc, err := f.Document(ctx, release.EmergencyPath(haltEnv)); err == nil {
		f.emergency = parsed(release.ParseEmergency(doc.Bytes))
	}
	return meta, err
}

// ask notes whether the host would start now.
func (f *follower) ask() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	in := rollout.Input{
		Deployment: f.deployed, Emergency: f.emergency, Host: rollout.Host{ID: f.id, Environment: haltEnv}, Now: now, ClockTrusted: true, Issued: f.meta.Issued,
	}
	if at, ok := f.meta.Expires["timestamp"]; ok && now.After(at) {
		in.MetadataExpired = &rollout.Expired{Role: "timestamp", At: at}
	}
	act := rollout.Decide(in).Act
	if act {
		f.lastAct = now
	}
	return act
}

type bubbleClock struct{}

func (bubbleClock) Now() time.Time      { return time.Now() }
func (bubbleClock) Boot() time.Duration { return time.Since(time.Unix(0, 0)) }
func (bubbleClock) BootID() string      { return "boot" }
func (bubbleClock) Synchronised() bool  { return true }

type noSink struct{}

func (noSink) Append(audit.Event) error { return nil }

// serveDir puts what the repository publishes into a directory, the timestamp last.
func serveDir(t *testing.T, r *tuftest.Repository, dir string) {
	t.Helper()
	files := r.Files()
	put := func(name string) {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path+".new", files[name], 0o644))
		must(t, os.Rename(path+".new", path))
	}
	for name := range files {
		if name != "metadata/timestamp.json" {
			put(name)
		}
	}
	put("metadata/timestamp.json")
}

// drill is a halt under given conditions. The publisher signs a fresh timestamp every refresh. A frozen mirror serves what it had
// when the halt was published, for ever. Hosts are asked every look whether they would start.
type drill struct {
	hosts                          int
	poll, freshness, refresh, look time.Duration
	frozen                         bool
}

const jitter = 0.1

// latency measures, in virtual time, how long after the halt was published each host would still have started.
func (d drill) latency(t *testing.T) (latency []time.Duration) {
	epoch := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // when a bubble begins
	clock := func() time.Time { return epoch }
	repo := fleetRepo(t, func() time.Time { return clock() })
	dir := t.TempDir()
	dirs := make([]string, d.hosts)
	for i := range dirs {
		dirs[i] = t.TempDir()
	}
	synctest.Test(t, func(t *testing.T) {
		clock = time.Now
		publishDeployment(t, repo, func(doc *release.Deployment) { doc.Freshness = release.Duration(d.freshness) })
		serveDir(t, repo, dir)
		hosts := make([]*follower, d.hosts)
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		defer func() { cancel(); wg.Wait() }()
		for i := range hosts {
			hosts[i] = follow(t, repo, dir, dirs[i], fmt.Sprint("host-", i))
			host := agent.NewHost(agent.Deps{Source: hosts[i], Sink: noSink{}, Clock: bubbleClock{}, Log: hclog.NewNullLogger()})
			host.Configure(nil, d.poll, jitter)
			wg.Go(func() {
				time.Sleep(d.poll * time.Duration(i) / time.Duration(d.hosts)) // hosts do not start in step
				host.Run(ctx)
			})
		}
		sign := time.NewTicker(d.refresh)
		defer sign.Stop()
		halt := time.NewTimer(47*time.Minute + 13*time.Second)
		look := time.NewTicker(d.look)
		defer look.Stop()
		var halted time.Time
		for acting := d.hosts; acting > 0 || halted.IsZero(); {
			select {
			case <-sign.C:
				repo.PublishTimestamp()
			case <-halt.C:
				halted = time.Now()
				publishStop(t, repo, 1, haltEntry("halt"))
			case <-look.C:
				acting = 0
				for _, h := range hosts {
					if h.ask() {
						acting++
					}
				}
				continue
			}
			if halted.IsZero() || !d.frozen {
				serveDir(t, repo, dir)
			}
		}
		for _, h := range hosts {
			latency = append(latency, max(0, h.lastAct.Sub(halted)))
		}
	})
	slices.Sort(latency)
	return latency
}

func follow(t *testing.T, repo *tuftest.Repository, mirror, dir, id string) *follower {
	t.Helper()
	c, err := client.Open(client.Config{
		Dir: dir, Root: repo.Root(), Mirrors: []client.Mirror{{Metadata: "file://" + mirror + "/metadata/", Targets: "file://" + mirror + "/targets/"}},
		Clock: client.Clock{Now: time.Now, Synced: func() bool { return true }},
	})
	must(t, err)
	f := &follower{t: t, id: id}
	f.use(c)
	return f
}

func tellLatency(t *testing.T, what string, l []time.Duration) {
	t.Helper()
	t.Logf("%s: no host starts any more after %s (half of them after %s, the first after %s)", what, l[len(l)-1], l[len(l)/2], l[0])
}

func TestAHaltReachesEveryHostWithinOnePoll(t *testing.T) {
	t.Parallel()
	d := drill{hosts: 12, poll: 5 * time.Minute, freshness: time.Hour, refresh: 20 * time.Minute, look: time.Second}
	l := d.latency(t)
	tellLatency(t, "an honest mirror, poll 5m +10 %", l)
	if bound := d.poll + time.Duration(jitter*float64(d.poll)); l[len(l)-1] > bound || l[len(l)-1] < d.poll/2 {
		t.Errorf("the last host still started %s after the halt, the bound is %s", l[len(l)-1], bound)
	}
}

func TestAMirrorThatFreezesItsMetadataDelaysAHaltByLessThanTheFreshness(t *testing.T) {
	t.Parallel()
	for _, freshness := range []time.Duration{15 * time.Minute, time.Hour} {
		t.Run(freshness.String(), func(t *testing.T) {
			d := drill{hosts: 6, poll: 5 * time.Minute, freshness: freshness, refresh: freshness / 3, look: time.Second, frozen: true}
			l := d.latency(t)
			tellLatency(t, fmt.Sprintf("a frozen mirror, freshness %s, refreshed every %s", freshness, freshness/3), l)
			if l[len(l)-1] > freshness || l[len(l)-1] < freshness/3 {
				t.Errorf("the last host still started %s after the halt, the bound is %s", l[len(l)-1], freshness)
			}
		})
	}
}

func TestWithoutFreshnessAFrozenMirrorHidesAHaltUntilTheTimestampExpires(t *testing.T) {
	t.Parallel()
	d := drill{hosts: 1, poll: 6 * time.Hour, refresh: 24 * time.Hour, look: time.Hour, frozen: true}
	if l := d.latency(t); l[0] < 24*time.Hour {
		t.Errorf("a host stopped %s after a halt that it cannot know of", l[0])
	}
}

package etcd

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/hub/etcd/etcdtest"
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
)

func reference(version string) *release.Reference {
	v := must(release.ParseVersion(version))
	return &release.Reference{Path: release.ReleasePath(billing, v), SHA256: release.Sum([]byte(version))}
}

// onePlan is what a hub's TUF client would have verified.
type onePlan struct{ plan *hub.Plan }

func (p onePlan) Plan(_ context.Context, env release.Environment, app release.App) (*hub.Plan, error) {
	if env != production || app != billing {
		return nil, hub.ErrNoPlan
	}
	return p.plan, nil
}

func (p onePlan) Groups(context.Context) ([]hub.Group, error) {
	return []hub.Group{{Environment: production, App: billing}}, nil
}

func planFor(hosts, slots int, halt *release.HaltPolicy) onePlan {
	d := &release.Deployment{
		Schema: release.DeploymentSchema, App: billing, Environment: production, Sequence: 7, RolloutID: "r-7", State: release.StateActive,
		Release: reference("2.4.1"), Fallback: reference("2.4.0"), Created: time.Now().UTC().Add(-time.Hour), Population: int64(hosts),
		Budget: &release.Budget{Count: slots}, Coordinator: &release.Coordinator{Kind: "hub"}, Halt: halt,
	}
	return onePlan{&hub.Plan{Deployment: d, Document: release.Sum(must(release.Encode(d))), Issued: time.Now()}}
}

type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now() }

// fleetOf is a number of hubs over one store, and hosts that go through them.
type fleetOf struct {
	b    *testing.B
	plan onePlan
	hubs []*hub.Engine

	done, most atomic.Int64
	grants     sync.Map // fence → host
}

func newFleet(b *testing.B, endpoints []string, hubs int, plan onePlan) *fleetOf {
	f := &fleetOf{b: b, plan: plan}
	ctx, cancel := context.WithCancel(b.Context())
	var all sync.WaitGroup
	b.Cleanup(func() { cancel(); all.Wait() })
	for i := range hubs {
		s := open(b, Config{Endpoints: endpoints, Timeout: 10 * time.Second})
		e := hub.New(hub.Config{Fleet: "bench", ID: fmt.Sprintf("hub-%d", i), Store: s, Plans: plan, Clock: wallClock{}})
		all.Go(func() { _ = e.Run(ctx) })
		f.hubs = append(f.hubs, e)
	}
	all.Go(func() { f.count(ctx, open(b, Config{Endpoints: endpoints})) })
	return f
}

// count follows the slots in the store, at every revision.
func (f *fleetOf) count(ctx context.Context, s *Store) {
	taken := map[string]bool{}
	_ = s.Watch(ctx, hub.Prefix("bench")+"slot/", 0, func(c hub.Change) {
		for _, item := range c.Items {
			if item.Created == 0 {
				delete(taken, item.Key)
			} else {
				taken[item.Key] = true
			}
		}
		f.most.Store(max(f.most.Load(), int64(len(taken))))
	})
}

func runs(version string) *fleet.Runs {
	return &fleet.Runs{Version: must(release.ParseVersion(version)), Digest: release.Sum([]byte(version)), Healthy: true}
}

func (f *fleetOf) turn(e *hub.Engine, host, version string, want fleet.Direction) (fleet.TurnAnswer, error) {
	return e.Turn(f.b.Context(), hub.Caller{Environment: production, Host: host}, fleet.Turn{
		App: billing, Rollout: "r-7", Sequence: 7, Document: f.plan.plan.Document, Install: host, Want: want, Runs: runs(version),
	})
}

const (
	// A slot is held this long: a thousandth of what an update takes, so that a thousand slots make a thousand updates a second.
	busy = 200 * time.Millisecond
	// A real host would come again in half a minute.
	again = 100 * time.Millisecond
)

// update takes one host from question to report. It reports false once the rollout is halted.
func (f *fleetOf) update(i int, result fleet.Result) bool {
	host := "host-" + strconv.Itoa(i)
	e := f.hubs[i%len(f.hubs)]
	for {
		a, err := f.turn(e, host, "2.4.0", fleet.Forward)
		switch {
		case err != nil:
			f.b.Fatal(err)
		case a.Answer == fleet.Granted:
			time.Sleep(busy)
			return f.finish(e, host, a.Fence, result)
		case a.Rule == fleet.RuleHalted:
			return false
		case a.Rule != fleet.RuleBudget && a.Rule != fleet.RuleBusy && a.Rule != fleet.RulePlan:
			f.b.Fatalf("%s waits: %s, %s", host, a.Rule, a.Reason)
		}
		time.Sleep(again)
	}
}

func (f *fleetOf) finish(e *hub.Engine, host string, fence int64, result fleet.Result) bool {
	f.grants.Store(fence, host)
	version := map[fleet.Result]string{fleet.Committed: "2.4.1", fleet.Reverted: "2.4.0"}[result]
	report := fleet.Finish{App: billing, Rollout: "r-7", Install: host, Fence: fence, Result: result, Serving: true, Reason: "bench", Runs: runs(version)}
	a, err := e.Finish(f.b.Context(), hub.Caller{Environment: production, Host: host}, report)
	if err != nil || !a.Accepted && !a.Stale {
		f.b.Fatal(a, err)
	}
	f.done.Add(1)
	return true
}

// all sends hosts 0 to n-1 through, as many at once as workers.
func (f *fleetOf) all(n, workers int, result func(i int) fleet.Result) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1) - 1)
				if i >= n || !f.update(i, result(i)) {
					return
				}
			}
		})
	}
	wg.Wait()
}

func (f *fleetOf) stats() (s hub.Stats) {
	for _, e := range f.hubs {
		one := e.Stats()
		s.Commits += one.Commits
		s.Conflicts += one.Conflicts
		s.Grants += one.Grants
		s.Reads += one.Reads
	}
	return s
}

// BenchmarkFleet sends 100,000 hosts with 1,000 slots through four hubs over one etcd of its own process.
func BenchmarkFleet(b *testing.B) {
	hosts, slots := 100_000, 1000
	if n, err := strconv.Atoi(os.Getenv("SLIPWAY_BENCH_HOSTS")); err == nil {
		hosts, slots = n, max(1, n/100)
	}
	for b.Loop() {
		b.StopTimer()
		cluster := etcdtest.Start(b, etcdtest.Built(b), 1, "--quota-backend-bytes", "4294967296")
		f := newFleet(b, cluster.Endpoints, 4, planFor(hosts, slots, nil))
		cpu := ownCPU()
		b.StartTimer()
		began := time.Now()
		f.all(hosts, slots+slots/10, func(int) fleet.Result { return fleet.Committed })
		took := time.Since(began)
		b.StopTimer()
		s := f.stats()
		b.ReportMetric(float64(hosts)/took.Seconds(), "hosts/s")
		b.ReportMetric(100*float64(s.Conflicts)/float64(max(1, s.Commits)), "%conflicts")
		b.ReportMetric(float64(f.most.Load()), "most-in-flight")
		b.ReportMetric(float64(hosts*2)/float64(max(1, s.Commits)), "changes/txn")
		b.ReportMetric(float64((ownCPU()-cpu).Microseconds())/float64(hosts), "hub-µs/host")
		b.ReportMetric(rss(b, os.Getpid()), "hub-MB")
		b.ReportMetric(rss(b, cluster.Pid(0)), "etcd-MB")
		b.ReportMetric(float64(s.Commits)/float64(hosts), "txns/host")
		if f.most.Load() > int64(slots) || f.done.Load() != int64(hosts) {
			b.Fatalf("%d of %d hosts, %d in flight with %d slots", f.done.Load(), hosts, f.most.Load(), slots)
		}
		polls(b, f)
		cluster.Kill(0)
		b.StartTimer()
	}
}

// polls measures what a host costs that has nothing to do: it asks again and nothing changed.
func polls(b *testing.B, f *fleetOf) {
	n := min(20_000, int(f.done.Load()))
	s, cpu := f.stats(), ownCPU()
	for i := range n {
		if _, err := f.turn(f.hubs[i%len(f.hubs)], "host-"+strconv.Itoa(i), "2.4.1", fleet.Nowhere); err != nil {
			b.Fatal(err)
		}
	}
	after := f.stats()
	b.ReportMetric(float64((ownCPU()-cpu).Microseconds())/float64(n), "µs/poll")
	b.ReportMetric(float64(after.Reads-s.Reads+after.Commits-s.Commits)/float64(n), "store-ops/poll")
}

// BenchmarkFleetHalt lets every fifth host fail: the limit is 10.
func BenchmarkFleetHalt(b *testing.B) {
	const limit, slots = 10, 50
	for b.Loop() {
		b.StopTimer()
		cluster := etcdtest.Start(b, etcdtest.Built(b), 1)
		f := newFleet(b, cluster.Endpoints, 4, planFor(100_000, slots, &release.HaltPolicy{MaxFailures: limit}))
		b.StartTimer()
		f.all(100_000, 2*slots, func(i int) fleet.Result {
			if i%5 == 0 {
				return fleet.Reverted
			}
			return fleet.Committed
		})
		b.StopTimer()
		st := must(f.hubs[0].Status(b.Context())).Rollouts[0]
		late := 0
		halted := f.haltedAt(cluster)
		f.grants.Range(func(fence, _ any) bool {
			if fence.(int64) > halted {
				late++
			}
			return true
		})
		b.ReportMetric(float64(late), "grants-after-halt")
		b.ReportMetric(float64(st.Counts.Failed()), "failed")
		b.ReportMetric(float64(f.done.Load()), "touched")
		if late > 0 || st.Counts.Failed() > limit-1+slots || st.State != fleet.StateHalted {
			b.Fatalf("%d grants after the halt at %d, %d failed, the rollout is %s", late, halted, st.Counts.Failed(), st.State)
		}
		cluster.Kill(0)
		b.StartTimer()
	}
}

// haltedAt is the revision at which the rollout's record was last written: the halt.
func (f *fleetOf) haltedAt(cluster *etcdtest.Cluster) int64 {
	f.b.Helper()
	items, _, err := open(f.b, Config{Endpoints: cluster.Endpoints}).Range(f.b.Context(), "/slipway/")
	if err != nil {
		f.b.Fatal(err)
	}
	for _, item := range items {
		if strings.Contains(item.Key, "/rollout/") {
			return item.Mod
		}
	}
	f.b.Fatal("no rollout in the store")
	return 0
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// rss is a process's resident memory in MB.
func rss(b *testing.B, pid int) float64 {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.Atoi(strings.Fields(rest)[0])
			return float64(kb) * 1024 / 1e6
		}
	}
	return 0
}

package client

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"
)

const benchTargets = 10_000

func large(t testing.TB) *tuftest.Repository {
	repo := tuftest.New(t)
	custom := metadata.Hashes{"sha256": make([]byte, 32)}
	repo.Edit(metadata.TARGETS, func(m *metadata.TargetsType) {
		for i := range benchTargets {
			path := fmt.Sprintf("releases/app-%d/1.0.0/release.json", i)
			m.Targets[path] = &metadata.TargetFiles{Length: int64(i), Hashes: custom, Path: path}
		}
	})
	repo.Publish()
	return repo
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// pollCost is the median processor time and allocation of a poll that finds nothing new, the test's server included.
func pollCost(t testing.TB) (time.Duration, uint64) {
	repo := large(t)
	c := newClient(t, repo)
	refresh(t, c)
	refresh(t, c)
	runtime.GC()
	var times []time.Duration
	var bytes []uint64
	for range 21 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := cpu()
		if refresh(t, c).Changed {
			t.Fatal("something changed")
		}
		times = append(times, cpu()-began)
		runtime.ReadMemStats(&after)
		bytes = append(bytes, after.TotalAlloc-before.TotalAlloc)
	}
	slices.Sort(times)
	slices.Sort(bytes)
	return times[10], bytes[10]
}

// Only what is allocated is the same on every machine; BenchmarkPollWithNothingNew has the time.
func TestAPollWithNothingNewAllocatesLittleAtTenThousandTargets(t *testing.T) {
	if _, allocated := pollCost(t); allocated > 1<<20 {
		t.Fatalf("%d bytes allocated", allocated)
	}
}

func BenchmarkPollWithNothingNew(b *testing.B) {
	for b.Loop() {
		took, allocated := pollCost(b)
		b.ReportMetric(float64(took.Microseconds())/1000, "cpu-ms")
		b.ReportMetric(float64(allocated)/1000, "KB")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkColdRefresh compares with the library's own updater, turn by turn in one run.
func BenchmarkColdRefresh(b *testing.B) {
	repo := large(b)
	dir := b.TempDir()
	var ours, theirs []time.Duration
	for n := 0; b.Loop(); n++ {
		ours = append(ours, timed(func() { refresh(b, newClient(b, repo, inDir(filepath.Join(dir, fmt.Sprint("ours", n))))) }))
		theirs = append(theirs, timed(func() { stock(b, repo, filepath.Join(dir, fmt.Sprint("theirs", n))) }))
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	a, z := ours[len(ours)/2], theirs[len(theirs)/2]
	b.ReportMetric(float64(a.Milliseconds()), "ours-ms")
	b.ReportMetric(float64(z.Milliseconds()), "stock-ms")
	b.ReportMetric(float64(a)/float64(z), "ratio")
}

func timed(f func()) time.Duration {
	runtime.GC()
	began := time.Now()
	f()
	return time.Since(began)
}

func stock(b *testing.B, repo *tuftest.Repository, dir string) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	cfg, err := config.New(repo.URL()+"/metadata", repo.Root())
	if err != nil {
		b.Fatal(err)
	}
	cfg.LocalMetadataDir, cfg.LocalTargetsDir = dir, dir
	u, err := updater.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	if err := u.Refresh(); err != nil {
		b.Fatal(err)
	}
}

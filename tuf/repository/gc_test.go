package repository_test

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

func (f *fixture) metadata(pattern string) string {
	f.t.Helper()
	found, err := filepath.Glob(filepath.Join(f.dir, "metadata", pattern))
	f.ok(err)
	var names []string
	for _, name := range found {
		names = append(names, filepath.Base(name))
	}
	return strings.Join(names, " ")
}

func (f *fixture) gc(o repository.GarbageOptions) *repository.Garbage {
	f.t.Helper()
	g, err := f.r.CollectGarbage(context.Background(), o)
	f.ok(err)
	return g
}

// aged is a repository with a history: two roots, several versions of every kind of role.
func aged(t *testing.T) *fixture {
	t.Helper()
	f := running(t)
	for _, v := range []string{"1.1.0", "1.2.0"} {
		f.release(v)
		f.sign(f.deploy(v, release.Deployment{}), "ann", "ben")
		f.publish()
	}
	c, err := f.r.Renew(context.Background(), []string{"root", "targets"}, 0, repository.Origin{})
	f.ok(err)
	f.sign(c, "alice", "bob")
	f.publish()
	return f
}

func (f *fixture) refreshAt(later time.Duration) {
	f.t.Helper()
	f.now = f.now.Add(later)
	_, err := f.r.Refresh(context.Background(), repository.RefreshOptions{Online: f.online(), Force: true})
	f.ok(err)
}

func TestGarbageIsWhatNoHostNeedsFromWhateverRoot(t *testing.T) {
	t.Parallel()
	f := aged(t)
	before := f.metadata("*")
	if g := f.gc(repository.GarbageOptions{Delete: true, Targets: true}); len(g.Metadata) != 0 || f.metadata("*") != before {
		t.Errorf("within the grace %v went", g.Metadata)
	}
	f.refreshAt(8 * 24 * time.Hour)
	kept := f.metadata("*")
	found := f.gc(repository.GarbageOptions{Targets: true})
	if len(found.Metadata) == 0 || found.Deleted || f.metadata("*") != kept {
		t.Errorf("looking deleted something, or found nothing: %+v", found)
	}
	if len(found.Targets) != 0 {
		t.Errorf("what published metadata leads to is called garbage: %+v", found.Targets)
	}
	gone := f.gc(repository.GarbageOptions{Delete: true})
	if !gone.Deleted || len(gone.Metadata) != len(found.Metadata) || gone.Bytes == 0 {
		t.Errorf("got %+v", gone)
	}
	for pattern, want := range map[string]string{
		"*.root.json":                      "1.root.json 2.root.json",
		"*.targets.json":                   "4.targets.json",
		"*.app.billing.json":               "3.app.billing.json",
		"*.deploy.production.billing.json": "1.deploy.production.billing.json 2.deploy.production.billing.json 3.deploy.production.billing.json",
	} {
		if got := f.metadata(pattern); got != want {
			t.Errorf("%s: %s, want %s", pattern, got, want)
		}
	}
	for _, root := range []int64{1, 2} {
		if _, err := f.r.Verify(context.Background(), repository.VerifyOptions{Root: must(f.r.PinnedRoot(root)), Payloads: true}); err != nil {
			t.Errorf("from root %d: %v", root, err)
		}
	}
	if again := f.gc(repository.GarbageOptions{Delete: true}); len(again.Metadata) != 0 {
		t.Errorf("a second time it found %v", again.Metadata)
	}
	f.release("1.3.0")
	f.publish()
	f.verify()
}

func TestAHostInTheMiddleOfReadingIsLeftItsVersions(t *testing.T) {
	t.Parallel()
	f := aged(t)
	f.refreshAt(6 * 24 * time.Hour)
	f.refreshAt(0)
	newest := strings.Fields(f.metadata("*.snapshot.json"))
	slices.SortFunc(newest, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	f.now = f.now.Add(2 * 24 * time.Hour)
	// The files were written just now by the machine's clock: 8 days ago by the repository's. Only the last two are younger.
	for _, name := range []string{newest[len(newest)-1], newest[len(newest)-2]} {
		f.ok(os.Chtimes(filepath.Join(f.dir, "metadata", name), f.now, f.now))
	}
	g := f.gc(repository.GarbageOptions{})
	if len(g.Metadata) == 0 {
		t.Error("what was superseded 8 days ago stays")
	}
	for _, one := range g.Metadata {
		if one.Name == newest[len(newest)-2] || one.Name == newest[len(newest)-1] {
			t.Errorf("%s goes, superseded at %s", one.Name, one.Since)
		}
	}
}

func TestFilesThatNothingLeadsToGoWhenAsked(t *testing.T) {
	t.Parallel()
	f := aged(t)
	orphan := filepath.Join(f.dir, "targets", "releases", "billing", "0.1.0", strings.Repeat("a", 64)+".release.json")
	f.ok(os.MkdirAll(filepath.Dir(orphan), 0o755))
	f.ok(os.WriteFile(orphan, []byte("{}"), 0o644))
	f.now = f.now.Add(8 * 24 * time.Hour)
	if g := f.gc(repository.GarbageOptions{Delete: true}); len(g.Targets) != 0 {
		t.Errorf("nobody asked, and %v went", g.Targets)
	}
	g := f.gc(repository.GarbageOptions{Delete: true, Targets: true})
	if len(g.Targets) != 1 || g.Targets[0].Bytes != 2 {
		t.Errorf("got %+v", g.Targets)
	}
	if _, err := os.Stat(filepath.Dir(orphan)); !os.IsNotExist(err) {
		t.Error("its empty directory stays")
	}
	f.refreshAt(0)
	f.verify()
	listed := must(filepath.Glob(filepath.Join(f.dir, "targets", "releases", "billing", "1.0.0", "*.release.json")))
	f.ok(os.Remove(listed[0]))
	if _, err := f.r.CollectGarbage(context.Background(), repository.GarbageOptions{Targets: true}); err == nil || !strings.Contains(err.Error(), "run verify --payloads") {
		t.Errorf("a release that cannot be read: %v", err)
	}
}

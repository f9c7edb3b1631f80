package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/store"
)

func TestAStagedReleaseIsLoadedAndVerified(t *testing.T) {
	a := newApp(t, v1())
	rel, m, s, err := a.Load(v1().id)
	must(t, err)
	if rel.Version != v1().id.Version() || len(m.Entries) != len(v1().manifest.Entries) || s.Digest != v1().digest || s.Files != 2 || s.Size == 0 || s.StagedAt.IsZero() {
		t.Errorf("got %v, %d entries, %+v", rel.Version, len(m.Entries), s)
	}
	if string(s.Release) != string(v1().stamp.Release) {
		t.Error("the signed bytes changed")
	}
	for _, quick := range []bool{true, false} {
		diffs, err := a.Verify(context.Background(), v1().id, quick)
		must(t, err)
		if len(diffs) > 0 {
			t.Errorf("quick %v: %v", quick, diffs)
		}
	}
	if _, err := a.Begin(v1().id, v1().digest); !errors.Is(err, store.ErrComplete) {
		t.Errorf("staging it again: %v", err)
	}
}

func TestNothingIsLinkedAtFirst(t *testing.T) {
	a := newApp(t)
	for _, read := range []func() (release.ID, error){a.Current, a.Fallback} {
		if _, err := read(); !errors.Is(err, store.ErrNone) || kindOf(err) != "none" {
			t.Errorf("got %v", err)
		}
	}
	all, err := a.List()
	if err != nil || len(all) != 0 {
		t.Errorf("got %v, %v", all, err)
	}
	must(t, a.RemoveCurrent())
	must(t, a.ClearFallback())
	must(t, a.SweepGarbage())
	must(t, a.Remove(v1().id))
}

func TestSwapMovesBetweenCompleteReleases(t *testing.T) {
	a := newApp(t, v1(), v2())
	must(t, a.Swap(v1().id))
	must(t, a.SetFallback(v1().id))
	must(t, a.Swap(v2().id))
	must(t, a.Swap(v2().id))
	current, err := a.Current()
	must(t, err)
	fallback, err := a.Fallback()
	must(t, err)
	if current != v2().id || fallback != v1().id {
		t.Errorf("current %s, fallback %s", current, fallback)
	}
	if target, _ := os.Readlink(filepath.Join(a.Root(), "current")); target != "releases/"+v2().id.String() {
		t.Errorf("the link is not relative: %s", target)
	}
	checkPromises(t, a)
}

func TestSwapRefusesWhatIsNotComplete(t *testing.T) {
	damage := map[string]func(t *testing.T, a *store.App){
		"it has no directory":        func(t *testing.T, a *store.App) { must(t, os.RemoveAll(a.ReleaseDir(v2().id))) },
		"it has no stamp":            func(t *testing.T, a *store.App) { must(t, os.Remove(a.ReleaseDir(v2().id)+".meta/stamp")) },
		"its stamp is damaged":       func(t *testing.T, a *store.App) { must(t, os.Truncate(a.ReleaseDir(v2().id)+".meta/stamp", 10)) },
		"its path is not a director": func(t *testing.T, a *store.App) { replaceByFile(t, a.ReleaseDir(v2().id)) },
	}
	for reason, break_ := range damage {
		t.Run(reason, func(t *testing.T) {
			a := newApp(t, v1(), v2())
			must(t, a.Swap(v1().id))
			break_(t, a)
			for _, err := range []error{a.Swap(v2().id), a.SetFallback(v2().id)} {
				var incomplete store.ErrIncomplete
				if !errors.As(err, &incomplete) || incomplete.ID != v2().id || !strings.Contains(err.Error(), reason) || kindOf(err) != "incomplete" {
					t.Errorf("got %v", err)
				}
			}
			if current, _ := a.Current(); current != v1().id {
				t.Errorf("current moved to %s", current)
			}
		})
	}
	if err := newApp(t).Swap(release.ID{}); !errors.Is(err, store.ErrNone) {
		t.Errorf("the zero ID: %v", err)
	}
}

func replaceByFile(t *testing.T, dir string) {
	t.Helper()
	must(t, os.RemoveAll(dir))
	must(t, os.WriteFile(dir, nil, 0o600))
}

func TestLoadProvesTheDocumentsWithTheStamp(t *testing.T) {
	for _, name := range []string{"release.json", "manifest.json"} {
		a := newApp(t, v1())
		path := filepath.Join(a.ReleaseDir(v1().id)+".meta", name)
		data, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, append(data, ' '), 0o644))
		_, _, _, err = a.Load(v1().id)
		if kindOf(err) != "incomplete" || !strings.Contains(err.Error(), name+" has digest ") {
			t.Errorf("changed: %v", err)
		}
		must(t, os.Remove(path))
		if _, _, _, err = a.Load(v1().id); kindOf(err) != "incomplete" || !strings.Contains(err.Error(), name+" is missing") {
			t.Errorf("removed: %v", err)
		}
	}
}

func TestVerifyNamesAnEditedFile(t *testing.T) {
	a := newApp(t, v1())
	must(t, os.WriteFile(filepath.Join(a.ReleaseDir(v1().id), "bin/billing"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	for _, quick := range []bool{true, false} {
		diffs, err := a.Verify(context.Background(), v1().id, quick)
		if err != nil || len(diffs) == 0 || diffs[0].Path != "bin/billing" {
			t.Errorf("quick %v: %v %v", quick, diffs, err)
		}
	}
}

func TestCompleteRefusesDocumentsThatDoNotBelongTogether(t *testing.T) {
	a := newApp(t)
	foreign := store.Open(t.TempDir()).App(mustParse(release.ParseApp, "payments"))
	for name, c := range map[string]struct {
		app   *store.App
		stamp store.Stamp
	}{
		"other release":  {a, v2().stamp},
		"other manifest": {a, store.Stamp{Digest: v1().digest, Release: v1().stamp.Release, Manifest: v2().stamp.Manifest}},
		"no documents":   {a, store.Stamp{Digest: v1().digest}},
		"other app":      {foreign, v1().stamp},
	} {
		in, err := begin(c.app, v1())
		must(t, err)
		if err := in.Complete(c.stamp); err == nil || !strings.HasPrefix(err.Error(), "cannot complete "+v1().id.String()) {
			t.Errorf("%s: got %v", name, err)
		}
		must(t, in.Abandon())
		must(t, in.Abandon())
		if all, _ := c.app.List(); len(all) != 0 {
			t.Errorf("%s: left %v", name, all)
		}
	}
	if _, err := a.Begin(v1().id, v2().digest); err == nil {
		t.Error("an ID was staged under another digest")
	}
}

func TestBeginClearsAnEarlierAttempt(t *testing.T) {
	a := newApp(t)
	first, err := begin(a, v1())
	must(t, err)
	again, err := a.Begin(v1().id, v1().digest)
	must(t, err)
	entries, err := os.ReadDir(again.Dir)
	if err != nil || len(entries) > 0 || first.Dir != again.Dir {
		t.Errorf("%v %v", entries, err)
	}
}

func TestBeginRepairsAReleaseWhoseDeletionWasInterrupted(t *testing.T) {
	a := newApp(t, v1())
	must(t, os.Remove(a.ReleaseDir(v1().id)+".meta/stamp"))
	must(t, stage(a, v1()))
	checkWhole(t, a, "the test", v1().id)
	must(t, a.Swap(v1().id))
	must(t, os.Remove(a.ReleaseDir(v1().id)+".meta/stamp"))
	if _, err := a.Begin(v1().id, v1().digest); !errors.Is(err, store.ErrInUse) {
		t.Errorf("the tree under current was cleared away: %v", err)
	}
}

func TestAForeignLinkIsNamedAndStopsDeletion(t *testing.T) {
	for _, target := range []string{"/etc", "releases", "releases/../../x", "releases/" + v1().id.String() + "/bin"} {
		a := newApp(t, v1())
		must(t, os.Symlink(target, filepath.Join(a.Root(), "current")))
		_, err := a.Current()
		var foreign *store.LinkError
		if !errors.As(err, &foreign) || foreign.Target != target || kindOf(err) != "foreign-link" {
			t.Errorf("got %v", err)
		}
		if err := a.Remove(v1().id); !errors.As(err, &foreign) {
			t.Errorf("removed all the same: %v", err)
		}
		must(t, a.Swap(v1().id))
		checkPromises(t, a)
	}
}

func TestJoinStaysInside(t *testing.T) {
	for path, want := range map[string]string{"bin/x": "/r/bin/x", "../../etc": "/r/etc", "/abs": "/r/abs", "": "/r"} {
		if got := store.Join("/r", path); got != want {
			t.Errorf("%q: got %s, want %s", path, got, want)
		}
	}
}

func useUpInodes(t *testing.T, dir string) {
	t.Helper()
	for i := 0; ; i++ {
		err := os.Symlink("x", filepath.Join(dir, fmt.Sprintf("filler-%d", i)))
		if errors.Is(err, unix.ENOSPC) {
			return
		}
		must(t, err)
	}
}

func TestSwapWorksWithoutAFreeInode(t *testing.T) {
	dir := newTmpfs(t, "nr_inodes=60")
	a := store.Open(dir).App(billing)
	must(t, stage(a, v1()))
	must(t, stage(a, v2()))
	must(t, a.Swap(v1().id))
	useUpInodes(t, dir)
	must(t, a.Swap(v2().id))
	must(t, a.Swap(v1().id))
	if current, _ := a.Current(); current != v1().id {
		t.Errorf("current is %s", current)
	}
}

func TestSwapTakesTheFallbackLinkAsLastResort(t *testing.T) {
	a := lastResort(t)
	must(t, a.Swap(v1().id))
	if current, _ := a.Current(); current != v1().id {
		t.Errorf("current is %s", current)
	}
	if _, err := a.Fallback(); !errors.Is(err, store.ErrNone) {
		t.Errorf("fallback: %v", err)
	}
	checkPromises(t, a)
}

// lastResort is a host in trial of v2, without a free inode and without its reserve.
func lastResort(t *testing.T) *store.App {
	t.Helper()
	dir := newTmpfs(t, "nr_inodes=60")
	a := store.Open(dir).App(billing)
	must(t, stage(a, v1()))
	must(t, stage(a, v2()))
	must(t, a.SetFallback(v1().id))
	must(t, a.Swap(v2().id))
	must(t, os.Remove(filepath.Join(a.Root(), ".reserve")))
	useUpInodes(t, dir)
	return a
}

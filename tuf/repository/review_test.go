package repository_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

// signer is somebody with a machine of their own: a pinned root, a memory, and copies of folders.
type signer struct {
	f     *fixture
	trust *repository.Trust
	home  string
}

func (f *fixture) signer() *signer {
	f.t.Helper()
	home := f.t.TempDir()
	s := &signer{f: f, trust: repository.OpenTrust(filepath.Join(home, "trust")), home: home}
	_, err := s.trust.Add("default", must(f.r.PinnedRoot(1)))
	f.ok(err)
	return s
}

// receives copies a change's folder, as mail does.
func (s *signer) receives(c *repository.Change) string {
	s.f.t.Helper()
	dir := filepath.Join(s.home, "mail", time.Now().Format("150405.000000000"))
	s.f.ok(os.CopyFS(dir, os.DirFS(c.Dir())))
	return dir
}

func (s *signer) reviews(dir string) (*repository.Review, error) {
	s.f.t.Helper()
	root, err := s.trust.RootFor(dir)
	s.f.ok(err)
	v, err := repository.ReviewFolder(context.Background(), dir, repository.ReviewOptions{Root: root, Trust: s.trust, Now: func() time.Time { return s.f.now }})
	if err == nil {
		s.f.t.Cleanup(v.Close)
	}
	return v, err
}

func (s *signer) signs(dir, key string) {
	s.f.t.Helper()
	v, err := s.reviews(dir)
	s.f.ok(err)
	_, err = v.Sign(context.Background(), s.f.key(key))
	s.f.ok(err)
}

func TestAFolderIsSignedElsewhereAndItsSignaturesComeBack(t *testing.T) {
	t.Parallel()
	f := running(t)
	c := f.deploy("1.0.0", release.Deployment{State: release.StatePaused})
	for _, name := range []string{"ann", "cem"} {
		s := f.signer()
		dir := s.receives(c)
		f.ok(os.RemoveAll(filepath.Join(dir, "files", "releases"))) // archives need not travel
		s.signs(dir, name)
		for range 2 {
			if _, err := f.r.Collect(context.Background(), dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := f.waiting(c); got != "" {
		t.Fatalf("waiting for %s", got)
	}
	f.publish(c.ID)
	f.verify()
}

// A change made before another one was published is signed by somebody who has seen the newer state: its base was renewed.
func TestChangesThatStayOpenGetTheNewBase(t *testing.T) {
	t.Parallel()
	f := running(t)
	c := f.deploy("1.0.0", release.Deployment{State: release.StatePaused})
	s := f.signer()
	old := s.receives(c)
	before := must(os.ReadFile(filepath.Join(old, "payloads", deployRole+".json")))
	f.release("1.1.0")
	f.publish()
	if after := must(os.ReadFile(filepath.Join(c.Dir(), "payloads", deployRole+".json"))); !bytes.Equal(before, after) {
		t.Error("what is signed has changed")
	}
	s.signs(s.receives(must(f.r.Change(c.ID))), "ann")
	_, err := s.reviews(old)
	var swapped *repository.SwappedError
	if !errors.As(err, &swapped) || !strings.Contains(err.Error(), "version 1 of app.billing, and you have seen version 2") {
		t.Errorf("the old base is taken: %v", err)
	}
	if _, err := s.trust.Forget("default"); err != nil {
		t.Fatal(err)
	}
	_, err = s.trust.Add("again", must(f.r.PinnedRoot(1)))
	f.ok(err)
	if _, err = s.reviews(old); err != nil {
		t.Errorf("after forgetting: %v", err)
	}
}

// A change that somebody has broken is told of, and does not make the publish of another one look like a failure.
func TestABrokenOpenChangeDoesNotHoldUpAPublish(t *testing.T) {
	t.Parallel()
	f := running(t)
	c := f.deploy("1.0.0", release.Deployment{})
	f.ok(os.Remove(filepath.Join(c.Dir(), "files", "deployments", "production", "billing.json")))
	f.release("1.1.0")
	out := f.publish()
	if len(out.Changes) != 1 || len(out.Behind) != 1 || !strings.Contains(out.Behind[0], c.ID) {
		t.Errorf("got %+v", out)
	}
}

func TestAnExpiredBaseIsNotedAndNotRefused(t *testing.T) {
	t.Parallel()
	f := running(t)
	c := f.deploy("1.0.0", release.Deployment{})
	f.now = f.now.Add(30 * 24 * time.Hour)
	v, err := f.signer().reviews(c.Dir())
	f.ok(err)
	if !slices.ContainsFunc(v.Notes, func(n string) bool { return strings.Contains(n, "timestamp expired at") }) {
		t.Errorf("notes %q", v.Notes)
	}
	f.now = f.now.Add(-31 * 24 * time.Hour)
	if _, err := f.signer().reviews(c.Dir()); err == nil || !strings.Contains(err.Error(), "yet to come") {
		t.Errorf("a base from the future: %v", err)
	}
}

// A pinned root newer than the base is a rollback, whatever the memory says.
func TestABaseThatEndsBeforeThePinnedRootIsRefused(t *testing.T) {
	t.Parallel()
	f := running(t)
	c := f.deploy("1.0.0", release.Deployment{})
	dir := f.signer().receives(c)
	renew, err := f.r.Renew(context.Background(), []string{"root"}, 0, repository.Origin{})
	f.ok(err)
	f.sign(renew, "alice", "bob")
	f.publish()
	_, err = repository.ReviewFolder(context.Background(), dir, repository.ReviewOptions{Root: must(f.r.PinnedRoot(2))})
	var swapped *repository.SwappedError
	if !errors.As(err, &swapped) || !strings.Contains(err.Error(), "ends at root version 1, and you trust version 2") {
		t.Errorf("got %v", err)
	}
	if v, err := repository.ReviewFolder(context.Background(), must(f.r.Change(c.ID)).Dir(), repository.ReviewOptions{Root: must(f.r.PinnedRoot(2))}); err != nil {
		t.Errorf("with the renewed base: %v", err)
	} else {
		v.Close()
	}
}

// Every payload is held against the rules of a publish before anybody signs it.
func TestASignerRefusesWhatPublishWouldRefuse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ file, old, new, want string }{
		"a foreign path":    {"payloads/" + deployRole + ".json", "deployments/production/billing.json", "deployments/staging/billing.json", "it lists deployments/staging/billing.json"},
		"custom data":       {"payloads/" + deployRole + ".json", `"length"`, `"custom": {"a": 1}, "length"`, "more than its hash and its length"},
		"an unknown member": {"payloads/" + deployRole + ".json", `"Expires"`, ``, `it has a member "Expires" that nothing here reads`},
		"a version":         {"payloads/" + deployRole + ".json", `"version": 2`, `"version": 9`, "version 9 of " + deployRole + " does not follow version 1"},
		"another base":      {"change.json", `"deploy.production.billing": 1`, `"deploy.production.billing": 0`, "made from version 0"},
		"an online role":    {"change.json", `"deploy.production.billing": 1`, `"snapshot": 1`, "is not signed in changes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := running(t)
			dir := f.signer().receives(f.deploy("1.0.0", release.Deployment{}))
			path := filepath.Join(dir, c.file)
			was := string(must(os.ReadFile(path)))
			now := strings.ReplaceAll(was, c.old, c.new)
			if c.new == "" {
				now = strings.Replace(was, "{", `{"Expires": "2099-01-01T00:00:00Z",`, 1)
			}
			if now == was {
				t.Fatalf("no %s in\n%s", c.old, was)
			}
			f.ok(os.WriteFile(path, []byte(now), 0o644))
			if _, err := f.signer().reviews(dir); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestAFolderOfUnboundedSizeIsNotRead(t *testing.T) {
	t.Parallel()
	f := running(t)
	s := f.signer()
	dir := s.receives(f.deploy("1.0.0", release.Deployment{}))
	for _, sparse := range []string{"change.json", "payloads/x.json", "base/metadata/timestamp.json", "base/targets/a/b", "signatures/x.json"} {
		fresh := s.receives(must(f.r.Changes())[0])
		path := filepath.Join(fresh, sparse)
		f.ok(os.MkdirAll(filepath.Dir(path), 0o755))
		f.ok(os.RemoveAll(path))
		f.ok(os.WriteFile(path, nil, 0o644))
		f.ok(os.Truncate(path, 1<<40))
		if _, err := s.reviews(fresh); err == nil || !strings.Contains(err.Error(), "larger than its kind may be") {
			t.Errorf("%s: %v", sparse, err)
		}
	}
	deep := filepath.Join(dir, "base", "targets", strings.Repeat("d/", 12))
	f.ok(os.MkdirAll(deep, 0o755))
	if _, err := s.reviews(dir); err == nil || !strings.Contains(err.Error(), "at most eight deep") {
		t.Errorf("got %v", err)
	}
	f.ok(os.RemoveAll(filepath.Join(dir, "base")))
	f.ok(os.Symlink(must(f.r.Changes())[0].Dir()+"/base", filepath.Join(dir, "base")))
	if _, err := s.reviews(dir); err == nil {
		t.Error("a base behind a link was read")
	}
}

func TestARootIsPinnedOnceAndOnlyIfItSignedItself(t *testing.T) {
	t.Parallel()
	f := running(t)
	s := f.signer()
	root := must(f.r.PinnedRoot(1))
	if _, err := s.trust.Add("default", root); err != nil {
		t.Errorf("the same again: %v", err)
	}
	other := empty(t)
	if _, err := s.trust.Add("default", must(other.r.PinnedRoot(1))); kindOf(err) != "refused" {
		t.Errorf("replaced without a word: %v", err)
	}
	forged := bytes.Replace(root, []byte(`"consistent_snapshot":true`), []byte(`"consistent_snapshot":false`), 1)
	if _, err := s.trust.Add("forged", forged); err == nil || bytes.Equal(forged, root) {
		t.Errorf("an unsigned root was pinned: %v", err)
	}
	if _, err := s.trust.Add("../../etc/x", root); err == nil {
		t.Error("a name that leaves the directory")
	}
	if pins := must(s.trust.Pins()); len(pins) != 1 || len(pins[0].Keys) != 3 || len(pins[0].Fingerprint()) != 71 {
		t.Errorf("got %+v", pins)
	}
}

func TestCollectTakesAllOrNothing(t *testing.T) {
	t.Parallel()
	f := running(t)
	c := f.deploy("1.0.0", release.Deployment{})
	ann, ben := f.signer(), f.signer()
	good, bad := ann.receives(c), ben.receives(c)
	ann.signs(good, "ann")
	ben.signs(bad, "ben")
	files := must(filepath.Glob(filepath.Join(bad, "signatures", "*.json")))
	data := must(os.ReadFile(files[0]))
	f.ok(os.WriteFile(files[0], bytes.Replace(data, []byte(`"sig": "`), []byte(`"sig": "00`), 1), 0o644))
	_, err := f.r.Collect(context.Background(), good, bad)
	var foreign *repository.ForeignError
	if !errors.As(err, &foreign) || foreign.Kind() != "foreign-signature" {
		t.Errorf("got %v", err)
	}
	if got := f.waiting(c); !strings.Contains(got, "0 of 2") {
		t.Errorf("half was taken: %s", got)
	}
	f.ok(os.MkdirAll(filepath.Join(c.Dir(), "signatures"), 0o755))
	damaged := filepath.Join(c.Dir(), "signatures", filepath.Base(must(filepath.Glob(filepath.Join(good, "signatures", "*.json")))[0]))
	f.ok(os.WriteFile(damaged, bytes.Replace(must(os.ReadFile(filepath.Join(good, "signatures", filepath.Base(damaged)))), []byte(`"sig": "`), []byte(`"sig": "00`), 1), 0o644))
	got := must(f.r.Collect(context.Background(), good, good))
	if len(got) != 2 || !got[0].New || got[1].New {
		t.Errorf("got %+v", got)
	}
}

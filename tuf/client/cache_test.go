package client

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// spoilers are what power loss, bit rot and clumsy hands do to a file.
var spoilers = map[string]func([]byte) []byte{
	"emptied":   func([]byte) []byte { return nil },
	"cut":       func(b []byte) []byte { return b[:len(b)/2] },
	"braces":    func([]byte) []byte { return []byte("{}") },
	"null":      func([]byte) []byte { return []byte("null") },
	"zeroed":    func(b []byte) []byte { return make([]byte, len(b)) },
	"flipped":   func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/3] ^= 1; return b },
	"doubled":   func(b []byte) []byte { return append(bytes.Clone(b), b...) },
	"deepnest":  func([]byte) []byte { return []byte(strings.Repeat("[", 1<<20)) },
	"extrabyte": func(b []byte) []byte { return append(bytes.Clone(b), ' ') },
}

func TestEveryCacheFileHealsFromEveryKindOfDamage(t *testing.T) {
	repo, _ := billing(t)
	repo.Rotate(metadata.ROOT, 1, tuftest.NewKey(t))
	c := newClient(t, repo)
	refresh(t, c)
	read(t, c, release1)
	repo.PublishTimestamp()
	tried := 0
	for _, path := range files(t, c.cfg.Dir) {
		if strings.HasSuffix(path, "/lock") {
			continue
		}
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for name, spoil := range spoilers {
			dir := filepath.Join(t.TempDir(), "tuf")
			if err := os.CopyFS(dir, os.DirFS(c.cfg.Dir)); err != nil {
				t.Fatal(err)
			}
			short, _ := filepath.Rel(c.cfg.Dir, path)
			write(t, filepath.Join(dir, short), spoil(good))
			tried++
			hurt := newClient(t, repo, inDir(dir))
			if _, err := hurt.Trusted(); err != nil {
				refused[*ErrNoTrust](t, err)
			}
			if got := refresh(t, hurt); got.Timestamp != 4 || got.Root != 2 || read(t, hurt, release1) != "one" {
				t.Fatalf("%s %s: %+v", short, name, got)
			}
			if got, err := newClient(t, repo, inDir(dir)).Trusted(); err != nil || got.Timestamp != 4 {
				t.Fatalf("%s %s did not heal for good: %+v %v", short, name, got, err)
			}
		}
	}
	if tried < 9*len(spoilers) {
		t.Fatal("too few files were tried:", tried)
	}
}

func TestAForeignCacheIsDroppedAndItsVersionsDoNotBind(t *testing.T) {
	other, _ := billing(t)
	for range 5 {
		other.Publish()
	}
	c := newClient(t, other)
	refresh(t, c)
	read(t, c, release1)
	repo, _ := billing(t)
	ours := newClient(t, repo, inDir(c.cfg.Dir))
	if _, err := ours.Trusted(); err == nil {
		t.Fatal("another repository's metadata was trusted")
	}
	if got := refresh(t, ours); got.Timestamp != 2 {
		t.Fatalf("%+v", got)
	}
	if got := refresh(t, newClient(t, repo, inDir(c.cfg.Dir))); got.Timestamp != 2 {
		t.Fatalf("%+v", got)
	}
}

func TestANewerPinnedRootKeepsTheCacheOfTheSameRepository(t *testing.T) {
	repo, _ := billing(t)
	repo.Rotate(metadata.ROOT, 1, tuftest.NewKey(t))
	old := repo.Frozen()
	repo.Publish()
	c := newClient(t, repo)
	want := refresh(t, c)
	pinned := func(c *Config) { c.Root = repo.Get("metadata/2.root.json") }
	if got, err := newClient(t, repo, inDir(c.cfg.Dir), pinned).Trusted(); err != nil || got.Timestamp != want.Timestamp {
		t.Fatalf("%+v %v", got, err)
	}
	refuseRefresh[*ErrRollback](t, newClient(t, repo, inDir(c.cfg.Dir), pinned, mirrors(old)))
}

func TestTheCacheHoldsExactBytesAndNoGarbage(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo)
	for i := range 5 {
		repo.AddTarget("app.billing", fmt.Sprintf("releases/billing/%d/release.json", i), []byte("x"))
		repo.Publish()
		refresh(t, c)
		lookup(t, c, release1)
	}
	all, err := c.Metadata()
	if err != nil || !bytes.Equal(all["snapshot"], repo.Get("metadata/7.snapshot.json")) || !bytes.Equal(all["app.billing"], repo.Get("metadata/6.app.billing.json")) {
		t.Fatal(err)
	}
	if n := len(files(t, c.cache.path("metadata"))); n != 4 {
		t.Fatalf("%d files for 4 roles", n)
	}
}

func TestTheCacheOfSmallTargetsIsBounded(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo)
	refresh(t, c)
	for i := range keptTargets + 20 {
		write(t, c.cache.path("targets", fmt.Sprint(i)), nil)
	}
	read(t, c, release1)
	if n := len(files(t, c.cache.path("targets"))); n != keptTargets {
		t.Fatal(n)
	}
}

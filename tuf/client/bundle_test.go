package client

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/tuf/bundle"
	"github.com/slipway-deploy/slipway/tuf/tuftest"
)

// pack puts what a repository serves now into a bundle, without the names in leave.
func pack(t testing.TB, repo *tuftest.Repository, path string, leave ...string) {
	t.Helper()
	served := repo.Files()
	var list []bundle.File
	for _, name := range slices.Sorted(maps.Keys(served)) {
		if !slices.ContainsFunc(leave, func(l string) bool { return strings.Contains(name, l) }) {
			data := served[name]
			list = append(list, bundle.File{Name: name, Size: int64(len(data)), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }})
		}
	}
	var b bytes.Buffer
	if err := bundle.Write(&b, bundle.Info{Apps: []string{"billing"}}, list); err != nil {
		t.Fatal(err)
	}
	write(t, path+".new", b.Bytes())
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func bundled(paths ...string) option {
	return func(c *Config) {
		c.Mirrors = nil
		for _, p := range paths {
			c.Mirrors = append(c.Mirrors, Mirror{Metadata: "bundle:" + p})
		}
	}
}

func stamped(t testing.TB, c *Client) int64 {
	t.Helper()
	got, err := c.Trusted()
	if err != nil {
		t.Fatal(err)
	}
	return got.Timestamp
}

func TestABundleIsAMirrorLikeAnyOther(t *testing.T) {
	repo, _ := billing(t)
	path := filepath.Join(t.TempDir(), "a b%.bundle") // a path, not a URL
	pack(t, repo, path)
	c := newClient(t, repo, bundled(path))
	if got := refresh(t, c); !got.Changed || got.Bundle != path {
		t.Errorf("%+v", got)
	}
	if got := read(t, c, release1); got != "one" {
		t.Error(got)
	}
	dest := filepath.Join(t.TempDir(), "dest")
	if err := c.Download(t.Context(), lookup(t, c, release1).File(), dest, nil); err != nil {
		t.Error(err)
	}
	if requests := repo.Server().Requests(); len(requests) > 0 {
		t.Error("the server was asked", requests)
	}
	if got := refresh(t, newClient(t, repo, bundled(path), inDir(c.cfg.Dir))); got.Bundle != path || got.Changed {
		t.Errorf("after a restart: %+v", got)
	}
}

func TestABundleAfterOnlineAndOnlineAfterABundleAndNeverBack(t *testing.T) {
	repo, _ := billing(t)
	dir := t.TempDir()
	old, young, state := filepath.Join(dir, "old"), filepath.Join(dir, "young"), filepath.Join(dir, "state")
	pack(t, repo, old)
	repo.AddTarget("app.billing", release1, []byte("two"))
	repo.Publish()
	refresh(t, newClient(t, repo, inDir(state)))
	e := refuseRefresh[*ErrRollback](t, newClient(t, repo, inDir(state), bundled(old)))
	if e.Role != "timestamp" || e.Have != 3 || e.Got != 2 {
		t.Error(e)
	}
	_, err := newClient(t, repo, inDir(state), bundled(old)).Refresh(t.Context())
	if text := err.Error(); text != "cannot use bundle "+old+": cannot trust timestamp version 2: version 3 was trusted here already" {
		t.Error(text)
	}
	repo.AddTarget("app.billing", release1, []byte("three"))
	repo.Publish()
	pack(t, repo, young)
	c := newClient(t, repo, inDir(state), bundled(young))
	if got := refresh(t, c); got.Timestamp != 4 || read(t, c, release1) != "three" {
		t.Error(got)
	}
	if got := refresh(t, newClient(t, repo, inDir(state))); got.Timestamp != 4 || got.Bundle != "" {
		t.Errorf("confirmed by the server: %+v", got)
	}
	if got := refresh(t, newClient(t, repo, inDir(state), bundled(young))); got.Bundle != "" {
		t.Errorf("the server's word was not kept: %+v", got)
	}
	repo.Publish()
	if got := refresh(t, newClient(t, repo, inDir(state))); got.Timestamp != 5 {
		t.Errorf("%+v", got)
	}
	refuseRefresh[*ErrRollback](t, newClient(t, repo, inDir(state), bundled(young)))
}

func TestABundleThatArrivesCountsAtOnceThoughTheServerHasNothingNew(t *testing.T) {
	repo, _ := billing(t)
	path := filepath.Join(t.TempDir(), "in.bundle")
	stale := repo.Files()
	s := repo.Serve(tuftest.Replace("metadata/timestamp.json", stale["metadata/timestamp.json"]))
	var log bytes.Buffer
	c := newClient(t, repo, func(c *Config) {
		c.Mirrors = []Mirror{mirrorOf(s), {Metadata: "bundle:" + path}}
		c.Logger = hclog.New(&hclog.LoggerOptions{Output: &log})
	})
	refresh(t, c)
	for range 5 {
		refresh(t, c)
	}
	if n := strings.Count(log.String(), "could not refresh"); n > 1 {
		t.Errorf("said %d times that there is no bundle:\n%s", n, log.String())
	}
	repo.AddTarget("app.billing", release1, []byte("two"))
	repo.Publish()
	pack(t, repo, path)
	if got := refresh(t, c); !got.Changed || got.Bundle != path || read(t, c, release1) != "two" {
		t.Errorf("%+v", got)
	}
}

func TestABundleTooOldForThisHostIsRefusedAndSaysSo(t *testing.T) {
	repo, _ := billing(t)
	path := filepath.Join(t.TempDir(), "in.bundle")
	pack(t, repo, path)
	bound := func(d time.Duration) option { return func(c *Config) { c.MaxBundleAge = d } }
	day := 24 * time.Hour
	e := refuseRefresh[*ErrTooOld](t, newClient(t, repo, bundled(path), bound(day), later(25*time.Hour)))
	if e.Max != day || e.Issued.IsZero() || !strings.Contains(e.Error(), "at most 1d of age are allowed; bring a newer one") {
		t.Error(e)
	}
	c := newClient(t, repo, bundled(path), bound(day), later(23*time.Hour))
	refresh(t, c)
	aged := newClient(t, repo, bundled(path), bound(day), later(25*time.Hour), inDir(c.cfg.Dir))
	refuseRefresh[*ErrTooOld](t, aged)
	if stamped(t, aged) != 2 {
		t.Error("what was trusted is forgotten")
	}
	refresh(t, newClient(t, repo, bound(day), later(25*time.Hour))) // servers are judged by what is signed
}

func TestWhatIsNotThereIsSaidPlainly(t *testing.T) {
	repo, _ := billing(t)
	dir := t.TempDir()
	none := filepath.Join(dir, "usb", "in.bundle")
	if e := refuseRefresh[*ErrAbsent](t, newClient(t, repo, bundled(none))); e.Path != none || kindOf(e) != "absent" {
		t.Error(e)
	}
	mount := filepath.Join(dir, "usb", "metadata")
	e := refuseRefresh[*ErrAbsent](t, newClient(t, repo, func(c *Config) { c.Mirrors = []Mirror{{Metadata: mount}} }))
	if e.Error() != "cannot read "+mount+"/: it is not there; mount its medium, or copy it there" {
		t.Error(e)
	}
	part := filepath.Join(dir, "part.bundle")
	pack(t, repo, part, "app.billing")
	c := newClient(t, repo, bundled(part))
	refresh(t, c)
	_, err := c.Lookup(t.Context(), release1)
	if err == nil || !strings.Contains(err.Error(), "it is not in this bundle, which was made for all environments; app billing") {
		t.Error(err)
	}
}

func TestAHalfCopiedBundleIsIncompleteWithTheSameWordsUntilItIsWhole(t *testing.T) {
	repo, _ := billing(t)
	dir := t.TempDir()
	whole, path := filepath.Join(dir, "whole"), filepath.Join(dir, "in.bundle")
	pack(t, repo, whole)
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, repo, bundled(path))
	said := map[string]bool{}
	for n := 0; n < len(data); n += 300 {
		write(t, path, data[:n])
		e := refuseRefresh[*bundle.IncompleteError](t, c)
		_, err := c.Refresh(t.Context())
		if said[err.Error()] = true; kindOf(err) != "incomplete" || !errors.As(err, &e) {
			t.Fatal(err)
		}
	}
	if len(said) != 1 {
		t.Error(said)
	}
	write(t, path, data)
	refresh(t, c)
	read(t, c, release1)
}

func TestAForgedBundleIsRefusedLikeAForgedServer(t *testing.T) {
	repo, _ := billing(t)
	other, _ := billing(t)
	path := filepath.Join(t.TempDir(), "in.bundle")
	pack(t, other, path)
	refuseRefresh[*ErrThreshold](t, newClient(t, repo, bundled(path)))
	pack(t, repo, path)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndex(data, []byte("one"))
	data[at] ^= 1
	write(t, path, data)
	c := newClient(t, repo, bundled(path))
	refresh(t, c)
	_, err = c.Read(t.Context(), lookup(t, c, release1))
	refused[*ErrCorrupt](t, err)
}

func TestNoBundleStaysOpenSoThatItsMediumCanBeUnmounted(t *testing.T) {
	repo, _ := billing(t)
	path := filepath.Join(t.TempDir(), "in.bundle")
	pack(t, repo, path)
	c := newClient(t, repo, bundled(path))
	refresh(t, c)
	read(t, c, release1)
	_, _ = c.Lookup(t.Context(), "releases/billing/9/release.json")
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); to == path {
			t.Error("the bundle is open")
		}
	}
}

// A payload streams out of the bundle: memory does not grow with it.
func TestALargePayloadIsNeitherExtractedNorHeld(t *testing.T) {
	repo, _ := billing(t)
	const size = 256 << 20
	sum := zeros(t, size)
	path := filepath.Join(t.TempDir(), "in.bundle")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []bundle.File
	for _, name := range slices.Sorted(maps.Keys(repo.Files())) {
		data := repo.Get(name)
		list = append(list, bundle.File{Name: name, Size: int64(len(data)), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }})
	}
	list = append(list, bundle.File{Name: "targets/z/" + sum + ".large", Size: size, Open: func() (io.ReadCloser, error) { return io.NopCloser(io.LimitReader(nothing{}, size)), nil }})
	if err := errors.Join(bundle.Write(f, bundle.Info{}, list), f.Close()); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, repo, bundled(path))
	refresh(t, c)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := c.Fetch(t.Context(), File{Path: "z/large", SHA256: sum, Length: size}, io.Discard, nil); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
		t.Errorf("%d bytes were allocated for a payload of %d", grown, size)
	}
}

type nothing struct{}

func (nothing) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func zeros(t testing.TB, n int64) string {
	t.Helper()
	d := newDigest(File{SHA256: "x"})
	if _, err := io.CopyN(d, nothing{}, n); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(d.sha256.Sum(nil))
}

func TestABundleMirrorIsAnAbsolutePathAndNothingElse(t *testing.T) {
	repo, _ := billing(t)
	for _, m := range []Mirror{{Metadata: "bundle:x"}, {Metadata: "bundle:"}, {Metadata: "bundle:/"}, {Metadata: "bundle:/a/../b"}, {Metadata: "bundle:/a", Targets: "https://x/"}, {Metadata: "/a", Targets: "bundle:/a"}} {
		if _, err := Open(Config{Dir: t.TempDir(), Root: repo.Root(), Mirrors: []Mirror{m}}); err == nil {
			t.Error(m, "is taken")
		}
	}
}

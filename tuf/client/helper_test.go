package client

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
)

type option func(*Config)

func mirrorOf(s *tuftest.Server) Mirror { return Mirror{Metadata: s.URL + "/metadata"} }

func mirrors(servers ...*tuftest.Server) option {
	return func(c *Config) {
		c.Mirrors = nil
		for _, s := range servers {
			c.Mirrors = append(c.Mirrors, mirrorOf(s))
		}
	}
}

// impatient is for tests whose server stalls; elsewhere a busy machine must not look like one.
func impatient(c *Config) { c.Stall.Window = 300 * time.Millisecond }

func inDir(dir string) option { return func(c *Config) { c.Dir = dir } }

func at(now func() time.Time) option { return func(c *Config) { c.Clock.Now = now } }

func later(d time.Duration) option {
	return at(func() time.Time { return time.Now().Add(d) })
}

func newClient(t testing.TB, repo *tuftest.Repository, options ...option) *Client {
	t.Helper()
	cfg := Config{
		Dir: filepath.Join(t.TempDir(), "tuf"), Root: repo.Root(), Mirrors: []Mirror{mirrorOf(repo.Server())},
		HTTP:  HTTP{Proxy: "direct", RetryDelay: time.Millisecond, Attempts: 2},
		Stall: Stall{Rate: 1024, Window: 10 * time.Second},
	}
	for _, o := range options {
		o(&cfg)
	}
	c, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.fetch.http.CloseIdleConnections)
	return c
}

func refresh(t testing.TB, c *Client) Trusted {
	t.Helper()
	got, err := c.Refresh(context.Background())
	if err != nil {
		t.Fatalf("refresh: %v", err)
	}
	return got
}

func lookup(t testing.TB, c *Client, path string) Target {
	t.Helper()
	got, err := c.Lookup(context.Background(), path)
	if err != nil {
		t.Fatalf("lookup %s: %v", path, err)
	}
	return got
}

func read(t testing.TB, c *Client, path string) string {
	t.Helper()
	data, err := c.Read(context.Background(), lookup(t, c, path))
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return string(data)
}

// refused returns err as the one type that a caller would act on.
func refused[T error](t testing.TB, err error) T {
	t.Helper()
	var want T
	if !errors.As(err, &want) {
		t.Fatalf("got %T %v, want %T", err, err, want)
	}
	return want
}

func refuseRefresh[T error](t testing.TB, c *Client) T {
	t.Helper()
	_, err := c.Refresh(context.Background())
	return refused[T](t, err)
}

// billing is the repository most tests start from: one app role that signs one release.
func billing(t testing.TB) (*tuftest.Repository, tuftest.Key) {
	t.Helper()
	repo := tuftest.New(t)
	key := tuftest.NewKey(t)
	repo.Delegate("app.billing", "targets", []string{"releases/billing/*/*"}, 1, key)
	repo.AddTarget("app.billing", release1, []byte("one"))
	repo.Publish()
	return repo, key
}

const release1 = "releases/billing/1.0.0/release.json"

func files(t testing.TB, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

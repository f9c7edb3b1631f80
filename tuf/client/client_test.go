package client

import (
	"context"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestATargetIsFoundWithWhoSignedIt(t *testing.T) {
	repo, key := billing(t)
	c := newClient(t, repo)
	got := refresh(t, c)
	if !got.Changed || got.Root != 1 || got.Timestamp != 2 || got.Snapshot != 2 || got.Targets != 2 || got.Issued.IsZero() {
		t.Fatalf("%+v", got)
	}
	target := lookup(t, c, release1)
	if !slices.Equal(target.Roles, []string{"targets", "app.billing"}) || !slices.Equal(target.KeyIDs, []string{key.ID}) || target.Version != 1 {
		t.Fatalf("%+v", target)
	}
	if read(t, c, release1) != "one" {
		t.Fatal("wrong bytes")
	}
	trusted, err := c.Trusted()
	if err != nil || len(trusted.Expires) != 5 {
		t.Fatalf("%+v %v", trusted, err)
	}
	if left := c.Expiries()["app.billing"]; left < 29*24*time.Hour || left > 30*24*time.Hour {
		t.Fatal(left)
	}
}

func TestAPollThatFindsNothingNewCostsOneSmallRequestAndRenewsNoAge(t *testing.T) {
	repo, _ := billing(t)
	clock := time.Now()
	c := newClient(t, repo, at(func() time.Time { return clock }))
	first := refresh(t, c)
	lookup(t, c, release1)
	repo.Server().Requests()
	before := mtimes(t, c)
	clock = clock.Add(10 * time.Minute)
	second := refresh(t, c)
	if second.Changed || !second.Issued.Equal(first.Issued) || !second.At.Equal(first.At) || !second.Checked.After(first.Checked) {
		t.Fatalf("%+v after %+v", second, first)
	}
	lookup(t, c, release1)
	requests := repo.Server().Requests()
	if len(requests) != 1 || requests[0].Path != "metadata/timestamp.json" || requests[0].Status != http.StatusOK {
		t.Fatalf("%+v", requests)
	}
	if !slices.Equal(before, mtimes(t, c)) {
		t.Fatal("a poll with nothing new wrote to the disk")
	}
}

func mtimes(t *testing.T, c *Client) (all []string) {
	for _, f := range files(t, c.cfg.Dir) {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(f, "/lock") {
			all = append(all, f+info.ModTime().String())
		}
	}
	return all
}

func TestARestartedClientAnswersFromItsCacheWithoutARequest(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo)
	want := refresh(t, c)
	read(t, c, release1)
	repo.Server().Requests()
	again := newClient(t, repo, inDir(c.cfg.Dir))
	got, err := again.Trusted()
	if err != nil || got.Timestamp != want.Timestamp || !got.Issued.Equal(want.Issued) || !got.At.Equal(want.At) {
		t.Fatalf("%+v %v", got, err)
	}
	if read(t, again, release1) != "one" {
		t.Fatal("wrong bytes")
	}
	if r := repo.Server().Requests(); len(r) != 0 {
		t.Fatalf("%+v", r)
	}
}

func TestTrustedTellsWhatTheCacheProvesEvenWhenItLapsed(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo)
	refresh(t, c)
	old := newClient(t, repo, inDir(c.cfg.Dir), later(60*24*time.Hour))
	if got, err := old.Trusted(); err != nil || got.Timestamp != 2 {
		t.Fatalf("%+v %v", got, err)
	}
	if old.Expiries()[metadata.TIMESTAMP] >= 0 {
		t.Fatal("lapsed metadata has time left")
	}
	_, err := old.Lookup(context.Background(), release1)
	refused[*ErrExpired](t, err)
}

func TestNothingIsTrustedBeforeTheFirstRefresh(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo)
	_, err := c.Trusted()
	refused[*ErrNoTrust](t, err)
	_, err = c.Lookup(context.Background(), release1)
	refused[*ErrNoTrust](t, err)
}

func TestManyLookupsInOneCycleFetchAndVerifyEachRoleOnce(t *testing.T) {
	repo, key := billing(t)
	for _, v := range []string{"1", "2", "3"} {
		repo.AddTarget("app.billing", "releases/billing/"+v+"/release.json", []byte(v))
	}
	repo.Delegate("app.web", "targets", []string{"releases/web/*/*"}, 1, key)
	repo.Publish()
	c := newClient(t, repo)
	refresh(t, c)
	repo.Server().Requests()
	lookup(t, c, "releases/billing/1/release.json")
	first := c.set.roles[pair{"targets", "app.billing"}]
	for _, v := range []string{"1", "2", "3"} {
		lookup(t, c, "releases/billing/"+v+"/release.json")
	}
	if r := repo.Server().Requests(); len(r) != 1 || r[0].Path != "metadata/2.app.billing.json" {
		t.Fatalf("%+v", r)
	}
	repo.Edit("app.web", func(*metadata.TargetsType) {})
	repo.Publish()
	refresh(t, c)
	lookup(t, c, "releases/billing/1/release.json")
	if c.set.roles[pair{"targets", "app.billing"}] != first {
		t.Fatal("a role that did not change was verified again")
	}
}

func TestATargetThatNobodySignsIsNotFoundAndANetworkFaultIsNot(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo, mirrors(repo.Serve(tuftest.Hide("app.billing.json", 404))))
	refresh(t, c)
	_, err := c.Lookup(context.Background(), "releases/web/1/release.json")
	if e := refused[*ErrNotFound](t, err); e.Path != "releases/web/1/release.json" {
		t.Fatal(e)
	}
	_, err = c.Lookup(context.Background(), release1)
	refused[*ErrNetwork](t, err)
}

func TestTheRootProbeIsNotTriedTwice(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo)
	refresh(t, c)
	probes := 0
	for _, r := range repo.Server().Requests() {
		if r.Path == "metadata/2.root.json" {
			probes++
		}
	}
	if probes != 1 {
		t.Fatal(probes)
	}
}

func TestOpenRefusesWhatItCouldNotWorkWith(t *testing.T) {
	repo, _ := billing(t)
	good := Config{Dir: t.TempDir(), Root: repo.Root(), Mirrors: []Mirror{{Metadata: "https://example.org/m"}}}
	for name, spoil := range map[string]func(*Config){
		"no mirror":        func(c *Config) { c.Mirrors = nil },
		"an ftp mirror":    func(c *Config) { c.Mirrors = []Mirror{{Metadata: "ftp://example.org/m"}} },
		"a relative path":  func(c *Config) { c.Mirrors = []Mirror{{Metadata: "m/metadata"}} },
		"a query":          func(c *Config) { c.Mirrors = []Mirror{{Metadata: "https://example.org/m?a"}} },
		"no root":          func(c *Config) { c.Root = nil },
		"a truncated root": func(c *Config) { c.Root = c.Root[:len(c.Root)/2] },
		"a key alone":      func(c *Config) { c.HTTP.KeyFile = "key" },
		"no CA file":       func(c *Config) { c.HTTP.CAFile = "/nonexistent" },
		"a bad proxy":      func(c *Config) { c.HTTP.Proxy = "::" },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := Open(cfg); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestWrongSoftwareThroughASharedRoleNameIsCheckedAgainstEachDelegator(t *testing.T) {
	repo := tuftest.New(t)
	a, b := tuftest.NewKey(t), tuftest.NewKey(t)
	repo.Delegate("team-a", "targets", []string{"a/*"}, 1, a)
	repo.Delegate("team-b", "targets", []string{"b/*"}, 1, b)
	repo.Delegate("release", "team-a", []string{"a/*"}, 1, a)
	repo.Delegate("release", "team-b", []string{"b/*"}, 1, b)
	repo.SignWith("release", a)
	repo.AddTarget("release", "a/app", []byte("good"))
	repo.AddTarget("release", "b/app", []byte("signed by the wrong team"))
	repo.Publish()
	c := newClient(t, repo)
	refresh(t, c)
	lookup(t, c, "a/app")
	_, err := c.Lookup(context.Background(), "b/app")
	if e := refused[*ErrThreshold](t, err); e.Role != "release" {
		t.Fatal(e)
	}
	lookup(t, c, "a/app")
}

func TestWrongSoftwareFromALaterRoleIsNotReachedPastATerminatingOne(t *testing.T) {
	repo, key := billing(t)
	repo.DelegateAs("targets", metadata.DelegatedRole{Name: "everything", Paths: []string{"releases/*/*/*"}, Threshold: 1}, key)
	repo.AddTarget("everything", "releases/billing/2/release.json", []byte("not from billing's role"))
	repo.AddTarget("everything", release1, []byte("not one"))
	repo.Publish()
	c := newClient(t, repo)
	refresh(t, c)
	_, err := c.Lookup(context.Background(), "releases/billing/2/release.json")
	refused[*ErrNotFound](t, err)
	if read(t, c, release1) != "one" {
		t.Fatal("the less trusted role won")
	}
}

func TestWrongSoftwareForACyclicDelegationEnds(t *testing.T) {
	repo := tuftest.New(t)
	key := tuftest.NewKey(t)
	any := []string{"*"}
	repo.DelegateAs("targets", metadata.DelegatedRole{Name: "a", Paths: any, Threshold: 1}, key)
	repo.DelegateAs("a", metadata.DelegatedRole{Name: "b", Paths: any, Threshold: 1}, key)
	repo.DelegateAs("b", metadata.DelegatedRole{Name: "a", Paths: any, Threshold: 1}, key)
	repo.Publish()
	c := newClient(t, repo)
	refresh(t, c)
	_, err := c.Lookup(context.Background(), "x")
	refused[*ErrNotFound](t, err)
}

func TestHashPrefixesAndBinsDelegateByTheDigestOfThePath(t *testing.T) {
	sum := sha256.Sum256([]byte("app"))
	prefix := hex.EncodeToString(sum[:])[:2]
	repo := tuftest.New(t)
	key := tuftest.NewKey(t)
	repo.DelegateAs("targets", metadata.DelegatedRole{Name: "bin", PathHashPrefixes: []string{prefix}, Threshold: 1}, key)
	repo.AddTarget("bin", "app", []byte("in the bin"))
	repo.AddTarget("bin", "other", []byte("not in this bin"))
	repo.Publish()
	c := newClient(t, repo)
	refresh(t, c)
	if read(t, c, "app") != "in the bin" {
		t.Fatal("wrong bytes")
	}
	_, err := c.Lookup(context.Background(), "other")
	refused[*ErrNotFound](t, err)
}

func TestSuccinctBinsAreFound(t *testing.T) {
	sum := sha256.Sum256([]byte("app"))
	bin := "bin-" + hex.EncodeToString(sum[:])[:1]
	repo := tuftest.New(t)
	key := tuftest.NewKey(t)
	repo.Delegate(bin, "targets", []string{"-"}, 1, key)
	repo.Edit("targets", func(m *metadata.TargetsType) {
		m.Delegations.Roles = nil
		m.Delegations.SuccinctRoles = &metadata.SuccinctRoles{KeyIDs: []string{key.ID}, Threshold: 1, BitLength: 4, NamePrefix: "bin"}
	})
	repo.AddTarget(bin, "app", []byte("in the bin"))
	repo.Publish()
	c := newClient(t, repo)
	refresh(t, c)
	if read(t, c, "app") != "in the bin" {
		t.Fatal("wrong bytes")
	}
}

func TestWrongSoftwareUnderAHostilePathNeverLeavesTheDirectories(t *testing.T) {
	repo := tuftest.New(t)
	for _, path := range []string{"../../etc/passwd", "/etc/passwd", "a/../../b", "a//b", ".", "a\x00b"} {
		repo.AddTarget("targets", path, []byte("x"))
	}
	repo.Publish()
	c := newClient(t, repo)
	refresh(t, c)
	repo.Server().Requests()
	for _, path := range []string{"../../etc/passwd", "/etc/passwd", "a/../../b", "a//b", ".", "a\x00b"} {
		_, err := c.Read(context.Background(), lookup(t, c, path))
		refused[*ErrCorrupt](t, err)
	}
	if r := repo.Server().Requests(); len(r) != 0 {
		t.Fatalf("%+v", r)
	}
}

func TestPatternsMatchSegmentBySegment(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"releases/billing/*/*", "releases/billing/1/release.json", true},
		{"releases/billing/*/*", "releases/billing/1/a/release.json", false},
		{"releases/billing/*/*", "releases/billing/release.json", false},
		{"releases/*/*", "releases/a/", true},
		{"*", "a/b", false},
		{"[", "[", false},
		{"a?c", "abc", true},
	} {
		if got := matches(c.pattern, c.path); got != c.want {
			t.Errorf("matches(%q, %q) = %v", c.pattern, c.path, got)
		}
	}
}

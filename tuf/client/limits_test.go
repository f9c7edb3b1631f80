package client

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestMoreThan256RootsAreFollowedToTheEnd(t *testing.T) {
	repo, _ := billing(t)
	for range 300 {
		repo.EditRoot(func(*metadata.RootType) {})
		repo.Publish()
	}
	c := newClient(t, repo)
	if got := refresh(t, c); got.Root != 301 {
		t.Fatalf("%+v", got)
	}
	if got, err := newClient(t, repo, inDir(c.cfg.Dir)).Trusted(); err != nil || got.Root != 301 {
		t.Fatalf("%+v %v", got, err)
	}
}

func TestMoreRootsThanTheLimitIsAnErrorOfItsOwnAndTheNextRefreshGoesOn(t *testing.T) {
	repo, _ := billing(t)
	for range 5 {
		repo.EditRoot(func(*metadata.RootType) {})
		repo.Publish()
	}
	c := newClient(t, repo, func(c *Config) { c.Limits.Roots = 3 })
	if e := refuseRefresh[*ErrTooManyRoots](t, c); e.At != 4 || e.Limit != 3 {
		t.Fatal(e)
	}
	if got := refresh(t, c); got.Root != 6 {
		t.Fatalf("%+v", got)
	}
}

func manyRoles(t *testing.T, n int) *tuftest.Repository {
	repo := tuftest.New(t)
	key := tuftest.NewKey(t)
	for i := range n {
		repo.DelegateAs("targets", metadata.DelegatedRole{Name: fmt.Sprintf("role-%d", i), Paths: []string{"*"}, Threshold: 1}, key)
	}
	repo.AddTarget(fmt.Sprintf("role-%d", n-1), "app", []byte("found"))
	repo.Publish()
	return repo
}

func TestMoreThan32DelegationsAreSearched(t *testing.T) {
	repo := manyRoles(t, 40)
	c := newClient(t, repo)
	refresh(t, c)
	if read(t, c, "app") != "found" {
		t.Fatal("wrong bytes")
	}
}

func TestMoreDelegationsThanTheLimitIsNotCalledNotFound(t *testing.T) {
	repo := manyRoles(t, 40)
	c := newClient(t, repo, func(c *Config) { c.Limits.Delegations = 32 })
	refresh(t, c)
	_, err := c.Lookup(context.Background(), "app")
	refused[*ErrTooManyDelegations](t, err)
}

func TestAReadAboveItsLimitIsRefusedBeforeAnyRequest(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo, func(c *Config) { c.Limits.Read = 2 })
	refresh(t, c)
	_, err := c.Read(context.Background(), lookup(t, c, release1))
	if e := refused[*ErrTooLarge](t, err); e.Limit != 2 || e.Got != 3 {
		t.Fatal(e)
	}
}

func TestAnotherMajorFormatIsRefused(t *testing.T) {
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		repo, _ := billing(t)
		repo.EditRoot(func(m *metadata.RootType) {
			if role == "root" {
				m.SpecVersion = "2.0.0"
			}
		})
		repo.EditOnline(func(sn *metadata.SnapshotType, ts *metadata.TimestampType) {
			switch role {
			case "timestamp":
				ts.SpecVersion = "2.0.0"
			case "snapshot":
				sn.SpecVersion = "2.0.0"
			}
		})
		repo.Edit("targets", func(m *metadata.TargetsType) {
			if role == "targets" {
				m.SpecVersion = "2.0.0"
			}
		})
		repo.Publish()
		if e := refuseRefresh[*ErrCorrupt](t, newClient(t, repo)); e.Name != role || !strings.Contains(e.Reason, "2.0.0") {
			t.Fatal(e)
		}
	}
}

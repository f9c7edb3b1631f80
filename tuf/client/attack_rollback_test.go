package client

import (
	"os"
	"testing"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestRollbackByReplayingTheWholeRepositoryIsRefused(t *testing.T) {
	repo, _ := billing(t)
	old := repo.Frozen()
	c := newClient(t, repo)
	repo.Publish()
	refresh(t, c)
	stale := newClient(t, repo, inDir(c.cfg.Dir), mirrors(old))
	if e := refuseRefresh[*ErrRollback](t, stale); e.Role != metadata.TIMESTAMP || e.Have != 3 || e.Got != 2 {
		t.Fatal(e)
	}
}

func TestRollbackIsRefusedAfterTheCacheWasLost(t *testing.T) {
	for _, lost := range []string{"index", "metadata"} {
		t.Run(lost, func(t *testing.T) {
			repo, _ := billing(t)
			old := repo.Frozen()
			repo.Publish()
			c := newClient(t, repo)
			refresh(t, c)
			if err := os.RemoveAll(c.cache.path(lost)); err != nil {
				t.Fatal(err)
			}
			refuseRefresh[*ErrRollback](t, newClient(t, repo, inDir(c.cfg.Dir), mirrors(old)))
		})
	}
}

func TestRollbackOfAVersionInsideNewMetadataIsRefused(t *testing.T) {
	for role, spoil := range map[string]func(*tuftest.Repository){
		metadata.SNAPSHOT: func(r *tuftest.Repository) {
			r.EditOnline(func(sn *metadata.SnapshotType, _ *metadata.TimestampType) { sn.Version = 0 })
		},
		metadata.TARGETS: func(r *tuftest.Repository) { r.Edit(metadata.TARGETS, func(m *metadata.TargetsType) { m.Version = 0 }) },
		"app.billing": func(r *tuftest.Repository) {
			r.EditOnline(func(sn *metadata.SnapshotType, _ *metadata.TimestampType) { delete(sn.Meta, "app.billing.json") })
		},
	} {
		for _, lost := range []bool{false, true} {
			t.Run(role, func(t *testing.T) {
				repo, _ := billing(t)
				c := newClient(t, repo)
				refresh(t, c)
				if lost {
					if err := os.Remove(c.cache.path("index")); err != nil {
						t.Fatal(err)
					}
					c = newClient(t, repo, inDir(c.cfg.Dir))
				}
				spoil(repo)
				repo.Publish()
				if e := refuseRefresh[*ErrRollback](t, c); e.Role != role {
					t.Fatal(e)
				}
			})
		}
	}
}

func TestRollbackOfTheRootIsRefusedWhenItsHistoryWasLost(t *testing.T) {
	repo, _ := billing(t)
	old := repo.Frozen()
	repo.Rotate(metadata.ROOT, 1, tuftest.NewKey(t))
	c := newClient(t, repo)
	refresh(t, c)
	if err := os.RemoveAll(c.cache.path("roots")); err != nil {
		t.Fatal(err)
	}
	e := refuseRefresh[*ErrRollback](t, newClient(t, repo, inDir(c.cfg.Dir), mirrors(old)))
	if e.Role != metadata.ROOT || e.Have != 2 || e.Got != 1 {
		t.Fatal(e)
	}
	if got := refresh(t, newClient(t, repo, inDir(c.cfg.Dir))); got.Root != 2 {
		t.Fatalf("%+v", got)
	}
}

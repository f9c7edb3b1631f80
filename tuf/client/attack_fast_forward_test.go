package client

import (
	"testing"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// fastForwarded is a host that an attacker with an online key led to absurd versions.
func fastForwarded(t *testing.T) (*tuftest.Repository, *Client) {
	repo, _ := billing(t)
	c := newClient(t, repo)
	repo.EditOnline(func(sn *metadata.SnapshotType, ts *metadata.TimestampType) { sn.Version, ts.Version = 99, 99 })
	repo.Edit("app.billing", func(m *metadata.TargetsType) { m.Version = 99 })
	repo.Publish()
	refresh(t, c)
	return repo, c
}

func backToNormal(repo *tuftest.Repository) {
	repo.EditOnline(func(sn *metadata.SnapshotType, ts *metadata.TimestampType) { sn.Version, ts.Version = 4, 4 })
	repo.Edit("app.billing", func(m *metadata.TargetsType) { m.Version = 4 })
	repo.Publish()
}

func TestFastForwardIsUndoneByRotatingEitherOnlineKey(t *testing.T) {
	for _, role := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT} {
		t.Run(role, func(t *testing.T) {
			repo, c := fastForwarded(t)
			repo.Rotate(role, 1, tuftest.NewKey(t))
			backToNormal(repo)
			if got := refresh(t, c); got.Timestamp != 5 || got.Snapshot != 5 || got.Root != 2 {
				t.Fatalf("%+v", got)
			}
			if read(t, c, release1) != "one" {
				t.Fatal("wrong bytes")
			}
		})
	}
}

func TestFastForwardIsUndoneOnAHostThatWasDownWhileTheKeysRotatedTwice(t *testing.T) {
	repo, c := fastForwarded(t)
	original := repo.Signers(metadata.SNAPSHOT)
	repo.Rotate(metadata.SNAPSHOT, 1, tuftest.NewKey(t))
	repo.Publish()
	repo.Rotate(metadata.SNAPSHOT, 1, original...)
	backToNormal(repo)
	if got := refresh(t, newClient(t, repo, inDir(c.cfg.Dir))); got.Snapshot != 5 || got.Root != 3 {
		t.Fatalf("%+v", got)
	}
}

func TestFastForwardIsNotUndoneByAddingAKeyOrByAnyOtherRotation(t *testing.T) {
	for name, change := range map[string]func(*tuftest.Repository){
		"a key added": func(r *tuftest.Repository) {
			r.Rotate(metadata.SNAPSHOT, 1, append(r.Signers(metadata.SNAPSHOT), tuftest.NewKey(t))...)
		},
		"targets rotated": func(r *tuftest.Repository) { r.Rotate(metadata.TARGETS, 1, tuftest.NewKey(t)) },
		"root rotated":    func(r *tuftest.Repository) { r.Rotate(metadata.ROOT, 1, tuftest.NewKey(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			repo, c := fastForwarded(t)
			change(repo)
			backToNormal(repo)
			refuseRefresh[*ErrRollback](t, c)
		})
	}
}

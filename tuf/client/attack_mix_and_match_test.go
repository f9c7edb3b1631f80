package client

import (
	"context"
	"testing"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestMixAndMatchOfOldAndNewFilesIsRefused(t *testing.T) {
	repo, _ := billing(t)
	old := repo.Files()
	repo.AddTarget("app.billing", "releases/billing/2/release.json", []byte("two"))
	repo.Edit(metadata.TARGETS, func(*metadata.TargetsType) {})
	repo.Publish()
	for file, stale := range map[string]string{"3.snapshot.json": "metadata/2.snapshot.json", "3.targets.json": "metadata/2.targets.json"} {
		t.Run(file, func(t *testing.T) {
			c := newClient(t, repo, mirrors(repo.Serve(tuftest.Replace(file, old[stale]))))
			refuseRefresh[*ErrCorrupt](t, c)
		})
	}
	c := newClient(t, repo, mirrors(repo.Serve(tuftest.Replace("2.app.billing.json", old["metadata/1.app.billing.json"]))))
	refresh(t, c)
	_, err := c.Lookup(context.Background(), release1)
	refused[*ErrCorrupt](t, err)
}

func TestMixAndMatchIsRefusedByVersionWhereNoHashesAreSigned(t *testing.T) {
	repo, _ := billing(t)
	old := repo.Get("metadata/2.snapshot.json")
	repo.Publish()
	repo.EditOnline(func(_ *metadata.SnapshotType, ts *metadata.TimestampType) {
		ts.Meta["snapshot.json"].Hashes, ts.Meta["snapshot.json"].Length = nil, 0
	})
	repo.SignTimestampAsIs()
	refuseRefresh[*ErrCorrupt](t, newClient(t, repo, mirrors(repo.Serve(tuftest.Replace("3.snapshot.json", old)))))
}

func TestMixAndMatchAcrossABrokenRefreshLeavesTheOldSetInForce(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo)
	refresh(t, c)
	repo.AddTarget("app.billing", release1, []byte("two"))
	repo.Edit(metadata.TARGETS, func(*metadata.TargetsType) {})
	repo.Publish()
	good := repo.Get("metadata/3.targets.json")
	repo.Put("metadata/3.targets.json", nil)
	refuseRefresh[*ErrNetwork](t, c)
	for _, c := range []*Client{c, newClient(t, repo, inDir(c.cfg.Dir))} {
		if got, err := c.Trusted(); err != nil || got.Timestamp != 2 || got.Snapshot != 2 || got.Targets != 2 {
			t.Fatalf("%+v %v", got, err)
		}
		if read(t, c, release1) != "one" {
			t.Fatal("old and new were mixed")
		}
	}
	repo.Put("metadata/3.targets.json", good)
	if got := refresh(t, c); !got.Changed || got.Targets != 3 || read(t, c, release1) != "two" {
		t.Fatalf("%+v", got)
	}
}

package client

import (
	"bytes"
	"context"
	"testing"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestArbitraryInstallationByReplacedTargetBytesIsRefused(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo, mirrors(repo.Serve(tuftest.Replace("release.json", []byte("evl")))))
	refresh(t, c)
	_, err := c.Read(context.Background(), lookup(t, c, release1))
	refused[*ErrCorrupt](t, err)
	var out bytes.Buffer
	refused[*ErrCorrupt](t, c.Fetch(context.Background(), lookup(t, c, release1).File(), &out, nil))
}

func TestArbitraryInstallationByForeignKeysIsRefusedForEveryRole(t *testing.T) {
	for _, role := range []string{metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS} {
		t.Run(role, func(t *testing.T) {
			repo, _ := billing(t)
			repo.SignWith(role, tuftest.NewKey(t))
			repo.Publish()
			e := refuseRefresh[*ErrThreshold](t, newClient(t, repo))
			if e.Role != role || e.Have != 0 || e.Need != 1 {
				t.Fatalf("%+v", e)
			}
		})
	}
	t.Run("delegated", func(t *testing.T) {
		repo, _ := billing(t)
		repo.SignWith("app.billing", tuftest.NewKey(t))
		repo.Publish()
		c := newClient(t, repo)
		refresh(t, c)
		_, err := c.Lookup(context.Background(), release1)
		if e := refused[*ErrThreshold](t, err); e.Role != "app.billing" {
			t.Fatal(e)
		}
	})
}

func TestArbitraryInstallationByARootThatTheOldRootDidNotSignIsRefused(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo)
	refresh(t, c)
	repo.SignWith(metadata.ROOT, tuftest.NewKey(t))
	repo.EditRoot(func(*metadata.RootType) {})
	repo.Publish()
	if e := refuseRefresh[*ErrThreshold](t, c); e.Role != metadata.ROOT {
		t.Fatal(e)
	}
	if got, err := c.Trusted(); err != nil || got.Root != 1 || got.Timestamp != 2 {
		t.Fatalf("%+v %v", got, err)
	}
}

package client

import (
	"context"
	"testing"
)

func TestExtraneousDependenciesCannotBeSignedByARoleForAnotherPath(t *testing.T) {
	repo, _ := billing(t)
	repo.AddTarget("app.billing", "releases/web/1.0.0/release.json", []byte("not yours"))
	repo.AddTarget("app.billing", "releases/billing/1.0.0/deep/release.json", []byte("star crossed a slash"))
	repo.AddTarget("app.billing", "trust/keys", []byte("nor this"))
	repo.Publish()
	c := newClient(t, repo)
	refresh(t, c)
	for _, path := range []string{"releases/web/1.0.0/release.json", "releases/billing/1.0.0/deep/release.json", "trust/keys"} {
		_, err := c.Lookup(context.Background(), path)
		refused[*ErrNotFound](t, err)
	}
}

func TestExtraneousDependenciesCannotBeAddedToADelegationByItsDelegate(t *testing.T) {
	repo, key := billing(t)
	repo.Delegate("sub", "app.billing", []string{"releases/web/*/*"}, 1, key)
	repo.AddTarget("sub", "releases/web/1.0.0/release.json", []byte("not yours"))
	repo.Publish()
	c := newClient(t, repo)
	refresh(t, c)
	_, err := c.Lookup(context.Background(), "releases/web/1.0.0/release.json")
	refused[*ErrNotFound](t, err)
}

func TestExtraneousDependenciesOnTheServerAreNeverAskedFor(t *testing.T) {
	repo, _ := billing(t)
	repo.AddFile("releases/billing/1.0.0/extra.json", []byte("extra"))
	c := newClient(t, repo)
	refresh(t, c)
	_, err := c.Lookup(context.Background(), "releases/billing/1.0.0/extra.json")
	refused[*ErrNotFound](t, err)
}

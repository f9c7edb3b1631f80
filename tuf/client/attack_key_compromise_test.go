package client

import (
	"context"
	"testing"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestKeyCompromiseBelowTheThresholdSignsNothing(t *testing.T) {
	repo := tuftest.New(t)
	a, b, d := tuftest.NewKey(t), tuftest.NewKey(t), tuftest.NewKey(t)
	repo.Delegate("deploy.production.billing", "targets", []string{"deployments/production/billing.json"}, 2, a, b, d)
	repo.AddTarget("deploy.production.billing", "deployments/production/billing.json", []byte("{}"))
	for name, signers := range map[string][]tuftest.Key{"one of three": {a}, "one twice": {a, a}, "one and a stranger": {a, tuftest.NewKey(t)}} {
		t.Run(name, func(t *testing.T) {
			repo.SignWith("deploy.production.billing", signers...)
			repo.Publish()
			c := newClient(t, repo)
			refresh(t, c)
			_, err := c.Lookup(context.Background(), "deployments/production/billing.json")
			if e := refused[*ErrThreshold](t, err); e.Have != 1 || e.Need != 2 {
				t.Fatal(e)
			}
		})
	}
	repo.SignWith("deploy.production.billing", a, d)
	repo.Publish()
	c := newClient(t, repo)
	refresh(t, c)
	if got := lookup(t, c, "deployments/production/billing.json"); len(got.KeyIDs) != 2 {
		t.Fatalf("%+v", got)
	}
}

func TestKeyCompromiseOfOneKeyListedTwiceCountsOnce(t *testing.T) {
	repo := tuftest.New(t)
	key := tuftest.NewKey(t)
	alias := key
	alias.ID = "another-id-of-the-same-key"
	repo.Delegate("app.billing", "targets", []string{"releases/billing/*/*"}, 2, key, alias)
	repo.AddTarget("app.billing", release1, []byte("one"))
	repo.Publish()
	c := newClient(t, repo)
	refresh(t, c)
	_, err := c.Lookup(context.Background(), release1)
	if e := refused[*ErrThreshold](t, err); e.Have != 1 || e.Need != 2 {
		t.Fatal(e)
	}
}

func TestKeyCompromiseEndsWithTheRevocation(t *testing.T) {
	repo, stolen := billing(t)
	c := newClient(t, repo)
	refresh(t, c)
	lookup(t, c, release1)
	repo.Delegate("app.billing", "targets", []string{"releases/billing/*/*"}, 1, tuftest.NewKey(t))
	repo.SignWith("app.billing", stolen)
	repo.Publish()
	refresh(t, c)
	_, err := c.Lookup(context.Background(), release1)
	refused[*ErrThreshold](t, err)
}

func TestKeyCompromiseEndsEvenIfTheRolesFileWasNotSignedAnew(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo)
	refresh(t, c)
	lookup(t, c, release1)
	fresh := tuftest.NewKey(t)
	repo.Edit(metadata.TARGETS, func(m *metadata.TargetsType) {
		m.Delegations.Keys = map[string]*metadata.Key{fresh.ID: fresh.Public}
		m.Delegations.Roles[0].KeyIDs = []string{fresh.ID}
	})
	repo.Publish()
	refresh(t, c)
	_, err := c.Lookup(context.Background(), release1)
	if e := refused[*ErrThreshold](t, err); e.Role != "app.billing" {
		t.Fatal(e)
	}
}

func TestUnknownAndMalformedKeysBesideEnoughGoodOnesAreSkipped(t *testing.T) {
	strange := map[string]*metadata.Key{
		"pq":        {Type: "ml-dsa", Scheme: "ml-dsa-65", Value: metadata.KeyVal{PublicKey: "00"}},
		"short":     {Type: "ed25519", Scheme: "ed25519", Value: metadata.KeyVal{PublicKey: "0011"}},
		"not-hex":   {Type: "ed25519", Scheme: "ed25519", Value: metadata.KeyVal{PublicKey: "zz"}},
		"not-pem":   {Type: "ecdsa", Scheme: "ecdsa-sha2-nistp256", Value: metadata.KeyVal{PublicKey: "zz"}},
		"no-scheme": {Type: "rsa", Scheme: "rsa-pkcs1v15"},
	}
	repo, _ := billing(t)
	repo.EditRoot(func(m *metadata.RootType) {
		for id, key := range strange {
			m.Keys[id] = key
			for _, role := range m.Roles {
				role.KeyIDs = append(role.KeyIDs, id)
			}
		}
	})
	repo.Edit(metadata.TARGETS, func(m *metadata.TargetsType) {
		for id, key := range strange {
			m.Delegations.Keys[id] = key
			m.Delegations.Roles[0].KeyIDs = append(m.Delegations.Roles[0].KeyIDs, id, "no such key")
		}
	})
	repo.Publish()
	c := newClient(t, repo)
	if got := refresh(t, c); got.Root != 2 {
		t.Fatalf("%+v", got)
	}
	if got := lookup(t, c, release1); len(got.KeyIDs) != 1 {
		t.Fatalf("%+v", got)
	}
	repo.EditRoot(func(*metadata.RootType) {})
	repo.Publish()
	if got := refresh(t, c); got.Root != 3 {
		t.Fatal("a root that lists unknown keys could not be followed")
	}
}

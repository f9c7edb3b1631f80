package client

import (
	"context"
	"testing"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
)

func TestMaliciousMirrorsCannotPreventAnUpdateWhileOneIsGood(t *testing.T) {
	for name, how := range map[string]tuftest.Misbehaviour{
		"refuses":      tuftest.Hide("", 503),
		"lies":         tuftest.Replace(".json", []byte(`{"signed":{},"signatures":[]}`)),
		"hangs":        tuftest.Hang(""),
		"no snapshot":  tuftest.Hide("snapshot.json", 404),
		"bad targets":  tuftest.Replace("targets.json", []byte("{}")),
		"bad delegate": tuftest.Replace("app.billing.json", []byte("{}")),
		"bad bytes":    tuftest.Replace("release.json", []byte("evl")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repo, _ := billing(t)
			c := newClient(t, repo, mirrors(repo.Serve(how), repo.Server()), impatient)
			refresh(t, c)
			if read(t, c, release1) != "one" {
				t.Fatal("wrong bytes")
			}
		})
	}
}

func TestMaliciousMirrorsThatFreezeAreFoundOutAtTheNextPolls(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo, mirrors(repo.Frozen(), repo.Server()))
	refresh(t, c)
	repo.PublishTimestamp()
	refresh(t, c)
	if got := refresh(t, c); got.Timestamp != 3 {
		t.Fatalf("the frozen mirror was believed for two polls: %+v", got)
	}
	for range 3 {
		if got := refresh(t, c); got.Timestamp != 3 {
			t.Fatalf("%+v", got)
		}
	}
}

func TestMaliciousMirrorsAreAllNamedWhenNoneIsGood(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo, mirrors(repo.Serve(tuftest.Hide("", 503)), repo.Serve(tuftest.Replace("timestamp", []byte("{}")))))
	_, err := c.Refresh(context.Background())
	all := refused[*ErrMirrors](t, err)
	refused[*ErrNetwork](t, err)
	refused[*ErrCorrupt](t, err)
	if all.Kind() != "corrupt" {
		t.Fatal("tampering must outrank a fault", all.Kind())
	}
}

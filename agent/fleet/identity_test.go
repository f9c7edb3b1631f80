package fleet

import (
	"net/url"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/agent/release"
)

func env(t *testing.T, s string) release.Environment {
	t.Helper()
	e, err := release.ParseEnvironment(s)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestAnIdentityHasOneSpelling(t *testing.T) {
	for _, want := range []Identity{
		{Fleet: "acme", Environment: env(t, "production"), Host: "web-01.zrh"},
		{Fleet: "acme", Environment: env(t, "staging"), Host: "10:20:30"},
		{Fleet: "acme", Operator: "alice@example.com"},
	} {
		u, err := url.Parse(want.String())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseIdentity(u); err != nil || got != want {
			t.Errorf("%s: got %+v, %v", want, got, err)
		}
	}
}

func TestWhatResemblesAnIdentityIsNone(t *testing.T) {
	for _, s := range []string{
		"https://acme/production/web-01", "slipway://acme/production", "slipway://acme/production/", "slipway://acme//web-01",
		"slipway://acme/production/web-01/", "slipway://acme/production/web-01?x=1", "slipway://acme/production/web-01#x",
		"slipway://root@acme/production/web-01", "slipway://acme:1/production/web-01", "slipway:///production/web-01",
		"slipway://acme/production/%77eb-01", "slipway://acme/production/..", "slipway://acme/production/a%2fb",
		"slipway://acme/operator/", "slipway://acme/Production/web-01", "slipway://ACME/production/web-01", "SLIPWAY://acme/production/web 01",
		"slipway:acme/production/web-01", "slipway://acme/production/" + strings.Repeat("x", 129),
	} {
		u, err := url.Parse(s)
		if err != nil {
			continue // no certificate can carry it either
		}
		if id, err := ParseIdentity(u); err == nil {
			t.Errorf("%q was taken as %+v", s, id)
		}
	}
}

func TestATokenTravelsWholeOrNotAtAll(t *testing.T) {
	want := NewToken(release.Sum([]byte("ca")), release.Sum([]byte("root")))
	got, err := ParseToken(" " + want.String() + "\n")
	if err != nil || got != want {
		t.Fatalf("got %+v, %v", got, err)
	}
	for _, s := range []string{"", "slipway1.", want.String()[:60], want.String() + "AA", "slipway2." + want.String()[9:]} {
		if _, err := ParseToken(s); err == nil {
			t.Errorf("%q was taken", s)
		} else if len(s) > 20 && strings.Contains(err.Error(), s[20:]) {
			t.Errorf("the error shows the token: %v", err)
		}
	}
	if NewToken(want.CA, want.Root).Hash() == want.Hash() {
		t.Error("two tokens have one secret")
	}
}

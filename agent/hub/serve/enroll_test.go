package serve_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub/ca"
	"github.com/slipway-deploy/slipway/agent/hub/roster"
	"github.com/slipway-deploy/slipway/agent/hub/serve"
	"github.com/slipway-deploy/slipway/agent/release"
)

type (
	ctx      = context.Context
	ecdsaKey = *ecdsa.PrivateKey
)

func uris(id fleet.Identity) []*url.URL { return []*url.URL{id.URI()} }

func (w *world) token(ask roster.Ask) string {
	w.t.Helper()
	var m roster.Minted
	if e := w.admin("POST", serve.PathTokens, ask, &m); e != nil {
		w.t.Fatal(e)
	}
	return m.Token
}

func (w *world) production(name string) roster.Ask {
	return roster.Ask{Environment: environment(w.t, "production"), Host: name}
}

func (w *world) newKey() *ecdsa.PrivateKey {
	w.t.Helper()
	key, err := ca.NewKey()
	w.must(err)
	return key
}

// enroll makes a peer the way a host does it.
func (w *world) enroll(token, install string) (*peer, fleet.EnrollAnswer, *fleet.Error) {
	w.t.Helper()
	key := w.newKey()
	var a fleet.EnrollAnswer
	if e := w.stranger().ask("POST", fleet.PathEnroll, fleet.Enroll{Token: token, CSR: request(w.t, key), Install: install}, &a); e != nil {
		return nil, a, e
	}
	return w.with(key, a.Certificate), a, nil
}

func (w *world) with(key *ecdsa.PrivateKey, text string) *peer {
	w.t.Helper()
	chain, err := ca.ParseCertificates([]byte(text))
	w.must(err)
	var raw [][]byte
	for _, c := range chain {
		raw = append(raw, c.Raw)
	}
	return w.peer(key, raw...)
}

func TestAHostEnrolsWithATokenAndIsWhatTheTokenSays(t *testing.T) {
	w := newWorld(t)
	ask := w.production("web-01")
	ask.Labels = map[string]string{"site": "zrh"}
	text := w.token(ask)
	h, a, e := w.enroll(text, "install-1")
	if e != nil {
		t.Fatal(e)
	}
	if a.Host != "web-01" || a.Environment.String() != "production" || a.Fleet != "acme" || a.Labels["site"] != "zrh" || string(a.Root) != string(rootJSON) {
		t.Errorf("the answer is %+v", a)
	}
	parsed, err := fleet.ParseToken(text)
	w.must(err)
	roots, err := ca.ParseCertificates([]byte(a.CA))
	w.must(err)
	if release.Sum(roots[0].Raw) != parsed.CA || release.Sum(a.Root) != parsed.Root {
		t.Error("what the hub answered is not what the token promised")
	}
	var labels map[string]string
	w.engine.turn = func(_ hubCaller, q fleet.Turn) (fleet.TurnAnswer, error) {
		labels = q.Labels
		return fleet.TurnAnswer{Answer: fleet.Wait}, nil
	}
	turn := w.turn()
	turn.Labels = map[string]string{"site": "elsewhere"}
	if e := h.ask("POST", fleet.PathTurn, turn, nil); e != nil {
		t.Fatal(e)
	}
	if w.engine.asked[0] != "turn production/web-01" || labels["site"] != "zrh" {
		t.Errorf("the engine heard %v with labels %v", w.engine.asked, labels)
	}
}

func TestTheHubsCertificateLeadsToTheDigestInTheToken(t *testing.T) {
	w := newWorld(t)
	parsed, err := fleet.ParseToken(w.token(w.production("web-01")))
	w.must(err)
	resp, err := w.stranger().http.Get(w.url + serve.PathHealth)
	w.must(err)
	resp.Body.Close()
	found := false
	for _, c := range resp.TLS.PeerCertificates {
		found = found || release.Sum(c.Raw) == parsed.CA
	}
	if !found {
		t.Error("the hub presents no certificate with the digest that the token names")
	}
}

func TestATokenWorksOnceAndAHostThatMissedTheAnswerAsksAgain(t *testing.T) {
	w := newWorld(t)
	text := w.token(w.production("web-01"))
	key := w.newKey()
	first := fleet.Enroll{Token: text, CSR: request(t, key), Install: "install-1"}
	for range 2 {
		var a fleet.EnrollAnswer
		if e := w.stranger().ask("POST", fleet.PathEnroll, first, &a); e != nil {
			t.Fatalf("the same machine with the same key: %v", e)
		}
		if e := w.with(key, a.Certificate).ask("POST", fleet.PathTurn, w.turn(), nil); e != nil {
			t.Fatal(e)
		}
	}
	if _, _, e := w.enroll(text, "install-1"); kind(e) != fleet.KindToken {
		t.Errorf("another key: %v", e)
	}
	other := first
	other.Install = "install-2"
	if e := w.stranger().ask("POST", fleet.PathEnroll, other, nil); kind(e) != fleet.KindToken {
		t.Errorf("another machine: %v", e)
	}
}

func TestATokenThatIsUnknownTakenBackOrExpiredIsRefusedAlike(t *testing.T) {
	now := time.Now()
	w := newWorldAt(t, func() time.Time { return now })
	unknown := fleet.NewToken(release.Sum([]byte("a")), release.Sum([]byte("b"))).String()
	ask := w.production("web-01")
	ask.TTL = 60
	expired := w.token(ask)
	dropped := w.token(w.production("web-02"))
	var list []roster.TokenStatus
	if e := w.admin("GET", serve.PathTokens, nil, &list); e != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, e)
	}
	for _, one := range list {
		if strings.Contains(dropped, one.ID) {
			t.Error("the list shows a secret")
		}
		if one.Host == "web-02" {
			if e := w.admin("DELETE", serve.PathTokens, serve.Drop{ID: one.ID}, nil); e != nil {
				t.Fatal(e)
			}
		}
	}
	now = now.Add(time.Minute)
	var words []string
	for _, text := range []string{unknown, expired, dropped} {
		_, _, e := w.enroll(text, "install-1")
		if kind(e) != fleet.KindToken {
			t.Fatalf("%v", e)
		}
		words = append(words, e.Message)
	}
	if words[0] != words[1] || words[1] != words[2] {
		t.Errorf("the answers differ: %q", words)
	}
}

func TestARequestThatDoesNotProveItsKeyIsRefused(t *testing.T) {
	w := newWorld(t)
	text := w.token(w.production("web-01"))
	mine, theirs := request(t, w.newKey()), request(t, w.newKey())
	a, _ := pem.Decode([]byte(mine))
	b, _ := pem.Decode([]byte(theirs))
	ra, err := x509.ParseCertificateRequest(a.Bytes)
	w.must(err)
	rb, err := x509.ParseCertificateRequest(b.Bytes)
	w.must(err)
	forged := strings.Replace(string(a.Bytes), string(ra.RawSubjectPublicKeyInfo), string(rb.RawSubjectPublicKeyInfo), 1)
	csr := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte(forged)}))
	for _, bad := range []string{csr, "", mine + theirs, "no PEM"} {
		if e := w.stranger().ask("POST", fleet.PathEnroll, fleet.Enroll{Token: text, CSR: bad, Install: "i"}, nil); kind(e) != fleet.KindBadRequest {
			t.Errorf("%.30q: %v", bad, e)
		}
	}
	if _, _, e := w.enroll(text, "install-1"); e != nil {
		t.Errorf("bad requests used the token up: %v", e)
	}
}

func TestAReplacedMachineLosesItsIdentityWhenTheNewOneEnrols(t *testing.T) {
	w := newWorld(t)
	old, _, e := w.enroll(w.token(w.production("web-01")), "install-1")
	if e != nil {
		t.Fatal(e)
	}
	if e := w.admin("POST", serve.PathTokens, w.production("web-01"), nil); kind(e) != fleet.KindEnrolled {
		t.Fatalf("a second token without saying that it replaces: %v", e)
	}
	ask := w.production("web-01")
	ask.Replace = true
	text := w.token(ask)
	w.busy = 3
	if e := old.ask("POST", fleet.PathTurn, w.turn(), nil); e != nil {
		t.Errorf("the old machine before the new one came: %v", e)
	}
	fresh, _, e := w.enroll(text, "install-2")
	if e != nil {
		t.Fatal(e)
	}
	w.until(func() bool { return kind(old.ask("POST", fleet.PathTurn, w.turn(), nil)) == fleet.KindRevoked })
	if e := old.ask("POST", fleet.PathRenew, fleet.Renew{CSR: request(t, old.key), Install: "install-1"}, nil); kind(e) != fleet.KindRevoked {
		t.Errorf("the old machine renewed: %v", e)
	}
	if e := fresh.ask("POST", fleet.PathTurn, w.turn(), nil); e != nil {
		t.Errorf("the new machine: %v", e)
	}
	w.until(func() bool { return w.letGo() == "production/web-01" })
	var list []roster.Member
	w.until(func() bool { return w.admin("GET", serve.PathMembers, nil, &list) == nil && list[0].Replaces == "" })
}

func TestARenewedCertificateWorksAndACopyOfTheMachineGetsNone(t *testing.T) {
	w := newWorld(t)
	h, _, e := w.enroll(w.token(w.production("web-01")), "install-1")
	if e != nil {
		t.Fatal(e)
	}
	key := w.newKey()
	var a fleet.Issued
	if e := h.ask("POST", fleet.PathRenew, fleet.Renew{CSR: request(t, key), Install: "install-1"}, &a); e != nil {
		t.Fatal(e)
	}
	if e := w.with(key, a.Certificate).ask("POST", fleet.PathTurn, w.turn(), nil); e != nil {
		t.Errorf("the renewed certificate: %v", e)
	}
	if left := time.Until(a.Renew); left < 50*24*time.Hour || left > 70*24*time.Hour {
		t.Errorf("the next renewal is in %s", left)
	}
	if e := h.ask("POST", fleet.PathRenew, fleet.Renew{CSR: request(t, key), Install: "install-2"}, nil); kind(e) != fleet.KindEnrolled {
		t.Errorf("a copy of the machine: %v", e)
	}
}

func TestWhoIsRevokedIsOutAtOnceAndBackOnlyByANewEnrolment(t *testing.T) {
	w := newWorld(t)
	h, _, e := w.enroll(w.token(w.production("web-01")), "install-1")
	if e != nil {
		t.Fatal(e)
	}
	byHand, mia := w.host("web-02"), w.operator("mia")
	for _, v := range []roster.Revocation{
		{Environment: environment(t, "production"), Host: "web-01", Reason: "stolen"},
		{Environment: environment(t, "production"), Host: "web-02", Reason: "stolen"},
		{Operator: "mia", Reason: "left"},
	} {
		if e := w.admin("POST", serve.PathRevoke, v, nil); e != nil {
			t.Fatal(e)
		}
	}
	w.until(func() bool { return kind(mia.ask("GET", fleet.PathStatus, nil, nil)) == fleet.KindRevoked })
	for _, p := range []*peer{h, byHand} {
		if e := p.ask("POST", fleet.PathTurn, w.turn(), nil); kind(e) != fleet.KindRevoked {
			t.Errorf("a revoked host: %v", e)
		}
	}
	ask := w.production("web-01")
	ask.Replace = true
	back, _, e := w.enroll(w.token(ask), "install-1")
	if e != nil {
		t.Fatal(e)
	}
	w.until(func() bool { return back.ask("POST", fleet.PathTurn, w.turn(), nil) == nil })
	if e := h.ask("POST", fleet.PathTurn, w.turn(), nil); kind(e) != fleet.KindRevoked {
		t.Errorf("the stolen certificate after the host came back: %v", e)
	}
	if e := w.admin("POST", serve.PathRevoke, roster.Revocation{Operator: "mia", Earlier: true, Reason: "got a new laptop"}, nil); e != nil {
		t.Fatal(e)
	}
	var list []roster.Member
	if e := w.admin("GET", serve.PathMembers, nil, &list); e != nil || len(list) != 3 {
		t.Errorf("members: %+v, %v", list, e)
	}
}

func TestAUsedTokenBringsNobodyBackWhoWasRevokedOrReplacedSince(t *testing.T) {
	w := newWorld(t)
	if _, _, e := w.enroll(w.token(w.production("web-01")), "install-0"); e != nil {
		t.Fatal(e)
	}
	ask := w.production("web-01")
	ask.Replace = true
	text, key := w.token(ask), w.newKey()
	again := fleet.Enroll{Token: text, CSR: request(t, key), Install: "install-1"}
	if e := w.stranger().ask("POST", fleet.PathEnroll, again, nil); e != nil {
		t.Fatal(e)
	}
	if e := w.admin("POST", serve.PathRevoke, roster.Revocation{Environment: ask.Environment, Host: ask.Host, Reason: "stolen"}, nil); e != nil {
		t.Fatal(e)
	}
	if e := w.stranger().ask("POST", fleet.PathEnroll, again, nil); kind(e) != fleet.KindToken {
		t.Errorf("a stolen host with the token it once used: %v", e)
	}
	if _, _, e := w.enroll(w.token(ask), "install-2"); e != nil {
		t.Fatal(e)
	}
	if e := w.stranger().ask("POST", fleet.PathEnroll, again, nil); kind(e) != fleet.KindToken {
		t.Errorf("a replaced host with the token it once used: %v", e)
	}
}

func TestAHubWithoutAnIssuerEnrolsNobodyAndSaysWhatToDo(t *testing.T) {
	w := newWorld(t)
	w.roster = roster.New(roster.Config{Fleet: "acme", Store: w.store})
	if _, err := w.roster.CreateToken(t.Context(), "root", w.production("web-01")); err == nil || !strings.Contains(err.Error(), "no issuer") {
		t.Errorf("%v", err)
	}
}

package serve_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"crypto/rand"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/hub/ca"
	"github.com/slipway-deploy/slipway/agent/hub/serve"
	"github.com/slipway-deploy/slipway/agent/release"
)

func (w *world) turn() fleet.Turn {
	return fleet.Turn{App: application(w.t, "billing"), Rollout: "r1", Sequence: 3, Document: release.Sum(nil), Install: "i-1", Want: fleet.Forward}
}

func TestAHostGoesThroughAnUpdateUnderTheNameInItsCertificate(t *testing.T) {
	w := newWorld(t)
	h := w.host("web-01")
	var turn fleet.TurnAnswer
	if e := h.ask("POST", fleet.PathTurn, w.turn(), &turn); e != nil || turn.Answer != fleet.Granted || turn.Fence != 7 {
		t.Fatalf("turn: %+v, %v", turn, e)
	}
	var check fleet.CheckAnswer
	if e := h.ask("POST", fleet.PathCheck, fleet.Check{App: w.turn().App, Rollout: "r1", Install: "i-1", Fence: 7}, &check); e != nil || !check.OK {
		t.Fatalf("check: %+v, %v", check, e)
	}
	var fin fleet.FinishAnswer
	report := fleet.Finish{App: w.turn().App, Rollout: "r1", Install: "i-1", Fence: 7, Result: fleet.Committed, Serving: true}
	if e := h.ask("POST", fleet.PathFinish, report, &fin); e != nil || !fin.Accepted {
		t.Fatalf("finish: %+v, %v", fin, e)
	}
	want := "turn production/web-01; check web-01; finish web-01 committed"
	if got := strings.Join(w.engine.asked, "; "); got != want {
		t.Errorf("the engine was asked %q, want %q", got, want)
	}
}

// callers lists one of each kind, by the name the table below uses.
func (w *world) callers() map[string]*peer {
	return map[string]*peer{"stranger": w.stranger(), "host": w.host("web-01"), "nobody": w.operator("nora"),
		"viewer": w.operator("vera"), "operator": w.operator("otto"), "maintainer": w.operator("mia")}
}

func TestEveryRouteIsForWhomTheTableSaysAndNobodyElse(t *testing.T) {
	w := newWorld(t)
	act := fleet.Act{Reason: "a test"}
	hosts := map[string]bool{"host": true}
	viewers := map[string]bool{"viewer": true, "operator": true, "maintainer": true}
	operators := map[string]bool{"operator": true, "maintainer": true}
	maintainers := map[string]bool{"maintainer": true}
	for _, r := range []struct {
		method, path string
		body         any
		may          map[string]bool
	}{
		{"POST", fleet.PathTurn, w.turn(), hosts},
		{"POST", fleet.PathCheck, fleet.Check{App: w.turn().App, Rollout: "r", Install: "i"}, hosts},
		{"POST", fleet.PathFinish, fleet.Finish{App: w.turn().App, Rollout: "r", Install: "i", Result: fleet.Skipped}, hosts},
		{"GET", fleet.PathStatus, nil, viewers},
		{"GET", fleet.PathHosts + "?environment=production&app=billing", nil, viewers},
		{"GET", fleet.PathSlots, nil, viewers},
		{"GET", fleet.PathAudit + "?since=3", nil, viewers},
		{"GET", serve.PathMetrics, nil, viewers},
		{"POST", fleet.PathActs + "halt", act, operators},
		{"POST", fleet.PathActs + "pause", act, operators},
		{"POST", fleet.PathActs + "revert", act, operators},
		{"POST", fleet.PathActs + "resume", act, maintainers},
		{"POST", fleet.PathActs + "promote", act, maintainers},
		{"POST", fleet.PathActs + "forget", act, maintainers},
		{"POST", fleet.PathActs + "reconcile", act, maintainers},
		{"GET", serve.PathTokens, nil, nil},
		{"POST", serve.PathTokens, `{}`, nil},
		{"DELETE", serve.PathTokens, `{}`, nil},
		{"GET", serve.PathMembers, nil, nil},
		{"POST", serve.PathRevoke, `{}`, nil},
		{"GET", serve.PathSnapshot, nil, nil},
	} {
		for name, p := range w.callers() {
			want := fleet.KindForbidden
			if r.may[name] {
				want = "done"
			}
			var text string
			if got := kind(p.ask(r.method, r.path, r.body, &text)); got != want {
				t.Errorf("%s %s by %s: %s, want %s", r.method, r.path, name, got, want)
			}
		}
	}
	if e := w.host("web-02").ask("POST", fleet.PathActs+"delete-everything", act, nil); kind(e) != fleet.KindNotFound {
		t.Errorf("a route that is not in the table: %v", e)
	}
}

func TestTheBodyCannotSayWhoIsAsking(t *testing.T) {
	w := newWorld(t)
	document := release.Sum(nil).String()
	body := `{"app":"billing","document":"` + document + `","rollout":"r1","install":"i","host":"web-99","environment":"staging"}`
	if e := w.host("web-01").ask("POST", fleet.PathTurn, body, nil); e != nil {
		t.Fatal(e)
	}
	if got := w.engine.asked[0]; got != "turn production/web-01" {
		t.Errorf("the engine heard %q", got)
	}
}

func TestACertificateOfAnotherAuthorityFleetOrTimeIsNoIdentity(t *testing.T) {
	w := newWorld(t)
	other := newWorld(t)
	key, err := ca.NewKey()
	w.must(err)
	c, err := other.authority.Issue(fleet.Identity{Fleet: "acme", Operator: "mia"}, key.Public(), time.Now(), time.Time{}, time.Hour)
	w.must(err)
	if e := w.peer(key, c.Raw, other.authority.Chain[0].Raw).ask("GET", fleet.PathStatus, nil, nil); kind(e) != "no-answer" {
		t.Errorf("another authority's certificate got an answer: %v", e)
	}
	c, err = w.authority.Issue(fleet.Identity{Fleet: "acme", Operator: "mia"}, key.Public(), time.Now().Add(-2*time.Hour), time.Time{}, time.Hour)
	w.must(err)
	if e := w.peer(key, c.Raw, w.authority.Chain[0].Raw).ask("GET", fleet.PathStatus, nil, nil); kind(e) != "no-answer" {
		t.Errorf("an expired certificate got an answer: %v", e)
	}
	if _, err := w.authority.Issue(fleet.Identity{Fleet: "other", Operator: "mia"}, key.Public(), time.Now(), time.Time{}, time.Hour); err == nil {
		t.Error("the authority certified for another fleet")
	}
}

// plainCA is an authority of a site, not of Slipway.
func plainCA(t *testing.T) (*x509.Certificate, func(cn string, dns ...string) (*x509.Certificate, []byte)) {
	t.Helper()
	rootKey, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Site CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, rootKey.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return root, func(cn string, dns ...string) (*x509.Certificate, []byte) {
		key, err := ca.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		id := fleet.Identity{Fleet: "acme", Operator: "mia"}
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: cn}, DNSNames: dns,
			URIs: uris(id), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, root, key.Public(), rootKey)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		keyDER, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return c, keyDER
	}
}

func TestAnExistingPKIIsBelievedAsFarAsTheRulesGo(t *testing.T) {
	root, issue := plainCA(t)
	w := newWorld(t, func(c *serve.Config) {
		c.Trust.Foreign = []*x509.Certificate{root}
		c.Trust.Rules = []serve.Rule{
			{Field: serve.FieldDNS, Pattern: "*.prod.example.com", Environment: environment(t, "production")},
			{Field: serve.FieldDNS, Pattern: "*.stage.example.com", Environment: environment(t, "staging"), WholeName: true},
			{Field: serve.FieldCN, Pattern: "Otto Operator", Operator: "otto"},
		}
	})
	for _, one := range []struct {
		cn   string
		dns  []string
		want string
	}{
		{"web", []string{"web-01.prod.example.com"}, "turn production/web-01"},
		{"web", []string{"WEB-01.prod.example.com"}, "turn production/web-01"},
		{"web", []string{"web-01.stage.example.com"}, "turn staging/web-01.stage.example.com"},
		{"web", []string{"web-01.prod.example.com", "www.example.com"}, "turn production/web-01"},
		{"web", []string{"web-01.prod.example.com", "web-02.prod.example.com"}, fleet.KindForbidden},
		{"web", []string{"web-01.prod.example.com", "web-01.stage.example.com"}, fleet.KindForbidden},
		{"web", []string{"a.b.prod.example.com"}, fleet.KindForbidden},
		{"web", []string{".prod.example.com"}, fleet.KindForbidden},
		{"web-01.prod.example.com", nil, fleet.KindForbidden},
		// The URI in the certificate is a maintainer's: it counts nothing from this authority.
		{"Otto Operator", nil, fleet.KindForbidden},
	} {
		c, keyDER := issue(one.cn, one.dns...)
		key, err := x509.ParsePKCS8PrivateKey(keyDER)
		w.must(err)
		p := w.peer(key.(ecdsaKey), c.Raw)
		w.engine.asked = nil
		e := p.ask("POST", fleet.PathTurn, w.turn(), nil)
		got := kind(e)
		if e == nil {
			got = w.engine.asked[0]
		}
		if got != one.want {
			t.Errorf("CN %q, DNS %v: %s, want %s (%v)", one.cn, one.dns, got, one.want, e)
		}
	}
	// Whom another authority vouches for gets no certificate of the fleet's own: taking it back would be out of that authority's hands.
	c, keyDER := issue("web", "web-07.prod.example.com")
	foreign, err := x509.ParsePKCS8PrivateKey(keyDER)
	w.must(err)
	if e := w.peer(foreign.(ecdsaKey), c.Raw).ask("POST", fleet.PathRenew, fleet.Renew{CSR: request(t, foreign.(ecdsaKey)), Install: "i"}, nil); kind(e) != fleet.KindRefused {
		t.Errorf("a renewal on another authority's certificate: %v", e)
	}
	c, keyDER = issue("Otto Operator")
	key, err := x509.ParsePKCS8PrivateKey(keyDER)
	w.must(err)
	p := w.peer(key.(ecdsaKey), c.Raw)
	if e := p.ask("POST", fleet.PathActs+"halt", fleet.Act{Reason: "x"}, nil); e != nil {
		t.Errorf("an operator by rule: %v", e)
	}
	if e := p.ask("POST", fleet.PathActs+"resume", fleet.Act{Reason: "x"}, nil); kind(e) != fleet.KindForbidden {
		t.Errorf("an operator became maintainer by a URI of a foreign authority: %v", e)
	}
}

func TestWhatIsMalformedOrTooMuchIsRefusedBeforeTheEngine(t *testing.T) {
	w := newWorld(t)
	h := w.host("web-01")
	long, document := strings.Repeat("x", 200), release.Sum(nil).String()
	for _, one := range []struct{ name, body, want string }{
		{"no JSON", `{`, fleet.KindBadRequest},
		{"two values", `{"app":"billing","rollout":"r","install":"i"} {}`, fleet.KindBadRequest},
		{"no document", `{"app":"billing","rollout":"r","install":"i"}`, fleet.KindBadRequest},
		{"no app", `{"rollout":"r","install":"i"}`, fleet.KindBadRequest},
		{"a bad app", `{"app":"../etc","rollout":"r","install":"i"}`, fleet.KindBadRequest},
		{"no install id", `{"app":"billing","document":"` + document + `","rollout":"r"}`, fleet.KindBadRequest},
		{"a long rollout", `{"app":"billing","document":"` + document + `","rollout":"` + long + `","install":"i"}`, fleet.KindBadRequest},
		{"a line break", `{"app":"billing","rollout":"r","document":"` + document + `","install":"i","why":"a\nb"}`, fleet.KindBadRequest},
		{"a direction", `{"app":"billing","rollout":"r","document":"` + document + `","install":"i","want":"sideways"}`, fleet.KindBadRequest},
		{"a negative fence", `{"app":"billing","rollout":"r","document":"` + document + `","install":"i","fence":-1}`, fleet.KindBadRequest},
		{"a huge body", `{"app":"billing","why":"` + strings.Repeat("x", fleet.MaxBody) + `"}`, fleet.KindTooLarge},
	} {
		if e := h.ask("POST", fleet.PathTurn, one.body, nil); kind(e) != one.want {
			t.Errorf("%s: %v, want %s", one.name, e, one.want)
		}
	}
	if len(w.engine.asked) != 0 {
		t.Errorf("the engine was asked: %v", w.engine.asked)
	}
	o := w.operator("otto")
	if e := o.ask("POST", fleet.PathActs+"halt", `{"reason":"x","enviroment":"production"}`, nil); kind(e) != fleet.KindBadRequest {
		t.Errorf("a misspelt field would have halted the whole fleet: %v", e)
	}
	if e := o.ask("POST", fleet.PathActs+"halt", `{"reason":" "}`, nil); kind(e) != fleet.KindBadRequest {
		t.Errorf("a halt without a reason: %v", e)
	}
}

func TestAHostThatAsksTooOftenWaitsWithoutHurtingOthers(t *testing.T) {
	stopped := time.Now()
	w := newWorld(t, func(c *serve.Config) { c.Now = func() time.Time { return stopped } })
	h, other := w.host("web-01"), w.host("web-02")
	busy := false
	for range 200 {
		if e := h.ask("POST", fleet.PathTurn, w.turn(), nil); kind(e) == fleet.KindBusy {
			busy = true
			break
		}
	}
	if !busy {
		t.Error("200 turns at one moment were all answered")
	}
	if e := other.ask("POST", fleet.PathTurn, w.turn(), nil); e != nil {
		t.Errorf("another host: %v", e)
	}
}

// typed is an error as the engine makes them.
type typed struct{ error }

func (typed) Kind() string { return fleet.KindStale }
func (typed) Hint() string { return "look again" }

func TestErrorsOfTheEngineTravelWithTheirKind(t *testing.T) {
	w := newWorld(t)
	o := w.operator("otto")
	for _, one := range []struct {
		err  error
		want fleet.Error
	}{
		{typed{errors.New("cannot halt: rollout r2 is in force, not r1")}, fleet.Error{Kind: fleet.KindStale, Message: "cannot halt: rollout r2 is in force, not r1", Hint: "look again"}},
		{fmt.Errorf("cannot halt: %w", hub.ErrUnavailable), fleet.Error{Kind: fleet.KindUnavailable, Message: "cannot halt: the store is unavailable", Hint: "ask again; if it stays, look at the hub's store"}},
	} {
		w.engine.act = func(string, string, fleet.Act) (fleet.ActAnswer, error) { return fleet.ActAnswer{}, one.err }
		if e := o.ask("POST", fleet.PathActs+"halt", fleet.Act{Reason: "x"}, nil); e == nil || *e != one.want {
			t.Errorf("%v: %+v", one.err, e)
		}
	}
	w.engine.turn = func(hub.Caller, fleet.Turn) (fleet.TurnAnswer, error) {
		return fleet.TurnAnswer{}, errors.New("secret detail")
	}
	if e := w.host("web-01").ask("POST", fleet.PathTurn, w.turn(), nil); kind(e) != fleet.KindInternal || strings.Contains(e.Message, "secret") {
		t.Errorf("a defect shown to a host: %v", e)
	}
	w.engine.turn = func(hub.Caller, fleet.Turn) (fleet.TurnAnswer, error) { panic("boom") }
	if e := w.host("web-01").ask("POST", fleet.PathTurn, w.turn(), nil); kind(e) != fleet.KindInternal {
		t.Errorf("a panic: %v", e)
	}
}

func TestHealthTellsALoadBalancerToGoElsewhereAndAStrangerNothing(t *testing.T) {
	var away error
	w := newWorld(t, func(c *serve.Config) { c.Ready = func(ctx ctx) error { return away } })
	var h serve.Health
	if e := w.stranger().ask("GET", serve.PathHealth, nil, &h); e != nil || !h.OK {
		t.Errorf("%+v, %v", h, e)
	}
	away = errors.New("etcd at 10.0.0.7 has no leader")
	resp, err := w.stranger().http.Get(w.url + serve.PathHealth)
	w.must(err)
	defer resp.Body.Close()
	text := make([]byte, 500)
	n, _ := resp.Body.Read(text)
	if resp.StatusCode != http.StatusServiceUnavailable || strings.Contains(string(text[:n]), "10.0.0.7") {
		t.Errorf("%s %s", resp.Status, text[:n])
	}
}

func TestMetricsTellWhatAFleetIsWatchedFor(t *testing.T) {
	w := newWorld(t)
	w.engine.status = fleet.Status{Rollouts: []fleet.RolloutStatus{{Environment: environment(t, "production"), App: application(t, "billing"), State: fleet.StateHalted,
		Cells: []fleet.CellStatus{{Cell: "all", Limit: 5, Held: 2, Lost: 1}}, Counts: fleet.Counts{Committed: 4, Lost: 1}, Waves: []fleet.WaveStatus{{Open: true}, {}}}}}
	w.engine.turn = func(hub.Caller, fleet.Turn) (fleet.TurnAnswer, error) {
		return fleet.TurnAnswer{Answer: fleet.Wait, Rule: fleet.RuleBudget}, nil
	}
	w.host("web-01").ask("POST", fleet.PathTurn, w.turn(), nil)
	var text string
	if e := w.operator("vera").ask("GET", serve.PathMetrics, nil, &text); e != nil {
		t.Fatal(e)
	}
	for _, line := range []string{
		`slipway_hub_turns_total{answer="wait",rule="budget"} 1`,
		`slipway_hub_slots{app="billing",cell="all",environment="production",state="lost"} 1`,
		`slipway_hub_slots_limit{app="billing",cell="all",environment="production"} 5`,
		`slipway_hub_rollout_state{app="billing",environment="production",state="halted"} 1`,
		`slipway_hub_rollout_hosts{app="billing",environment="production",result="committed"} 4`,
		`slipway_hub_rollout_waves_open{app="billing",environment="production"} 1`,
		`slipway_hub_request_seconds_count{outcome="done",route="/v1/turn"} 1`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("there is no line %s", line)
		}
	}
}

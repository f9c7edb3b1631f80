package serve_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/hub/ca"
	"github.com/slipway-deploy/slipway/agent/hub/roster"
	"github.com/slipway-deploy/slipway/agent/hub/serve"
	"github.com/slipway-deploy/slipway/agent/hub/storetest"
	"github.com/slipway-deploy/slipway/agent/release"
)

// engine answers what a test wants and remembers who asked.
type engine struct {
	mu     sync.Mutex
	asked  []string
	turn   func(hub.Caller, fleet.Turn) (fleet.TurnAnswer, error)
	status fleet.Status
	act    func(by, name string, a fleet.Act) (fleet.ActAnswer, error)
}

func (e *engine) note(s string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = append(e.asked, s)
}

func (e *engine) Turn(_ context.Context, c hub.Caller, t fleet.Turn) (fleet.TurnAnswer, error) {
	e.note("turn " + c.Environment.String() + "/" + c.Host)
	if e.turn != nil {
		return e.turn(c, t)
	}
	return fleet.TurnAnswer{Answer: fleet.Granted, Fence: 7}, nil
}

func (e *engine) Check(_ context.Context, c hub.Caller, _ fleet.Check) (fleet.CheckAnswer, error) {
	e.note("check " + c.Host)
	return fleet.CheckAnswer{OK: true, Within: 30}, nil
}

func (e *engine) Finish(_ context.Context, c hub.Caller, f fleet.Finish) (fleet.FinishAnswer, error) {
	e.note("finish " + c.Host + " " + string(f.Result))
	return fleet.FinishAnswer{Accepted: true}, nil
}

func (e *engine) Act(_ context.Context, by, name string, a fleet.Act) (fleet.ActAnswer, error) {
	e.note(name + " by " + by)
	if e.act != nil {
		return e.act(by, name, a)
	}
	return fleet.ActAnswer{Done: name, Revision: 9}, nil
}

func (e *engine) Status(context.Context) (fleet.Status, error) { return e.status, nil }

func (e *engine) Hosts(context.Context, release.Environment, release.App) ([]fleet.HostStatus, error) {
	return []fleet.HostStatus{}, nil
}

func (e *engine) AuditSince(_ context.Context, n int64, _ int) ([]fleet.AuditEntry, error) {
	return []fleet.AuditEntry{{N: n + 1}}, nil
}

// world is a hub on loopback with an authority of its own.
type world struct {
	t         *testing.T
	engine    *engine
	store     hub.Store
	root      *ca.Authority
	authority *ca.Authority
	roster    *roster.Roster
	server    *serve.Server
	url       string
	local     *http.Client
	now       func() time.Time
	mu        sync.Mutex
	replaced  []string
	busy      int // how often what a replaced machine holds cannot be let go
}

func (w *world) letGo() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.replaced, " ")
}

var rootJSON = []byte(`{"signed":{"_type":"root"}}`)

// newWorld starts a hub; change may alter its configuration first.
func newWorld(t *testing.T, change ...func(*serve.Config)) *world {
	t.Helper()
	return newWorldAt(t, time.Now, change...)
}

// newWorldAt is newWorld whose roster has a clock of its own.
func newWorldAt(t *testing.T, now func() time.Time, change ...func(*serve.Config)) *world {
	t.Helper()
	w := &world{t: t, engine: &engine{}, store: storetest.NewModel().Client("hub"), now: now}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	w.must(err)
	w.root, err = ca.NewRoot("acme", key, w.now())
	w.must(err)
	issuer, err := ca.NewKey()
	w.must(err)
	chain, err := w.root.NewIssuer("hub1", issuer.Public(), w.now())
	w.must(err)
	w.authority, err = ca.New(issuer, chain)
	w.must(err)
	rootCert, pin := w.authority.Root()
	w.roster = roster.New(roster.Config{Fleet: "acme", Store: w.store, Prefix: "/slipway/v1/acme/", Authority: w.authority,
		Roots: []*x509.Certificate{rootCert}, Pin: pin, Root: rootJSON, Mirrors: []string{"https://repo.example.com"}, Now: now,
		Replaced: func(_ context.Context, e release.Environment, host, _ string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.busy > 0 {
				w.busy--
				return errors.New("it is in the middle of an update")
			}
			w.replaced = append(w.replaced, e.String()+"/"+host)
			return nil
		}, RetryEvery: time.Millisecond})
	own, err := ca.NewServer(w.authority, []string{"localhost", "127.0.0.1"}, w.now)
	w.must(err)
	cfg := serve.Config{Engine: w.engine, Roster: w.roster, Version: "1.0", Certificate: own.Certificate,
		Trust: serve.Trust{Fleet: "acme", Own: []*x509.Certificate{rootCert}},
		Roles: serve.Roles{Viewer: []string{"vera"}, Operator: []string{"otto"}, Maintainer: []string{"mia"}}}
	for _, f := range change {
		f(&cfg)
	}
	registry := prometheus.NewRegistry()
	if cfg.Metrics == nil {
		cfg.Metrics = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	}
	w.server = serve.New(cfg)
	registry.MustRegister(w.server)
	w.listen()
	return w
}

func (w *world) listen() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	w.t.Cleanup(func() { cancel(); group.Wait() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	w.url = "https://" + l.Addr().String()
	sock := w.t.TempDir() + "/hub.sock"
	u, err := net.Listen("unix", sock)
	w.must(err)
	w.local = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", sock)
	}}}
	w.t.Cleanup(w.local.CloseIdleConnections)
	group.Go(func() { w.roster.Run(ctx) })
	group.Go(func() { w.server.Serve(ctx, l) })
	group.Go(func() { w.server.ServeLocal(ctx, u) })
	w.until(func() bool { return w.roster.Admit(fleet.Identity{Fleet: "acme", Operator: "x"}, w.now()) == nil })
}

// until waits for something that happens by itself soon.
func (w *world) until(f func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatal("what should happen by itself does not")
		}
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

type hubCaller = hub.Caller

// peer is somebody with a certificate, or nobody.
type peer struct {
	*world
	key  *ecdsa.PrivateKey
	http *http.Client
}

func (w *world) peer(key *ecdsa.PrivateKey, chain ...[]byte) *peer {
	pool := x509.NewCertPool()
	rootCert, _ := w.authority.Root()
	pool.AddCert(rootCert)
	cfg := &tls.Config{RootCAs: pool}
	if key != nil {
		cfg.Certificates = []tls.Certificate{{Certificate: chain, PrivateKey: key}}
	}
	p := &peer{world: w, key: key, http: &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}}
	w.t.Cleanup(p.http.CloseIdleConnections)
	return p
}

func (w *world) stranger() *peer { return w.peer(nil) }

// issue makes a peer with a certificate of the fleet's authority.
func (w *world) issue(id fleet.Identity) *peer {
	w.t.Helper()
	key, err := ca.NewKey()
	w.must(err)
	c, err := w.authority.Issue(id, key.Public(), w.now(), time.Time{}, ca.HostValidity)
	w.must(err)
	return w.peer(key, c.Raw, w.authority.Chain[0].Raw)
}

func (w *world) host(name string) *peer {
	return w.issue(fleet.Identity{Fleet: "acme", Environment: environment(w.t, "production"), Host: name})
}

func (w *world) operator(name string) *peer {
	return w.issue(fleet.Identity{Fleet: "acme", Operator: name})
}

func environment(t *testing.T, s string) release.Environment {
	t.Helper()
	e, err := release.ParseEnvironment(s)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func application(t *testing.T, s string) release.App {
	t.Helper()
	a, err := release.ParseApp(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func request(t *testing.T, key *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// ask sends one request and decodes a good answer into out, or returns the error on the wire.
func (p *peer) ask(method, path string, body, out any) *fleet.Error {
	p.t.Helper()
	return ask(p.t, p.http, method, p.url+path, body, out)
}

// admin asks on the hub's own socket.
func (w *world) admin(method, path string, body, out any) *fleet.Error {
	w.t.Helper()
	return ask(w.t, w.local, method, "http://hub"+path, body, out)
}

func ask(t *testing.T, c *http.Client, method, url string, body, out any) *fleet.Error {
	t.Helper()
	var data []byte
	switch b := body.(type) {
	case nil:
	case string:
		data = []byte(b)
	default:
		var err error
		if data, err = json.Marshal(b); err != nil {
			t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if method != http.MethodGet {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.Do(req)
	if err != nil {
		return &fleet.Error{Kind: "no-answer", Message: err.Error()}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		e := &fleet.Error{}
		if err := json.Unmarshal(text, e); err != nil {
			t.Fatalf("%s: %s is no error", resp.Status, text)
		}
		return e
	}
	if s, ok := out.(*string); ok {
		*s = string(text)
	} else if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	return nil
}

func kind(e *fleet.Error) string {
	if e == nil {
		return "done"
	}
	return e.Kind
}

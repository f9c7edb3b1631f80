package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
)

// lockServer is a FleetLock server that grants everything and remembers its requests.
type lockServer struct {
	mu  sync.Mutex
	log []string
	url string
}

func serveLocks(t *testing.T) *lockServer {
	s := &lockServer{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		var b struct {
			Params struct{ ID, Group string } `json:"client_params"`
		}
		if r.Header.Get("fleet-lock-protocol") != "true" || json.Unmarshal(data, &b) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.log = append(s.log, strings.TrimPrefix(r.URL.Path, "/v1/")+" "+b.Params.Group+" "+b.Params.ID)
	}))
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

func (s *lockServer) requests() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.log, ", ")
}

func question(kind, url string, want agent.SlotWant) agent.SlotQuestion {
	return agent.SlotQuestion{
		Deployment: &release.Deployment{App: haltApp, Environment: haltEnv, Sequence: 3, RolloutID: "r3",
			Coordinator: &release.Coordinator{Kind: kind, URLs: []string{url}, Group: "workers"}},
		Document: release.Sum([]byte("plan")), Environment: haltEnv, Want: want,
	}
}

// looked is a host whose machine has looked at its app, which makes the app's directory.
func looked(c *control) *control {
	tx, err := c.d.state.Lock(context.Background(), haltApp)
	if err != nil {
		panic(err)
	}
	tx.Unlock()
	return c
}

func TestALockServerCoordinatesADeployment(t *testing.T) {
	s, c := serveLocks(t), looked(newRig(t, "billing").boot()).d.coordinator
	ctx := t.Context()
	if a := c.Ask(ctx, question("fleetlock", s.url, agent.WantNothing)); a.Answer == rollout.AnswerGranted || s.requests() != "" {
		t.Errorf("%+v, requests %s", a, s.requests())
	}
	a := c.Ask(ctx, question("fleetlock", s.url, agent.WantForward))
	if a.Answer != rollout.AnswerGranted || a.Fence == 0 {
		t.Fatalf("%+v", a)
	}
	if within, err := c.Check(ctx, haltApp, a.Fence); err != nil || within == 0 {
		t.Fatalf("%s %v", within, err)
	}
	must(t, c.End(ctx, haltApp, agent.SlotEnd{Fence: a.Fence, Result: "reverted"}))
	if h, err := c.Held(haltApp); err != nil || h.Fence == 0 {
		t.Errorf("a host that does not serve let go: %+v %v", h, err)
	}
	must(t, c.End(ctx, haltApp, agent.SlotEnd{Fence: a.Fence, Result: "reverted", Serves: true}))
	if h, err := c.Held(haltApp); err != nil || h.Fence != 0 {
		t.Errorf("%+v %v", h, err)
	}
	if want := "pre-reboot workers h1/billing, pre-reboot workers h1/billing, steady-state workers h1/billing"; s.requests() != want {
		t.Errorf("requests %s", s.requests())
	}
}

func TestASlotIsSettledWhereItWasTakenBeforeAnotherCoordinatorIsAsked(t *testing.T) {
	old, next, c := serveLocks(t), serveLocks(t), looked(newRig(t, "billing").boot()).d.coordinator
	if a := c.Ask(t.Context(), question("fleetlock", old.url, agent.WantForward)); a.Answer != rollout.AnswerGranted {
		t.Fatalf("%+v", a)
	}
	if a := c.Ask(t.Context(), question("fleetlock", next.url, agent.WantForward)); a.Answer != rollout.AnswerGranted {
		t.Fatalf("%+v", a)
	}
	if old.requests() != "pre-reboot workers h1/billing, steady-state workers h1/billing" || next.requests() != "pre-reboot workers h1/billing" {
		t.Errorf("old: %s; next: %s", old.requests(), next.requests())
	}
}

func TestAHostWithoutACertificateIsRefusedAndNotTakenForOneWithoutAHub(t *testing.T) {
	c := looked(newRig(t, "billing").boot()).d.coordinator
	a := c.Ask(t.Context(), question("hub", "https://127.0.0.1:1", agent.WantForward))
	if a.Answer != rollout.AnswerWait || !strings.Contains(a.Reason, "slipway enroll") {
		t.Errorf("%+v", a)
	}
}

// authority signs certificates whose life began an hour before they are made.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fleet"}, NotBefore: time.Now().Add(-48 * time.Hour),
		NotAfter: time.Now().Add(48 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return &authority{t, cert, key}
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func (a *authority) sign(public any, tmpl *x509.Certificate, left time.Duration) []byte {
	a.t.Helper()
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = big.NewInt(2), time.Now().Add(-time.Hour), time.Now().Add(left)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, public, a.key)
	must(a.t, err)
	return der
}

func (a *authority) host(csr []byte, left time.Duration) string {
	a.t.Helper()
	block, _ := pem.Decode(csr)
	req, err := x509.ParseCertificateRequest(block.Bytes)
	must(a.t, err)
	id := fleet.Identity{Fleet: "acme", Environment: haltEnv, Host: "h1"}
	tmpl := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	tmpl.URIs = append(tmpl.URIs, id.URI())
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.sign(req.PublicKey, tmpl, left)}))
}

// enroll gives a wired host a certificate that has left so long to live.
func (a *authority) enroll(d *wired, left time.Duration) {
	a.t.Helper()
	d.identity.open(d.config(), fleet.Machine{MachineID: "m1"}, d.clock, hclog.NewNullLogger())
	csr, err := d.identity.home.Request("h1")
	must(a.t, err)
	_, err = d.identity.home.Adopt([]byte(a.host(csr, left)), []byte(a.pem()), fleet.Identity{}, time.Now())
	must(a.t, err)
}

// renewing is a hub that issues the next certificate to whoever shows one of its own.
func (a *authority) renewing(asked *int) string {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	leaf := a.sign(key.Public(), &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, time.Hour)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q fleet.Renew
		if *asked++; json.NewDecoder(r.Body).Decode(&q) != nil || r.URL.Path != fleet.PathRenew || q.Install == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(fleet.Issued{Certificate: a.host([]byte(q.CSR), 24*time.Hour), CA: a.pem(), Until: time.Now().Add(24 * time.Hour)})
	}))
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf}, PrivateKey: key}}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	a.t.Cleanup(srv.Close)
	return srv.URL
}

func TestACertificateIsRenewedForANewKeyAtTwoThirdsOfItsLife(t *testing.T) {
	for name, c := range map[string]struct {
		left  time.Duration
		asked int
	}{"young": {3 * time.Hour, 0}, "old": {20 * time.Minute, 1}} {
		r, a, asked := newRig(t, "billing"), newAuthority(t), 0
		r.write("slipway.d/50.toml", "[fleet]\nurls = [\""+a.renewing(&asked)+"\"]\n")
		d := r.boot().d
		a.enroll(d, c.left)
		before, err := os.ReadFile(filepath.Join(string(d.identity.home), "host.pem"))
		must(t, err)
		must(t, d.renew(t.Context()))
		after, err := os.ReadFile(filepath.Join(string(d.identity.home), "host.pem"))
		must(t, err)
		if asked != c.asked || bytes.Equal(before, after) != (c.asked == 0) {
			t.Errorf("%s: asked %d times", name, asked)
		}
		if leaf, err := d.identity.leaf(d.config()); err != nil || c.asked == 1 && time.Until(leaf.NotAfter) < 23*time.Hour {
			t.Errorf("%s: %v", name, err)
		}
		must(t, d.renew(t.Context()))
		if asked != c.asked {
			t.Errorf("%s: it was asked again at once", name)
		}
	}
}

func TestACopiedHostThatWasEnrolledStartsNothingNewAndSaysSo(t *testing.T) {
	r, a := newRig(t, "billing"), newAuthority(t)
	c := r.boot()
	a.enroll(c.d, time.Hour)
	made := c.d.identity.install.ID
	c = r.boot()
	c.d.identity.open(c.d.config(), fleet.Machine{MachineID: "m2"}, c.d.clock, hclog.NewNullLogger())
	must(t, c.d.adopt(r.load()))
	apps, err := c.d.settings(r.load())
	if err != nil || !strings.Contains(apps[haltApp].Unfit, "this is a copy") {
		t.Errorf("%+v %v", apps[haltApp], err)
	}
	if w := status(t, c).Warnings; len(w) == 0 || !strings.Contains(w[0], "--new-identity") {
		t.Errorf("status warns of %v", w)
	}
	report, err := c.Doctor(t.Context())
	must(t, err)
	if text, _ := json.Marshal(report); !strings.Contains(string(text), `"name":"identity","status":"fail"`) {
		t.Errorf("doctor says %s", text)
	}
	if s := c.d.coordinator.Ask(t.Context(), question("hub", "https://127.0.0.1:1", agent.WantForward)); s.Answer != rollout.AnswerWait || !strings.Contains(s.Reason, "this is a copy") {
		t.Errorf("it asked: %+v", s)
	}
	if c.d.identity.install.ID != made {
		t.Error("it became another installation by itself")
	}
}

func TestADiskThatWasCopiedBeforeItWasEnrolledBecomesAnotherInstallation(t *testing.T) {
	r := newRig(t, "billing")
	d := r.boot().d
	d.identity.open(d.config(), fleet.Machine{MachineID: "m1"}, d.clock, hclog.NewNullLogger())
	made := d.identity.install.ID
	d.identity.open(d.config(), fleet.Machine{MachineID: "m1"}, d.clock, hclog.NewNullLogger())
	if d.identity.install.ID != made {
		t.Error("a restart made another installation")
	}
	d.identity.open(d.config(), fleet.Machine{MachineID: "m2"}, d.clock, hclog.NewNullLogger())
	if d.identity.install.ID == made || d.identity.unfit != "" {
		t.Errorf("%+v", d.identity)
	}
}

func TestACertificateOfAnotherHostIsNotUsed(t *testing.T) {
	r, a := newRig(t, "billing"), newAuthority(t)
	d := r.boot().d
	a.enroll(d, time.Hour)
	d.identity.host = "h2"
	if s := d.coordinator.Ask(t.Context(), question("hub", "https://127.0.0.1:1", agent.WantForward)); s.Answer != rollout.AnswerWait || !strings.Contains(s.Reason, "not its own") {
		t.Errorf("%+v", s)
	}
}

package fleet_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
)

// sign issues a certificate for a request, as the hub's authority does.
func (a *authority) sign(csr []byte, id fleet.Identity, life time.Duration) []byte {
	a.t.Helper()
	block, _ := pem.Decode(csr)
	req, err := x509.ParseCertificateRequest(block.Bytes)
	must(a.t, err)
	must(a.t, req.CheckSignature())
	a.next++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(a.next), Subject: pkix.Name{CommonName: id.Host}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(life),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if id.Host != "" {
		tmpl.URIs = append(tmpl.URIs, id.URI())
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, req.PublicKey.(*ecdsa.PublicKey), a.key)
	must(a.t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func production() release.Environment {
	env, err := release.ParseEnvironment("production")
	if err != nil {
		panic(err)
	}
	return env
}

func web01() fleet.Identity {
	return fleet.Identity{Fleet: "acme", Environment: production(), Host: "web-01"}
}

func TestAHostsKeyIsMadeOnceKeptToItselfAndGoesIntoUseWithItsCertificate(t *testing.T) {
	a, h := newAuthority(t), fleet.Home(filepath.Join(t.TempDir(), "identity"))
	first, err := h.Request("web-01")
	must(t, err)
	second, err := h.Request("web-01")
	must(t, err)
	if h.Enrolled() || keyOf(t, first) != keyOf(t, second) {
		t.Error("a second request is for another key")
	}
	id, err := h.Adopt(a.sign(second, web01(), time.Hour), a.pem(), web01(), time.Now())
	if err != nil || id != web01() || !h.Enrolled() {
		t.Fatalf("%v %v", id, err)
	}
	for name, mode := range map[string]os.FileMode{"": 0o700, "host.pem": 0o600} {
		if info, err := os.Stat(filepath.Join(string(h), name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%q: %v %v", name, info, err)
		}
	}
	var uri string
	srv := a.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		uri = r.TLS.PeerCertificates[0].URIs[0].String()
		answer(w, 200, fleet.TurnAnswer{Answer: fleet.Wait})
	}))
	_, err = ask(client(t, fleet.Options{URLs: []string{srv.URL}, Credentials: h.Credentials()}))
	if err != nil || uri != "slipway://acme/production/web-01" {
		t.Errorf("%s %v", uri, err)
	}
	third, err := h.Request("web-01")
	if err != nil || keyOf(t, third) == keyOf(t, first) {
		t.Errorf("a renewal is for the old key: %v", err)
	}
	leaf, err := h.Credentials().Leaf()
	must(t, err)
	if at := fleet.RenewAt(leaf); at.Before(time.Now().Add(35*time.Minute)) || at.After(time.Now().Add(45*time.Minute)) {
		t.Errorf("it is renewed at %s", at)
	}
}

func keyOf(t *testing.T, csr []byte) string {
	t.Helper()
	block, _ := pem.Decode(csr)
	req, err := x509.ParseCertificateRequest(block.Bytes)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(req.PublicKey)
	must(t, err)
	return string(der)
}

func TestACertificateThatIsNotForThisHostIsNotTaken(t *testing.T) {
	a, b, h := newAuthority(t), newAuthority(t), fleet.Home(filepath.Join(t.TempDir(), "identity"))
	if _, err := h.Adopt(nil, a.pem(), fleet.Identity{}, time.Now()); err == nil {
		t.Error("one was taken that nobody asked for")
	}
	csr, err := h.Request("web-01")
	must(t, err)
	other := fleet.Identity{Fleet: "acme", Environment: production(), Host: "web-02"}
	for name, bring := range map[string][2][]byte{
		"another key":       {a.issue("web-01", time.Hour), a.pem()},
		"another host":      {a.sign(csr, other, time.Hour), a.pem()},
		"another authority": {b.sign(csr, web01(), time.Hour), a.pem()},
		"expired":           {a.sign(csr, web01(), -time.Second), a.pem()},
		"no authority":      {a.sign(csr, web01(), time.Hour), []byte("nothing")},
		"no certificate":    {[]byte("nothing"), a.pem()},
	} {
		if _, err := h.Adopt(bring[0], bring[1], web01(), time.Now()); err == nil || h.Enrolled() {
			t.Errorf("%s was taken", name)
		}
	}
	if _, err := h.Adopt(a.sign(csr, fleet.Identity{}, time.Hour), a.pem(), web01(), time.Now()); err != nil {
		t.Errorf("one of another infrastructure, without our names: %v", err)
	}
}

func TestAHostIsEnrolledOnlyByTheAuthorityItsTokenNames(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	srv := a.open(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer(w, 200, fleet.EnrollAnswer{Fleet: "acme", Environment: production()})
	}))
	enroll := func(pin release.Digest) error {
		c := client(t, fleet.Options{URLs: []string{srv.URL}, Credentials: fleet.Credentials{Pin: pin}})
		_, err := c.Enroll(context.Background(), fleet.Enroll{})
		return err
	}
	must(t, enroll(release.Sum(a.cert.Raw)))
	if err := enroll(release.Sum(b.cert.Raw)); !silent(err) {
		t.Errorf("%v", err)
	}
	impostor := b.open(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the token was told to a stranger") }))
	// It shows the authority that the token names without belonging to it.
	impostor.TLS.Certificates[0].Certificate[1] = a.cert.Raw
	c := client(t, fleet.Options{URLs: []string{impostor.URL}, Credentials: fleet.Credentials{Pin: release.Sum(a.cert.Raw)}})
	if _, err := c.Enroll(context.Background(), fleet.Enroll{}); !silent(err) {
		t.Errorf("%v", err)
	}
}

// open serves with a certificate of this authority and the authority's own beside it, to clients with none.
func (a *authority) open(h http.Handler) *httptest.Server {
	a.t.Helper()
	pair := a.issue("", time.Hour)
	cert, err := tls.X509KeyPair(pair, pair)
	must(a.t, err)
	cert.Certificate = append(cert.Certificate, a.cert.Raw)
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.Config.ErrorLog = quiet()
	srv.StartTLS()
	a.t.Cleanup(srv.Close)
	return srv
}

// machine writes what a machine says about itself.
func machine(t *testing.T, id, product string) fleet.Machine {
	t.Helper()
	root := t.TempDir()
	for path, text := range map[string]string{"etc/machine-id": id, "sys/class/dmi/id/product_uuid": product} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755))
		if text != "" {
			must(t, os.WriteFile(filepath.Join(root, path), []byte(text+"\n"), 0o644))
		}
	}
	return fleet.ThisMachine(root)
}

func TestACopyOfAMachineIsKnownByItsMachineIDOrItsFirmware(t *testing.T) {
	const id, product = "0123456789abcdef0123456789abcdef", "4C4C4544-0042-3010-8051-B4C04F564433"
	h := fleet.Home(filepath.Join(t.TempDir(), "identity"))
	made, err := h.Install(machine(t, id, product), time.Now())
	must(t, err)
	for name, c := range map[string]struct {
		id, product string
		copied      bool
	}{
		"the same":             {id, strings.ToLower(product), false},
		"another firmware":     {id, "11111111-0042-3010-8051-B4C04F564433", true},
		"another machine-id":   {"ffffffffffffffffffffffffffffff00", product, true},
		"firmware unreadable":  {id, "", false},
		"firmware says zeroes": {id, "00000000-0000-0000-0000-000000000000", false},
		"nothing is readable":  {"", "", false},
	} {
		m := machine(t, c.id, c.product)
		again, err := h.Install(m, time.Now())
		must(t, err)
		if again.ID != made.ID || (again.Elsewhere(m) != "") != c.copied {
			t.Errorf("%s: %q", name, again.Elsewhere(m))
		}
	}
	must(t, os.WriteFile(filepath.Join(string(h), "host.pem"), []byte("x"), 0o600))
	next, err := h.NewInstall(machine(t, id, product), time.Now())
	if err != nil || next.ID == made.ID || h.Enrolled() {
		t.Errorf("%+v %v", next, err)
	}
	must(t, os.WriteFile(filepath.Join(string(h), "install.json"), []byte("{"), 0o600))
	if _, err := h.Install(machine(t, id, product), time.Now()); err == nil {
		t.Error("a damaged identity silently became another")
	}
	if data, _ := os.ReadFile(filepath.Join(string(h), "install.json")); strings.Contains(string(data), id) {
		t.Error("the machine-id is written down")
	}
}

func TestACertificateForSomebodyElseIsNotUsed(t *testing.T) {
	a := newAuthority(t)
	leaf, err := a.credentials("web-01", time.Hour).Leaf()
	must(t, err)
	must(t, fleet.Speaks(leaf, production(), "web-01"))
	var local *fleet.LocalError
	if err := fleet.Speaks(leaf, production(), "web-02"); !errors.As(err, &local) {
		t.Errorf("%v", err)
	}
}

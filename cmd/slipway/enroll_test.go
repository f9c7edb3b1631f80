package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/config"
	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
)

// issuer is a fleet's authority with a hub that enrols whoever shows the token.
type issuer struct {
	t     *testing.T
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	token fleet.Token
	url   string
	root  []byte // that the hub sends
	env   release.Environment
	asked []fleet.Enroll
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const someRoot = `{"signed":{"_type":"root","version":1,"expires":"2040-01-01T00:00:00Z"},"signatures":[{}]}`

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	noError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fleet"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	noError(t, err)
	cert, err := x509.ParseCertificate(der)
	noError(t, err)
	env, err := release.ParseEnvironment("production")
	noError(t, err)
	i := &issuer{t: t, cert: cert, key: key, root: []byte(someRoot), env: env}
	i.token = fleet.NewToken(release.Sum(cert.Raw), release.Sum(i.root))
	srv := httptest.NewUnstartedServer(http.HandlerFunc(i.serve))
	hubKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	noError(t, err)
	leaf := i.sign(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, hubKey.Public())
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf, cert.Raw}, PrivateKey: hubKey}}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	i.url = srv.URL
	return i
}

func (i *issuer) sign(tmpl *x509.Certificate, public any) []byte {
	i.t.Helper()
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = big.NewInt(2), time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, i.cert, public, i.key)
	noError(i.t, err)
	return der
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// host signs a request for a host.
func (i *issuer) host(csr []byte, name string) []byte {
	i.t.Helper()
	block, _ := pem.Decode(csr)
	req, err := x509.ParseCertificateRequest(block.Bytes)
	noError(i.t, err)
	id := fleet.Identity{Fleet: "acme", Environment: i.env, Host: name}
	tmpl := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	tmpl.URIs = append(tmpl.URIs, id.URI())
	return pemOf("CERTIFICATE", i.sign(tmpl, req.PublicKey))
}

func (i *issuer) serve(w http.ResponseWriter, r *http.Request) {
	var e fleet.Enroll
	if json.NewDecoder(r.Body).Decode(&e) != nil || r.URL.Path != fleet.PathEnroll || e.Token != i.token.String() {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"kind":"token","message":"that token is not known here"}`)
		return
	}
	i.asked = append(i.asked, e)
	_ = json.NewEncoder(w).Encode(fleet.EnrollAnswer{
		Fleet: "acme", Environment: i.env, Host: "web-01", Labels: map[string]string{"site": "zrh"}, Root: i.root, Mirrors: []string{"https://tuf.example.com"},
		Issued: fleet.Issued{Certificate: string(i.host([]byte(e.CSR), "web-01")), CA: string(pemOf("CERTIFICATE", i.cert.Raw)), Until: time.Now().Add(time.Hour)},
	})
}

// newcomer is a host that is not in any fleet. Its state is in its own directory.
type newcomer struct {
	t            *testing.T
	dir          string
	out, err     bytes.Buffer
	tokenOnInput string
}

func newNewcomer(t *testing.T, environment string) *newcomer {
	t.Helper()
	n := &newcomer{t: t, dir: t.TempDir()}
	n.write("etc/slipway.toml", fmt.Sprintf("environment = %q\n[[repository.mirrors]]\nurl = \"https://tuf.example.com\"\n[paths]\nstate = %q\n", environment, filepath.Join(n.dir, "state")))
	n.machine("0123456789abcdef0123456789abcdef")
	return n
}

func (n *newcomer) machine(id string) { n.write("root/etc/machine-id", id+"\n") }

func (n *newcomer) write(name, text string) {
	n.t.Helper()
	path := filepath.Join(n.dir, name)
	noError(n.t, os.MkdirAll(filepath.Dir(path), 0o755))
	noError(n.t, os.WriteFile(path, []byte(text), 0o644))
}

func (n *newcomer) read(name string) string {
	data, _ := os.ReadFile(filepath.Join(n.dir, name))
	return string(data)
}

func (n *newcomer) slipway(args ...string) int {
	n.t.Helper()
	n.out.Reset()
	n.err.Reset()
	c := &cli{in: strings.NewReader(n.tokenOnInput), out: &n.out, err: &n.err, machineRoot: filepath.Join(n.dir, "root")}
	return c.main(n.t.Context(), append([]string{"--config", filepath.Join(n.dir, "etc")}, args...))
}

func (n *newcomer) good(args ...string) {
	n.t.Helper()
	if code := n.slipway(args...); code != 0 {
		n.t.Fatalf("%v: exit code %d\n%s%s", args, code, n.out.String(), n.err.String())
	}
}

func (n *newcomer) enrolled() bool {
	return fleet.Home(filepath.Join(n.dir, "state", "identity")).Enrolled()
}

func TestATokenBringsIdentityLabelsAndHubAndLeavesTheRestAlone(t *testing.T) {
	i, n := newIssuer(t), newNewcomer(t, "production")
	before := n.read("etc/slipway.toml")
	n.tokenOnInput = i.token.String() + "\n"
	n.good("enroll", "--hub", i.url, "--token-file", "-")
	if !strings.Contains(n.out.String(), "this host is web-01 of production") || !n.enrolled() || n.read("etc/slipway.toml") != before {
		t.Errorf("%s", n.out.String())
	}
	h, err := config.Load(filepath.Join(n.dir, "etc"))
	if err != nil || h.HostID != "web-01" || h.Labels["site"] != "zrh" || len(h.Fleet.URLs) != 1 || h.Fleet.URLs[0] != i.url {
		t.Errorf("%+v %v", h, err)
	}
	if len(i.asked) != 1 || i.asked[0].Install == "" || strings.Contains(i.asked[0].CSR, "PRIVATE") {
		t.Errorf("asked: %+v", i.asked)
	}
}

func TestAHostThatTheTokenDoesNotFitIsNotEnrolled(t *testing.T) {
	i := newIssuer(t)
	other := fleet.NewToken(i.token.CA, i.token.Root)
	stranger := fleet.NewToken(release.Sum([]byte("another authority")), i.token.Root)
	for name, c := range map[string]struct {
		environment string
		token       fleet.Token
		root        string
		says        string
	}{
		"another environment": {"staging", i.token, someRoot, "this host belongs to staging and the token is for production"},
		"another root":        {"production", i.token, someRoot + " ", "another root.json"},
		"an unknown token":    {"production", other, someRoot, "that token is not known here"},
		"another authority":   {"production", stranger, someRoot, "does not belong to the authority"},
	} {
		i.root = []byte(c.root)
		n := newNewcomer(t, c.environment)
		n.write("token", c.token.String())
		if code := n.slipway("enroll", "--hub", i.url, "--token-file", filepath.Join(n.dir, "token")); code != exitFailed || !strings.Contains(n.err.String(), c.says) {
			t.Errorf("%s: exit code %d, %s", name, code, n.err.String())
		}
		if n.enrolled() || n.read("etc/slipway.d/"+enrolledFile) != "" || strings.Contains(n.err.String(), c.token.String()) {
			t.Errorf("%s: something of it was kept, or the token was shown", name)
		}
	}
}

func TestARequestAndItsCertificateAreCarriedByHand(t *testing.T) {
	i, n := newIssuer(t), newNewcomer(t, "production")
	csr, cert, ca := filepath.Join(n.dir, "web.csr"), filepath.Join(n.dir, "web.pem"), filepath.Join(n.dir, "ca.pem")
	n.good("enroll", "--csr", csr)
	noError(t, os.WriteFile(cert, i.host([]byte(n.read("web.csr")), "web-07"), 0o644))
	noError(t, os.WriteFile(ca, pemOf("CERTIFICATE", i.cert.Raw), 0o644))
	n.good("enroll", "--certificate", cert, "--ca", ca)
	if h, err := config.Load(filepath.Join(n.dir, "etc")); err != nil || h.HostID != "web-07" || !n.enrolled() {
		t.Errorf("%+v %v", h, err)
	}
	if code := n.slipway("enroll", "--certificate", cert, "--ca", ca); code != exitFailed || !strings.Contains(n.err.String(), "none was asked for") {
		t.Errorf("the same again: exit code %d, %s", code, n.err.String())
	}
}

func TestFilesOfAnotherInfrastructureStayWhereTheyAre(t *testing.T) {
	i, n := newIssuer(t), newNewcomer(t, "production")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	noError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	noError(t, err)
	n.write("pki/host.pem", string(pemOf("CERTIFICATE", i.sign(&x509.Certificate{DNSNames: []string{"web-01.example.com"}}, key.Public()))))
	n.write("pki/host.key", string(pemOf("PRIVATE KEY", der)))
	n.write("pki/ca.pem", string(pemOf("CERTIFICATE", i.cert.Raw)))
	pki := func(name string) string { return filepath.Join(n.dir, "pki", name) }
	n.good("enroll", "--certificate", pki("host.pem"), "--key", pki("host.key"), "--ca", pki("ca.pem"), "--hub", i.url)
	h, err := config.Load(filepath.Join(n.dir, "etc"))
	if err != nil || h.Fleet.Cert != pki("host.pem") || h.Fleet.Key != pki("host.key") || h.Fleet.CA != pki("ca.pem") || n.enrolled() {
		t.Errorf("%+v %v", h, err)
	}
}

func TestACopiedMachineIsEnrolledOnlyAsAnotherOne(t *testing.T) {
	i, n := newIssuer(t), newNewcomer(t, "production")
	n.tokenOnInput = i.token.String()
	n.good("enroll", "--hub", i.url, "--token-file", "-")
	n.machine("fedcba9876543210fedcba9876543210")
	if code := n.slipway("enroll", "--hub", i.url, "--token-file", "-"); code != exitFailed || !strings.Contains(n.err.String(), "this is a copy") || !strings.Contains(n.err.String(), "--new-identity") {
		t.Errorf("exit code %d, %s", code, n.err.String())
	}
	n.good("enroll", "--new-identity")
	if n.enrolled() {
		t.Error("the copy still has the certificate")
	}
	n.good("enroll", "--hub", i.url, "--token-file", "-")
	if len(i.asked) != 2 || i.asked[0].Install == i.asked[1].Install || !n.enrolled() {
		t.Errorf("%+v", i.asked)
	}
}

func TestEnrollSaysWhatItNeeds(t *testing.T) {
	n := newNewcomer(t, "production")
	for _, args := range [][]string{{}, {"--hub", "https://h"}, {"--token-file", "x"}, {"--certificate", "x"}, {"--csr", "x", "--token-file", "y"}} {
		if code := n.slipway(append([]string{"enroll"}, args...)...); code != exitUsage {
			t.Errorf("%v: exit code %d, %s", args, code, n.err.String())
		}
	}
}

func TestAHubThatNamesNoRepositoryIsFoundOutBeforeTheCertificateIsKept(t *testing.T) {
	e := &enrollment{c: &cli{configDir: t.TempDir()}, environment: newIssuer(t).env}
	if err := e.agrees(); err == nil || !strings.Contains(err.Error(), "the hub names no repository") {
		t.Errorf("without a mirror: %v", err)
	}
	e.mirrors = []string{"not a URL"}
	if err := e.agrees(); err == nil {
		t.Error("a mirror that no configuration can hold was taken")
	}
	e.mirrors = []string{"https://tuf.example.com"}
	if err := e.agrees(); err != nil {
		t.Error(err)
	}
}

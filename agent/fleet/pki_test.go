package fleet_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// authority is a certificate authority of a fleet.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fleet"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return &authority{t: t, cert: cert, key: key, next: 1}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// issue makes a certificate and its key in one PEM text. A host gets its identity, "" a server on loopback.
func (a *authority) issue(host string, life time.Duration) []byte {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	a.next++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(a.next), Subject: pkix.Name{CommonName: host}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(life),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if host == "" {
		tmpl.ExtKeyUsage, tmpl.IPAddresses = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, []net.IP{net.IPv4(127, 0, 0, 1)}
	} else {
		tmpl.URIs = []*url.URL{{Scheme: "slipway", Host: "acme", Path: "/production/" + host}}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	must(a.t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	must(a.t, err)
	var b bytes.Buffer
	must(a.t, pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}))
	must(a.t, pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
	return b.Bytes()
}

// serve runs an HTTPS server that asks for a certificate of this authority.
func (a *authority) serve(h http.Handler) *httptest.Server {
	a.t.Helper()
	pair := a.issue("", time.Hour)
	cert, err := tls.X509KeyPair(pair, pair)
	must(a.t, err)
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = quiet()
	srv.StartTLS()
	a.t.Cleanup(srv.Close)
	return srv
}

// credentials writes a host's files.
func (a *authority) credentials(host string, life time.Duration) fleet.Credentials {
	a.t.Helper()
	dir := a.t.TempDir()
	c := fleet.Credentials{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "host.pem"), Key: filepath.Join(dir, "host.pem")}
	must(a.t, os.WriteFile(c.CA, a.pem(), 0o644))
	must(a.t, os.WriteFile(c.Cert, a.issue(host, life), 0o600))
	return c
}

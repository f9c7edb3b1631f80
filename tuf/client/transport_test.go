package client

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
)

func caFile(t *testing.T, s *tuftest.Server) string {
	path := filepath.Join(t.TempDir(), "ca.pem")
	write(t, path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	return path
}

func TestACABundleReplacesTheSystems(t *testing.T) {
	repo, _ := billing(t)
	s := repo.ServeTLS()
	refuseRefresh[*ErrNetwork](t, newClient(t, repo, mirrors(s)))
	refresh(t, newClient(t, repo, mirrors(s), func(c *Config) { c.HTTP.CAFile = caFile(t, s) }))
}

func TestAClientCertificateIsReadAnewForEachConnection(t *testing.T) {
	repo, _ := billing(t)
	names := make(chan string, 16)
	s := repo.ServeTLS(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			names <- r.TLS.PeerCertificates[0].Subject.CommonName
			w.Header().Set("Connection", "close")
			next.ServeHTTP(w, r)
		})
	})
	s.TLS.ClientAuth = tls.RequireAnyClientCert
	cert, key := filepath.Join(t.TempDir(), "cert"), filepath.Join(t.TempDir(), "key")
	selfSigned(t, "first", cert, key)
	c := newClient(t, repo, mirrors(s), func(c *Config) { c.HTTP.CAFile, c.HTTP.CertFile, c.HTTP.KeyFile = caFile(t, s), cert, key })
	refresh(t, c)
	if got := <-names; got != "first" {
		t.Fatal(got)
	}
	for len(names) > 0 {
		<-names
	}
	c.fetch.http.CloseIdleConnections()
	selfSigned(t, "second", cert, key)
	refresh(t, c)
	if got := <-names; got != "second" {
		t.Fatal(got)
	}
}

func selfSigned(t *testing.T, name, certPath, keyPath string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, certPath, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
	write(t, keyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func TestTheAuthenticationHeaderIsSentFromItsFileButNeverToAnotherHost(t *testing.T) {
	repo, _ := billing(t)
	other := repo.Serve()
	first := repo.Serve(tuftest.Redirect("targets/", other.URL))
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, []byte("X-Token: one\n"))
	c := newClient(t, repo, mirrors(first), func(c *Config) { c.HTTP.AuthHeaderFile = secret })
	refresh(t, c)
	read(t, c, release1)
	for _, r := range first.Requests() {
		if r.Header.Get("X-Token") != "one" {
			t.Fatal(r)
		}
	}
	for _, r := range other.Requests() {
		if r.Header.Get("X-Token") != "" {
			t.Fatal("the token went to another host")
		}
	}
	write(t, secret, []byte("Bearer two"))
	refresh(t, c)
	if r := first.Requests(); r[0].Header.Get("Authorization") != "Bearer two" {
		t.Fatal(r)
	}
}

func TestARedirectFromHTTPSToHTTPIsRefusedAndSoIsALoop(t *testing.T) {
	repo, _ := billing(t)
	plain := repo.Serve()
	s := repo.ServeTLS(tuftest.Redirect("timestamp", plain.URL))
	e := refuseRefresh[*ErrNetwork](t, newClient(t, repo, mirrors(s), func(c *Config) { c.HTTP.CAFile = caFile(t, s) }))
	if !strings.Contains(e.Error(), "https to http") || len(plain.Requests()) != 0 {
		t.Fatal(e)
	}
	loop := repo.Serve(tuftest.Redirect("timestamp", ""))
	refuseRefresh[*ErrNetwork](t, newClient(t, repo, mirrors(loop)))
}

func TestAProxyIsUsedWhenConfigured(t *testing.T) {
	repo, _ := billing(t)
	seen := 0
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen++
		r.RequestURI = ""
		res, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer res.Body.Close()
		w.WriteHeader(res.StatusCode)
		if _, err := io.Copy(w, res.Body); err != nil {
			t.Error(err)
		}
	}))
	defer proxy.Close()
	refresh(t, newClient(t, repo, func(c *Config) { c.HTTP.Proxy = proxy.URL }))
	if seen != 4 {
		t.Fatal(seen)
	}
}

func TestAMountedDirectoryIsAMirror(t *testing.T) {
	repo, key := billing(t)
	repo.Delegate("odd/role ?", "targets", []string{"odd/*"}, 1, key)
	repo.AddTarget("odd/role ?", "odd/a b#c", []byte("odd"))
	repo.Publish()
	dir := filepath.Join(t.TempDir(), "a mount")
	for name, data := range repo.Files() {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path, data)
	}
	c := newClient(t, repo, func(c *Config) { c.Mirrors = []Mirror{{Metadata: filepath.Join(dir, "metadata")}} })
	refresh(t, c)
	if read(t, c, release1) != "one" || read(t, c, "odd/a b#c") != "odd" {
		t.Fatal("wrong bytes")
	}
	if got := refresh(t, c); got.Changed {
		t.Fatal("nothing changed")
	}
	file, data := archive(t, repo, 600<<10)
	write(t, filepath.Join(dir, "targets", "archives."+file.SHA256), nil)
	path := filepath.Join(dir, "targets/archives", file.SHA256+".app.tar.zst")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, path, data)
	dest := filepath.Join(t.TempDir(), "app")
	write(t, dest+".part", data[:1000])
	if err := c.Download(context.Background(), file, dest, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(dest); err != nil || !bytes.Equal(got, data) {
		t.Fatal(err)
	}
}

func TestAMountedDirectoryCannotLeadOutsideItself(t *testing.T) {
	repo, _ := billing(t)
	outside := filepath.Join(t.TempDir(), "timestamp.json")
	write(t, outside, repo.Get("metadata/timestamp.json"))
	dir := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "timestamp.json")); err != nil {
		t.Fatal(err)
	}
	refuseRefresh[*ErrNetwork](t, newClient(t, repo, func(c *Config) { c.Mirrors = []Mirror{{Metadata: dir}} }))
}

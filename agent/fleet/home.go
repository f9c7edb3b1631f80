package fleet

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
)

// Home is the directory of a host's identity, below the daemon's state and readable by root alone:
//
//	install.json  who this installation is, and the machine it was made on
//	host.pem      the host's key and its certificate with what leads to the authority, in one file: they change in one step
//	ca.pem        what the host knows hubs by
//	next.key      a key whose certificate has been asked for and has not come yet
//
// No key ever leaves it.
type Home string

func (h Home) file(name string) string { return filepath.Join(string(h), name) }

// Credentials are the files for a client.
func (h Home) Credentials() Credentials {
	return Credentials{CA: h.file("ca.pem"), Cert: h.file("host.pem"), Key: h.file("host.pem")}
}

// Enrolled reports whether the host has a certificate.
func (h Home) Enrolled() bool {
	_, err := os.Stat(h.file("host.pem"))
	return err == nil
}

func (h Home) make() error {
	return durable.MkdirAll(string(h), 0o700)
}

// Request is a PKCS #10 request as PEM for a key that is made on the first call and kept until its certificate is adopted.
func (h Home) Request(host string) ([]byte, error) {
	key, err := h.nextKey()
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: host}}, key)
	if err != nil {
		return nil, fmt.Errorf("cannot make a certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

func (h Home) nextKey() (crypto.Signer, error) {
	data, err := os.ReadFile(h.file("next.key"))
	if err == nil {
		return parseKey(data)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read this host's next key: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	if err := h.make(); err != nil {
		return nil, err
	}
	return key, durable.WriteFile(h.file("next.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func parseKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("cannot read this host's next key: the file holds no key; delete it and ask again")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, errors.New("cannot read this host's next key: the file holds no key; delete it and ask again")
	}
	return signer, nil
}

// Adopt takes a certificate for the key of Request into use. It refuses one for another key, one that does not lead to the
// authority, and one for somebody else than want (whose zero members allow anything); then nothing is changed.
func (h Home) Adopt(certificate, ca []byte, want Identity, now time.Time) (Identity, error) {
	key, err := os.ReadFile(h.file("next.key"))
	if err != nil {
		return Identity{}, fmt.Errorf("cannot take a certificate: none was asked for: %w", err)
	}
	id, err := check(certificate, key, ca, want, now)
	if err != nil {
		return id, err
	}
	if err := durable.WriteFile(h.file("ca.pem"), ca, 0o644); err != nil {
		return id, err
	}
	if err := durable.WriteFile(h.file("host.pem"), append(bytes.Clone(certificate), key...), 0o600); err != nil {
		return id, err
	}
	return id, durable.Remove(h.file("next.key"))
}

// check is everything that can be said about a certificate before it is used.
func check(certificate, key, ca []byte, want Identity, now time.Time) (Identity, error) {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return Identity{}, fmt.Errorf("cannot use that certificate with this host's key: %w", err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return Identity{}, errors.New("cannot use that authority: it holds no certificate in PEM form")
	}
	for _, der := range pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return Identity{}, fmt.Errorf("cannot use that certificate: %w", err)
	}
	id, err := IdentityIn(pair.Leaf)
	if err != nil {
		return id, err
	}
	return id, id.matches(want)
}

// IdentityIn reads the fleet's identity from a certificate; one of another public key infrastructure has none, and the zero
// Identity is returned: the hub knows such a host by its name.
func IdentityIn(c *x509.Certificate) (Identity, error) {
	for _, u := range c.URIs {
		if u.Scheme == identityScheme {
			return ParseIdentity(u)
		}
	}
	return Identity{}, nil
}

// matches says in what an identity differs from what the host is, where both say something.
func (i Identity) matches(want Identity) error {
	switch {
	case i.Host == "":
		return nil
	case want.Fleet != "" && i.Fleet != want.Fleet, !want.Environment.IsZero() && i.Environment != want.Environment, want.Host != "" && i.Host != want.Host:
		return fmt.Errorf("the certificate is for %s, but this is host %s of %s", i, orAny(want.Host), orAny(want.Environment.String()))
	}
	return nil
}

func orAny(s string) string {
	if s == "" {
		return "(any)"
	}
	return s
}

// Leaf reads the certificate that credentials stand on. Its error is a LocalError.
func (c Credentials) Leaf() (*x509.Certificate, error) {
	cfg, err := Credentials{Cert: c.Cert, Key: c.Key}.config(tls.VersionTLS13)
	if err != nil {
		return nil, err
	}
	return cfg.Certificates[0].Leaf, nil
}

// Speaks checks that a certificate speaks for a host: a hub takes who asks from it, so one for somebody else must not be used.
func Speaks(leaf *x509.Certificate, env release.Environment, host string) error {
	id, err := IdentityIn(leaf)
	if err == nil {
		err = id.matches(Identity{Environment: env, Host: host})
	}
	if err != nil {
		return &LocalError{What: "this host's certificate is not its own", Err: err}
	}
	return nil
}

// RenewAt is when to ask for the next certificate: at two thirds of this one's life.
func RenewAt(leaf *x509.Certificate) time.Time {
	return leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 3 * 2)
}

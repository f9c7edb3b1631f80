package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
)

// How long certificates last. Hosts and operators renew long before; roots and issuers are warned about.
const (
	RootYears       = 10
	IssuerYears     = 3
	HostValidity    = 90 * 24 * time.Hour
	PersonValidity  = 90 * 24 * time.Hour
	ServerValidity  = 30 * 24 * time.Hour
	backdateServer  = 24 * time.Hour // hosts judge it by their own clocks
	backdateHost    = time.Minute
	organizationTag = "Slipway fleet "
)

// Authority issues certificates. Chain leads from its own certificate to the root's, which is the last one.
type Authority struct {
	Fleet string
	Chain []*x509.Certificate
	key   crypto.Signer
}

// New joins a key with its certificates, own one first, and refuses a pair that does not belong together.
func New(key crypto.Signer, chain []*x509.Certificate) (*Authority, error) {
	if len(chain) == 0 {
		return nil, errors.New("cannot use the authority: it has no certificate")
	}
	own := chain[0]
	public, ok := own.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !ok || !public.Equal(key.Public()):
		return nil, fmt.Errorf("cannot use the authority: the key does not belong to the certificate of %s", own.Subject)
	case !own.IsCA:
		return nil, fmt.Errorf("cannot use the authority: the certificate of %s may not sign others", own.Subject)
	case len(own.Subject.Organization) != 1:
		return nil, fmt.Errorf("cannot use the authority: the certificate of %s names no fleet", own.Subject)
	}
	for i, c := range chain[1:] {
		if err := chain[i].CheckSignatureFrom(c); err != nil {
			return nil, fmt.Errorf("cannot use the authority: the certificate of %s is not signed by that of %s", chain[i].Subject, c.Subject)
		}
	}
	root := chain[len(chain)-1]
	if err := root.CheckSignatureFrom(root); err != nil {
		return nil, fmt.Errorf("cannot use the authority: the last certificate, of %s, is no root", root.Subject)
	}
	return &Authority{Fleet: fleetOf(own), Chain: chain, key: key}, nil
}

func fleetOf(c *x509.Certificate) string {
	o := c.Subject.Organization[0]
	if len(o) > len(organizationTag) && o[:len(organizationTag)] == organizationTag {
		return o[len(organizationTag):]
	}
	return o
}

// NewRoot makes a fleet's root for a key.
func NewRoot(fleetName string, key crypto.Signer, now time.Time) (*Authority, error) {
	if err := fleet.CheckFleet(fleetName); err != nil {
		return nil, err
	}
	t := authorityTemplate(fleetName, "root", now, now.AddDate(RootYears, 0, 0))
	t.MaxPathLen = 1
	c, err := sign(t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return New(key, []*x509.Certificate{c})
}

// NewIssuer signs an issuer for a hub. Name tells issuers apart, for people.
func (a *Authority) NewIssuer(name string, key crypto.PublicKey, now time.Time) ([]*x509.Certificate, error) {
	if len(a.Chain) != 1 {
		return nil, errors.New("cannot sign an issuer: that takes the root's key")
	}
	t := authorityTemplate(a.Fleet, "hub "+name, now, now.AddDate(IssuerYears, 0, 0))
	t.MaxPathLenZero = true
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	c, err := a.issue(t, key)
	if err != nil {
		return nil, err
	}
	return append([]*x509.Certificate{c}, a.Chain...), nil
}

func authorityTemplate(fleetName, name string, from, until time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{organizationTag + fleetName}, CommonName: organizationTag + fleetName + " " + name},
		NotBefore: from.Add(-backdateServer), NotAfter: until, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

// Issue certifies that key speaks for id for the time given, from now or from notBefore, whichever is later. A host's
// certificate begins a minute early, because the next hub's clock may be behind.
func (a *Authority) Issue(id fleet.Identity, key crypto.PublicKey, now, notBefore time.Time, validity time.Duration) (*x509.Certificate, error) {
	if err := id.Check(); err != nil {
		return nil, fmt.Errorf("cannot issue a certificate: %w", err)
	}
	if id.Fleet != a.Fleet {
		return nil, fmt.Errorf("cannot issue a certificate for %s: this is the authority of the fleet %s", id, a.Fleet)
	}
	from, name := now.Add(-backdateHost).UTC().Truncate(time.Second), id.Host
	if id.Operator != "" {
		from, name = now.UTC().Truncate(time.Second), id.Operator
	}
	if notBefore.After(from) {
		from = notBefore
	}
	return a.issue(&x509.Certificate{
		Subject:   pkix.Name{Organization: []string{organizationTag + a.Fleet}, CommonName: name[:min(len(name), 64)]},
		URIs:      []*url.URL{id.URI()},
		NotBefore: from, NotAfter: now.Add(validity),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}, key)
}

func (a *Authority) issue(t *x509.Certificate, key crypto.PublicKey) (*x509.Certificate, error) {
	own := a.Chain[0]
	if t.NotAfter.After(own.NotAfter) {
		t.NotAfter = own.NotAfter
	}
	if !t.NotAfter.After(t.NotBefore) {
		return nil, fmt.Errorf("cannot issue a certificate: that of %s ended at %s; make a new one with slipway-hub ca issuer",
			own.Subject.CommonName, own.NotAfter.Format(time.DateTime))
	}
	return sign(t, own, key, a.key)
}

func sign(t, parent *x509.Certificate, key crypto.PublicKey, by crypto.Signer) (*x509.Certificate, error) {
	serial := make([]byte, 16)
	rand.Read(serial) // never fails
	serial[0] &= 0x7f
	t.SerialNumber = new(big.Int).SetBytes(serial)
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key, by)
	if err != nil {
		return nil, fmt.Errorf("cannot issue a certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// Root is the fleet's root, and its SHA-256, by which tokens name it.
func (a *Authority) Root() (*x509.Certificate, release.Digest) {
	c := a.Chain[len(a.Chain)-1]
	return c, release.DigestOf(sha256.Sum256(c.Raw))
}

// PEM is a certificate followed by what leads from it to the root, without the root.
func (a *Authority) PEM(c *x509.Certificate) string {
	return EncodeCertificates(append([]*x509.Certificate{c}, a.Chain[:len(a.Chain)-1]...)...)
}

// EncodeCertificates writes certificates as PEM.
func EncodeCertificates(list ...*x509.Certificate) string {
	var out []byte
	for _, c := range list {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return string(out)
}

// ParseCertificates reads a PEM file of certificates and nothing else.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := data; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("cannot read certificates: there is a %s among them", b.Type)
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("cannot read certificates: %w", err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("cannot read certificates: there is none in PEM form")
	}
	return out, nil
}

// NewKey makes a key for an issuer, an operator or a hub.
func NewKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

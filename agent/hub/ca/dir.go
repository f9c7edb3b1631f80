package ca

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/slipway-deploy/slipway/agent/durable"
)

// The files of an authority's directory. The issuer's key and certificates are one file, so that they can only change together.
const (
	IssuerFile = "issuer.pem" // private key, the issuer's certificate, the root's; mode 0600
	RootFile   = "root.pem"   // the root's certificate, for hosts and operators; more than one while it is replaced
)

// ErrNoIssuer says that a directory has no issuer: its hub can verify certificates, and issues none.
var ErrNoIssuer = errors.New("there is no issuer here")

// SaveIssuer writes an issuer and, if there is none yet, the root beside it.
func SaveIssuer(dir string, key crypto.PrivateKey, chain []*x509.Certificate) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("cannot write the issuer: %w", err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), EncodeCertificates(chain...)...)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot write the issuer: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(dir, IssuerFile), text, 0o600); err != nil {
		return fmt.Errorf("cannot write the issuer: %w", err)
	}
	return AddRoot(dir, chain[len(chain)-1])
}

// AddRoot makes a root one of those that the directory's hub and its hosts trust.
func AddRoot(dir string, root *x509.Certificate) error {
	roots, err := LoadRoots(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, c := range roots {
		if c.Equal(root) {
			return nil
		}
	}
	if err := durable.WriteFile(filepath.Join(dir, RootFile), []byte(EncodeCertificates(append(roots, root)...)), 0o644); err != nil {
		return fmt.Errorf("cannot write the root's certificate: %w", err)
	}
	return nil
}

// LoadRoots reads the roots that the directory trusts.
func LoadRoots(dir string) ([]*x509.Certificate, error) {
	file := filepath.Join(dir, RootFile)
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the fleet's authority: %w", err)
	}
	roots, err := ParseCertificates(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return roots, nil
}

// LoadIssuer reads the issuer. A key that others may read is refused: it could be anybody's by now.
func LoadIssuer(dir string) (*Authority, error) {
	file := filepath.Join(dir, IssuerFile)
	info, err := os.Stat(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing", ErrNoIssuer, file)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the issuer: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("cannot use the issuer: %s has mode %04o, which lets others read its key; run chmod 600 on it", file, info.Mode().Perm())
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the issuer: %w", err)
	}
	key, chain, err := ParseKeyAndChain(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return New(key, chain)
}

// ParseKeyAndChain reads a private key followed by certificates, as in an issuer's or an operator's file.
func ParseKeyAndChain(data []byte) (crypto.Signer, []*x509.Certificate, error) {
	b, rest := pem.Decode(data)
	if b == nil || b.Type != "PRIVATE KEY" {
		return nil, nil, errors.New("cannot read the key: the file must begin with one PEM block PRIVATE KEY")
	}
	key, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	if err != nil {
		return nil, nil, errors.New("cannot read the key: it is no PKCS #8")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, nil, fmt.Errorf("cannot use a key of type %T", key)
	}
	chain, err := ParseCertificates(rest)
	return signer, chain, err
}

package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/slipway-deploy/slipway/agent/release"
)

// ParseRequest takes the key out of a PKCS #10 request, after its signature has proven that the sender holds it. Names in the
// request count for nothing.
func ParseRequest(text string) (crypto.PublicKey, error) {
	b, rest := pem.Decode([]byte(text))
	if b == nil || b.Type != "CERTIFICATE REQUEST" || strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("cannot read the certificate request: it must be one PEM block CERTIFICATE REQUEST")
	}
	r, err := x509.ParseCertificateRequest(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate request: %w", err)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, errors.New("cannot take the certificate request: its signature does not prove that the sender has the key")
	}
	if err := checkKey(r.PublicKey); err != nil {
		return nil, fmt.Errorf("cannot take the certificate request: %w", err)
	}
	return r.PublicKey, nil
}

func checkKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
		return fmt.Errorf("its key is on the curve %s; make one on P-256, or an ed25519 key", k.Curve.Params().Name)
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < 2048 || bits > 8192 {
			return fmt.Errorf("its RSA key has %d bits; make one on P-256, or an ed25519 key", bits)
		}
		return nil
	}
	return fmt.Errorf("its key is a %T; make one on P-256, or an ed25519 key", key)
}

// Fingerprint is the SHA-256 of a key's PKIX form.
func Fingerprint(key crypto.PublicKey) (release.Digest, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return release.Digest{}, fmt.Errorf("cannot use the key: %w", err)
	}
	return release.DigestOf(sha256.Sum256(der)), nil
}

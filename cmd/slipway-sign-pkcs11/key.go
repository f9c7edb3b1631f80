package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
)

// The ways in which tokens name a curve: by object identifier, or by a printable name.
var (
	namesP256    = []string{"06082a8648ce3d030107"}
	namesEd25519 = []string{"06032b6570", "06092b06010401da470f01", "130c656477617264733235353139"}
)

// ecKey reads a public key from CKA_EC_PARAMS and CKA_EC_POINT.
func ecKey(params, point []byte) (crypto.PublicKey, error) {
	name := hex.EncodeToString(params)
	// The point is an OCTET STRING by the standard; some tokens leave the wrapping away.
	var inner []byte
	if rest, err := asn1.Unmarshal(point, &inner); err != nil || len(rest) > 0 {
		inner = point
	}
	for _, n := range namesP256 {
		if n != name {
			continue
		}
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), inner)
		if err != nil {
			return nil, fmt.Errorf("cannot use the token's key: its point is not one of P-256: %w", err)
		}
		return key, nil
	}
	for _, n := range namesEd25519 {
		if n != name {
			continue
		}
		if len(inner) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("cannot use the token's key: its point has %d bytes, an Ed25519 key has %d", len(inner), ed25519.PublicKeySize)
		}
		return ed25519.PublicKey(bytes.Clone(inner)), nil
	}
	if name == "" {
		return nil, errors.New("cannot use the token's key: it is on no elliptic curve; use P-256 or Ed25519")
	}
	return nil, fmt.Errorf("cannot use the token's key: curve %s is neither P-256 nor Ed25519", name)
}

func certificateKey(der []byte) (crypto.PublicKey, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("cannot read the key's certificate in the token: %w", err)
	}
	return cert.PublicKey, nil
}

// asn1Signature makes of r and s, one after the other as tokens give them, what everybody else expects.
func asn1Signature(raw []byte) ([]byte, error) {
	half := len(raw) / 2
	if len(raw) != 64 {
		return nil, fmt.Errorf("cannot use the token's signature: it has %d bytes, want 64", len(raw))
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:])})
}

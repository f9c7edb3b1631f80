package signer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
)

const (
	requestSchema = "slipway.signer-request/v1"
	answerSchema  = "slipway.signer-answer/v1"

	// maxRequest has room for the largest metadata that clients accept, in base64.
	maxRequest = 16 << 20
	// maxAnswer has room for any public key or signature, many times over.
	maxAnswer = 64 << 10
)

// Operation is what a program is asked for.
type Operation string

// The operations of version 1. A program must know both.
const (
	// PublicKey asks which key the program signs with.
	PublicKey Operation = "public-key"
	// Sign asks for a signature over the payload.
	Sign Operation = "sign"
)

// Algorithm says how to sign.
type Algorithm string

// The algorithms of version 1.
const (
	// Ed25519 signs the payload itself; the signature has 64 bytes.
	Ed25519 Algorithm = "ed25519"
	// ECDSAP256 signs the payload's SHA-256 on curve P-256; the signature is the ASN.1 of r and s.
	ECDSAP256 Algorithm = "ecdsa-p256-sha256"
)

// Request is what a program reads. Everything but Schema and Operation belongs to Sign.
type Request struct {
	Schema    string    `json:"schema"`
	Operation Operation `json:"operation"`
	Algorithm Algorithm `json:"algorithm,omitempty"`
	// PublicKey is the key that must sign, as PEM: for programs that hold several.
	PublicKey string `json:"public_key,omitempty"`
	// KeyID and Name are how metadata and people call that key.
	KeyID string `json:"keyid,omitempty"`
	Name  string `json:"name,omitempty"`
	// Payload is what the signature is over; SHA256 is its digest, for programs that sign digests.
	Payload []byte `json:"payload,omitempty"`
	SHA256  []byte `json:"sha256,omitempty"`
}

// Answer is what a program writes: the one of the two that it was asked for.
type Answer struct {
	Schema    string `json:"schema"`
	PublicKey string `json:"public_key,omitempty"`
	Signature []byte `json:"signature,omitempty"`
}

// AlgorithmOf says how key signs. RSA keys sign nothing here: they are verified only.
func AlgorithmOf(key crypto.PublicKey) (Algorithm, error) {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return Ed25519, nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return ECDSAP256, nil
		}
		return "", fmt.Errorf("it is an ECDSA key on curve %s; use P-256 or Ed25519", k.Params().Name)
	}
	return "", fmt.Errorf("keys of type %T are not signed with; use ECDSA P-256 or Ed25519", key)
}

// NewSign is the request for a signature of key over payload.
func NewSign(key crypto.PublicKey, id, name string, payload []byte) (Request, error) {
	alg, err := AlgorithmOf(key)
	if err != nil {
		return Request{}, err
	}
	text, err := EncodeKey(key)
	if err != nil {
		return Request{}, err
	}
	sum := sha256.Sum256(payload)
	return Request{Operation: Sign, Algorithm: alg, PublicKey: text, KeyID: id, Name: name, Payload: payload, SHA256: sum[:]}, nil
}

// EncodeKey writes a public key as PEM.
func EncodeKey(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("cannot encode public key: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}

// DecodeKey reads a public key as EncodeKey writes it.
func DecodeKey(text string) (crypto.PublicKey, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("the public key is not one PEM block PUBLIC KEY")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the public key does not parse: %w", err)
	}
	return key, nil
}

// ReadRequest reads what a program was asked, to the end of in, and refuses what it could not answer well.
func ReadRequest(in io.Reader) (Request, error) {
	var q Request
	data, err := io.ReadAll(io.LimitReader(in, maxRequest+1))
	if err != nil {
		return q, fmt.Errorf("cannot read the request: %w", err)
	}
	if err := decode(data, maxRequest, &q); err != nil {
		return q, fmt.Errorf("cannot read the request: %w", err)
	}
	switch {
	case q.Schema != requestSchema:
		return q, fmt.Errorf("cannot read the request: schema is %q, want %q", q.Schema, requestSchema)
	case q.Operation == PublicKey:
		return q, nil
	case q.Operation != Sign:
		return q, fmt.Errorf("cannot read the request: operation is %q, want %q or %q", q.Operation, PublicKey, Sign)
	}
	if sum := sha256.Sum256(q.Payload); !bytes.Equal(sum[:], q.SHA256) {
		return q, errors.New("cannot read the request: sha256 is not the digest of payload")
	}
	return q, nil
}

func (a Answer) check(op Operation) error {
	switch {
	case a.Schema != answerSchema:
		return fmt.Errorf("schema is %q, want %q", a.Schema, answerSchema)
	case op == PublicKey && (a.PublicKey == "" || a.Signature != nil):
		return errors.New("it must hold public_key and nothing else")
	case op == Sign && (len(a.Signature) == 0 || a.PublicKey != ""):
		return errors.New("it must hold signature and nothing else")
	}
	return nil
}

func decode(data []byte, limit int, into any) error {
	if len(data) > limit {
		return fmt.Errorf("it is longer than %d bytes", limit)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return errors.New("it is empty")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("it is not the JSON object asked for: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more after the JSON object")
	}
	return nil
}

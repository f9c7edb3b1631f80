package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"unsafe"
)

func decoded(t *testing.T, text string) []byte {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("%q is not PEM", text)
	}
	return block.Bytes
}

func TestPointsAreReadAsTokensWriteThem(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := p256.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		params string
		point  []byte
		want   interface{ Equal(crypto.PublicKey) bool }
	}{
		"P-256, wrapped":          {namesP256[0], append([]byte{4, 65}, point...), &p256.PublicKey},
		"P-256, bare":             {namesP256[0], point, &p256.PublicKey},
		"Ed25519 by RFC 8410":     {namesEd25519[0], append([]byte{4, 32}, ed...), ed},
		"Ed25519 by name":         {namesEd25519[2], append([]byte{4, 32}, ed...), ed},
		"Ed25519, bare":           {namesEd25519[1], ed, ed},
		"P-384":                   {"06052b81040022", point, nil},
		"no curve":                {"", nil, nil},
		"P-256 off the curve":     {namesP256[0], append([]byte{4}, make([]byte, 64)...), nil},
		"P-256 without a point":   {namesP256[0], nil, nil},
		"Ed25519 with half a key": {namesEd25519[0], ed[:16], nil},
	} {
		params, err := hex.DecodeString(c.params)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ecKey(params, c.point)
		if (err == nil) != (c.want != nil) || c.want != nil && !c.want.Equal(got) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestACertificateStandsForItsKey(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := certificateKey(der); err != nil || !key.PublicKey.Equal(got) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := certificateKey(der[:20]); err == nil {
		t.Error("half a certificate was read")
	}
}

func TestSignaturesAreRewritten(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("x"))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig, err := asn1Signature(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
	if err != nil || !ecdsa.VerifyASN1(&key.PublicKey, sum[:], sig) {
		t.Errorf("%v", err)
	}
	for _, n := range []int{0, 63, 65, 96} {
		if _, err := asn1Signature(make([]byte, n)); err == nil {
			t.Errorf("%d bytes are a signature", n)
		}
	}
}

func TestStructuresHaveTheSizesOfTheStandard(t *testing.T) {
	if n := unsafe.Sizeof(tokenInfo{}); n != 208 {
		t.Errorf("CK_TOKEN_INFO has %d bytes", n)
	}
	if n := unsafe.Offsetof(functionList{}.fn); n != 8 {
		t.Errorf("the functions begin at %d", n)
	}
	if n := unsafe.Sizeof(attribute{}); n != 24 {
		t.Errorf("CK_ATTRIBUTE has %d bytes", n)
	}
}

func TestTheTokensWordsAreExplained(t *testing.T) {
	if err := outcome("C_Sign", 0); err != nil {
		t.Error(err)
	}
	for rv, want := range map[uint]string{0x0a4: "unblock the token", 0x021: "P-256", 0x80000001: "error 0x80000001"} {
		if err := outcome("C_Sign", rv); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%#x: %v", rv, err)
		}
	}
}

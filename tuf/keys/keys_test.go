package keys_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(beProgram())
	}
	keys.CheapPassphrases(1 << 10)
	os.Exit(m.Run())
}

func generate(t *testing.T, kind keys.Type) *keys.Private {
	t.Helper()
	k, err := keys.Generate(kind, "alice")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestBothKeyTypesSignWhatGoTUFVerifies(t *testing.T) {
	for _, kind := range []keys.Type{keys.Ed25519, keys.ECDSAP256} {
		k := generate(t, kind)
		root := metadata.Root()
		root.Signed.Keys[k.Public().ID] = k.Public().TUF()
		root.Signed.Roles["root"].KeyIDs = []string{k.Public().ID}
		payload := canonical(t, root)
		sig, err := keys.Sign(context.Background(), k, payload)
		if err != nil {
			t.Fatal(err)
		}
		root.Signatures = []metadata.Signature{{KeyID: k.Public().ID, Signature: sig}}
		if err := root.VerifyDelegate("root", root); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		sig[4] ^= 1
		var se *keys.SignatureError
		if err := k.Public().Verify(payload, sig); !errors.As(err, &se) || se.Kind() != "signature" {
			t.Errorf("%s: a flipped bit verifies: %v", kind, err)
		}
	}
}

func TestAnRSAKeyVerifiesPSSAndNothingElse(t *testing.T) {
	priv, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p, err := keys.NewPublic(priv.Public(), "old")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("x"))
	pss, err := rsa.SignPSS(rand.Reader, priv, crypto.SHA256, sum[:], nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Verify([]byte("x"), pss); err != nil {
		t.Error(err)
	}
	v15, err := rsa.SignPKCS1v15(rand.Reader, priv, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	if p.Verify([]byte("x"), v15) == nil {
		t.Error("a PKCS #1 v1.5 signature is accepted")
	}
	if _, err := keys.Generate("rsa", ""); err == nil {
		t.Error("an RSA key was made")
	}
}

func TestKeyFilesComeBackAndAreNeverOverwritten(t *testing.T) {
	for _, pass := range [][]byte{nil, []byte("correct horse")} {
		path := filepath.Join(t.TempDir(), "k")
		k := generate(t, keys.ECDSAP256)
		if err := k.Save(path, pass); err != nil {
			t.Fatal(err)
		}
		if err := k.Save(path, pass); err == nil {
			t.Error("a private key file was overwritten")
		}
		if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v", info.Mode())
		}
		got, err := keys.Open(context.Background(), "file:"+path, keys.Person{Passphrase: func(string) ([]byte, error) { return pass, nil }})
		if err != nil {
			t.Fatal(err)
		}
		if got.Public().ID != k.Public().ID || got.Public().Name != "alice" {
			t.Errorf("got %v", got.Public())
		}
		if public, err := keys.LoadPublic(path); err != nil || public.Fingerprint() != k.Public().Fingerprint() {
			t.Errorf("the private file does not serve for its public part: %v", err)
		}
	}
}

func TestAWrongPassphraseIsSaidWithoutTheSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k")
	if err := generate(t, keys.Ed25519).Save(path, []byte("right")); err != nil {
		t.Fatal(err)
	}
	_, err := keys.Load(path, func(string) ([]byte, error) { return []byte("wrong"), nil })
	var pe *keys.PassphraseError
	if !errors.As(err, &pe) || pe.File != path || pe.Kind() != "passphrase" {
		t.Errorf("got %v", err)
	}
	if _, err := keys.Load(path, nil); err == nil {
		t.Error("an encrypted key opened without anybody to ask")
	}
	if err := generate(t, keys.Ed25519).Save(path+"2", []byte{}); err == nil {
		t.Error("an empty passphrase was taken")
	}
}

func TestAnUnencryptedKeyThatOthersMayReadIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k")
	if err := generate(t, keys.Ed25519).Save(path, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Load(path, nil); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("got %v", err)
	}
}

func TestASwappedPublicPartIsNoticed(t *testing.T) {
	a, b := generate(t, keys.Ed25519), generate(t, keys.Ed25519)
	data, err := a.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	other := b.Public().TUF().Value.PublicKey
	data = bytes.ReplaceAll(data, []byte(a.Public().TUF().Value.PublicKey), []byte(other))
	path := filepath.Join(t.TempDir(), "k")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Load(path, nil); err == nil || !strings.Contains(err.Error(), "does not belong") {
		t.Errorf("got %v", err)
	}
}

func TestForeignKeyIDsAreKeptAndFingerprintsSayWhoIsWho(t *testing.T) {
	k := generate(t, keys.ECDSAP256).Public()
	relabelled := k.TUF()
	relabelled.Type = metadata.KeyTypeECDSA_SHA2_P256_COMPAT
	other, err := keys.FromTUF("somebody-elses-id", relabelled)
	if err != nil {
		t.Fatal(err)
	}
	if other.ID != "somebody-elses-id" || other.Fingerprint() != k.Fingerprint() || other.Name != "alice" {
		t.Errorf("got %v", other)
	}
	data, err := other.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := keys.ParsePublic(data)
	if err != nil || back.ID != other.ID {
		t.Errorf("got %v, %v", back, err)
	}
}

func TestKeysNoClientCanVerifyAreRefused(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.NewPublic(p384.Public(), ""); err == nil {
		t.Error("a P-384 key was taken")
	}
	for name, k := range map[string]*metadata.Key{
		"null":         nil,
		"short":        {Type: "ed25519", Scheme: "ed25519", Value: metadata.KeyVal{PublicKey: "abcd"}},
		"scheme":       {Type: "ed25519", Scheme: "ecdsa-sha2-nistp256", Value: metadata.KeyVal{PublicKey: strings.Repeat("00", 32)}},
		"not PEM":      {Type: "ecdsa", Scheme: "ecdsa-sha2-nistp256", Value: metadata.KeyVal{PublicKey: "x"}},
		"unknown type": {Type: "ml-dsa", Scheme: "ml-dsa-44", Value: metadata.KeyVal{PublicKey: "x"}},
	} {
		if _, err := keys.FromTUF("id", k); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

type liar struct{ keys.Signer }

func (liar) Sign(context.Context, []byte) ([]byte, error) { return make([]byte, 64), nil }

func TestASignerThatAnswersWronglyIsCaughtAtOnce(t *testing.T) {
	if _, err := keys.Sign(context.Background(), liar{generate(t, keys.Ed25519)}, []byte("x")); err == nil {
		t.Error("a wrong signature went through")
	}
	if _, err := keys.Open(context.Background(), "pkcs11:token", keys.Person{}); err == nil {
		t.Error("an unknown scheme was opened")
	}
}

func FuzzParsePublic(f *testing.F) {
	k, err := keys.Generate(keys.ECDSAP256, "n")
	if err != nil {
		f.Fatal(err)
	}
	data, err := k.Public().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"schema":"slipway.public-key/v1","keyid":"x","key":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := keys.ParsePublic(data)
		if err != nil {
			return
		}
		if _, err := json.Marshal(p); err != nil {
			t.Errorf("what parses does not encode: %v", err)
		}
	})
}

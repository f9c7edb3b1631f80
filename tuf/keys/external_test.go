package keys_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/slipway-deploy/slipway/tuf/signer"
)

// asProgram makes the test binary an external signer whose key is in the PEM file that its first argument names.
const asProgram = "SLIPWAY_TEST_AS_SIGNER"

type inFile struct{ key crypto.Signer }

func (f inFile) PublicKey(context.Context) (crypto.PublicKey, error) { return f.key.Public(), nil }

func (f inFile) Sign(_ context.Context, q signer.Request) ([]byte, error) {
	fmt.Fprintf(os.Stderr, "signing %d bytes for %s\n", len(q.Payload), q.Name)
	if q.Algorithm == signer.ECDSAP256 {
		return f.key.Sign(rand.Reader, q.SHA256, crypto.SHA256)
	}
	return f.key.Sign(rand.Reader, q.Payload, crypto.Hash(0))
}

func beProgram() int {
	data, err := os.ReadFile(os.Args[1])
	if err != nil {
		return 75
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return 1
	}
	err = signer.Serve(context.Background(), os.Stdin, os.Stdout, inFile{key.(crypto.Signer)})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return signer.ExitCode(err)
}

// holder is a program that holds key, as a command.
func holder(t *testing.T, key any) []string {
	t.Helper()
	t.Setenv(asProgram, "1")
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "secret.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{exe, path}
}

func p256(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func external(t *testing.T, key any) (*keys.External, string) {
	t.Helper()
	e, err := keys.NewExternal(context.Background(), holder(t, key), "ann", nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ann")
	if err := e.Save(path); err != nil {
		t.Fatal(err)
	}
	return e, path
}

func TestAKeyThatAProgramHoldsServesLikeAFile(t *testing.T) {
	e, path := external(t, p256(t))
	var said bytes.Buffer
	for _, ref := range []string{path, "file:" + path, "exec:" + strings.Join(e.Command(), "  ")} {
		s, err := keys.Open(context.Background(), ref, keys.Person{Stderr: &said})
		if err != nil {
			t.Fatal(err)
		}
		if s.Public().Fingerprint() != e.Public().Fingerprint() || s.Public().ID != e.Public().ID {
			t.Errorf("%s is %s", ref, s.Public())
		}
		if _, err := keys.Sign(context.Background(), s, []byte("payload")); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if !strings.Contains(said.String(), "signing 7 bytes for ann\n") {
		t.Errorf("the person was told %q", said.String())
	}
	public, err := keys.LoadPublic(path)
	if err != nil || public.Name != "ann" || public.Fingerprint() != e.Public().Fingerprint() {
		t.Errorf("the file's public part is %s: %v", public, err)
	}
	if err := e.Save(path); err == nil {
		t.Error("a key file was overwritten")
	}
}

func TestAProgramThatSignsWithAnotherKeyIsCaughtAtOnce(t *testing.T) {
	e, path := external(t, p256(t))
	other := holder(t, p256(t))[1]
	if err := os.Rename(other, e.Command()[1]); err != nil {
		t.Fatal(err)
	}
	s, err := keys.Open(context.Background(), path, keys.Person{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = keys.Sign(context.Background(), s, []byte("payload"))
	var wrong *keys.SignatureError
	if !errors.As(err, &wrong) || !strings.Contains(err.Error(), "the signer's answer is wrong") {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(e.Command()[1]); err != nil {
		t.Fatal(err)
	}
	var gone *signer.Error
	if _, err = keys.Sign(context.Background(), s, []byte("payload")); !errors.As(err, &gone) || gone.Reason != signer.Unavailable {
		t.Errorf("got %v", err)
	}
}

func TestExternalKeysOfOtherKindsAreRefused(t *testing.T) {
	old, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	wide, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []any{old, wide} {
		if _, err := keys.NewExternal(context.Background(), holder(t, key), "", nil); err == nil {
			t.Errorf("a key of type %T was taken", key)
		}
	}
	for _, command := range [][]string{nil, {""}, {"no-such-program-anywhere"}} {
		if _, err := keys.NewExternal(context.Background(), command, "", nil); err == nil {
			t.Errorf("%q was taken", command)
		}
	}
	if _, err := keys.Open(context.Background(), "exec:", keys.Person{}); err == nil || !strings.Contains(err.Error(), "no program is named") {
		t.Errorf("got %v", err)
	}
	if _, err := keys.FilePath("exec:/bin/true"); err == nil || !strings.Contains(err.Error(), "key external") {
		t.Errorf("got %v", err)
	}
}

func TestAFileThatOthersMayWriteNamesNoProgram(t *testing.T) {
	_, path := external(t, p256(t))
	if err := os.Chmod(path, 0o620); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.OpenFile(path, keys.Person{}); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("got %v", err)
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.Chown(path, 4711, -1)); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.OpenFile(path, keys.Person{}); err == nil || !strings.Contains(err.Error(), "belongs to user 4711") {
		t.Errorf("got %v", err)
	}
}

func TestExternalKeyFilesAreReadStrictly(t *testing.T) {
	_, path := external(t, p256(t))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{
		`"command"`:                       `"comand"`,
		`"command": [`:                    `"command": ["rm", `,
		`"name": "ann"`:                   `"name": "a\u0007n"`,
		`"scheme": "ecdsa-sha2-nistp256"`: `"scheme": "none"`,
	} {
		bad := filepath.Join(t.TempDir(), "bad")
		text := strings.Replace(string(whole), from, to, 1)
		if text == string(whole) {
			t.Fatalf("%s is not in %s", from, whole)
		}
		if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := keys.OpenFile(bad, keys.Person{}); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", to, err)
		}
	}
}

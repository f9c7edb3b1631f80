package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-deploy/slipway/integration/lab"
	"github.com/slipway-deploy/slipway/tuf/signer"
	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the program: a module reads the environment that its process was started with.
func TestMain(m *testing.M) {
	if os.Getenv("SLIPWAY_TEST_AS_PROGRAM") != "" {
		main()
	}
	os.Exit(m.Run())
}

const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// bench is a directory with SoftHSM tokens in it.
type bench struct{ t *testing.T }

func newBench(t *testing.T) *bench {
	t.Helper()
	err := lab.InstallTools(t.Context(), "softhsm2-util=softhsm2", "pkcs11-tool=opensc")
	if err != nil && os.Geteuid() != 0 {
		t.Skipf("SKIPPED, needs softhsm2 and opensc: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+dir+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	t.Setenv("SLIPWAY_TEST_AS_PROGRAM", "1")
	t.Setenv(pinVariable, "")
	return &bench{t}
}

func (b *bench) do(name string, args ...string) string {
	b.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		b.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// token makes a token whose PIN is 1234, with keys of the given types; the first has id 01 and so on.
func (b *bench) token(label string, kinds ...string) {
	b.t.Helper()
	b.do("softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "0000", "--pin", "1234")
	for i, kind := range kinds {
		b.do("pkcs11-tool", "--module", softHSM, "--token-label", label, "--login", "--pin", "1234",
			"--keypairgen", "--key-type", kind, "--id", fmt.Sprintf("%02d", i+1), "--label", label+"-key")
	}
}

// program is the adapter with more arguments.
func (b *bench) program(args ...string) signer.Program {
	b.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	return signer.Program{Command: append([]string{exe, "--module", softHSM}, args...)}
}

func (b *bench) key(p signer.Program) crypto.PublicKey {
	b.t.Helper()
	a, err := p.Ask(b.t.Context(), signer.Request{Operation: signer.PublicKey})
	if err != nil {
		b.t.Fatal(err)
	}
	key, err := signer.DecodeKey(a.PublicKey)
	if err != nil {
		b.t.Fatal(err)
	}
	return key
}

func (b *bench) sign(p signer.Program, key crypto.PublicKey, payload []byte) ([]byte, error) {
	b.t.Helper()
	q, err := signer.NewSign(key, "id", "ann", payload)
	if err != nil {
		b.t.Fatal(err)
	}
	a, err := p.Ask(b.t.Context(), q)
	return a.Signature, err
}

// refuses asserts that p does not sign, for a reason and with words.
func (b *bench) refuses(p signer.Program, key crypto.PublicKey, why signer.Reason, words string) {
	b.t.Helper()
	var said bytes.Buffer
	p.Stderr = &said
	_, err := b.sign(p, key, []byte("x"))
	var e *signer.Error
	if !errors.As(err, &e) || e.Reason != why || !strings.Contains(said.String(), words) {
		b.t.Errorf("%v\nsaid %q, want %s and %q", err, said.String(), why, words)
	}
}

func verifies(key crypto.PublicKey, payload, sig []byte) bool {
	if ec, ok := key.(*ecdsa.PublicKey); ok {
		sum := sha256.Sum256(payload)
		return ecdsa.VerifyASN1(ec, sum[:], sig)
	}
	return ed25519.Verify(key.(ed25519.PublicKey), payload, sig)
}

func TestATokenSignsWithBothKindsOfKeys(t *testing.T) {
	b := newBench(t)
	b.token("ann", "EC:prime256v1", "EC:edwards25519")
	t.Setenv(pinVariable, "1234")
	for id, kind := range map[string]string{"01": "ECDSA", "02": "Ed25519"} {
		p := b.program("--token", "ann", "--id", id)
		key := b.key(p)
		if got := fmt.Sprintf("%T", key); !strings.Contains(strings.ToLower(got), strings.ToLower(kind)) {
			t.Errorf("key %s is a %s", id, got)
		}
		// opensc 0.23 feeds EdDSA in pieces of 1024 bytes, which no token takes; metadata is longer.
		for _, n := range []int{1, 1024, 1025, 300_000} {
			payload := bytes.Repeat([]byte("m"), n)
			sig, err := b.sign(p, key, payload)
			if err != nil || !verifies(key, payload, sig) {
				t.Errorf("%s, %d bytes: %v", kind, n, err)
			}
		}
	}
}

func TestThePublicKeyIsTheOneThatOpenSCExports(t *testing.T) {
	b := newBench(t)
	b.token("ann", "EC:prime256v1", "EC:edwards25519")
	for _, id := range []string{"01", "02"} {
		file := filepath.Join(t.TempDir(), "pub")
		b.do("pkcs11-tool", "--module", softHSM, "--token-label", "ann", "--read-object", "--type", "pubkey", "--id", id, "--output-file", file)
		exported, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		ours, err := signer.EncodeKey(b.key(b.program("--id", id)))
		if err != nil {
			t.Fatal(err)
		}
		// Of P-256 it writes DER, of Ed25519 PEM.
		if der := []byte(exported); !bytes.Equal(der, decoded(t, ours)) && strings.TrimSpace(string(exported)) != strings.TrimSpace(ours) {
			t.Errorf("key %s: %s, opensc says\n%q", id, ours, exported)
		}
	}
}

func TestThePINComesFromWhereItIsKept(t *testing.T) {
	b := newBench(t)
	b.token("ann", "EC:prime256v1")
	file := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(file, []byte("1234\nthe rest is no PIN\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := b.program("--id", "01", "--pin-file", file)
	key := b.key(p)
	if sig, err := b.sign(p, key, []byte("x")); err != nil || !verifies(key, []byte("x"), sig) {
		t.Errorf("by file: %v", err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	b.refuses(p, key, signer.Failed, "chmod 600 "+file)
	t.Setenv(pinVariable, "4321")
	b.refuses(b.program("--id", "01"), key, signer.Refused, "the PIN is wrong")
	t.Setenv(pinVariable, "")
	if got := b.typed(key, "1234"); !verifies(key, []byte("x"), got) {
		t.Error("by terminal: the signature does not verify")
	}
}

// typed signs with the PIN typed at a terminal that is the program's.
func (b *bench) typed(key crypto.PublicKey, pin string) []byte {
	b.t.Helper()
	q, err := signer.NewSign(key, "id", "ann", []byte("x"))
	if err != nil {
		b.t.Fatal(err)
	}
	q.Schema = "slipway.signer-request/v1"
	request, err := json.Marshal(q)
	if err != nil {
		b.t.Fatal(err)
	}
	person, terminal := openTerminal(b.t)
	cmd := exec.Command(b.program().Command[0], b.program("--id", "01").Command[1:]...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(request), &out, os.Stderr
	cmd.ExtraFiles = []*os.File{terminal}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 3}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	const prompt = "PIN of token ann: "
	shown := make([]byte, len(prompt))
	if _, err := io.ReadFull(person, shown); err != nil || string(shown) != prompt {
		b.t.Errorf("the terminal shows %q: %v", shown, err)
	}
	if _, err := io.WriteString(person, pin+"\n"); err != nil {
		b.t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		b.t.Fatal(err)
	}
	after := make([]byte, 64)
	if n, err := person.Read(after); err != nil || strings.Contains(string(after[:n]), pin) {
		b.t.Errorf("after it the terminal shows %q: %v", after[:n], err)
	}
	var a signer.Answer
	if err := json.Unmarshal(out.Bytes(), &a); err != nil {
		b.t.Fatalf("%v: %s", err, out.String())
	}
	return a.Signature
}

// openTerminal makes a terminal and the side of it where the person sits.
func openTerminal(t *testing.T) (person, terminal *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = person.Close() })
	fd := int(person.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	return person, terminal
}

func TestKeysAndTokensAreNamedExactly(t *testing.T) {
	b := newBench(t)
	b.token("ann", "EC:prime256v1", "EC:prime256v1", "rsa:2048")
	t.Setenv(pinVariable, "1234")
	first, second := b.program("--id", "01"), b.program("--id", "02")
	key := b.key(first)
	b.refuses(second, key, signer.Failed, "another key")
	b.refuses(b.program("--id", "77"), key, signer.Failed, `0 objects have id "77"`)
	b.refuses(b.program("--id", "7"), key, signer.Failed, "not hexadecimal")
	b.refuses(b.program("--label", "ann-key"), key, signer.Failed, "3 objects")
	b.refuses(b.program("--label", "nobodys"), key, signer.Failed, "0 objects")
	b.refuses(b.program("--id", "03"), key, signer.Failed, "on no elliptic curve")
	b.refuses(b.program("--id", "01", "--token", "eva"), key, signer.Unavailable, `no token "eva"`)
	b.refuses(b.program(), key, signer.Failed, "--id, --label or both")
	b.refuses(b.program("--id", "01", "extra"), key, signer.Failed, `"extra"`)
	b.token("ben", "EC:prime256v1")
	b.refuses(first, key, signer.Failed, `name one with --token: "ann", "ben"`)
	if sig, err := b.sign(b.program("--token", "ann", "--id", "01", "--label", "ann-key"), key, []byte("x")); err != nil || !verifies(key, []byte("x"), sig) {
		t.Errorf("with all names: %v", err)
	}
}

func TestLibrariesThatAreNoTokensAreRefused(t *testing.T) {
	b := newBench(t)
	empty := filepath.Join(t.TempDir(), "empty.so")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for library, want := range map[string]string{"/nowhere.so": "cannot load", empty: "cannot load", "libc.so.6": "not a PKCS#11 library"} {
		var said bytes.Buffer
		p := signer.Program{Command: []string{b.program().Command[0], "--module", library, "--id", "01"}, Stderr: &said}
		if _, err := p.Ask(context.Background(), signer.Request{Operation: signer.PublicKey}); err == nil || !strings.Contains(said.String(), want) {
			t.Errorf("%s: %v\n%s", library, err, said.String())
		}
	}
}

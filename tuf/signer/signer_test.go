package signer_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/tuf/signer"
)

// TestMain lets the test binary be the program that is asked.
func TestMain(m *testing.M) {
	if kind := os.Getenv("SLIPWAY_TEST_SIGNER"); kind != "" {
		err := signer.Serve(context.Background(), os.Stdin, os.Stdout, backend(kind))
		if err != nil {
			fmt.Fprintln(os.Stderr, "program:", err)
		}
		os.Exit(signer.ExitCode(err))
	}
	os.Exit(m.Run())
}

var secret = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))

// backend signs as it should, or fails in the way it is called.
type backend string

func (b backend) PublicKey(context.Context) (crypto.PublicKey, error) {
	return secret.Public(), b.err()
}

func (b backend) Sign(_ context.Context, q signer.Request) ([]byte, error) {
	return ed25519.Sign(secret, q.Payload), b.err()
}

func (b backend) err() error {
	switch b {
	case "refuses":
		return fmt.Errorf("%w: the PIN is wrong", signer.ErrRefused)
	case "absent":
		return fmt.Errorf("%w: there is no card", signer.ErrUnavailable)
	case "fails":
		return errors.New("something broke")
	}
	return nil
}

func itself(t *testing.T, kind string) signer.Program {
	t.Helper()
	t.Setenv("SLIPWAY_TEST_SIGNER", kind)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return signer.Program{Command: []string{exe}}
}

// script is a program with a mind of its own.
func script(t *testing.T, text string) signer.Program {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return signer.Program{Command: []string{path, "an argument; with $(shell) words"}}
}

func toSign(t *testing.T, payload string) signer.Request {
	t.Helper()
	q, err := signer.NewSign(secret.Public(), "id", "ann", []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestAProgramSaysItsKeyAndSigns(t *testing.T) {
	p := itself(t, "works")
	a, err := p.Ask(context.Background(), signer.Request{Operation: signer.PublicKey})
	if err != nil {
		t.Fatal(err)
	}
	key, err := signer.DecodeKey(a.PublicKey)
	if err != nil || !secret.Public().(ed25519.PublicKey).Equal(key) {
		t.Fatalf("%v: %v", err, key)
	}
	payload := strings.Repeat("x", 1<<20)
	if a, err = p.Ask(context.Background(), toSign(t, payload)); err != nil {
		t.Fatal(err)
	}
	if !ed25519.Verify(key.(ed25519.PublicKey), []byte(payload), a.Signature) {
		t.Error("the signature does not verify")
	}
}

func TestAProgramsEndSaysWhy(t *testing.T) {
	for kind, want := range map[string]signer.Reason{"refuses": signer.Refused, "absent": signer.Unavailable, "fails": signer.Failed} {
		p := itself(t, kind)
		var said bytes.Buffer
		p.Stderr = &said
		for _, q := range []signer.Request{{Operation: signer.PublicKey}, toSign(t, "x")} {
			_, err := p.Ask(context.Background(), q)
			var e *signer.Error
			if !errors.As(err, &e) || e.Reason != want || e.Kind() != string(want) || !strings.Contains(err.Error(), p.Command[0]) {
				t.Errorf("%s: got %v", kind, err)
			}
		}
		if !strings.Contains(said.String(), "program: ") {
			t.Errorf("%s: the person was told %q", kind, said.String())
		}
	}
}

func TestAnswersThatAreNoneAreToldApart(t *testing.T) {
	restore := signer.Hurry(time.Minute, 50*time.Millisecond)
	defer restore()
	good := `{"schema":"slipway.signer-answer/v1","signature":"AAAA"}`
	for name, c := range map[string]struct{ text, want string }{
		"nothing":             {``, "it is empty"},
		"spaces":              {`echo`, "it is empty"},
		"no JSON":             {`echo hello`, "not the JSON object"},
		"a list":              {`echo '[]'`, "not the JSON object"},
		"half an object":      {`printf '{"schema":'`, "not the JSON object"},
		"another schema":      {`echo '{"schema":"slipway.signer-answer/v2","signature":"AAAA"}'`, `schema is "slipway.signer-answer/v2"`},
		"an unknown field":    {`echo '{"schema":"slipway.signer-answer/v1","signature":"AAAA","more":1}'`, `"more"`},
		"no signature":        {`echo '{"schema":"slipway.signer-answer/v1"}'`, "must hold signature"},
		"an empty signature":  {`echo '{"schema":"slipway.signer-answer/v1","signature":""}'`, "must hold signature"},
		"a key, not asked":    {`echo '{"schema":"slipway.signer-answer/v1","public_key":"x","signature":"AAAA"}'`, "nothing else"},
		"no base64":           {`echo '{"schema":"slipway.signer-answer/v1","signature":"*"}'`, "base64"},
		"a number":            {`echo '{"schema":"slipway.signer-answer/v1","signature":1}'`, "signature"},
		"two answers":         {`echo '` + good + good + `'`, "more after"},
		"an answer and words": {`echo '` + good + `' ok`, "more after"},
		"binary":              {`printf '\377\376\000'`, "not the JSON object"},
		"without end":         {`exec cat /dev/zero`, "longer than 65536 bytes"},
		"a child that stays":  {`echo '` + good + `'; sleep 1 &`, "holds its output open"},
		"an answer, failed":   {`echo '` + good + `'; exit 4`, "exit status 4"},
		"killed":              {`kill -9 $$`, "signal: killed"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := script(t, c.text).Ask(context.Background(), toSign(t, strings.Repeat("unread", 1<<18)))
			var e *signer.Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestAProgramIsNotWaitedForWithoutEnd(t *testing.T) {
	defer signer.Hurry(100*time.Millisecond, 100*time.Millisecond)()
	for name, text := range map[string]string{"sleeps": `exec sleep 600`, "ignores SIGTERM": `trap '' TERM; while :; do sleep 0.1; done`} {
		_, err := script(t, text).Ask(context.Background(), toSign(t, "x"))
		var e *signer.Error
		if !errors.As(err, &e) || e.Reason != signer.TimedOut || !strings.Contains(err.Error(), "within 100ms") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestCtrlCEndsTheProgram(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	p := script(t, `trap 'echo ended >&2; exit 1' TERM; echo ready >&2; while :; do sleep 0.05; done`)
	in, out := io.Pipe()
	p.Stderr = out
	done := make(chan error, 1)
	go func() {
		_, err := p.Ask(ctx, toSign(t, "x"))
		_ = out.Close()
		done <- err
	}()
	line := make([]byte, 6)
	if _, err := io.ReadFull(in, line); err != nil {
		t.Fatal(err)
	}
	cancel()
	rest, _ := io.ReadAll(in)
	if err := <-done; !errors.Is(err, context.Canceled) || string(rest) != "ended\n" {
		t.Errorf("got %v, and the program said %q", err, rest)
	}
}

func TestTheProgramIsRunAsItIsNamedAndWithoutAShell(t *testing.T) {
	var said bytes.Buffer
	p := script(t, `printf %s "$1" >&2; exit 1`)
	p.Stderr = &said
	if _, err := p.Ask(context.Background(), toSign(t, "x")); err == nil || said.String() != p.Command[1] {
		t.Errorf("%v: %q", err, said.String())
	}
	for _, command := range [][]string{nil, {""}, {"no-such-program-anywhere"}, {t.TempDir()}} {
		_, err := signer.Program{Command: command}.Ask(context.Background(), toSign(t, "x"))
		if err == nil || !strings.Contains(err.Error(), "was not started") {
			t.Errorf("%q: %v", command, err)
		}
	}
}

func TestAProgramRefusesRequestsThatItCannotTrust(t *testing.T) {
	for text, want := range map[string]string{
		``: "empty",
		`{"schema":"slipway.signer-request/v2","operation":"sign"}`:                                         "schema",
		`{"schema":"slipway.signer-request/v1","operation":"export"}`:                                       `operation is "export"`,
		`{"schema":"slipway.signer-request/v1","operation":"sign","payload":"AAAA","sha256":"AAAA"}`:        "not the digest",
		`{"schema":"slipway.signer-request/v1","operation":"public-key","pin":"1234"}`:                      "pin",
		`{"schema":"slipway.signer-request/v1","operation":"public-key"} {"operation":"sign"}`:              "more after",
		`{"schema":"slipway.signer-request/v1","operation":"sign","payload":` + strings.Repeat(" ", 17<<20): "longer",
	} {
		var out bytes.Buffer
		if err := signer.Serve(context.Background(), strings.NewReader(text), &out, backend("works")); err == nil || !strings.Contains(err.Error(), want) || out.Len() > 0 {
			t.Errorf("%.80s: %v, and wrote %q", text, err, out.String())
		}
	}
}

func TestOnlyKeysThatClientsAcceptAreSignedWith(t *testing.T) {
	for _, text := range []string{"", "x", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
		"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if _, err := signer.DecodeKey(text); err == nil {
			t.Errorf("%q is a public key", text)
		}
	}
	if _, err := signer.NewSign(secret, "", "", nil); err == nil {
		t.Error("a private key is taken for a public one")
	}
	big := make([]byte, 13<<20)
	if _, err := rand.Read(big); err != nil {
		t.Fatal(err)
	}
	if _, err := (signer.Program{Command: []string{"/bin/true"}}).Ask(context.Background(), toSign(t, string(big))); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("got %v", err)
	}
}

func FuzzReadRequest(f *testing.F) {
	f.Add([]byte(`{"schema":"slipway.signer-request/v1","operation":"public-key"}`))
	f.Add([]byte(`{"schema":"slipway.signer-request/v1","operation":"sign","sha256":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		q, err := signer.ReadRequest(bytes.NewReader(data))
		if err == nil && q.Operation != signer.PublicKey && len(q.SHA256) != 32 {
			t.Errorf("%+v went through", q)
		}
	})
}

func TestAFileIsExposedWhenOthersMayReadIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	exposed := func(mode os.FileMode) bool {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return signer.Exposed(info)
	}
	for mode, want := range map[os.FileMode]bool{0o600: false, 0o400: false, 0o604: true, 0o660: true, 0o444: true} {
		if got := exposed(mode); got != want {
			t.Errorf("mode %#o: %v", mode, got)
		}
	}
	if os.Geteuid() != 0 {
		if !exposed(0o440) {
			t.Error("a group of other people may read it")
		}
		return
	}
	if exposed(0o440) {
		t.Error("what only root and root's group may read is exposed")
	}
	if err := os.Chown(path, 0, 4711); err != nil {
		t.Fatal(err)
	}
	if !exposed(0o440) {
		t.Error("group 4711 may read it")
	}
}

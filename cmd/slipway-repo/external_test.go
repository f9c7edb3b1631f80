package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/integration/lab"
)

const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// tools installs what a test calls besides Go, where it may.
func tools(t testing.TB, pairs ...string) {
	t.Helper()
	err := lab.InstallTools(t.Context(), pairs...)
	if err != nil && os.Geteuid() != 0 {
		t.Skipf("SKIPPED, needs %s: %v", strings.Join(pairs, ", "), err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (s *shell) other(name string, args ...string) {
	s.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		s.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// tokens makes a PKCS#11 token with one key for each person, who is also the key's PIN file, and key files that name it.
func (s *shell) tokens(helper string, kinds map[string]string) {
	s.t.Helper()
	tools(s.t, "softhsm2-util=softhsm2", "pkcs11-tool=opensc")
	here, err := os.Getwd()
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("softhsm2.conf", "directories.tokendir = "+s.t.TempDir()+"\nobjectstore.backend = file\nlog.level = ERROR\n")
	s.t.Setenv("SOFTHSM2_CONF", filepath.Join(here, "softhsm2.conf"))
	s.t.Setenv("SLIPWAY_PKCS11_PIN", "")
	for who, kind := range kinds {
		pin := filepath.Join(here, who+".pin")
		if err := os.WriteFile(pin, []byte("1234\n"), 0o600); err != nil {
			s.t.Fatal(err)
		}
		s.other("softhsm2-util", "--init-token", "--free", "--label", who, "--so-pin", "0000", "--pin", "1234")
		s.other("pkcs11-tool", "--module", softHSM, "--token-label", who, "--login", "--pin", "1234", "--keypairgen", "--key-type", kind, "--id", "01")
		s.expect(0, fmt.Sprintf("key external %s -- %s --module %s --token %s --id 01 --pin-file %s", who, helper, softHSM, who, pin),
			"fingerprint", "signed by    "+helper)
	}
}

func TestACeremonyWhoseKeysAreAllInTokens(t *testing.T) {
	helper := filepath.Join(t.TempDir(), "sign-pkcs11")
	if err := lab.GoBuild(t.Context(), "../slipway-sign-pkcs11", helper); err != nil {
		t.Fatal(err)
	}
	s := newShell(t)
	s.tokens(helper, map[string]string{"alice": "EC:prime256v1", "bob": "EC:edwards25519", "ann": "EC:edwards25519", "ben": "EC:prime256v1", "ci": "EC:prime256v1",
		"online": "EC:edwards25519", "oncall": "EC:prime256v1"})
	s.expect(0, "key gen carol --unencrypted")
	s.expect(0, "key gen cem --unencrypted")
	s.expect(0, "init --root-key alice.pub --root-key bob --root-key carol.pub --root-threshold 2 --online-key online.pub --use-online online --sign alice --sign bob",
		"root: 2 of 2", "targets: 2 of 2")
	s.expect(0, "publish", "timestamp is now version 1")
	s.expect(0, "trust add repo/metadata/1.root.json")
	host := s.machine()
	s.expect(0, "env add production --key ann.pub --key ben.pub --key cem.pub --threshold 2 --emergency-key oncall.pub --sign alice --sign bob", "targets: 2 of 2")
	s.expect(0, "publish")
	s.expect(0, "app add billing --key ci.pub --sign bob", "targets: 1 of 2")
	id := strings.Fields(s.out)[0]
	s.expect(0, "change sign "+id+" --key alice", "targets: 2 of 2")
	s.expect(0, "publish")
	s.tree()
	s.expect(0, "release pack build --app billing --version 1.0.0")
	s.expect(0, "release publish billing 1.0.0 --sign ci", "app.billing: 1 of 1")
	s.expect(0, "publish")
	s.expect(0, "deploy new --env production --app billing --release 1.0.0 --min-healthy 1m --sign ann --sign ben", "deploy.production.billing: 2 of 2")
	s.expect(0, "publish")
	s.follows(host)

	s.expect(0, "rotate root --remove-key carol --add-key cem.pub --reason moved --sign alice --sign bob --yes", "published")
	s.expect(0, "refresh --force", "signed timestamp")
	s.expect(0, "emergency halt production --reason drill --sign oncall", "in force")
	s.follows(host)
}

// typedWords is typed for arguments that hold spaces.
func (s *shell) typedWords(args ...string) int {
	var out, err bytes.Buffer
	code := run(context.Background(), args, streams{in: strings.NewReader("y\n"), out: &out, err: &err})
	s.out, s.err = out.String(), err.String()
	return code
}

func (s *shell) expectWords(code int, args []string, want ...string) {
	s.t.Helper()
	if got := s.typedWords(args...); got != code {
		s.t.Fatalf("slipway-repo %q\nexit %d, want %d\n%s%s", args, got, code, s.out, s.err)
	}
	for _, w := range want {
		if !strings.Contains(s.out+s.err, w) {
			s.t.Errorf("slipway-repo %q\nno %q in\n%s%s", args, w, s.out, s.err)
		}
	}
}

// ownSigner is the program that docs/external-signers.md shows, with a key for it, as a command.
func (s *shell) ownSigner(key string) []string {
	s.t.Helper()
	tools(s.t, "jq", "openssl", "base64=coreutils")
	page, err := os.ReadFile(docs("external-signers.md"))
	if err != nil {
		s.t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), "    #!/bin/sh\n")
	if !found {
		s.t.Fatal("the page shows no program")
	}
	text, _, _ = strings.Cut(text, "\n\n")
	s.write("signer", "#!/bin/sh\n"+strings.ReplaceAll("    "+text, "\n    ", "\n")+"\n")
	s.other("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
	here, err := os.Getwd()
	if err != nil {
		s.t.Fatal(err)
	}
	return []string{filepath.Join(here, "signer"), filepath.Join(here, key)}
}

func TestTheProgramThatTheDocumentShowsSigns(t *testing.T) {
	s := newShell(t)
	command := s.ownSigner("dora.pem")
	s.expectWords(0, append([]string{"key", "external", "dora", "--name", "Dora", "--"}, command...), "Dora", "ecdsa", "signed by")
	s.expectWords(1, append([]string{"key", "external", "dora", "--"}, command...), "a key that is overwritten is a key that is lost")
	s.expect(0, "key show dora", "Dora", "signed by    "+command[0])
	s.expect(0, "key test dora", "Dora", "signed by")
	ref := "exec:" + strings.Join(command, " ")
	s.expectWords(0, []string{"key", "show", ref}, "ecdsa", "signed by")
	s.expectWords(0, []string{"key", "test", ref, "--json"})
	var a keyAnswer
	if err := json.Unmarshal([]byte(s.out), &a); err != nil || len(a.Command) != 2 || a.File != ref {
		t.Errorf("%v: %s", err, s.out)
	}
	if err := os.Remove("dora.pem"); err != nil {
		t.Fatal(err)
	}
	s.expect(1, "key test dora", "cannot sign with Dora", "asked for a signature", "malformed answer")
	s.expectWords(1, []string{"key", "test", ref}, "asked for its public key")
	s.expectWords(1, []string{"key", "external", "nobody", "--", "/bin/false"}, "failed (exit status 1)")
	if _, err := os.Lstat("nobody"); err == nil {
		t.Error("a key file was written for a program that does not answer")
	}
}

func TestARepositoryNamesNoProgramToRun(t *testing.T) {
	s := newShell(t)
	command := s.ownSigner("online2.pem")
	s.expectWords(0, append([]string{"key", "external", "online2", "--"}, command...))
	ref := "exec:" + strings.Join(command, " ")
	s.published()
	for _, args := range [][]string{
		{"role", "set", "timestamp", "--add-key", "online2.pub", "--use-online", ref, "--reason", "x"},
		{"revoke", "online", "--replace-with", "online2.pub", "--use-online", ref, "--reason", "x"},
		{"init", "-C", "other", "--root-key", "alice.pub", "--online-key", "online.pub", "--use-online", ref},
	} {
		s.expectWords(1, args, "a key file is wanted here", "key external")
	}
	s.expect(0, "revoke online --replace-with online2.pub --use-online online2 --reason yearly --sign alice --sign bob")
	s.expectWords(0, []string{"publish", "--online-key", ref}, "published")
	s.expect(0, "refresh --force", "signed timestamp")

	// A pull request that brings a program beside the key file that names it.
	whole, err := os.ReadFile("online2")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("repo/online2", whole, 0o600); err != nil {
		t.Fatal(err)
	}
	s.policy(func(p map[string]any) { p["online_keys"] = []string{"online2"} })
	s.expect(3, "refresh --force", "lies in the repository", "keep the file elsewhere")
	if err := os.Rename("repo/online2", "elsewhere"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../repo/changes", "link"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("repo/changes/online2", whole, 0o600); err != nil {
		t.Fatal(err)
	}
	s.policy(func(p map[string]any) { p["online_keys"] = []string{"../link/online2"} })
	s.expect(1, "refresh --force", "no such file")
	s.policy(func(p map[string]any) { p["online_keys"] = []string{"../elsewhere"} })
	s.expect(0, "refresh --force", "signed timestamp")
	s.policy(func(p map[string]any) { p["online_keys"] = []string{ref} })
	s.expect(1, "refresh --force", "online_keys", "a key file is wanted here")
}

// policy edits policy.json by hand.
func (s *shell) policy(edit func(map[string]any)) {
	s.t.Helper()
	data, err := os.ReadFile("repo/policy.json")
	if err != nil {
		s.t.Fatal(err)
	}
	var p map[string]any
	if err := json.Unmarshal(data, &p); err != nil {
		s.t.Fatal(err)
	}
	edit(p)
	if data, err = json.Marshal(p); err != nil {
		s.t.Fatal(err)
	}
	s.write("repo/policy.json", string(data))
}

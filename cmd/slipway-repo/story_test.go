package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// shell runs commands the way a person types them, in a directory of its own.
type shell struct {
	t        testing.TB
	out, err string
}

func newShell(t testing.TB) *shell {
	t.Helper()
	t.Chdir(t.TempDir())
	t.Setenv("SLIPWAY_REPOSITORY", "repo")
	t.Setenv("SLIPWAY_PASSPHRASE_FILE", "")
	t.Setenv("SLIPWAY_TRUST", "trust")
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	return &shell{t: t}
}

func (s *shell) typed(line string) int {
	var out, err bytes.Buffer
	code := run(context.Background(), strings.Fields(line), streams{in: strings.NewReader("y\n"), out: &out, err: &err})
	s.out, s.err = out.String(), err.String()
	return code
}

func (s *shell) expect(code int, line string, want ...string) {
	s.t.Helper()
	if got := s.typed(line); got != code {
		s.t.Fatalf("slipway-repo %s\nexit %d, want %d\n%s%s", line, got, code, s.out, s.err)
	}
	for _, w := range want {
		if !strings.Contains(s.out+s.err, w) {
			s.t.Errorf("slipway-repo %s\nno %q in\n%s%s", line, w, s.out, s.err)
		}
	}
}

func (s *shell) write(path, content string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		s.t.Fatal(err)
	}
}

const billingTOML = `restart = "restart"
[[units]]
path = "systemd/billing.service"
[[users]]
name = "billing"
[[checks]]
name = "http"
kind = "http"
url = "http://127.0.0.1:8080/healthz"
interval = "1s"
`

func (s *shell) tree() {
	s.write("build/bin/billing", "#!/bin/sh\n")
	s.write("build/systemd/billing.service", "[Service]\nUser=billing\nExecStart=@current@/bin/billing\n")
	s.write("release.toml", billingTOML)
}

func (s *shell) published() {
	for _, k := range []string{"alice", "bob", "carol", "ann", "ben", "cem", "ci", "online"} {
		s.expect(0, "key gen "+k+" --unencrypted", "fingerprint", "is not encrypted")
	}
	s.expect(0, "init --root-key alice.pub --root-key bob.pub --root-key carol.pub --root-threshold 2 --online-key online.pub --use-online online --sign alice --sign bob",
		"root: 2 of 2")
	s.expect(0, "publish", "timestamp is now version 1")
	s.expect(0, "trust add repo/metadata/1.root.json", "held by alice")
	s.expect(0, "env add production --key ann.pub --key ben.pub --key cem.pub --threshold 2 --freshness 24h --sign alice --sign bob")
	s.expect(0, "publish")
	s.expect(0, "app add billing --key ci.pub --sign alice --sign carol", "warning: app.billing has no spare key (1 of 1)")
	s.expect(0, "publish")
}

func TestFromKeysToAVerifiedDeployment(t *testing.T) {
	s := newShell(t)
	s.published()
	s.tree()
	s.expect(0, "release pack build --app billing --version 1.0.0", "billing 1.0.0", "linux/")
	s.expect(0, "release publish billing 1.0.0 --sign ci", "app.billing: 1 of 1")
	s.expect(0, "publish")
	s.write("deployment.toml", `environment = "production"
app = "billing"
release = "1.0.0"
ticket = "OPS-1"
[health]
min_healthy_time = "30s"
healthy_deadline = "2m"
[[waves]]
name = "canary"
percent_bp = 1000
[[waves]]
name = "all"
percent_bp = 10000
start_after = "1h"
`)
	s.expect(0, "deploy new --file deployment.toml --requested-by dora --sign ann",
		"production/billing: nothing → 1.0.0, waves canary 10 %, all 100 % after 1h, requested by dora, ticket OPS-1", "deploy.production.billing: 1 of 2, missing one of ben")
	id := strings.Fields(s.out)[0]
	s.expect(3, "publish", "left out "+id)
	s.expect(3, "change sign "+id+" --key ci", "no role in it is signed by that key")
	s.expect(0, "change sign "+id+" --key ben", "Sign this?", "deploy.production.billing: 2 of 2")
	s.expect(0, "publish")
	s.expect(0, "verify --payloads", "production/billing: 1.0.0, sequence 1, active", "1 releases, 2 files")
	s.expect(0, "refresh", "nothing is due")
	s.expect(0, "refresh --force", "signed timestamp 6")
	s.expect(0, "status", "deploy.production.billing  1", "2 of 3")
	s.expect(1, "status --within 400d", "expires in", "within 400d")
	s.expect(0, "deploy new --env production --app billing --absent --reason retired --sign ann --sign cem", "1.0.0 → nothing")
}

func TestAnswersAreJSONWhenAsked(t *testing.T) {
	s := newShell(t)
	s.published()
	for _, line := range []string{"status", "verify", "refresh --force", "change list", "publish", "key show alice.pub", "role renew root --sign alice"} {
		s.expect(0, line+" --json")
		if !json.Valid([]byte(s.out)) {
			t.Errorf("%s: %s", line, s.out)
		}
	}
	s.expect(3, "app add billing --key ci.pub --json")
	var e struct {
		Error struct{ Kind, Message, Rule string }
	}
	last := s.err[strings.LastIndexByte(strings.TrimSpace(s.err), '\n')+1:]
	if json.Unmarshal([]byte(last), &e) != nil || e.Error.Kind != "refused" || e.Error.Rule != "an app is added once" || s.out != "" {
		t.Errorf("got %q and %q", s.out, s.err)
	}
}

func TestWrongUsageIsExitCodeTwo(t *testing.T) {
	s := newShell(t)
	for _, line := range []string{"bogus", "key bogus", "publish --bogus", "key gen", "init", "key gen k --type rsa", "deploy new --env p --app a",
		"status --within soon", "app add NOT/A/NAME --key x"} {
		s.expect(2, line, "hint: add --help")
	}
	s.expect(1, "status", "has no policy.json")
}

func TestEncryptedKeysOpenWithThePassphraseFile(t *testing.T) {
	s := newShell(t)
	s.write("pass", "correct horse\n")
	s.write("wrong", "battery\n")
	s.expect(0, "key gen alice --name Alice --type ecdsa-p256 --passphrase-file pass", "Alice")
	s.expect(0, "key test alice --passphrase-file pass")
	s.expect(1, "key test alice --passphrase-file wrong", "wrong passphrase")
	s.expect(1, "key test alice", "no terminal")
	s.expect(1, "key gen alice --passphrase-file pass", "a key that is overwritten is a key that is lost")
}

func TestWhatPeopleWriteIsJudgedWithItsLine(t *testing.T) {
	s := newShell(t)
	s.tree()
	for name, c := range map[string]struct{ toml, want string }{
		"unknown key":    {"restart = \"restart\"\nrestrat = 1\n", "release.toml:2: restrat"},
		"nested":         {billingTOML + "timout = \"1s\"\n", "release.toml:11: checks[0].timout"},
		"wrong value":    {"restart = \"sometimes\"\n", "release.toml:1: restart"},
		"ours to fill":   {"\nschema = \"x\"\n", "release.toml:2: schema: slipway-repo fills this in"},
		"not TOML":       {"a = \n", "release.toml:1"},
		"a float":        {"[[checks]]\nstatus = 2.5\n", "release.toml:2: checks[0].status: 2.5 is not a whole number"},
		"a foreign unit": {strings.Replace(billingTOML, "path = \"systemd/billing.service\"", "path = \"systemd/ssh.service\"", 1), "release.toml:2"},
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			s.write("release.toml", c.toml)
			s.expect(1, "release pack build --app billing --version 1.0.0", c.want)
		})
	}
	s.t = t
	s.write("release.toml", billingTOML)
	s.write("build/systemd/billing.service", "[Service]\nExecStart=@current@/bin/billing\n")
	s.expect(3, "release pack build --app billing --version 1.0.0", "billing.service", "User=")
	if _, err := os.Stat("billing-1.0.0/release.json"); err == nil {
		t.Error("a refused release was packed")
	}
	s.write("d.toml", "environment = \"production\"\napp = \"billing\"\nrelease = \"1\"\n[[waves]]\nname = \"a\"\npercent_bp = 10001\n")
	s.expect(1, "deploy new --file d.toml", "d.toml:6: waves[0].percent_bp")
}

func TestTheSameTreePacksToTheSameRelease(t *testing.T) {
	s := newShell(t)
	s.tree()
	digest := regexp.MustCompile(`[0-9a-f]{12}`)
	s.expect(0, "release pack build --app billing --version 1.0.0 --out a")
	first := digest.FindString(s.out)
	s.expect(0, "release pack build --app billing --version 1.0.0 --out b")
	if again := digest.FindString(s.out); first == "" || again != first {
		t.Errorf("%s and %s", first, again)
	}
	s.expect(1, "release pack build --app billing --version 1.0.0 --out b", "it holds a release")
}

func TestEveryCommandHasAnExample(t *testing.T) {
	tool := &tool{}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if len(c.Commands()) == 0 && c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(tool.root())
}

func TestManualPagesComeFromTheHelpTexts(t *testing.T) {
	s := newShell(t)
	s.expect(0, "man pages")
	for page, want := range map[string]string{"slipway-repo.1": `slipway\-repo\-publish`, "slipway-repo-deploy-new.1": `\-\-min\-healthy`} {
		data, err := os.ReadFile(filepath.Join("pages", page))
		if err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s: %v\n%s", page, err, data)
		}
	}
}

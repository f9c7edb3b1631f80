package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/tuf/client"
)

// machine is a host: the hosts' own client with a cache that lives on, and the hosts' own rules for what to do.
type machine struct {
	s    *shell
	dir  string
	root []byte
}

func (s *shell) machine() *machine {
	s.t.Helper()
	root, err := os.ReadFile("repo/metadata/1.root.json")
	if err != nil {
		s.t.Fatal(err)
	}
	return &machine{s: s, dir: s.t.TempDir(), root: root}
}

// sees refreshes and reads a document as a host would; nil if nobody has signed it.
func (m *machine) sees(path string) []byte {
	m.s.t.Helper()
	repo, err := filepath.Abs("repo")
	if err != nil {
		m.s.t.Fatal(err)
	}
	c, err := client.Open(client.Config{Dir: m.dir, Root: m.root, RootProbe: -1, Mirrors: []client.Mirror{{Metadata: repo + "/metadata", Targets: repo + "/targets"}}})
	if err != nil {
		m.s.t.Fatal(err)
	}
	if _, err := c.Refresh(context.Background()); err != nil {
		m.s.t.Fatal(err)
	}
	t, err := c.Lookup(context.Background(), path)
	if err != nil {
		return nil
	}
	data, err := c.Read(context.Background(), t)
	if err != nil {
		m.s.t.Fatal(err)
	}
	return data
}

// decides asks the rollout rules of hosts what a host that runs current (zero: nothing) does about billing in production.
func (m *machine) decides(current release.Digest) rollout.Decision {
	m.s.t.Helper()
	env, _ := release.ParseEnvironment("production")
	app, _ := release.ParseApp("billing")
	d, err := release.ParseDeployment(m.sees(release.DeploymentPath(env, app)))
	if err != nil {
		m.s.t.Fatal(err)
	}
	in := rollout.Input{Deployment: d, Host: rollout.Host{ID: "host-1", Environment: env}, Now: time.Now(), ClockTrusted: true, Issued: time.Now()}
	if raw := m.sees(release.EmergencyPath(env)); raw != nil {
		if in.Emergency, err = release.ParseEmergency(raw); err != nil {
			m.s.t.Fatal(err)
		}
	}
	if !current.IsZero() {
		in.Current = &rollout.Running{Digest: current, Healthy: true}
	}
	return rollout.Decide(in)
}

// deployed is published with billing 1.0.0 in production, and emergency keys there.
func (s *shell) deployed() *machine {
	s.published()
	s.expect(0, "key gen oncall --unencrypted")
	s.expect(3, "emergency halt production --reason fire --sign ann", "cannot find role emergency.production", "env set production --emergency-key FILE.pub")
	s.expect(0, "env set production --emergency-key oncall.pub --reason drill --sign alice --sign bob", "add role emergency.production")
	s.expect(0, "publish")
	s.tree()
	s.expect(0, "release pack build --app billing --version 1.0.0")
	s.expect(0, "release publish billing 1.0.0 --sign ci")
	s.expect(0, "publish")
	s.write("deployment.toml", "environment = \"production\"\napp = \"billing\"\nrelease = \"1.0.0\"\non_revoked = \"stop\"\n")
	s.expect(0, "deploy new --file deployment.toml --sign ann --sign ben")
	s.expect(0, "publish")
	return s.machine()
}

func (s *shell) digest() release.Digest {
	s.t.Helper()
	raw, err := os.ReadFile("billing-1.0.0/release.json")
	if err != nil {
		s.t.Fatal(err)
	}
	return release.Sum(raw)
}

func TestOneActHaltsAFleetAndOneLiftsIt(t *testing.T) {
	s := newShell(t)
	host := s.deployed()
	if d := host.decides(release.Digest{}); !d.Act {
		t.Fatalf("before the halt: %+v", d)
	}
	s.expect(0, "emergency show production", "no emergency document was ever signed")
	s.expect(2, "emergency halt production --sign oncall", "reason")
	s.expect(2, "emergency halt production --reason fire", "name the emergency key")
	s.expect(3, "emergency halt production --reason fire --sign ann", "no role in it is signed by that key")
	s.expect(1, "change show nothing", "0 of 0 open changes match")
	s.expect(0, "emergency halt production --reason fire --sign oncall", "in force", "epoch 1: halt all apps until", ": fire")
	if d := host.decides(release.Digest{}); d.Act || d.Rule != rollout.RuleEmergency || !strings.Contains(d.Because, "fire") {
		t.Errorf("while halted: %+v", d)
	}
	s.expect(0, "emergency show production", "epoch 1", "1  halt all apps until")
	s.expect(2, "emergency lift production --reason mended --sign oncall", "--all")
	s.expect(3, "emergency lift production 2 --reason mended --sign oncall", "cannot lift entry 2 in production: 1 are in force")
	s.expect(3, "emergency lift production 1 --epoch 7 --reason mended --sign oncall", "epoch 1 is in force")
	t.Setenv("SLIPWAY_EMERGENCY_KEY", "oncall")
	s.expect(0, "emergency lift production 1 --reason mended", "epoch 2: lift halt all apps", "because: mended")
	if d := host.decides(release.Digest{}); !d.Act {
		t.Errorf("after the lift: %+v", d)
	}
	s.expect(3, "emergency lift production --all --reason again", "nothing is in force")
	s.expect(0, "verify")
}

func TestAFreezeHasAnEndAndSaysThatItIsOne(t *testing.T) {
	s := newShell(t)
	host := s.deployed()
	s.expect(2, "emergency freeze production --reason stocktaking --sign oncall", "at least one of the flags in the group [for until]")
	s.expect(0, "emergency freeze production --app billing --for 12h --reason stocktaking --sign oncall", "in force", "epoch 1: freeze billing until", ": stocktaking")
	d := host.decides(release.Digest{})
	if d.Act || d.Rule != rollout.RuleEmergency || !strings.HasPrefix(d.Because, "emergency freeze of production until") || d.Until.IsZero() {
		t.Errorf("while frozen: %+v", d)
	}
	s.expect(0, "emergency lift production 1 --reason counted --sign oncall", "lift freeze billing")
	if d := host.decides(release.Digest{}); !d.Act {
		t.Errorf("after the lift: %+v", d)
	}
}

func TestARevokedReleaseStartsNowhereAndTheAnswerSaysWhatRunningHostsDo(t *testing.T) {
	s := newShell(t)
	host := s.deployed()
	s.expect(0, "env add staging --key ann.pub --emergency-key ben.pub --sign alice --sign bob")
	s.expect(0, "publish")
	s.expect(3, "emergency revoke billing 9.9.9 --reason leaks --sign oncall", "0 published releases match")
	s.expect(3, "emergency revoke billing 1.0.0 --reason leaks --sign oncall", "production/billing deploys it with on_revoked = stop", "NOT revoked in staging", "in 1 of 2 environments")
	if d := host.decides(release.Digest{}); d.Act || d.Rule != rollout.RuleRevoked {
		t.Errorf("a host that does not have it: %+v", d)
	}
	if d := host.decides(s.digest()); !d.Act || d.Verb != rollout.VerbStop {
		t.Errorf("a host that runs it: %+v", d)
	}
	s.expect(3, "emergency revoke billing 1.0.0 --env production --reason leaks --sign oncall", "in force already")
	s.expect(0, "emergency revoke billing "+s.digest().Short()+" --env staging --reason leaks --sign ben --json", `"environment": "staging"`)
	if !json.Valid([]byte(s.out)) {
		t.Errorf("no JSON: %s", s.out)
	}
	s.expect(0, "emergency lift production --all --reason harmless --sign oncall")
	s.expect(0, "emergency minimum production billing 2.0.0 --for 12h --reason CVE --sign oncall", "run nothing of billing below 2.0.0 until")
	if d := host.decides(release.Digest{}); d.Act || d.Rule != rollout.RuleMinimum {
		t.Errorf("below the minimum: %+v", d)
	}
	s.expect(2, "emergency minimum production billing 2.0.0 --until never --reason CVE --sign oncall", "--until")
	s.expect(3, "emergency halt production --until 2020-01-01T00:00:00Z --reason late --sign oncall", "that time has passed")
}

func TestAHaltThatNeedsTwoSignaturesSaysThatItIsNotInForce(t *testing.T) {
	s := newShell(t)
	host := s.deployed()
	s.expect(0, "role set emergency.production --add-key ann.pub --add-key ben.pub --threshold 2 --reason two --sign alice --sign bob",
		"signs for several offices (deploy.production.billing, emergency.production)")
	s.expect(0, "publish")
	s.expect(3, "emergency halt production --reason fire --sign oncall", "NOT in force yet", "emergency.production: 1 of 2, missing one of ann")
	if host.sees("emergency/production.json") != nil {
		t.Error("one of two signatures was published")
	}
	s.expect(3, "emergency halt production --reason fire --sign ann", "is open")
	s.expect(0, "change list")
	id := strings.Fields(s.out)[0]
	s.expect(0, "change sign "+id+" --key ann --yes", "emergency.production: 2 of 2")
	s.expect(0, "publish "+id)
	if d := host.decides(release.Digest{}); d.Act || d.Rule != rollout.RuleEmergency {
		t.Errorf("after the second signature: %+v", d)
	}
}

func TestAnInventoryIsPublishedAndReadBack(t *testing.T) {
	s := newShell(t)
	s.published()
	s.expect(0, "key gen fleet --unencrypted")
	s.write("hosts.txt", "# two sites\nweb-1 site=ams rack=1\n\nweb-2 site=fra\n")
	s.expect(3, "inventory set production hosts.txt --sign fleet", "env set production --inventory-key FILE.pub")
	s.expect(0, "env set production --inventory-key fleet.pub --reason exact --sign alice --sign bob", "inventory.production has no spare key (1 of 1)")
	s.expect(0, "publish")
	s.expect(0, "inventory show production", "production has no inventory")
	s.expect(0, "inventory set production hosts.txt --sign fleet", "2 hosts: 2 come, 0 leave")
	s.expect(0, "publish")
	host := s.machine()
	if doc, err := release.ParseInventory(host.sees("inventory/production.json")); err != nil || len(doc.Hosts) != 2 || doc.Hosts[0].Labels["rack"] != "1" {
		t.Errorf("a host reads %+v: %v", doc, err)
	}
	s.expect(0, "inventory show production", "web-1 rack=1 site=ams\nweb-2 site=fra")
	s.write("again.txt", s.out)
	s.expect(3, "inventory set production again.txt", "lists the same hosts")
	s.expect(0, "inventory show production --json", `"sha256"`)
	s.write("hosts.txt", "web-1 site=ber\nweb-3\n")
	s.expect(0, "inventory set production hosts.txt --sign fleet", "2 hosts: 1 come, 1 leave, 1 get other labels")
	s.write("hosts.txt", "web-1 site=a site=b\n")
	s.expect(1, "inventory set production hosts.txt", "hosts.txt:1:")
	s.write("hosts.txt", "web-1\nweb-1\n")
	s.expect(0, "change list")
	s.expect(0, "change abandon "+strings.Fields(s.out)[0])
	s.expect(1, "inventory set production hosts.txt", "appears twice")
}

func TestADeploymentThatPinsAnOlderInventoryIsNamed(t *testing.T) {
	s := newShell(t)
	s.deployed()
	s.expect(0, "key gen fleet --unencrypted")
	s.expect(0, "env set production --inventory-key fleet.pub --reason exact --sign alice --sign bob")
	s.expect(0, "publish")
	s.write("hosts.txt", "web-1\n")
	s.expect(0, "inventory set production hosts.txt --sign fleet")
	s.expect(0, "publish")
	s.expect(0, "inventory show production --json")
	var a struct{ SHA256 string }
	if err := json.Unmarshal([]byte(s.out), &a); err != nil {
		t.Fatal(err)
	}
	s.write("deployment.toml", "environment = \"production\"\napp = \"billing\"\nrelease = \"1.0.0\"\n[inventory]\nsha256 = \""+a.SHA256+"\"\n")
	s.expect(0, "deploy new --file deployment.toml --sign ann --sign ben")
	s.expect(0, "publish")
	s.write("hosts.txt", "web-1\nweb-2\n")
	s.expect(0, "inventory set production hosts.txt --sign fleet", "hosts change nothing of billing until a deployment pins the new inventory")
}

func TestAnEnvironmentChangesForAllItsApps(t *testing.T) {
	s := newShell(t)
	s.published()
	s.expect(0, "app add shop --key ci.pub --sign alice --sign bob")
	s.expect(0, "publish")
	s.expect(0, "key gen dan --unencrypted")
	s.expect(2, "env set production --remove-key ben", "reason")
	s.expect(2, "env set production --expires soon --reason tired", "--expires")
	s.expect(3, "env set nowhere --expires 1d --reason tired", "run env add nowhere")
	s.expect(3, "env set production --remove-key ben --reason left", "would have 2 of 2", "deploy.production.shop", "--allow-no-spare")
	s.expect(0, "env set production --remove-key ben --add-key dan.pub --expires 30d --reason left --sign alice --sign bob",
		"remove ben", "add dan", "in 2 deployment roles", "deployments expire after 30d", "targets: 2 of 2")
	s.expect(0, "publish")
	s.expect(0, "role show deploy.production.billing deploy.production.shop")
	if strings.Count(s.out, "dan") != 2 || strings.Contains(s.out, "ben") {
		t.Errorf("got %s", s.out)
	}
	s.expect(0, "app add jobs --key ci.pub --sign alice --sign bob")
	s.expect(0, "publish")
	s.expect(0, "role show deploy.production.jobs", "dan", "2 of 3")
	s.expect(0, "verify")
}

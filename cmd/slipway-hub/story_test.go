package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent/config"
	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub/ca"
	"github.com/slipway-deploy/slipway/agent/hub/roster"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/tuftest"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	billing    = must(release.ParseApp("billing"))
	production = must(release.ParseEnvironment("production"))
)

func releaseOf(version string) *release.Reference {
	v := must(release.ParseVersion(version))
	return &release.Reference{Path: release.ReleasePath(billing, v), SHA256: release.Sum([]byte(version))}
}

// hubHere is a hub of this very program in a directory of the test's, with a signed repository beside it.
type hubHere struct {
	t        *testing.T
	dir      string
	file     string
	address  string
	repo     *tuftest.Repository
	deploy   []byte // the deployment's exact bytes
	sequence int64
	stop     func() error
	messages *bytes.Buffer
}

func newHub(t *testing.T) *hubHere {
	t.Helper()
	h := &hubHere{t: t, dir: t.TempDir(), repo: tuftest.New(t), messages: &bytes.Buffer{}, sequence: 7, stop: func() error { return nil }}
	h.file = filepath.Join(h.dir, "slipway-hub.toml")
	d := &release.Deployment{
		Schema: release.DeploymentSchema, App: billing, Environment: production, Sequence: 7, RolloutID: "r-7", State: release.StateActive,
		Release: releaseOf("2.4.1"), Fallback: releaseOf("2.4.0"), Created: time.Now().UTC().Add(-time.Hour).Truncate(time.Second),
		Budget: &release.Budget{Count: 1}, Coordinator: &release.Coordinator{Kind: "hub", URLs: []string{"https://hub.example.com:7443"}},
		Halt: &release.HaltPolicy{MaxFailures: 1, UpdateDeadline: release.Duration(10 * time.Minute)},
	}
	h.deploy = must(release.Encode(d))
	h.publish()
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	h.address = l.Addr().String()
	l.Close()
	h.write("root.json", h.repo.Root())
	h.write("slipway-hub.toml", []byte(`fleet = "acme"
names = ["127.0.0.1"]
listen = "`+h.address+`"
[repository]
root = "`+filepath.Join(h.dir, "root.json")+`"
[[repository.mirrors]]
url = "`+h.repo.URL()+`"
[poll]
interval = "1s"
[roles]
operator = ["otto"]
maintainer = ["mia"]
[paths]
state = "`+filepath.Join(h.dir, "state")+`"
run = "`+filepath.Join(h.dir, "run")+`"
`))
	h.write("passphrase", []byte("a good passphrase\n"))
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *hubHere) write(name string, data []byte) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), data, 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// run runs one command line and returns its exit code and what it printed.
func (h *hubHere) run(args ...string) (code int, out, words string) {
	h.t.Helper()
	var o, e bytes.Buffer
	t := &tool{in: strings.NewReader(""), out: &o, err: &e, passphrase: ""}
	code = t.main(h.t.Context(), append([]string{"--config", h.file}, args...))
	return code, o.String(), e.String()
}

func (h *hubHere) good(args ...string) string {
	h.t.Helper()
	code, out, words := h.run(args...)
	if code != 0 {
		h.t.Fatalf("slipway-hub %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, words)
	}
	return out
}

func (h *hubHere) init() {
	h.t.Helper()
	h.good("ca", "init", "--root-key", filepath.Join(h.dir, "root.key"), "--passphrase-file", filepath.Join(h.dir, "passphrase"))
}

// states stands in for the service manager.
type states struct {
	ready chan struct{}
	alive chan bool
}

func (s *states) Ready() error                                  { close(s.ready); return nil }
func (s *states) Stopping() error                               { return nil }
func (s *states) Status(string) error                           { return nil }
func (s *states) Watchdog(_ context.Context, alive func() bool) { s.alive <- alive() }

// start runs the hub until the test ends or stop is called.
func (h *hubHere) start() {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	s := &states{make(chan struct{}), make(chan bool, 1)}
	cfg, err := config.LoadHub(h.file)
	if err != nil {
		h.t.Fatal(err)
	}
	log := hclog.New(&hclog.LoggerOptions{Output: &syncWriter{w: h.messages}, Level: hclog.Info})
	go func() { ended <- run(ctx, cfg, log, s) }()
	h.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	select {
	case <-s.ready:
	case err := <-ended:
		h.t.Fatalf("the hub ended: %v\n%s", err, h.messages)
	}
	if !<-s.alive {
		h.t.Error("the watchdog would end a hub that is well")
	}
}

type syncWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (s *syncWriter) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(b)
}

func (h *hubHere) token(args ...string) string {
	h.t.Helper()
	return strings.TrimSpace(h.good(append([]string{"token", "create", "--environment", "production"}, args...)...))
}

// enroll does what a new host does, and returns a client with its certificate.
func (h *hubHere) enroll(token, install string) *fleet.Client {
	h.t.Helper()
	key := must(ca.NewKey())
	csr := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))
	roots := filepath.Join(h.dir, "state", "ca", ca.RootFile)
	first := must(fleet.NewClient(fleet.Options{URLs: []string{"https://" + h.address}, Credentials: fleet.Credentials{CA: roots}}))
	a, err := first.Enroll(h.t.Context(), fleet.Enroll{Token: token, Install: install,
		CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))})
	if err != nil {
		h.t.Fatal(err)
	}
	der := must(x509.MarshalPKCS8PrivateKey(key))
	file := install + ".pem"
	h.write(file, append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), a.Certificate...))
	return h.client(filepath.Join(h.dir, file))
}

func (h *hubHere) client(file string) *fleet.Client {
	return must(fleet.NewClient(fleet.Options{URLs: []string{"https://" + h.address},
		Credentials: fleet.Credentials{CA: filepath.Join(h.dir, "state", "ca", ca.RootFile), Cert: file, Key: file}}))
}

func (h *hubHere) question(install string) fleet.Turn {
	return fleet.Turn{App: billing, Rollout: "r-7", Sequence: h.sequence, Document: release.Sum(h.deploy), Install: install, Want: fleet.Forward,
		Runs: &fleet.Runs{Version: must(release.ParseVersion("2.4.0")), Digest: release.Sum([]byte("2.4.0")), Healthy: true}}
}

// turn asks until the answer is the one wanted: the hub reads plan and store by itself.
func (h *hubHere) turn(c *fleet.Client, install, answer, rule string) fleet.TurnAnswer {
	h.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(250 * time.Millisecond) {
		a, err := c.Turn(h.t.Context(), h.question(install))
		if err == nil && a.Answer == answer && a.Rule == rule {
			return a
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("want %s %s, but the hub says %+v, %v\n%s", answer, rule, a, err, h.messages)
		}
	}
}

func TestASmallFleetFromNothingToAHaltThroughARestart(t *testing.T) {
	h := newHub(t)
	h.init()
	h.start()
	one := h.enroll(h.token("--host", "web-01", "--label", "site=zrh"), "install-1")
	two := h.enroll(h.token("--host", "web-02"), "install-2")
	granted := h.turn(one, "install-1", fleet.Granted, "")
	h.turn(two, "install-2", fleet.Wait, fleet.RuleBudget)

	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	h.start()
	if again := h.turn(one, "install-1", fleet.Granted, ""); again.Fence != granted.Fence {
		t.Errorf("after a restart the host got fence %d, before it %d", again.Fence, granted.Fence)
	}
	if a, err := one.Check(t.Context(), fleet.Check{App: billing, Rollout: "r-7", Install: "install-1", Fence: granted.Fence}); err != nil || !a.OK {
		t.Fatalf("check: %+v, %v", a, err)
	}
	// One failure reaches the signed limit: nobody else goes.
	report := fleet.Finish{App: billing, Rollout: "r-7", Install: "install-1", Fence: granted.Fence, Result: fleet.Reverted, Serving: true, Reason: "unhealthy"}
	if a, err := one.Finish(t.Context(), report); err != nil || !a.Accepted {
		t.Fatalf("finish: %+v, %v", a, err)
	}
	h.turn(two, "install-2", fleet.Wait, fleet.RuleHalted)

	var members []roster.Member
	if err := json.Unmarshal([]byte(h.good("--json", "members")), &members); err != nil || len(members) != 2 || members[0].Labels["site"] != "zrh" {
		t.Errorf("members: %+v, %v", members, err)
	}
	h.good("revoke", "--environment", "production", "--host", "web-02", "--reason", "stolen")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		_, err := two.Turn(t.Context(), h.question("install-2"))
		if err != nil && strings.Contains(err.Error(), "was revoked: stolen") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a revoked host hears %v", err)
		}
	}
}

func TestAHubFollowsTheRepositoryAndStartsWithoutItByWhatItVerifiedBefore(t *testing.T) {
	h := newHub(t)
	h.init()
	h.start()
	one := h.enroll(h.token("--host", "web-01"), "install-1")
	two := h.enroll(h.token("--host", "web-02"), "install-2")
	fence := h.turn(one, "install-1", fleet.Granted, "").Fence
	h.turn(two, "install-2", fleet.Wait, fleet.RuleBudget)
	// The signers allow two at once. The same rollout: who has a slot keeps it.
	h.deploy = bytes.Replace(bytes.Replace(h.deploy, []byte(`"count": 1`), []byte(`"count": 2`), 1), []byte(`"sequence": 7`), []byte(`"sequence": 8`), 1)
	if !bytes.Contains(h.deploy, []byte(`"sequence": 8`)) || !bytes.Contains(h.deploy, []byte(`"count": 2`)) {
		t.Fatalf("the deployment is written otherwise:\n%s", h.deploy)
	}
	h.sequence = 8
	h.repo.AddTarget("deploy.production.billing", release.DeploymentPath(production, billing), h.deploy)
	h.repo.Publish()
	h.turn(two, "install-2", fleet.Granted, "")

	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	text := must(os.ReadFile(h.file))
	h.write("slipway-hub.toml", bytes.Replace(text, []byte(h.repo.URL()), []byte("http://127.0.0.1:1"), 1))
	h.start()
	if again := h.turn(one, "install-1", fleet.Granted, ""); again.Fence != fence {
		t.Errorf("without the repository the host got fence %d, before it %d", again.Fence, fence)
	}
	if a, err := one.Check(t.Context(), fleet.Check{App: billing, Rollout: "r-7", Install: "install-1", Fence: fence}); err != nil || !a.OK {
		t.Errorf("check: %+v, %v", a, err)
	}
}

func TestAMachineTakesThePlaceOfAnotherByOneCommand(t *testing.T) {
	h := newHub(t)
	h.init()
	h.start()
	old := h.enroll(h.token("--host", "web-01"), "install-1")
	fence := h.turn(old, "install-1", fleet.Granted, "").Fence
	skipped := fleet.Finish{App: billing, Rollout: "r-7", Install: "install-1", Fence: fence, Result: fleet.Skipped, Serving: true}
	if a, err := old.Finish(t.Context(), skipped); err != nil || !a.Accepted {
		t.Fatalf("%+v, %v", a, err)
	}
	if code, _, words := h.run("token", "create", "--environment", "production", "--host", "web-01"); code != exitRefused || !strings.Contains(words, "--replace") {
		t.Errorf("a second token: exit code %d, %s", code, words)
	}
	fresh := h.enroll(h.token("--host", "web-01", "--replace"), "install-9")
	h.turn(fresh, "install-9", fleet.Granted, "")
	if _, err := old.Turn(t.Context(), h.question("install-1")); err == nil || !strings.Contains(err.Error(), "was replaced") {
		t.Errorf("the old machine hears %v", err)
	}
}

func TestAHubThatMovedToASnapshotWaitsForAnOperator(t *testing.T) {
	h := newHub(t)
	h.init()
	h.start()
	one := h.enroll(h.token("--host", "web-01"), "install-1")
	two := h.enroll(h.token("--host", "web-02"), "install-2")
	snapshot := filepath.Join(h.dir, "hub.snap")
	h.good("snapshot", snapshot)
	h.turn(one, "install-1", fleet.Granted, "")
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	if code, _, words := h.run("restore", snapshot); code != exitFailed || !strings.Contains(words, "there is data") {
		t.Errorf("a restore over data: exit code %d, %s", code, words)
	}
	if err := os.Rename(filepath.Join(h.dir, "state", "etcd"), filepath.Join(h.dir, "old-etcd")); err != nil {
		t.Fatal(err)
	}
	h.good("restore", snapshot)
	h.start()
	held := h.question("install-1")
	held.Fence = 1 << 40
	if _, err := one.Turn(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	h.turn(two, "install-2", fleet.Wait, fleet.RuleRestored)
}

func TestAuthoritiesOnDiskAreMadeOnceAndShowWhatTheyAre(t *testing.T) {
	h := newHub(t)
	if code, _, words := h.run("run"); code != exitFailed || !strings.Contains(words, "slipway-hub ca init") {
		t.Errorf("a hub without an authority: exit code %d, %s", code, words)
	}
	h.init()
	if info, err := os.Stat(filepath.Join(h.dir, "state", "ca", ca.IssuerFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the issuer's file: %v, %v", info.Mode(), err)
	}
	if data := must(os.ReadFile(filepath.Join(h.dir, "root.key"))); bytes.Contains(data, []byte("unencrypted")) {
		t.Error("the root's key is not encrypted")
	}
	if code, _, words := h.run("ca", "init", "--root-key", filepath.Join(h.dir, "other.key"), "--passphrase-file", filepath.Join(h.dir, "passphrase")); code != exitRefused || !strings.Contains(words, "already") {
		t.Errorf("a second authority: exit code %d, %s", code, words)
	}
	before := h.good("ca", "show")
	h.good("ca", "issuer", "--root-key", filepath.Join(h.dir, "root.key"), "--passphrase-file", filepath.Join(h.dir, "passphrase"))
	after := h.good("ca", "show")
	if before == after || strings.Split(before, "issuer")[0] != strings.Split(after, "issuer")[0] {
		t.Errorf("a new issuer changed\n%s\nto\n%s", before, after)
	}
	out := filepath.Join(h.dir, "mia.pem")
	h.good("ca", "operator", "mia", "--out", out)
	if code, _, _ := h.run("ca", "operator", "mia", "--out", out); code != exitFailed {
		t.Errorf("an operator's file was overwritten: exit code %d", code)
	}
	key := must(ca.NewKey())
	csr := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))
	h.write("web.csr", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	signed := must(ca.ParseCertificates([]byte(h.good("ca", "sign", filepath.Join(h.dir, "web.csr"), "--environment", "production", "--host", "web-03",
		"--root-key", filepath.Join(h.dir, "root.key"), "--passphrase-file", filepath.Join(h.dir, "passphrase")))))
	if got := signed[0].URIs[0].String(); got != "slipway://acme/production/web-03" {
		t.Errorf("signed for %s", got)
	}
	h.start()
	der := must(x509.MarshalPKCS8PrivateKey(key))
	h.write("web.pem", append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), ca.EncodeCertificates(signed...)...))
	h.turn(h.client(filepath.Join(h.dir, "web.pem")), "install-3", fleet.Granted, "")
}

func TestCommandsThatNeedAHubSayThatNoneRuns(t *testing.T) {
	h := newHub(t)
	code, _, words := h.run("token", "list")
	if code != exitUnreachable || !strings.Contains(words, "no hub runs on this machine") || !strings.Contains(words, "hint: systemctl start slipway-hub") {
		t.Errorf("exit code %d, %s", code, words)
	}
	if code, _, _ := h.run("token", "create", "--environment", "production"); code != exitUsage {
		t.Errorf("a token for nobody: exit code %d", code)
	}
	h.write("slipway-hub.toml", []byte("flet = \"acme\"\n"))
	code, _, words = h.run("run", "--check-config")
	if code != exitFailed || !strings.Contains(words, "slipway-hub.toml:1:1: flet: there is no such option; did you mean fleet?") {
		t.Errorf("exit code %d, %s", code, words)
	}
}

func (h *hubHere) publish() {
	role, path := "deploy.production.billing", release.DeploymentPath(production, billing)
	h.repo.Delegate(role, "targets", []string{path}, 1, tuftest.NewKey(h.t))
	h.repo.AddTarget(role, path, h.deploy)
	h.repo.Publish()
}

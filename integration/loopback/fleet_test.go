// Package loopback runs the products' own programs together on one machine, without root, systemd or containers.
package loopback

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// site is a fleet of one host: a repository, a hub with etcd inside it, and a daemon that runs a small web service.
type site struct {
	t    *testing.T
	dir  string
	repo string // URL
	hub  string // address
	port int    // of the service
}

func (s *site) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// run runs one of the programs to its end and returns what it printed.
func (s *site) run(program string, args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), s.path("bin", program), args...)
	cmd.Dir = s.dir
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("%s %s: %v\n%s%s", program, strings.Join(args, " "), err, out.String(), words.String())
	}
	return out.String()
}

func (s *site) publisher(args ...string) {
	s.run("slipway-repo", append([]string{"-C", s.path("repo")}, args...)...)
}

func (s *site) slipway(args ...string) string {
	return s.run("slipway", append([]string{"--config", s.path("etc"), "--socket", s.path("run", "slipway.sock")}, args...)...)
}

func (s *site) operator(args ...string) string {
	return s.slipway(append([]string{"fleet", "--hub", "https://" + s.hub, "--certificate", s.path("mia.pem")}, args...)...)
}

func (s *site) hubTool(args ...string) string {
	return s.run("slipway-hub", append([]string{"--config", s.path("hub.toml")}, args...)...)
}

// start runs a program until the test ends; its words are shown if the test fails.
func (s *site) start(program string, args ...string) {
	s.t.Helper()
	log, err := os.Create(s.path(program + ".log"))
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(s.path("bin", program), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		ended := make(chan struct{})
		go func() { defer close(ended); _ = cmd.Wait() }()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		if s.t.Failed() {
			data, _ := os.ReadFile(log.Name())
			s.t.Logf("%s said:\n%s", program, data)
		}
		log.Close()
	})
}

// app is what `slipway status` says of the service.
type app struct {
	Phase, Version, Why string
	Quarantine          []struct{ Version, Cause string }
}

// until asks the host until cond holds.
func (s *site) until(what string, cond func(app) bool) {
	s.t.Helper()
	var last string
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(300 * time.Millisecond) {
		out, err := exec.CommandContext(s.t.Context(), s.path("bin", "slipway"), "--config", s.path("etc"), "--socket", s.path("run", "slipway.sock"), "--json", "status").Output()
		var status struct{ Apps []app }
		if err == nil && json.Unmarshal(out, &status) == nil && len(status.Apps) == 1 && cond(status.Apps[0]) {
			return
		}
		last = string(out)
	}
	s.t.Fatalf("waited in vain: %s\n%s", what, last)
}

func (s *site) build() {
	s.t.Helper()
	for _, cmd := range []string{"cmd/slipwayd", "cmd/slipway", "cmd/slipway-repo", "cmd/slipway-hub", "integration/apps/harbor"} {
		c := exec.Command("go", "build", "-o", s.path("bin", filepath.Base(cmd)), "./"+cmd)
		c.Dir, c.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			s.t.Fatalf("cannot build %s: %v\n%s", cmd, err, out)
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// repository holds a ceremony and serves what comes of it.
func (s *site) repository() {
	s.t.Helper()
	s.write("keys/.keep", "")
	for _, k := range []string{"root", "app", "approver", "online"} {
		s.publisher("key", "gen", s.path("keys", k), "--unencrypted")
	}
	pub, key := func(k string) string { return s.path("keys", k+".pub") }, func(k string) string { return s.path("keys", k) }
	s.publisher("init", "--root-key", pub("root"), "--allow-no-spare", "a test", "--online-key", pub("online"), "--use-online", key("online"), "--sign", key("root"))
	s.publisher("publish")
	s.publisher("env", "add", "production", "--key", pub("approver"), "--threshold", "1", "--sign", key("root"))
	s.publisher("publish")
	s.publisher("app", "add", "harbor", "--key", pub("app"), "--allow-no-spare", "a test", "--sign", key("root"))
	s.publisher("publish")
	srv := httptest.NewServer(http.FileServer(http.Dir(s.path("repo"))))
	s.t.Cleanup(srv.Close)
	s.repo = srv.URL
}

// deploy publishes a release and a deployment of it that names the hub.
func (s *site) deploy(version string) {
	s.t.Helper()
	tree := "build/" + version
	binary, err := os.ReadFile(s.path("bin", "harbor"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(tree+"/bin/harbor", string(binary))
	if err := os.Chmod(s.path(tree, "bin", "harbor"), 0o755); err != nil {
		s.t.Fatal(err)
	}
	s.write(tree+"/bin/version", version+"\n")
	s.write(tree+"/bin/behaviour", "ok\n")
	s.write(tree+"/units/harbor.service", fmt.Sprintf("[Service]\nDynamicUser=yes\nExecStart=@current@/bin/harbor -listen 127.0.0.1:%d\n\n[Install]\nWantedBy=multi-user.target\n", s.port))
	s.write(tree+".toml", fmt.Sprintf("restart = \"restart\"\n[[units]]\nname = \"harbor.service\"\npath = \"units/harbor.service\"\n[[checks]]\nname = \"web\"\nkind = \"http\"\nurl = \"http://127.0.0.1:%d/healthz\"\ninterval = \"500ms\"\nstart_period = \"1s\"\n", s.port))
	s.write("plan.toml", "population = 1\n[budget]\ncount = 1\n[coordinator]\nkind = \"hub\"\nurls = [\"https://"+s.hub+"\"]\n[halt]\nmax_failures = 1\nupdate_deadline = \"5m\"\n")
	s.publisher("release", "pack", s.path(tree), "--app", "harbor", "--version", version, "--platform", runtime.GOOS+"/"+runtime.GOARCH, "--config", s.path(tree+".toml"), "--out", s.path("packed", version))
	s.publisher("release", "publish", s.path("packed", version), "--sign", s.path("keys", "app"))
	s.publisher("publish")
	s.publisher("deploy", "new", "--env", "production", "--app", "harbor", "--release", version, "--min-healthy", "2s", "--deadline", "60s", "--reason", "a test", "--file", s.path("plan.toml"), "--sign", s.path("keys", "approver"))
	s.publisher("publish")
}

func (s *site) startHub() {
	s.t.Helper()
	s.write("passphrase", "a good passphrase\n")
	s.write("hub.toml", fmt.Sprintf(`fleet = "acme"
names = ["127.0.0.1"]
listen = %q
[repository]
root = %q
[[repository.mirrors]]
url = %q
[poll]
interval = "1s"
[roles]
maintainer = ["mia"]
[paths]
state = %q
run = %q
`, s.hub, s.path("repo", "metadata", "1.root.json"), s.repo, s.path("hub", "state"), s.path("hub", "run")))
	s.hubTool("ca", "init", "--root-key", s.path("fleet-root.key"), "--passphrase-file", s.path("passphrase"))
	s.hubTool("ca", "operator", "mia", "--out", s.path("mia.pem"))
	s.start("slipway-hub", "--config", s.path("hub.toml"), "run")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		out, err := exec.Command(s.path("bin", "slipway-hub"), "--config", s.path("hub.toml"), "token", "create", "--environment", "production", "--host", "web-01").Output()
		if err == nil {
			s.write("token", string(out))
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the hub does not come up: %s", out)
		}
	}
}

// startHost enrols the host and starts its daemon. What the machine needs beyond that is in a drop-in of its own.
func (s *site) startHost() {
	s.t.Helper()
	s.slipway("init", "--root", s.path("repo", "metadata", "1.root.json"), "--environment", "production", "--repository", s.repo)
	s.write("etc/slipway.d/10-here.toml", fmt.Sprintf("supervisor = \"process\"\n[paths]\ninstall = %q\nstate = %q\nrun = %q\nunits = %q\n[poll]\ninterval = \"1s\"\n[fleet]\npoll = \"1s\"\n[space]\nreserve = \"16MiB\"\n[clock]\nunsafe_unsynchronised = true\n",
		s.path("opt"), s.path("var"), s.path("run"), s.path("units")))
	if out := s.slipway("enroll", "--hub", "https://"+s.hub, "--token-file", s.path("token")); !strings.Contains(out, "this host is web-01 of production") {
		s.t.Fatalf("enroll said %s", out)
	}
	s.slipway("add", "harbor")
	s.start("slipwayd", "--config", s.path("etc"))
	s.until("the daemon answers", func(app) bool { return true })
}

// TestAHostOfAFleetWaitsGoesReportsAndIsTakenBack uses the programs as an operator does: a hub that just works, a host that is
// enrolled with a token, a rollout that waits for the fleet's operator, and one that the operator takes back.
func TestAHostOfAFleetWaitsGoesReportsAndIsTakenBack(t *testing.T) {
	s := &site{t: t, dir: t.TempDir(), port: freePort(t), hub: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
	s.build()
	s.repository()
	s.startHub()
	s.startHost()

	s.operator("halt", "--all", "--reason", "nobody is here yet")
	s.deploy("1.0.0")
	s.until("it waits and says in the hub's words why", func(a app) bool { return a.Version == "" && strings.Contains(a.Why, "nobody is here yet") })
	s.operator("resume", "--all", "--reason", "now")
	s.until("1.0.0 is committed", func(a app) bool { return a.Phase == "idle" && a.Version == "1.0.0" })
	s.counted("1.0.0", "committed")

	s.deploy("1.1.0")
	s.until("1.1.0 is committed", func(a app) bool { return a.Phase == "idle" && a.Version == "1.1.0" })
	s.counted("1.1.0", "committed")
	s.operator("revert", "production/harbor", "--reason", "carts are empty")
	s.until("the host is back on the signed fallback and stays", func(a app) bool {
		return a.Phase == "idle" && a.Version == "1.0.0" && len(a.Quarantine) == 1 && a.Quarantine[0].Cause == "ordered"
	})
	if report := s.slipway("doctor"); !strings.Contains(report, "certificate for the hub") {
		t.Errorf("doctor says nothing of the certificate:\n%s", report)
	}
}

// counted waits until the hub's books show how the host's update ended, and no slot in use.
func (s *site) counted(version, result string) {
	s.t.Helper()
	var status struct {
		Rollouts []struct {
			Version string
			Counts  map[string]int
			Slots   []any
		}
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(300 * time.Millisecond) {
		out := s.operator("--json", "status")
		if err := json.Unmarshal([]byte(out), &status); err != nil {
			s.t.Fatalf("%v: %s", err, out)
		}
		if r := status.Rollouts; len(r) == 1 && r[0].Version == version && r[0].Counts[result] == 1 && len(r[0].Slots) == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the hub does not count %s as %s:\n%s", version, result, out)
		}
	}
}

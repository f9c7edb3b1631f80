// Command demo runs Slipway's main job once, for real, in a throwaway directory: keys, a signed repository served over HTTP, a
// host's daemon, three deployments of a small web service and one attack. It needs neither root nor systemd: the service runs
// as a plain process. It exits with 1 if any step did not happen as it says.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := demo(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: error: %v\n", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "slipway-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &stage{ctx: ctx, dir: dir, start: time.Now()}
	defer s.close()
	defer func() {
		if err != nil {
			s.showLogs()
		}
	}()
	for _, act := range []func() error{s.build, s.ceremony, s.host, s.first, s.upgrade, s.badRelease, s.attack} {
		if err := act(); err != nil {
			return err
		}
	}
	s.say("Done in %s. Everything above was real: the same programs, files and checks run on a fleet.", time.Since(s.start).Round(time.Second))
	return nil
}

func (s *stage) build() error {
	s.title("Building slipwayd, slipway, slipway-repo and a small web service")
	for _, cmd := range []string{"cmd/slipwayd", "cmd/slipway", "cmd/slipway-repo", "integration/apps/harbor"} {
		c := exec.CommandContext(s.ctx, "go", "build", "-o", s.path("bin", filepath.Base(cmd)), "./"+cmd)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot build %s: %w\n%s", cmd, err, out)
		}
	}
	return nil
}

// ceremony makes the keys and the repository. In life each key lives with another person.
func (s *stage) ceremony() error {
	s.title("Keys and repository: root, app and approvers hold different keys")
	if err := os.MkdirAll(s.path("keys"), 0o700); err != nil {
		return err
	}
	for _, k := range []string{"root", "app", "approver-1", "approver-2", "approver-3", "online"} {
		if err := s.repo("key", "gen", s.path("keys", k), "--unencrypted"); err != nil {
			return err
		}
	}
	pub := func(k string) string { return s.path("keys", k+".pub") }
	key := func(k string) string { return s.path("keys", k) }
	steps := [][]string{
		{"init", "--root-key", pub("root"), "--allow-no-spare", "a demo", "--online-key", pub("online"), "--use-online", key("online"), "--sign", key("root")},
		{"publish"},
		{"env", "add", "production", "--key", pub("approver-1"), "--key", pub("approver-2"), "--key", pub("approver-3"), "--threshold", "2", "--sign", key("root")},
		{"publish"},
		{"app", "add", "harbor", "--key", pub("app"), "--allow-no-spare", "a demo", "--sign", key("root")},
		{"publish"},
	}
	for _, args := range steps {
		if err := s.repo(args...); err != nil {
			return err
		}
	}
	return s.serve()
}

func (s *stage) host() error {
	s.title("A host: it pins root.json and its environment, and runs slipwayd")
	args := []string{"init", "--root", s.path("repo", "metadata", "1.root.json"), "--environment", "production", "--repository", s.url}
	if err := s.slipway(args...); err != nil {
		return err
	}
	extra := fmt.Sprintf("supervisor = \"process\"\n\n[paths]\ninstall = %q\nstate = %q\nrun = %q\nunits = %q\n\n[poll]\ninterval = \"2s\"\n\n[space]\nreserve = \"16MiB\"\n\n[clock]\nunsafe_unsynchronised = true\n",
		s.path("opt"), s.path("var"), s.path("run"), s.path("units"))
	if err := os.MkdirAll(s.path("etc", "slipway.d"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(s.path("etc", "slipway.d", "demo.toml"), []byte(extra), 0o644); err != nil {
		return err
	}
	if err := s.slipway("add", "harbor"); err != nil {
		return err
	}
	if err := s.startDaemon(); err != nil {
		return err
	}
	return s.await("the daemon waits for a deployment", func(a appStatus) bool { return a.Phase == "idle" })
}

func (s *stage) first() error {
	s.title("harbor 1.0.0: the app key signs the release, two approvers sign that production runs it")
	if err := s.deploy("1.0.0", "ok"); err != nil {
		return err
	}
	if err := s.await("1.0.0 is committed", s.committed("1.0.0")); err != nil {
		return err
	}
	return s.answers("1.0.0")
}

func (s *stage) upgrade() error {
	s.title("harbor 1.1.0: staged, swapped, tried, committed; 1.0.0 stays as the fallback")
	if err := s.deploy("1.1.0", "ok"); err != nil {
		return err
	}
	if err := s.await("1.1.0 is committed", s.committed("1.1.0")); err != nil {
		return err
	}
	return s.answers("1.1.0")
}

func (s *stage) badRelease() error {
	s.title("harbor 1.2.0 turns unhealthy two seconds after it started: it is hauled back")
	if err := s.deploy("1.2.0", "unhealthy-after=2s"); err != nil {
		return err
	}
	err := s.await("1.2.0 was reverted to 1.1.0 and is quarantined", func(a appStatus) bool {
		return a.Version == "1.1.0" && a.Phase != "reverting" && a.LastOutcome.Result == "reverted" && len(a.Quarantine) == 1 && a.Quarantine[0].Version == "1.2.0"
	})
	if err != nil {
		return err
	}
	return s.answers("1.1.0")
}

// attack changes the archive of a properly signed release on the server, as somebody with write access to a mirror would.
func (s *stage) attack() error {
	s.title("harbor 1.3.0 is signed properly, but its archive is changed on the server")
	s.tamper("releases/harbor/1.3.0")
	if err := s.deploy("1.3.0", "ok"); err != nil {
		return err
	}
	err := s.await("1.3.0 is refused and 1.1.0 runs on", func(a appStatus) bool {
		return a.Version == "1.1.0" && a.Phase == "idle" && s.refused(a.Why, "1.3.0")
	})
	if err != nil {
		return err
	}
	return s.answers("1.1.0")
}

// deploy publishes a release that behaves as told and the deployment that selects it.
func (s *stage) deploy(version, behaviour string) error {
	tree := s.path("build", version)
	if err := s.tree(tree, version, behaviour); err != nil {
		return err
	}
	key := func(k string) string { return s.path("keys", k) }
	out := s.path("packed", version)
	steps := [][]string{
		{"release", "pack", tree, "--app", "harbor", "--version", version, "--platform", runtime.GOOS + "/" + runtime.GOARCH, "--config", s.path("build", version+".toml"), "--out", out},
		{"release", "publish", out, "--sign", key("app")},
		{"publish"},
		{"deploy", "new", "--env", "production", "--app", "harbor", "--release", version, "--min-healthy", "4s", "--deadline", "30s", "--reason", "demo", "--sign", key("approver-1"), "--sign", key("approver-2")},
		{"publish"},
	}
	for _, args := range steps {
		if err := s.repo(args...); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) tree(dir, version, behaviour string) error {
	binary, err := os.ReadFile(s.path("bin", "harbor"))
	if err != nil {
		return err
	}
	unit := "[Unit]\nDescription=Harbor, a small web service\n\n[Service]\nDynamicUser=yes\nExecStart=@current@/bin/harbor -listen 127.0.0.1:" + strconv.Itoa(s.port) + "\n\n[Install]\nWantedBy=multi-user.target\n"
	files := map[string]string{"bin/harbor": string(binary), "bin/version": version + "\n", "bin/behaviour": behaviour + "\n", "units/harbor.service": unit}
	for name, text := range files {
		mode := os.FileMode(0o644)
		if name == "bin/harbor" {
			mode = 0o755
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			return err
		}
	}
	toml := fmt.Sprintf("restart = \"restart\"\n\n[[units]]\nname = \"harbor.service\"\npath = \"units/harbor.service\"\n\n[[checks]]\nname = \"web\"\nkind = \"http\"\nurl = \"http://127.0.0.1:%d/healthz\"\ninterval = \"500ms\"\nfailure_threshold = 2\nstart_period = \"1s\"\n", s.port)
	return os.WriteFile(dir+".toml", []byte(toml), 0o644)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

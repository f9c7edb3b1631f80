package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/integration/lab"
)

const (
	firstVersion, nextVersion = "0.1.0~lab1", "0.1.0~lab2"
	shippedUnits              = "slipway-boot.service slipwayd.socket slipwayd-ro.socket slipwayd.service"
)

// takeSlot makes a test parallel to the stories, within their number of hosts at a time.
func takeSlot(t *testing.T) {
	t.Helper()
	t.Parallel()
	stageSlots <- struct{}{}
	t.Cleanup(func() { <-stageSlots })
}

// slipwaydVersion asks the running daemon's own binary, so that a daemon that was not restarted shows.
func slipwaydVersion(t *testing.T, h *lab.Host) string {
	t.Helper()
	pid := strings.TrimSpace(h.Run(t, "systemctl", "show", "-P", "MainPID", "slipwayd"))
	return strings.TrimSpace(strings.TrimPrefix(h.Run(t, "/proc/"+pid+"/exe", "--version"), "slipwayd"))
}

func state(t *testing.T, h *lab.Host, verb, unit string) string {
	t.Helper()
	return strings.TrimSpace(h.Try(t, "systemctl", verb, unit).Stdout)
}

// wantState compares what systemctl answers for all units that the package enables.
func wantState(t *testing.T, h *lab.Host, verb, want string) {
	t.Helper()
	for unit := range strings.FieldsSeq(shippedUnits) {
		if got := state(t, h, verb, unit); got != want {
			t.Errorf("%s %s: got %q, want %q", verb, unit, got, want)
		}
	}
}

func installDeb(t *testing.T, h *lab.Host, deb string) {
	t.Helper()
	if r, err := h.InstallDeb(t.Context(), deb); err != nil {
		t.Fatal(err)
	} else if strings.Contains(r.Stderr, "warning") {
		t.Errorf("dpkg is not happy: %s", r.Stderr)
	}
}

// configure makes the host one that obeys a throwaway repository without deployments.
func configure(t *testing.T, l *lab.Lab, h *lab.Host) {
	t.Helper()
	dir := t.TempDir()
	tool := filepath.Join(dir, "slipway-repo")
	if err := lab.GoBuild(t.Context(), "../cmd/slipway-repo", tool); err != nil {
		t.Fatal(err)
	}
	p, err := lab.NewPublisher(t.Context(), tool, dir, "staging")
	if err != nil {
		t.Fatal(err)
	}
	more := "[clock]\nunsafe_unsynchronised = true\n"
	if err := h.Configure(t.Context(), p, l.Serve(t, p.Repo).URL, "staging", more); err != nil {
		t.Fatal(err)
	}
	h.Run(t, "systemctl", "start", "slipwayd.socket", "slipwayd-ro.socket", "slipwayd.service")
	waitActive(t, h, "slipwayd.service")
}

// wantQuiet says that an installed and not yet configured package runs nothing and fails at nothing.
func wantQuiet(t *testing.T, h *lab.Host) {
	t.Helper()
	if got := state(t, h, "is-active", "slipwayd.service"); got != "inactive" {
		t.Errorf("slipwayd before slipway init: %s, want inactive", got)
	}
	if failed := h.Run(t, "systemctl", "--failed", "--no-legend", "--plain"); failed != "" {
		t.Errorf("failed units before slipway init: %s", failed)
	}
}

// runningApp puts an app where Slipway would, as a unit of its own, and returns its main PID.
func runningApp(t *testing.T, h *lab.Host) string {
	t.Helper()
	h.Run(t, "mkdir", "-p", "/opt/slipway/demo/releases/1-abc")
	h.Run(t, "cp", "/bin/sleep", "/opt/slipway/demo/releases/1-abc/demo")
	h.Run(t, "ln", "-sfn", "releases/1-abc", "/opt/slipway/demo/current")
	h.Write(t, "/etc/systemd/system/demo.service",
		"[Unit]\nAfter=slipway-boot.service\n[Service]\nDynamicUser=yes\nExecStart=/opt/slipway/demo/current/demo infinity\n[Install]\nWantedBy=multi-user.target\n")
	h.Run(t, "systemctl", "daemon-reload")
	h.Run(t, "systemctl", "enable", "--now", "demo.service")
	return appPID(t, h)
}

func appPID(t *testing.T, h *lab.Host) string {
	t.Helper()
	return strings.TrimSpace(h.Run(t, "systemctl", "show", "-P", "MainPID", "demo.service"))
}

func waitActive(t *testing.T, h *lab.Host, unit string) {
	t.Helper()
	h.WaitFor(t, 20*time.Second, unit+" active", func(ctx context.Context) error {
		r, err := h.Exec(ctx, "systemctl", "is-active", unit)
		if err != nil {
			return err
		}
		return r.Err()
	})
}

func TestTheDebInstallsUpgradesAndNeverTouchesARunningApp(t *testing.T) {
	takeSlot(t)
	l := lab.New(t)
	first, next := lab.Packages(t, firstVersion, ""), lab.Packages(t, nextVersion, "")
	h := l.Host(t, "web1", lab.HostOptions{})
	installDeb(t, h, first.Deb)
	wantState(t, h, "is-enabled", "enabled")
	wantQuiet(t, h)
	h.MustReboot(t)
	wantQuiet(t, h)
	configure(t, l, h)
	if got := slipwaydVersion(t, h); got != firstVersion {
		t.Errorf("running version %q, want %s", got, firstVersion)
	}
	if got := h.Run(t, "stat", "-c", "%A %U %G", "/run/slipway/slipway.sock"); got != "srw-rw---- root slipway\n" {
		t.Errorf("control socket: %q", got)
	}

	app := runningApp(t, h)
	h.Run(t, "sh", "-c", "echo '# edited' >> /etc/slipway/slipway.toml")
	installDeb(t, h, next.Deb)
	waitActive(t, h, "slipwayd.service")
	if got := slipwaydVersion(t, h); got != nextVersion {
		t.Errorf("running version after the upgrade %q, want %s", got, nextVersion)
	}
	if got := appPID(t, h); got != app {
		t.Errorf("the app was restarted by the upgrade: main PID %s, was %s", got, app)
	}
	if got := h.Read(t, "/etc/slipway/slipway.toml"); !strings.HasSuffix(got, "# edited\n") {
		t.Error("the upgrade lost an edit of slipway.toml")
	}

	h.MustReboot(t)
	waitActive(t, h, "slipwayd.service")
	wantState(t, h, "is-active", "active")
	for _, target := range []string{"sockets.target", "demo.service"} {
		if got := state(t, h, "is-active", target); got != "active" {
			t.Errorf("%s after the boot: %s", target, got)
		}
	}
	if out := h.Run(t, "systemd-analyze", "verify", "--man=no", "default.target"); strings.Contains(out, "cycle") {
		t.Errorf("ordering cycle: %s", out)
	}
}

func TestTheDebIsRemovedPurgedAndReinstalledAroundALivingApp(t *testing.T) {
	takeSlot(t)
	l := lab.New(t)
	set := lab.Packages(t, firstVersion, "")
	h := l.Host(t, "web1", lab.HostOptions{})
	installDeb(t, h, set.Deb)
	configure(t, l, h)
	app := runningApp(t, h)
	h.Write(t, "/var/lib/slipway/witness", "state")

	h.Run(t, "dpkg", "--remove", "slipway")
	wantState(t, h, "is-enabled", "masked")
	if got := state(t, h, "is-active", "slipwayd.service"); got != "inactive" {
		t.Errorf("slipwayd after removal: %s", got)
	}
	for _, kept := range []string{"/var/lib/slipway/witness", "/etc/slipway/slipway.toml"} {
		if h.Try(t, "test", "-e", kept).Exit != 0 {
			t.Errorf("removal took %s", kept)
		}
	}

	installDeb(t, h, set.Deb)
	waitActive(t, h, "slipwayd.service")
	wantState(t, h, "is-enabled", "enabled")
	if got := h.Read(t, "/var/lib/slipway/witness"); got != "state" {
		t.Errorf("state after reinstallation: %q", got)
	}
	h.Run(t, "systemctl", "disable", "--now", "slipwayd.service", "slipwayd.socket", "slipwayd-ro.socket")
	installDeb(t, h, set.Deb)
	if enabled, active := state(t, h, "is-enabled", "slipwayd.service"), state(t, h, "is-active", "slipwayd.service"); enabled != "disabled" || active != "inactive" {
		t.Errorf("an administrator's disable was undone: %s, %s", enabled, active)
	}

	h.Run(t, "dpkg", "--purge", "slipway")
	for _, gone := range []string{"/var/lib/slipway", "/etc/slipway", "/usr/sbin/slipwayd", "/usr/lib/systemd/system/slipwayd.service"} {
		if h.Try(t, "test", "-e", gone).Exit == 0 {
			t.Errorf("purge left %s", gone)
		}
	}
	if h.Try(t, "test", "-x", "/opt/slipway/demo/current/demo").Exit != 0 {
		t.Error("purge took a deployed app")
	}
	if got := appPID(t, h); got != app {
		t.Errorf("the app was restarted on the way: main PID %s, was %s", got, app)
	}
	if left := h.Run(t, "find", "/etc/systemd/system", "-name", "slipway*"); left != "" {
		t.Errorf("purge left links: %s", left)
	}
	h.MustReboot(t)
	if got := state(t, h, "is-active", "demo.service"); got != "active" {
		t.Errorf("the app after purge and reboot: %s", got)
	}
}

func TestTheRPMInstallsUpgradesAndErases(t *testing.T) {
	takeSlot(t)
	l := lab.New(t)
	first, next := lab.Packages(t, firstVersion, ""), lab.Packages(t, nextVersion, "")
	h := l.Host(t, "web1", lab.HostOptions{})
	install := func(rpm string, upgrade bool) {
		t.Helper()
		if _, err := h.InstallRPM(t.Context(), rpm, upgrade); err != nil {
			t.Fatal(err)
		}
	}
	install(first.RPM, false)
	wantState(t, h, "is-enabled", "enabled")
	wantQuiet(t, h)
	configure(t, l, h)
	app := runningApp(t, h)
	h.Run(t, "sh", "-c", "echo '# edited' >> /etc/slipway/slipway.toml")

	install(next.RPM, true)
	waitActive(t, h, "slipwayd.service")
	if got := slipwaydVersion(t, h); got != nextVersion {
		t.Errorf("running version after the upgrade %q, want %s", got, nextVersion)
	}
	if got := h.Read(t, "/etc/slipway/slipway.toml"); !strings.HasSuffix(got, "# edited\n") {
		t.Error("the upgrade lost an edit of slipway.toml")
	}
	if got := appPID(t, h); got != app {
		t.Errorf("the app was restarted by the upgrade: main PID %s, was %s", got, app)
	}
	h.MustReboot(t)
	waitActive(t, h, "slipwayd.service")
	app = appPID(t, h)

	h.Run(t, "rpm", "--erase", "--nodeps", "slipway")
	for unit := range strings.FieldsSeq(shippedUnits) {
		if h.Try(t, "test", "-e", "/usr/lib/systemd/system/"+unit).Exit == 0 {
			t.Errorf("erase left %s", unit)
		}
	}
	if got := state(t, h, "is-active", "slipwayd.service"); got != "inactive" {
		t.Errorf("slipwayd after erase: %s", got)
	}
	if got := h.Read(t, "/etc/slipway/slipway.toml"); !strings.HasSuffix(got, "# edited\n") {
		t.Error("erase lost slipway.toml")
	}
	if got := appPID(t, h); got != app || h.Try(t, "test", "-x", "/opt/slipway/demo/current/demo").Exit != 0 {
		t.Errorf("erase touched the deployed app: main PID %s, was %s", got, app)
	}
}

func TestTheSameCommitBuildsTheSameBytesElsewhere(t *testing.T) {
	takeSlot(t)
	epoch := "SOURCE_DATE_EPOCH=1700000000"
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	here, err := lab.Build{Root: root, Version: firstVersion, Out: filepath.Join(t.TempDir(), "a"), Env: []string{epoch}}.Make(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := copyTree(t, root)
	there, err := lab.Build{Root: elsewhere, Version: firstVersion, Out: filepath.Join(t.TempDir(), "b"),
		Env: []string{epoch, "TZ=Asia/Tokyo", "LC_ALL=de_DE.UTF-8", "GOAMD64=v3", "USER=somebody"}}.Make(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]string{{here.Deb, there.Deb}, {here.RPM, there.RPM},
		{here.PublisherDeb, there.PublisherDeb}, {here.PublisherRPM, there.PublisherRPM},
		{here.HubDeb, there.HubDeb}, {here.HubRPM, there.HubRPM}} {
		a, errA := os.ReadFile(pair[0])
		b, errB := os.ReadFile(pair[1])
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs: %d and %d bytes", filepath.Base(pair[0]), len(a), len(b))
		}
	}
}

// copyTree copies the repository as git sees it, with other permissions and times.
func copyTree(t *testing.T, root string) string {
	t.Helper()
	list := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil {
			continue // removed and not yet committed
		}
		content, err := os.ReadFile(filepath.Join(root, name))
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), content, 0o600|info.Mode()&0o100)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func TestLintianAndRpmlintAcceptThePackages(t *testing.T) {
	takeSlot(t)
	if os.Geteuid() != 0 {
		t.Skipf("SKIPPED, needs root: %s installs lintian and rpmlint when they are missing", t.Name())
	}
	if err := lab.InstallTools(t.Context(), "lintian", "rpmlint", "rpm"); err != nil {
		t.Fatal(err)
	}
	set := lab.Packages(t, firstVersion, "")
	for _, command := range [][]string{
		{"lintian", "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0", set.Deb, set.PublisherDeb, set.HubDeb},
		{"rpmlint", "--strict", "-c", "../packaging/rpmlint/slipway.toml", set.RPM, set.PublisherRPM, set.HubRPM},
	} {
		out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput()
		if err != nil || !lintClean(string(out)) {
			t.Errorf("%s: %v\n%s", command[0], err, out)
		}
	}
}

// lintClean says whether no line is a finding; rpmlint's summary counts them.
func lintClean(out string) bool {
	for line := range strings.Lines(out) {
		for _, finding := range []string{"E: ", "W: ", " E: ", " W: "} {
			if strings.HasPrefix(line, finding) || (finding[0] == ' ' && strings.Contains(line, ":"+finding)) {
				return false
			}
		}
	}
	return true
}

func TestRemovalIsRefusedWhileTrialsCannotBeSettled(t *testing.T) {
	takeSlot(t)
	l := lab.New(t)
	set := lab.Packages(t, firstVersion, "")
	h := l.Host(t, "web1", lab.HostOptions{})
	installDeb(t, h, set.Deb)
	configure(t, l, h)
	// Only settle fails: the real program stays behind a stand-in for that one word.
	h.Run(t, "mv", "/usr/sbin/slipwayd", "/usr/sbin/slipwayd.real")
	script := "#!/bin/sh\n[ \"$1\" = settle ] && { echo 'settle asked' >&2; exit 1; }\nexec /usr/sbin/slipwayd.real \"$@\"\n"
	if err := h.WriteFile("/usr/sbin/slipwayd", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	r := h.Try(t, "dpkg", "--remove", "slipway")
	if r.Exit == 0 || !strings.Contains(r.Stderr, "settle asked") || !strings.Contains(r.Stderr, "slipway stays installed") {
		t.Fatalf("removal with a trial that cannot be settled: %+v", r)
	}
	waitActive(t, h, "slipwayd.service")
	wantState(t, h, "is-enabled", "enabled")
	h.Run(t, "env", "SLIPWAY_ABANDON_TRIALS=1", "dpkg", "--remove", "slipway")
	if got := state(t, h, "is-active", "slipwayd.service"); got != "inactive" {
		t.Error(fmt.Errorf("slipwayd after a forced removal: %s", got))
	}
}

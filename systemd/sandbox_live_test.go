//go:build livesystemd

package systemd

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

//go:embed units
var shipped embed.FS

// The shipped sandboxes are tested by running this very test binary inside them: it does what the daemon must be able to do,
// tries what it must not, and reports to a file.
const sandboxReport = "/run/slipway/sandbox-report"

func TestLiveTheShippedSandboxesAllowTheWorkAndNothingElse(t *testing.T) {
	c, err := Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, dir := range []string{"/opt/slipway", "/var/lib/slipway", "/run/slipway"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	install(t, c, "slipway-live-other.service", "[Service]\nUser=nobody\nExecStart=/bin/sleep 1000\n")
	if err := c.Job(t.Context(), Start, "slipway-live-other.service"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"slipwayd.service", "slipway-guard@.service"} {
		t.Run(name, func(t *testing.T) {
			os.Remove(sandboxReport)
			other, err := c.Unit(t.Context(), "slipway-live-other.service")
			if err != nil {
				t.Fatal(err)
			}
			install(t, c, "slipway-live-sandbox.service", sandboxed(t, name, other.MainPID))
			jobErr := c.Job(t.Context(), Start, "slipway-live-sandbox.service")
			report, err := os.ReadFile(sandboxReport)
			if jobErr != nil || err != nil || string(report) != "" {
				log, _ := exec.Command("journalctl", "-n20", "--no-pager", "-u", "slipway-live-sandbox").CombinedOutput()
				t.Fatalf("job: %v, report: %v\n%s\n%s", jobErr, err, report, log)
			}
		})
	}
}

// sandboxed is a shipped unit with this binary in place of the daemon.
func sandboxed(t *testing.T, name string, other int) string {
	t.Helper()
	text, err := shipped.ReadFile("units/" + name)
	if err != nil {
		t.Fatal(err)
	}
	_, service, _ := strings.Cut(string(text), "[Service]")
	service, _, _ = strings.Cut(service, "[Install]")
	service = regexp.MustCompile(`(?m)^(Type|ExecStart|ExecReload|Restart|NotifyAccess|WatchdogSec)=.*\n`).ReplaceAllString(service, "")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("[Service]\nType=oneshot\nEnvironment=SLIPWAY_LIVE_OTHER=%d\nExecStart=%s -test.run=TestInsideTheSandbox\n%s", other, self, service)
}

// TestInsideTheSandbox is the other side; it does nothing unless a sandboxed unit runs it.
func TestInsideTheSandbox(t *testing.T) {
	other, err := strconv.Atoi(os.Getenv("SLIPWAY_LIVE_OTHER"))
	if err != nil {
		return
	}
	var wrong []string
	must := func(what string, err error) {
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("cannot %s: %v", what, err))
		}
	}
	dirs := []string{"/opt/slipway", "/var/lib/slipway", "/etc/systemd/system", "/run/slipway"}
	if os.Getenv("CONFIGURATION_DIRECTORY") != "" {
		dirs = append(dirs, "/etc/sysusers.d", "/etc/tmpfiles.d")
	}
	for _, dir := range dirs {
		must("write "+dir, writeAndOwn(dir))
	}
	for _, pid := range []string{strconv.Itoa(other), "1", "self"} {
		for _, link := range []string{"exe", "cwd", "root"} {
			_, err := os.Readlink(filepath.Join("/proc", pid, link))
			must("read /proc link", err)
		}
		_, err := os.ReadFile(filepath.Join("/proc", pid, "maps"))
		must("read /proc maps", err)
		_, err = os.ReadDir(filepath.Join("/proc", pid, "fd"))
		must("list /proc fd", err)
	}
	for _, dial := range []func() (*Control, error){
		func() (*Control, error) { return Connect(t.Context()) }, func() (*Control, error) { return ConnectPrivate(t.Context()) },
	} {
		c, err := dial()
		must("reach PID 1", err)
		if err == nil {
			must("reload", c.Reload(t.Context()))
			must("restart", c.Job(t.Context(), Restart, "slipway-live-other.service"))
			r, err := c.Run(t.Context(), Task{Name: "slipway-live-inner", Command: []string{"/bin/true"}})
			must("run a task", err)
			if !r.OK() {
				must("run a task", errors.New(r.Result))
			}
			c.Close()
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must("use IPv4", err)
	if err == nil {
		ln.Close()
	}
	mustNot := func(what string, err error) {
		if err == nil {
			wrong = append(wrong, "could "+what)
		}
	}
	mustNot("write /usr", os.WriteFile("/usr/slipway-live", nil, 0o600))
	mustNot("write /etc", os.WriteFile("/etc/slipway-live", nil, 0o600))
	mustNot("mount", syscall.Mount("none", "/opt/slipway", "tmpfs", 0, ""))
	mustNot("trace", syscall.PtraceAttach(other))
	mustNot("make setuid files", syscall.Fchmodat(-100, "/opt/slipway/../slipway", 0o4755, 0))
	if err := os.WriteFile(sandboxReport, []byte(strings.Join(wrong, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
}

// writeAndOwn does what staging and generated units need in a directory.
func writeAndOwn(dir string) error {
	path := filepath.Join(dir, "slipway-live.tmp")
	defer os.Remove(path)
	defer os.Remove(path + ".link")
	err := errors.Join(
		os.WriteFile(path, []byte("x"), 0o644), os.Chown(path, 65534, 65534), os.Chmod(path, fs.FileMode(0o555)),
		os.Symlink("x", path+".link"), os.Chown(path, 0, 0), os.WriteFile(path, []byte("y"), 0o644),
	)
	f, openErr := os.Open(dir)
	if openErr == nil {
		err = errors.Join(err, f.Sync(), f.Close())
	}
	return errors.Join(err, openErr)
}

package bench

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// host is one daemon with directories of its own.
type host struct {
	b      *testing.B
	dir    string
	daemon *exec.Cmd
	log    bytes.Buffer
}

// newHost configures a host for one app, or for none, that asks for news when it starts and then every poll. Nothing is started.
func (w *world) newHost(b *testing.B, app, poll string) *host {
	b.Helper()
	dir, err := os.MkdirTemp(w.dir, "host-")
	check(b, err)
	h := &host{b: b, dir: dir}
	check(b, writeFile(h.path("etc", "slipway.toml"), fmt.Sprintf(`environment = "production"
supervisor = "process"
[repository]
root = %q
[[repository.mirrors]]
url = %q
[paths]
install = %q
state = %q
run = %q
units = %q
[poll]
interval = %q
[space]
reserve = "16MiB"
[clock]
unsafe_unsynchronised = true
`, w.path("repo", "metadata", "1.root.json"), w.url, h.path("opt"), h.path("var"), h.path("run"), h.path("units"), poll)))
	if app != "" {
		check(b, writeFile(h.path("etc", "apps.d", app+".toml"), ""))
	}
	return h
}

func (h *host) path(parts ...string) string {
	return filepath.Join(append([]string{h.dir}, parts...)...)
}

func (h *host) start(w *world) {
	h.b.Helper()
	h.daemon = exec.Command(w.path("bin", "slipwayd"), "--config", h.path("etc"))
	h.daemon.Stdout, h.daemon.Stderr = &h.log, &h.log
	check(h.b, h.daemon.Start())
}

func (h *host) stop() {
	_ = h.daemon.Process.Signal(syscall.SIGTERM)
	_ = h.daemon.Wait()
}

// fail shows what the daemon said.
func (h *host) fail(format string, args ...any) {
	h.b.Helper()
	h.stop()
	h.b.Fatalf(format+"\nslipwayd said:\n%s", append(args, h.log.String())...)
}

type event struct {
	Time                   time.Time
	Type, Phase, Cause, To string
	Message                string
	Fields                 map[string]string
}

func (h *host) events() []event {
	data, err := os.ReadFile(h.path("var", "audit", "events.jsonl"))
	if err != nil {
		return nil
	}
	var out []event
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		var e event
		if json.Unmarshal(s.Bytes(), &e) == nil {
			out = append(out, e)
		}
	}
	return out
}

// await returns the first event that is wanted.
func (h *host) await(what string, wanted func(event) bool) event {
	h.b.Helper()
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for _, e := range h.events() {
			if wanted(e) {
				return e
			}
		}
		if h.memory("VmRSS") == 0 {
			break // it has exited
		}
	}
	h.fail("this did not happen: %s", what)
	return event{}
}

// memory reads a line such as VmHWM of the daemon, in MB of 10^6 bytes; 0 if it has exited.
func (h *host) memory(line string) float64 {
	h.b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.daemon.Process.Pid))
	check(h.b, err)
	for l := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(l, line+":"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			check(h.b, err)
			return kb * 1024 / 1e6
		}
	}
	return 0
}

// cpu is the processor time the daemon has used so far.
func (h *host) cpu() time.Duration {
	h.b.Helper()
	return cpuOf(h.b, h.daemon.Process.Pid)
}

func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	check(b, err)
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go knows
	user, err := strconv.Atoi(fields[11])
	check(b, err)
	system, err := strconv.Atoi(fields[12])
	check(b, err)
	return time.Duration(user+system) * tick
}

package process

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/systemd"
)

func signalNotify(c chan<- os.Signal) { signal.Notify(c, syscall.SIGTERM) }

func TestTasksReportExitOutputAndTime(t *testing.T) {
	h := newHost(t)
	task := func(script string) systemd.Task {
		return systemd.Task{Name: "t", Command: []string{"/bin/sh", "-c", script}, Dir: "/usr", Env: []string{"A=hello"}, Timeout: 5 * time.Second}
	}
	slow := task("echo slow; sleep 1000")
	slow.Timeout = 100 * time.Millisecond
	for name, k := range map[string]struct {
		task systemd.Task
		want systemd.TaskResult
	}{
		"success":     {task("pwd; echo $A >&2"), systemd.TaskResult{Result: "success", Output: "/usr\nhello\n"}},
		"exit status": {task("echo no; exit 3"), systemd.TaskResult{Exit: 3, Result: "exit-code", Output: "no\n"}},
		"signal":      {task("kill -9 $$"), systemd.TaskResult{Exit: 137, Result: "signal"}},
		"timeout":     {slow, systemd.TaskResult{Exit: 137, Result: "timeout", TimedOut: true, Output: "slow\n"}},
		"long output": {task("head -c 10000 /dev/zero | tr '\\0' x"), systemd.TaskResult{Result: "success", Output: strings.Repeat("x", 4096)}},
	} {
		if got, err := h.Run(t.Context(), k.task); err != nil || got != k.want {
			t.Errorf("%s: got %+v, %v\nwant %+v", name, got, err, k.want)
		}
	}
	got, err := h.Run(t.Context(), systemd.Task{Name: "t", Command: []string{"/no/such"}})
	if err != nil || got.Exit != 203 || got.OK() {
		t.Errorf("no program: %+v, %v", got, err)
	}
	if _, err := h.Run(t.Context(), systemd.Task{Name: "t", Command: []string{"true"}}); err == nil {
		t.Error("a relative command was accepted")
	}
}

func TestACancelledTaskIsKilled(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := h.Run(ctx, systemd.Task{Name: "t", Command: []string{"/bin/sleep", "1000"}})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
}

func TestGuardsFireUnlessDisarmed(t *testing.T) {
	dir := t.TempDir()
	h := newHost(t, "/bin/sh", "-c", "touch "+dir+"/$0")
	guard := func(attempt string, in time.Duration) systemd.Guard {
		return systemd.Guard{App: "billing", Attempt: attempt, To: "0123456789ab", Deadline: bootClock() + in}
	}
	fired := func(g systemd.Guard) bool {
		_, err := os.Stat(filepath.Join(dir, g.Instance()))
		return err == nil
	}
	past, later, never := guard("past", -time.Second), guard("later", 50*time.Millisecond), guard("never", 50*time.Millisecond)
	for _, g := range []systemd.Guard{past, guard("later", time.Hour), later, never} {
		if _, err := h.ArmGuard(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := h.DisarmGuard(t.Context(), "billing", "never"); err != nil {
			t.Fatal(err)
		}
	}
	h.until("guards fire", func() bool { return fired(past) && fired(later) })
	if bootClock() < later.Deadline {
		t.Error("a guard fired early")
	}
	<-time.After(time.Until(time.Now().Add(never.Deadline - bootClock() + 50*time.Millisecond)))
	if fired(never) {
		t.Error("a disarmed guard fired")
	}
	if left, err := h.Guards(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("still armed: %+v, %v", left, err)
	}
	if _, err := newHost(t).ArmGuard(t.Context(), past); err == nil {
		t.Error("a guard without a command was armed")
	}
}

func TestItSaysWhatItIs(t *testing.T) {
	h := newHost(t)
	if v, err := h.Version(t.Context()); err != nil || v != h.Describe() || !strings.Contains(v, "no systemd") {
		t.Errorf("%q, %v", v, err)
	}
}

func TestWordsFollowSystemdsQuoting(t *testing.T) {
	for in, want := range map[string][]string{
		`a  b	c`: {"a", "b", "c"}, `"a b" 'c "d"' e`: {"a b", `c "d"`, "e"}, `a\x20b\n "x\"y" ""`: {"a b\n", `x"y`, ""}, ``: nil, `\q`: {`\q`},
	} {
		if got, err := splitWords(in); err != nil || strings.Join(got, "|") != strings.Join(want, "|") || len(got) != len(want) {
			t.Errorf("%q: got %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestTimeSpansFollowSystemd(t *testing.T) {
	for in, want := range map[string]time.Duration{"5": 5 * time.Second, "1min 30s": 90 * time.Second, "500ms": 500 * time.Millisecond, "1.5h": 90 * time.Minute, "infinity": forever, "0": 0} {
		if got, err := parseSpan(in); err != nil || got != want {
			t.Errorf("%q: got %s, %v, want %s", in, got, err, want)
		}
	}
	for _, bad := range []string{"", "x", "5 parsecs", "-1", "1..2", "99999999999999d"} {
		if got, err := parseSpan(bad); err == nil {
			t.Errorf("%q was read as %s", bad, got)
		}
	}
}

func FuzzUnitFiles(f *testing.F) {
	f.Add("[Service]\nExecStart=@/bin/sh -c 'x' \"y\\x41\nRestartSec=1min 3s\n")
	f.Add("[Socket]\nListenStream=80\nSocketMode=0999\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range []string{"a@b.service", "a.socket"} {
			s := newSpec(name)
			if s.apply([]byte(text), name, "b") == nil && s.check(name) == nil {
				for _, c := range s.start {
					c.expand(s.env)
				}
			}
		}
	})
}

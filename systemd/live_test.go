//go:build livesystemd

// These tests need PID 1 to be systemd and to be root on a host that may be changed: compile them with
// go test -c -tags livesystemd and run the binary inside a booted lab host.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// overBothRoads runs a test over the bus and over the private socket.
func overBothRoads(t *testing.T, test func(t *testing.T, c *Control)) {
	t.Helper()
	for name, dial := range map[string]func(context.Context) (*Control, error){"bus": Connect, "private": ConnectPrivate} {
		t.Run(name, func(t *testing.T) {
			c, err := dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			test(t, c)
		})
	}
}

// install writes a unit below /run and removes it at the end.
func install(t *testing.T, c *Control, name, content string) {
	t.Helper()
	path := filepath.Join("/run/systemd/system", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		c, err := Connect(ctx)
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.Job(ctx, Stop, name)
		_ = c.ResetFailed(ctx, name)
		os.Remove(path)
		_ = c.Reload(ctx)
	})
	if err := c.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func monotonic() time.Duration {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return time.Duration(now.Nano())
}

func TestLiveJobsReportHowTheyEnd(t *testing.T) {
	overBothRoads(t, func(t *testing.T, c *Control) {
		ctx := t.Context()
		install(t, c, "slipway-live-good.service", "[Service]\nExecStart=/bin/sleep 1000\nExecReload=/bin/true\n")
		install(t, c, "slipway-live-bad.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'exit 7'\n")
		for _, verb := range []Verb{Start, Restart, ReloadUnit, TryRestart, ReloadOrRestart} {
			if err := c.Job(ctx, verb, "slipway-live-good.service"); err != nil {
				t.Fatal(err)
			}
		}
		s, err := c.Unit(ctx, "slipway-live-good.service")
		if err != nil || s.Active != "active" || s.Sub != "running" || s.MainPID == 0 || len(s.InvocationID) != 32 || s.Result != "success" {
			t.Fatalf("running unit is %+v, %v", s, err)
		}
		if age := monotonic() - s.ActiveEnter; age < 0 || age > 10*time.Second {
			t.Fatalf("it became active %s ago", age)
		}
		if err := c.Job(ctx, Stop, "slipway-live-good.service"); err != nil {
			t.Fatal(err)
		}
		var bad *JobError
		if err := c.Job(ctx, Start, "slipway-live-bad.service"); !errors.As(err, &bad) || bad.Result != "failed" || !strings.Contains(bad.Detail, "status 7") {
			t.Fatalf("failing start: %v", err)
		}
		if err := c.Job(ctx, Start, "slipway-live-absent.service"); !errors.As(err, &bad) || bad.Result != "not-found" {
			t.Fatalf("absent unit: %v", err)
		}
		if err := c.Job(ctx, Stop, "slipway-live-absent.service"); err != nil {
			t.Fatalf("stopping an absent unit: %v", err)
		}
		if err := c.ResetFailed(ctx, "slipway-live-absent.service"); err != nil {
			t.Fatal(err)
		}
		if s, err := c.Unit(ctx, "slipway-live-absent.service"); err != nil || s.Load != "not-found" {
			t.Fatalf("absent unit is %+v, %v", s, err)
		}
	})
}

func TestLiveStartLimitIsLiftedByResetFailed(t *testing.T) {
	overBothRoads(t, func(t *testing.T, c *Control) {
		ctx := t.Context()
		install(t, c, "slipway-live-loop.service",
			"[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=3\n[Service]\nExecStart=/bin/false\nRestart=always\nRestartSec=50ms\n")
		_ = c.Job(ctx, Start, "slipway-live-loop.service")
		eventually(t, 5*time.Second, "the loop is given up", func() bool {
			s, _ := c.Unit(ctx, "slipway-live-loop.service")
			return s.Active == "failed" && s.NRestarts == 3
		})
		if err := c.Job(ctx, Start, "slipway-live-loop.service"); err == nil {
			t.Fatal("a start beyond the limit was accepted")
		}
		if err := c.ResetFailed(ctx, "slipway-live-loop.service"); err != nil {
			t.Fatal(err)
		}
		if err := c.Job(ctx, Start, "slipway-live-loop.service"); err != nil {
			t.Fatal(err)
		}
	})
}

func TestLiveTasksReportExitOutputAndTime(t *testing.T) {
	overBothRoads(t, func(t *testing.T, c *Control) {
		sh := func(script string) Task {
			return Task{Name: "slipway-live-task", Command: []string{"/bin/sh", "-c", script}, Timeout: time.Second}
		}
		user := sh("id -un; pwd; echo $GREETING; echo '%i $HOME ${x}' >&2")
		user.User, user.Dir, user.Env = "nobody", "/usr", []string{"GREETING=hello there"}
		cases := []struct {
			name string
			task Task
			want TaskResult
		}{
			{"success", user, TaskResult{Result: "success", Output: "nobody\n/usr\nhello there\n%i $HOME ${x}\n"}},
			{"exit status", sh("echo no; exit 3"), TaskResult{Exit: 3, Result: "exit-code", Output: "no\n"}},
			{"signal", sh("kill -9 $$"), TaskResult{Exit: 137, Result: "signal"}},
			{"timeout", sh("echo slow; sleep 100"), TaskResult{Exit: 143, Result: "timeout", TimedOut: true, Output: "slow\n"}},
			{"no program", Task{Name: "slipway-live-task", Command: []string{"/no/such"}}, TaskResult{Exit: 203, Result: "exit-code"}},
			{"long output", sh("head -c 10000 /dev/zero | tr '\\0' x; echo end"), TaskResult{Result: "success", Output: strings.Repeat("x", 4092) + "end\n"}},
		}
		for _, k := range cases {
			got, err := c.Run(t.Context(), k.task)
			if err != nil || got != k.want {
				t.Errorf("%s: got %+v, %v\nwant %+v", k.name, got, err, k.want)
			}
		}
		if left, err := c.UnitsMatching(t.Context(), "slipway-live-task*"); err != nil || len(left) != 0 {
			t.Errorf("left behind: %+v, %v", left, err)
		}
	})
}

func TestLiveACancelledTaskIsStoppedAndForgotten(t *testing.T) {
	overBothRoads(t, func(t *testing.T, c *Control) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		begin := time.Now()
		_, err := c.Run(ctx, Task{Name: "slipway-live-cancel", Command: []string{"/bin/sleep", "1000"}})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 3*time.Second {
			t.Fatalf("after %s: %v", time.Since(begin), err)
		}
		if left, err := c.UnitsMatching(t.Context(), "slipway-live-cancel*"); err != nil || len(left) != 0 {
			t.Fatalf("left behind: %+v, %v", left, err)
		}
	})
}

func guardUnit(t *testing.T, c *Control) (fired func(Guard) bool) {
	dir := "/run/slipway-live-guard"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	install(t, c, "slipway-guard@.service", "[Service]\nType=oneshot\nExecStart=/usr/bin/touch "+dir+"/%i\n")
	return func(g Guard) bool {
		_, err := os.Stat(filepath.Join(dir, g.Instance()))
		return err == nil
	}
}

func TestLiveAGuardFiresOnTimeThroughReloads(t *testing.T) {
	overBothRoads(t, func(t *testing.T, c *Control) {
		fired := guardUnit(t, c)
		g := Guard{App: "billing", Attempt: fmt.Sprintf("a%d", time.Now().UnixNano()), To: "0123456789ab", Deadline: monotonic() + 2*time.Second}
		if _, err := c.ArmGuard(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		for monotonic() < g.Deadline+200*time.Millisecond && !fired(g) {
			if err := c.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			if fired(g) && monotonic() < g.Deadline {
				t.Fatal("it fired too early")
			}
		}
		eventually(t, 2*time.Second, "the guard fires", func() bool { return fired(g) })
		if late := monotonic() - g.Deadline; late < 0 || late > time.Second {
			t.Fatalf("it fired %s after its deadline", late)
		}
		t.Logf("fired within %s of its deadline", monotonic()-g.Deadline)
	})
}

func TestLiveADisarmedGuardDoesNotFire(t *testing.T) {
	overBothRoads(t, func(t *testing.T, c *Control) {
		fired := guardUnit(t, c)
		g := Guard{App: "billing", Attempt: fmt.Sprintf("d%d", time.Now().UnixNano()), From: "a", To: "b", Deadline: monotonic() + time.Hour}
		for range 2 {
			if _, err := c.ArmGuard(t.Context(), g); err != nil {
				t.Fatalf("arming: %v", err)
			}
		}
		armed, err := c.Guards(t.Context())
		if err != nil || len(armed) != 1 || (armed[0].Deadline-g.Deadline).Abs() > time.Millisecond {
			t.Fatalf("armed guards are %+v, %v, want one like %+v", armed, err, g)
		}
		for range 2 {
			if err := c.DisarmGuard(t.Context(), g.App, g.Attempt); err != nil {
				t.Fatal(err)
			}
		}
		if armed, err := c.Guards(t.Context()); err != nil || len(armed) != 0 {
			t.Fatalf("still armed: %+v, %v", armed, err)
		}
		g.Deadline = monotonic() - time.Second
		if _, err := c.ArmGuard(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		eventually(t, 2*time.Second, "a deadline in the past fires at once", func() bool { return fired(g) })
	})
}

func TestLiveAStoppedProcessIsKilledThroughPID1(t *testing.T) {
	overBothRoads(t, func(t *testing.T, c *Control) {
		install(t, c, "slipway-live-hung.service", "[Service]\nExecStart=/bin/sleep 1000\n")
		if err := c.Job(t.Context(), Start, "slipway-live-hung.service"); err != nil {
			t.Fatal(err)
		}
		for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
			if err := c.Kill(t.Context(), "slipway-live-hung.service", signal); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, 2*time.Second, "it is dead", func() bool {
			s, _ := c.Unit(t.Context(), "slipway-live-hung.service")
			return s.MainPID == 0
		})
		if err := c.Kill(t.Context(), "slipway-live-absent.service", syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	})
}

func TestLiveWatchSeesEveryLastState(t *testing.T) {
	overBothRoads(t, func(t *testing.T, c *Control) {
		install(t, c, "slipway-live-watched.service", "[Service]\nExecStart=/bin/sleep 1000\n")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		states := c.Watch(ctx, "slipway-live-watched.service")
		await := func(want string) {
			for s := range states {
				if s.Active == want {
					return
				}
			}
			t.Fatalf("never saw %q", want)
		}
		await("inactive")
		if err := c.Job(ctx, Start, "slipway-live-watched.service"); err != nil {
			t.Fatal(err)
		}
		await("active")
		if err := c.Job(ctx, Stop, "slipway-live-watched.service"); err != nil {
			t.Fatal(err)
		}
		await("inactive")
	})
}

func TestLiveTheControlSurvivesARestartOfDBus(t *testing.T) {
	c, err := Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	install(t, c, "slipway-live-slow.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sleep 2\n")
	done := make(chan error, 1)
	go func() { done <- c.Job(t.Context(), Start, "slipway-live-slow.service") }()
	eventually(t, 2*time.Second, "the job runs", func() bool {
		s, _ := c.Unit(t.Context(), "slipway-live-slow.service")
		return s.Active == "activating"
	})
	if out, err := exec.Command("systemctl", "kill", "-s", "KILL", "dbus.service").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := c.Unit(t.Context(), "slipway-live-slow.service"); err != nil {
		t.Fatalf("asking just after: %v", err)
	}
	if err := <-done; err != nil {
		t.Fatalf("the job across the restart: %v", err)
	}
	if _, err := c.Version(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkLiveUnit(b *testing.B) {
	c, err := Connect(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for b.Loop() {
		if _, err := c.Unit(b.Context(), "dbus.service"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLiveRun(b *testing.B) {
	c, err := Connect(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for b.Loop() {
		if _, err := c.Run(b.Context(), Task{Name: "slipway-live-bench", Command: []string{"/bin/true"}}); err != nil {
			b.Fatal(err)
		}
	}
}

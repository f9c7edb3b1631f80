package systemd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/hashicorp/go-hclog"
)

// TestMain lets the test binary be the service that gets sockets.
func TestMain(m *testing.M) {
	if os.Getenv("SLIPWAY_TEST_LISTENERS") == "" {
		os.Exit(m.Run())
	}
	listeners, err := Listeners()
	names := make([]string, 0, len(listeners))
	for name, ln := range listeners {
		names = append(names, name+"="+ln.Addr().Network())
	}
	slices.Sort(names)
	fmt.Print(names, err, os.Getenv("LISTEN_FDS"))
}

// notifySocket stands in for the service manager.
func notifySocket(t *testing.T) func() string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 1<<12)
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func TestTheManagerIsToldWhatItUnderstands(t *testing.T) {
	heard := notifySocket(t)
	n := NewNotifier()
	if os.Getenv("NOTIFY_SOCKET") != "" {
		t.Error("children could speak for us")
	}
	for want, say := range map[string]func() error{
		"READY=1": n.Ready, "STOPPING=1": n.Stopping, "STATUS=in trial: 3 of 5 min": func() error { return n.Status("in trial:\n3 of 5 min\r\n") },
	} {
		if err := say(); err != nil {
			t.Fatal(err)
		}
		if got := heard(); got != want {
			t.Errorf("heard %q, want %q", got, want)
		}
	}
	if err := n.Reloading(); err != nil {
		t.Fatal(err)
	}
	if got := heard(); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("heard %q", got)
	}
}

func TestTheWatchdogIsFedOnlyWhileAlive(t *testing.T) {
	heard := notifySocket(t)
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	n := NewNotifier()
	if n.WatchdogInterval() != 30*time.Millisecond {
		t.Fatalf("the interval is %s", n.WatchdogInterval())
	}
	ctx, cancel := context.WithCancel(t.Context())
	var asked atomic.Int32
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Watchdog(ctx, func() bool { return asked.Add(1) <= 2 })
	}()
	for range 2 {
		if got := heard(); got != "WATCHDOG=1" {
			t.Errorf("heard %q", got)
		}
	}
	within(t, "it was asked again", func() bool { return asked.Load() >= 4 })
	if err := n.Ready(); err != nil {
		t.Fatal(err)
	}
	if got := heard(); got != "READY=1" {
		t.Errorf("a hung daemon said %q", got)
	}
	cancel()
	<-done
}

func TestWithoutAManagerNothingIsSaid(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n := NewNotifier()
	if err := errors.Join(n.Ready(), n.Stopping(), n.Reloading(), n.Status("x")); err != nil {
		t.Error(err)
	}
	n.Watchdog(t.Context(), func() bool { return true })
	t.Setenv("WATCHDOG_USEC", "1000")
	t.Setenv("WATCHDOG_PID", "1")
	if NewNotifier().WatchdogInterval() != 0 {
		t.Error("somebody else's watchdog was taken for ours")
	}
}

func TestSocketsArriveUnderTheirNames(t *testing.T) {
	run := func(names string, sockets int) string {
		cmd := exec.Command("/bin/sh", "-c", `export LISTEN_PID=$$; exec "$0"`, os.Args[0])
		cmd.Env = append(os.Environ(), "SLIPWAY_TEST_LISTENERS=1", "LISTEN_FDNAMES="+names, fmt.Sprintf("LISTEN_FDS=%d", sockets))
		for i := range sockets {
			ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), fmt.Sprint(i)), Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			f, err := ln.File()
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		}
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if got := run("control:readonly", 2); got != "[control=unix readonly=unix] <nil> " && got != "[control=unix readonly=unix] <nil>" {
		t.Errorf("got %q", got)
	}
	if got := run("", 0); !strings.HasPrefix(got, "[] <nil>") {
		t.Errorf("without sockets: %q", got)
	}
	if got := run("control:control", 2); !strings.Contains(got, `2 are named "control", want 1`) {
		t.Errorf("two of a name: %q", got)
	}
}

func TestJournalEntriesCarryFieldsAndText(t *testing.T) {
	var message string
	var fields map[string]string
	var priority journal.Priority
	var out bytes.Buffer
	fail := false
	sink := &journalSink{level: hclog.Info, fallback: &out, send: func(m string, p journal.Priority, f map[string]string) error {
		message, priority, fields = m, p, f
		if fail {
			return errors.New("journald is away")
		}
		return nil
	}}
	logger := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "slipwayd", Level: hclog.Debug, Output: &bytes.Buffer{}})
	logger.RegisterSink(sink)
	logger.With("app", "billing").Warn("in trial", "attempt-id", 7, "why", "it is new")
	if message != `in trial app=billing attempt-id=7 why="it is new"` || priority != journal.PriWarning {
		t.Errorf("message %q, priority %d", message, priority)
	}
	want := map[string]string{"SLIPWAY_APP": "billing", "SLIPWAY_ATTEMPT_ID": "7", "SLIPWAY_WHY": "it is new", "SLIPWAY_LOGGER": "slipwayd"}
	for k, v := range want {
		if fields[k] != v {
			t.Errorf("%s is %q, want %q", k, fields[k], v)
		}
	}
	logger.Debug("quiet")
	if message == "quiet" {
		t.Error("a line below the level was sent")
	}
	fail = true
	logger.Error("lost?")
	if out.String() != "lost?\n" {
		t.Errorf("stderr got %q", out.String())
	}
	if name := fieldName(strings.Repeat("ä-", 60)); len(name) > 64 || strings.Trim(name, "SLIPWAY_") != "" {
		t.Errorf("a strange key became %q", name)
	}
}

package lab

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"
)

// New opens a lab that is closed when the test ends; then it also prints what the hosts have to say if
// the test failed. Without root it skips the test and says what was not shown.
func New(t testing.TB) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("SKIPPED, needs root: %s boots real systemd hosts; run it as root", t.Name())
	}
	l, err := Open(t.Context(), Options{Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			for _, h := range l.hosts {
				t.Log(h.Dump(ctx))
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// Host makes a host and boots it; the test ends when that does not work.
func (l *Lab) Host(t testing.TB, name string, o HostOptions) *Host {
	t.Helper()
	h, err := l.NewHost(t.Context(), name, o)
	if err != nil {
		t.Fatal(err)
	}
	h.MustBoot(t)
	return h
}

// Serve serves a directory to the lab's hosts; see ServeDir.
func (l *Lab) Serve(t testing.TB, dir string) *Server {
	t.Helper()
	s, err := l.ServeDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// MustBoot is Boot for tests; the boot must end as "running".
func (h *Host) MustBoot(t testing.TB) {
	t.Helper()
	state, err := h.Boot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if state != "running" {
		t.Fatalf("host %s booted %s:\n%s", h.Name, state, h.Dump(t.Context()))
	}
}

// MustReboot is Reboot for tests; the boot must end as "running".
func (h *Host) MustReboot(t testing.TB) {
	t.Helper()
	state, err := h.Reboot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if state != "running" {
		t.Fatalf("host %s rebooted %s:\n%s", h.Name, state, h.Dump(t.Context()))
	}
}

// Run runs a command in the host, ends the test unless it exits 0, and returns its standard output.
func (h *Host) Run(t testing.TB, command ...string) string {
	t.Helper()
	r := h.Try(t, command...)
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	return r.Stdout
}

// Try runs a command in the host that may exit as it likes; the test ends if it cannot be run.
func (h *Host) Try(t testing.TB, command ...string) Result {
	t.Helper()
	r, err := h.Exec(t.Context(), command...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Write writes a file of the host, mode 0644, or ends the test.
func (h *Host) Write(t testing.TB, name, content string) {
	t.Helper()
	if err := h.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Read reads a file of the host or ends the test.
func (h *Host) Read(t testing.TB, name string) string {
	t.Helper()
	content, err := h.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// Mark returns the journal's present end, so that a later JournalSince sees only what is new.
func (h *Host) Mark(t testing.TB) string {
	t.Helper()
	cursor, err := h.JournalCursor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cursor
}

// JournalInOrder ends the test unless the selected part of the journal holds messages matching the
// patterns in this order; it waits for the last of them until the timeout.
func (h *Host) JournalInOrder(t testing.TB, timeout time.Duration, f Filter, patterns ...string) []Entry {
	t.Helper()
	var found []Entry
	h.WaitFor(t, timeout, fmt.Sprintf("journal order %q", patterns), func(ctx context.Context) error {
		entries, err := h.Journal(ctx, f)
		if err != nil {
			return err
		}
		found, err = InOrder(entries, patterns...)
		return err
	})
	return found
}

// WaitFor asks the condition again and again until it returns nil. At the timeout the test ends with
// the condition's last error; what the hosts have to say follows.
func (h *Host) WaitFor(t testing.TB, timeout time.Duration, what string, condition func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	started := time.Now()
	var last error
	err := pollAt(ctx, 100*time.Millisecond, func() (bool, error) {
		err := condition(ctx)
		if err != nil && ctx.Err() != nil && last != nil {
			return false, nil // the deadline's own error says less than the one before
		}
		last = err
		return err == nil, nil
	})
	if err != nil {
		t.Fatalf("host %s: not within %s: %s: %v", h.Name, time.Since(started).Round(time.Millisecond), what, last)
	}
}

package lab

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRealNATSServersRunOnAHost(t *testing.T) {
	l := New(t)
	h := l.Host(t, "web1", HostOptions{})
	for _, version := range []string{"v2.15.1", "v2.15.2"} {
		if err := h.Push(NATSServer(t, version), "/usr/local/bin/nats-server"); err != nil {
			t.Fatal(err)
		}
		h.Run(t, "systemd-run", "--unit=nats", "--property=DynamicUser=yes", "/usr/local/bin/nats-server", "-m", "8222")
		h.WaitFor(t, 20*time.Second, "healthy nats-server "+version, func(ctx context.Context) error {
			r, err := h.Exec(ctx, "curl", "-sSf", "http://127.0.0.1:8222/healthz")
			if err != nil {
				return err
			}
			return r.Err()
		})
		if got := h.Run(t, "/usr/local/bin/nats-server", "--version"); !strings.Contains(got, version) {
			t.Errorf("version: %q, want %s", got, version)
		}
		h.Run(t, "systemctl", "stop", "nats")
	}
}

func TestOurOwnProgramsAreBuiltForHosts(t *testing.T) {
	l := New(t)
	h := l.Host(t, "web1", HostOptions{})
	harbor := filepath.Join(t.TempDir(), "harbor")
	if err := GoBuild(t.Context(), "../apps/harbor", harbor, "main.version=7.0.0"); err != nil {
		t.Fatal(err)
	}
	if err := h.Push(harbor, "/usr/local/bin/harbor"); err != nil {
		t.Fatal(err)
	}
	// Type=notify: the job is done when harbor says it is ready.
	h.Run(t, "systemd-run", "--unit=harbor", "--property=Type=notify", "/usr/local/bin/harbor")
	if got := h.Run(t, "curl", "-sSf", "http://127.0.0.1:8080/version"); got != "7.0.0\n" {
		t.Errorf("version: %q", got)
	}
}

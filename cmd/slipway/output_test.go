package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/server"
)

func TestTextFromElsewhereCannotDriveATerminal(t *testing.T) {
	for in, want := range map[string]string{"plain ü\n": "plain ü\n", "a\x1b[2Jb": "a?[2Jb", "a\rb": "a?b", "\u009b31m": "?31m", "a\u202eb": "a?b", "\xff": "?"} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestSpansAndSizesReadLikeSpeech(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0 s", 59 * time.Second: "59 s", 3 * time.Minute: "3 min", 130 * time.Minute: "2 h 10 min", 5 * time.Hour: "5 h", 144 * time.Hour: "6 d"} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
	if got := ago(now, time.Time{}); got != "never" {
		t.Errorf("ago = %q", got)
	}
	if got := progressText(api.Progress{Step: "downloading", Percent: 42.9, Bytes: 13_400_000, Total: 32_000_000, Rate: 5_000_000}); got != "downloading 42 % · 13.4 MB of 32.0 MB · 5.0 MB/s · 3 s left" {
		t.Errorf("progress = %q", got)
	}
	if got := progressText(api.Progress{Step: "syncing"}); got != "syncing" {
		t.Errorf("progress = %q", got)
	}
}

// onTerminal runs a command as on a terminal until its output holds a text.
func onTerminal(t *testing.T, until string, args ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "slw")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	host := &scriptHost{status: api.Status{Host: "h", Environment: "e", Apps: []api.AppStatus{{App: "web", Enabled: true, Phase: "idle", Version: "1", Why: "runs"}}}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.New(server.Config{Host: host, Version: "dev"}).Serve(ctx, l, server.Control) }()
	defer func() { cancel(); <-done }()
	out := &stopper{until: until, stop: cancel}
	c := &cli{in: strings.NewReader(""), out: out, err: out, tty: true, errTTY: true, now: func() time.Time { return now }}
	if code := c.main(ctx, append([]string{"--socket", socket}, args...)); code != 0 {
		t.Errorf("exit code %d: %s", code, &out.Buffer)
	}
	return out.String()
}

// stopper ends the command once it has said enough.
type stopper struct {
	bytes.Buffer
	until string
	stop  func()
}

func (s *stopper) Write(p []byte) (int, error) {
	n, err := s.Buffer.Write(p)
	if s.until != "" && strings.Count(s.String(), s.until) >= 2 {
		s.stop()
	}
	return n, err
}

func TestStatusRedrawsInPlaceOnATerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	got := onTerminal(t, "\x1b[J", "status", "--watch")
	if !strings.HasPrefix(got, "\x1b[2J\x1b[H") || strings.Count(got, "\x1b[2J") != 1 || !strings.Contains(got, "\x1b[32midle\x1b[0m") {
		t.Errorf("got %q", got)
	}
}

func TestColoursAreLeftOutWhereTheyAreNotWanted(t *testing.T) {
	t.Setenv("TERM", "xterm")
	if got := onTerminal(t, "", "status"); !strings.Contains(got, "\x1b[32m") {
		t.Errorf("no colour in %q", got)
	}
	t.Setenv("NO_COLOR", "1")
	if got := onTerminal(t, "", "status"); strings.Contains(got, "\x1b") {
		t.Errorf("colour in %q", got)
	}
}

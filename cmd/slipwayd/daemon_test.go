package main

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/systemd"
)

type loops struct{ hung atomic.Bool }

func (l *loops) Hung() error {
	if l.hung.Load() {
		return errors.New("the loop of billing hangs")
	}
	return nil
}

func TestTheWatchdogIsFedUntilALoopHangsAndAgainWhenItLives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "60000")
	t.Setenv("WATCHDOG_PID", "")
	n, host := systemd.NewNotifier(), &loops{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); n.Watchdog(ctx, alive(host, hclog.NewNullLogger())) }()
	defer func() { cancel(); <-done }()
	heard := func(within time.Duration) bool {
		buf := make([]byte, 64)
		_ = conn.SetReadDeadline(time.Now().Add(within))
		n, err := conn.Read(buf)
		return err == nil && string(buf[:n]) == "WATCHDOG=1"
	}
	for range 2 {
		if !heard(10 * time.Second) {
			t.Fatal("a living daemon does not feed the watchdog")
		}
	}
	host.hung.Store(true)
	for range 3 {
		heard(100 * time.Millisecond) // what was sent before
	}
	if heard(300 * time.Millisecond) {
		t.Error("the watchdog is fed while a loop hangs")
	}
	host.hung.Store(false)
	if !heard(10 * time.Second) {
		t.Error("the watchdog is not fed again")
	}
}

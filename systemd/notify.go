package systemd

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier tells the service manager how this process is doing. Without a service manager every method does nothing.
type Notifier struct {
	socket   string
	interval time.Duration
}

// NewNotifier reads the manager's address from the environment and removes it there, so that no child can speak for us.
func NewNotifier() *Notifier {
	n := &Notifier{socket: os.Getenv("NOTIFY_SOCKET")}
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	pid := os.Getenv("WATCHDOG_PID")
	if err == nil && usec > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.interval = time.Duration(usec) * time.Microsecond
	}
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		os.Unsetenv(name)
	}
	return n
}

// Ready says that start-up is complete; units ordered after ours may start.
func (n *Notifier) Ready() error { return n.send("READY=1") }

// Stopping says that shutdown has begun.
func (n *Notifier) Stopping() error { return n.send("STOPPING=1") }

// Reloading says that a reload has begun; Ready ends it.
func (n *Notifier) Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("cannot read the boot clock: %w", err)
	}
	return n.send("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(now.Nano()/1000, 10))
}

// Status sets the line that systemctl status shows. Line breaks become spaces: each line is a message of its own.
func (n *Notifier) Status(text string) error {
	return n.send("STATUS=" + strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), " "))
}

// WatchdogInterval is the silence after which the manager kills us; 0 means that it does not watch.
func (n *Notifier) WatchdogInterval() time.Duration { return n.interval }

// Watchdog sends a sign of life three times per interval for as long as alive says so, until ctx ends. Make alive pass through
// the main loop: a sign that another goroutine can give proves nothing.
func (n *Notifier) Watchdog(ctx context.Context, alive func() bool) {
	if n.interval <= 0 || n.socket == "" {
		return
	}
	tick := time.NewTicker(n.interval / 3)
	defer tick.Stop()
	for {
		if alive() {
			_ = n.send("WATCHDOG=1")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (n *Notifier) send(state string) error {
	if n.socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("cannot notify the service manager: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("cannot notify the service manager: %w", err)
	}
	return nil
}

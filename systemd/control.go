package systemd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

// The patience of a call while PID 1 cannot be reached: dbus.service restarts in well under a second.
const (
	reconnectFor   = 10 * time.Second
	reconnectEvery = 100 * time.Millisecond
)

// Control is a standing relation to PID 1. It is safe for concurrent use and outlives restarts of dbus.service.
type Control struct {
	dial     dialer
	patience time.Duration
	dialing  chan struct{} // holds one token: a second caller waits, and stops waiting when its context ends

	mu     sync.Mutex
	cur    *link
	closed bool
}

// Connect reaches PID 1 over the system bus, or, as root and without a bus, over its private socket. The context bounds the
// first connection only.
func Connect(ctx context.Context) (*Control, error) { return connect(ctx, dialAny) }

// ConnectPrivate reaches PID 1 over its private socket and never over the bus: in early boot dbus-daemon is not running, and
// asking for it would wait for the very boot that waits for the caller.
func ConnectPrivate(ctx context.Context) (*Control, error) { return connect(ctx, dialPrivate) }

func connect(ctx context.Context, dial dialer) (*Control, error) {
	c := &Control{dial: dial, patience: reconnectFor, dialing: make(chan struct{}, 1)}
	if _, err := c.link(ctx); err != nil {
		return nil, &UnreachableError{Err: err}
	}
	return c, nil
}

// Close ends the connection; calls in flight return.
func (c *Control) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.cur == nil {
		return nil
	}
	return c.cur.conn.Close()
}

// living returns the connection if there is one.
func (c *Control) living() (*link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return nil, errors.New("this control was closed")
	case c.cur != nil && c.cur.conn.Connected():
		return c.cur, nil
	}
	return nil, nil
}

// link returns a living connection, making one when needed.
func (c *Control) link(ctx context.Context) (*link, error) {
	if l, err := c.living(); l != nil || err != nil {
		return l, err
	}
	select {
	case c.dialing <- struct{}{}:
		defer func() { <-c.dialing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if l, err := c.living(); l != nil || err != nil {
		return l, err
	}
	l, err := newLink(ctx, c.dial)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cur = l
	if c.closed {
		l.conn.Close()
	}
	return l, nil
}

// with runs f on a living connection and again on a new one when the connection broke, for reconnectFor at most. f must be
// safe to repeat.
func (c *Control) with(ctx context.Context, f func(*link) error) error {
	patience, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	for {
		l, err := c.link(patience)
		if err == nil {
			if err = f(l); err == nil || !errors.Is(err, errLost) {
				return err
			}
		}
		select {
		case <-patience.Done():
			if ctx.Err() != nil {
				return ranOut(ctx, err)
			}
			return &UnreachableError{Err: err}
		case <-time.After(reconnectEvery):
		}
		if c.isClosed() {
			return &UnreachableError{Err: err}
		}
	}
}

func (c *Control) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// manager calls a method of the manager and stores the reply.
func (c *Control) manager(ctx context.Context, method string, args []any, reply ...any) error {
	return c.with(ctx, func(l *link) error {
		call := l.call(ctx, managerPath, managerIface+"."+method, args...)
		if call.Err != nil || len(reply) == 0 {
			return call.Err
		}
		return call.Store(reply...)
	})
}

func (c *Control) managerProperty(ctx context.Context, name string) (dbus.Variant, error) {
	var value dbus.Variant
	err := c.with(ctx, func(l *link) error {
		return l.call(ctx, managerPath, propertyIface+".Get", managerIface, name).Store(&value)
	})
	return value, err
}

// Version is PID 1's own word for itself, such as "systemd 252 (252.39-1~deb12u1)".
func (c *Control) Version(ctx context.Context) (string, error) {
	value, err := c.managerProperty(ctx, "Version")
	if err != nil {
		return "", fmt.Errorf("cannot ask for the version of systemd: %w", err)
	}
	text, _ := value.Value().(string)
	return "systemd " + text, nil
}

// Reload makes PID 1 read all unit files again and returns when it has (0.15 s on a small host). It restarts OnActiveSec=
// timers; guard timers are made so that it does not touch them.
func (c *Control) Reload(ctx context.Context) error {
	if err := c.manager(ctx, "Reload", nil); err != nil {
		return fmt.Errorf("cannot reload unit files: %w", err)
	}
	return nil
}

// ResetFailed forgets a unit's failure and its start-limit count, so that the next start is not refused. A unit that is absent
// or did not fail is fine.
func (c *Control) ResetFailed(ctx context.Context, unit string) error {
	err := c.manager(ctx, "ResetFailedUnit", []any{unit})
	if err != nil && dbusName(err) != errNoSuchUnit {
		return fmt.Errorf("cannot reset the failure of %s: %w", unit, err)
	}
	return nil
}

// Kill sends a signal to all processes of a unit through PID 1, which needs no CAP_KILL here and works on a stopped (SIGSTOP)
// process. A unit that is absent or has no process is fine.
func (c *Control) Kill(ctx context.Context, unit string, signal syscall.Signal) error {
	err := c.manager(ctx, "KillUnit", []any{unit, "all", int32(signal)})
	if dbusName(err) == "org.freedesktop.DBus.Error.IOError" {
		// The control group could not be read, as in some containers. PID 1 itself goes by the main process then.
		err = c.manager(ctx, "KillUnit", []any{unit, "main", int32(signal)})
	}
	switch dbusName(err) {
	case errNoSuchUnit, "org.freedesktop.systemd1.NoSuchProcess":
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot send %v to %s: %w", signal, unit, err)
	}
	return nil
}

// Describe names this implementation in one phrase, for status and logs.
func (c *Control) Describe() string { return "systemd" }

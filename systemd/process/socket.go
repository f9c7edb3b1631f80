package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// listener is one ListenStream= of a socket unit. It stays open while services come and go, so connections wait and none is
// refused.
type listener struct {
	ln   net.Listener
	file *os.File // what services inherit
	name string
	wait context.CancelFunc
}

// passed is a listener as a service gets it.
type passed struct {
	file *os.File
	name string
}

// listen opens a socket unit and waits for the first connection unless its service runs already.
func (c *Control) listen(u *runtimeUnit) error {
	var opened []*listener
	for _, address := range u.spec.listen {
		l, err := openStream(address, u.spec)
		if err != nil {
			for _, l := range opened {
				l.close()
			}
			c.become(u, "failed", "failed", "resources")
			return fmt.Errorf("ListenStream=%s: %w", address, err)
		}
		l.name = u.spec.fdName
		if l.name == "" {
			l.name = u.name
		}
		opened = append(opened, l)
	}
	c.mu.Lock()
	u.listeners = opened
	c.mu.Unlock()
	c.become(u, "active", "listening", "success")
	c.arm(u)
	return nil
}

func openStream(address string, s *spec) (*listener, error) {
	network := "tcp"
	switch {
	case strings.HasPrefix(address, "/"):
		network = "unix"
		if err := os.Remove(address); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	case !strings.Contains(address, ":"):
		if _, err := strconv.ParseUint(address, 10, 16); err != nil {
			return nil, errors.New("not a port, an address or an absolute path")
		}
		address = ":" + address
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		err = os.Chmod(address, s.socketMode)
	}
	filer, ok := ln.(interface{ File() (*os.File, error) })
	if err != nil || !ok {
		ln.Close()
		return nil, errors.Join(err, errors.ErrUnsupported)
	}
	file, err := filer.File()
	if err != nil {
		ln.Close()
		return nil, err
	}
	return &listener{ln: ln, file: file}, nil
}

func (l *listener) close() {
	if l.wait != nil {
		l.wait()
	}
	l.file.Close()
	l.ln.Close()
}

func (c *Control) unlisten(u *runtimeUnit) {
	c.mu.Lock()
	old := u.listeners
	u.listeners = nil
	c.mu.Unlock()
	for _, l := range old {
		l.close()
	}
}

// serviceOf is the service a socket unit activates.
func serviceOf(socket string, s *spec) string {
	if s.service != "" {
		return s.service
	}
	return strings.TrimSuffix(socket, ".socket") + ".service"
}

// fdsFor are the listeners of all open sockets that belong to a service.
func (c *Control) fdsFor(u *runtimeUnit) []passed {
	c.mu.Lock()
	defer c.mu.Unlock()
	var fds []passed
	for name, other := range c.units {
		if filepath.Ext(name) != ".socket" || serviceOf(name, other.spec) != u.name && !slices.Contains(u.spec.sockets, name) {
			continue
		}
		for _, l := range other.listeners {
			fds = append(fds, passed{l.file, l.name})
		}
	}
	slices.SortStableFunc(fds, func(a, b passed) int { return strings.Compare(a.name, b.name) })
	return fds
}

// rearm makes the sockets of a service that ended wait for connections again.
func (c *Control) rearm(service *runtimeUnit) {
	c.mu.Lock()
	var sockets []*runtimeUnit
	for name, u := range c.units {
		if filepath.Ext(name) == ".socket" && u.active == "active" && serviceOf(name, u.spec) == service.name {
			sockets = append(sockets, u)
		}
	}
	c.mu.Unlock()
	for _, u := range sockets {
		c.arm(u)
	}
}

// arm starts the socket's service at the next connection, or at one that is waiting now.
func (c *Control) arm(u *runtimeUnit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	service := serviceOf(u.name, u.spec)
	for _, l := range u.listeners {
		if l.wait != nil {
			l.wait()
		}
		ctx, cancel := context.WithCancel(c.ctx)
		l.wait = cancel
		c.running.Go(func() {
			defer cancel()
			if !readable(ctx, l.file) {
				return
			}
			target, err := c.unit(service)
			if err == nil {
				err = c.start(c.ctx, target)
			}
			if err != nil {
				c.cfg.Log.Warn("a connection came, but its service did not start", "unit", service, "error", err)
			}
		})
	}
}

// readable waits until a connection is waiting, without taking it. It polls a descriptor of its own: the services share the
// listener's file description and may set it to block.
func readable(ctx context.Context, file *os.File) bool {
	raw, err := file.SyscallConn()
	if err != nil {
		return false
	}
	fd := -1
	if raw.Control(func(p uintptr) { fd, err = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 0) }) != nil || err != nil {
		return false
	}
	defer syscall.Close(fd)
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
		if n > 0 {
			return ctx.Err() == nil
		}
	}
	return false
}

// openSockets starts the socket units a service asks for, so that it gets their listeners.
func (c *Control) openSockets(ctx context.Context, s *spec) error {
	for _, name := range append(slices.Clone(s.requires), s.sockets...) {
		if filepath.Ext(name) != ".socket" {
			continue
		}
		u, err := c.unit(name)
		if errors.Is(err, errNotFound) {
			continue
		}
		if err == nil {
			err = c.start(ctx, u)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

package serve

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// counted closes connections over its limit at once: waiting in the kernel's queue would look like a dead hub.
type counted struct {
	net.Listener
	slots chan struct{}
}

func newCounted(l net.Listener, limit int) net.Listener {
	return &counted{Listener: l, slots: make(chan struct{}, limit)}
}

func (l *counted) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &countedConn{Conn: c, free: func() { <-l.slots }}, nil
		default:
			c.Close()
		}
	}
}

type countedConn struct {
	net.Conn
	once sync.Once
	free func()
}

func (c *countedConn) Close() error {
	c.once.Do(c.free)
	return c.Conn.Close()
}

// maxLocal bounds connections on the local socket.
const maxLocal = 64

type localKey struct{}

// ServeLocal answers on a Unix socket until ctx ends: for root and for the hub's own user, whom the kernel names. Everything is
// allowed there, so the socket's directory must belong to them alone. It closes l.
func (s *Server) ServeLocal(ctx context.Context, l net.Listener) error {
	return s.run(ctx, newCounted(l, maxLocal), s.handler(), func(ctx context.Context, c net.Conn) context.Context {
		name, err := peer(c)
		if err != nil {
			s.cfg.Log.Warn("a connection to the local socket is refused", "error", err)
			return ctx
		}
		return context.WithValue(ctx, localKey{}, name)
	})
}

// peer is the name of the user on the other end.
func peer(c net.Conn) (string, error) {
	if cc, ok := c.(*countedConn); ok {
		c = cc.Conn
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return "", fmt.Errorf("cannot tell who is asking on a %T", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return "", err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		return "", cerr
	}
	if err != nil {
		return "", err
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return "", fmt.Errorf("uid %d is neither root nor the hub's own user", cred.Uid)
	}
	text := strconv.FormatUint(uint64(cred.Uid), 10)
	if known, err := user.LookupId(text); err == nil {
		text = known.Username
	}
	return text + " on the hub", nil
}

package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peer is who opened a connection, as the kernel recorded it at that moment. gids holds the primary and supplementary groups.
type peer struct {
	uid  uint32
	pid  int32
	gids []uint32
}

// readPeer asks the kernel. Kernels before 4.13 do not know SO_PEERGROUPS; then only the primary group counts.
func readPeer(c *net.UnixConn) (peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var p peer
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			failed = err
			return
		}
		p = peer{uid: cred.Uid, pid: cred.Pid, gids: []uint32{cred.Gid}}
		groups, err := peerGroups(fd)
		if err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
			failed = err
			return
		}
		p.gids = append(p.gids, groups...)
	})
	if err = errors.Join(err, failed); err != nil {
		return peer{}, fmt.Errorf("cannot read the caller's credentials: %w", err)
	}
	return p, nil
}

// peerGroups grows its buffer until the kernel's answer fits: a user may be in 65536 groups.
func peerGroups(fd uintptr) ([]uint32, error) {
	for n := 64; n <= 1<<16; n *= 4 {
		groups := make([]uint32, n)
		size := uint32(n * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch errno {
		case 0:
			return groups[:size/4], nil
		case unix.ERANGE:
			continue
		}
		return nil, errno
	}
	return nil, unix.ERANGE
}

// peerListener accepts only connections whose peer is known, and few enough of them. Those over a limit are closed at once: a
// client sees a broken connection, the daemon stays small.
type peerListener struct {
	net.Listener
	perUID int
	total  int

	mu    sync.Mutex
	count map[uint32]int
	all   int
}

func newPeerListener(l net.Listener, total, perUID int) *peerListener {
	return &peerListener{Listener: l, total: total, perUID: perUID, count: map[uint32]int{}}
}

// Accept skips connections that may not come in.
func (l *peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		u, ok := c.(*net.UnixConn)
		if !ok {
			c.Close()
			continue
		}
		p, err := readPeer(u)
		if err != nil || !l.enter(p.uid) {
			c.Close()
			continue
		}
		return &peerConn{Conn: c, peer: p, leave: sync.OnceFunc(func() { l.exit(p.uid) })}, nil
	}
}

// enter keeps a quarter of the places for root: an operator gets in while others flood the socket.
func (l *peerListener) enter(uid uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if uid != 0 && (l.count[uid] >= l.perUID || l.all-l.count[0] >= l.total*3/4) {
		return false
	}
	if l.all >= l.total {
		return false
	}
	l.count[uid]++
	l.all++
	return true
}

func (l *peerListener) exit(uid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.count[uid]--; l.count[uid] == 0 {
		delete(l.count, uid)
	}
}

type peerConn struct {
	net.Conn
	peer  peer
	leave func()
}

// Close gives the place back.
func (c *peerConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

type peerKey struct{}

func withPeer(ctx context.Context, c net.Conn) context.Context {
	if p, ok := c.(*peerConn); ok {
		return context.WithValue(ctx, peerKey{}, p.peer)
	}
	return ctx
}

// countedListener bounds the connections of a listener whose peers are unknown.
type countedListener struct {
	net.Listener
	places chan struct{}
}

func newCountedListener(l net.Listener, total int) *countedListener {
	return &countedListener{Listener: l, places: make(chan struct{}, total)}
}

// Accept skips connections over the limit.
func (l *countedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.places <- struct{}{}:
			return &peerlessConn{Conn: c, leave: sync.OnceFunc(func() { <-l.places })}, nil
		default:
			c.Close()
		}
	}
}

type peerlessConn struct {
	net.Conn
	leave func()
}

// Close gives the place back.
func (c *peerlessConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

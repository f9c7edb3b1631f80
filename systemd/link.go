package systemd

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	systemdbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

const (
	busName       = "org.freedesktop.systemd1"
	managerPath   = dbus.ObjectPath("/org/freedesktop/systemd1")
	managerIface  = "org.freedesktop.systemd1.Manager"
	unitIface     = "org.freedesktop.systemd1.Unit"
	propertyIface = "org.freedesktop.DBus.Properties"
	privateSocket = "/run/systemd/private"
)

// errLost is the end of a connection. It is internal: Control turns it into a new connection or an *UnreachableError.
var errLost = errors.New("connection to systemd lost")

// link is one connection to PID 1. When it breaks, dead closes, every waiter wakes, and Control makes a new one.
// (go-systemd's own Conn is not used for calls: a waiter for a job never wakes there when the connection breaks, and its
// connections end with the context that dialled them.)
type link struct {
	conn    *dbus.Conn
	private bool
	dead    chan struct{}

	mu    sync.Mutex
	jobs  map[*jobWait]bool
	units map[*unitWatch]bool
}

// jobWait collects the ends of jobs from before the job is queued: the signal may overtake the reply that names the job.
type jobWait struct {
	path dbus.ObjectPath
	seen map[dbus.ObjectPath]string
	done chan string
}

// unitWatch is marked, never blocked, when one of its units changed; marks of the same unit merge.
type unitWatch struct {
	paths map[dbus.ObjectPath]string
	wake  chan struct{}

	mu    sync.Mutex
	dirty map[string]bool
}

func (w *unitWatch) mark(name string) {
	w.mu.Lock()
	w.dirty[name] = true
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *unitWatch) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	names := slices.Sorted(maps.Keys(w.dirty))
	clear(w.dirty)
	return names
}

// dialer makes one authenticated connection; ctx bounds the making, not the connection. private tells whether it speaks to
// PID 1 directly.
type dialer func(ctx context.Context) (conn *dbus.Conn, private bool, err error)

// busPatience bounds one attempt to reach the bus before the private socket is tried: in early boot the bus's socket accepts
// connections that nobody answers.
const busPatience = 3 * time.Second

func dialBus(ctx context.Context) (*dbus.Conn, bool, error) {
	conn, err := handshake(ctx, func(o ...dbus.ConnOption) (*dbus.Conn, error) {
		conn, err := dbus.SystemBusPrivate(o...)
		if err == nil {
			err = authenticate(conn, true)
		}
		return conn, err
	})
	return conn, false, err
}

func dialPrivate(ctx context.Context) (*dbus.Conn, bool, error) {
	return dialPath(ctx, privateSocket)
}

func dialPath(ctx context.Context, path string) (*dbus.Conn, bool, error) {
	conn, err := handshake(ctx, func(o ...dbus.ConnOption) (*dbus.Conn, error) {
		conn, err := dbus.Dial("unix:path="+dbus.EscapeBusAddressValue(path), o...)
		if err == nil {
			err = authenticate(conn, false)
		}
		return conn, err
	})
	return conn, true, err
}

// dialAny prefers the bus and falls back to PID 1's private socket, which only root may use.
func dialAny(ctx context.Context) (*dbus.Conn, bool, error) {
	bounded, cancel := context.WithTimeout(ctx, busPatience)
	defer cancel()
	conn, private, err := dialBus(bounded)
	if err == nil || os.Geteuid() != 0 {
		return conn, private, err
	}
	conn, private, second := dialPrivate(ctx)
	if second != nil {
		return nil, false, errors.Join(err, second)
	}
	return conn, private, nil
}

// handshake makes a connection within ctx. godbus itself waits for ever for an answer, and a connection dialled with a context
// ends with it: so the connection gets a life of its own, ended early only when it is given up.
func handshake(ctx context.Context, dial func(...dbus.ConnOption) (*dbus.Conn, error)) (*dbus.Conn, error) {
	type made struct {
		conn *dbus.Conn
		err  error
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan made, 1)
	go func() {
		conn, err := dial(dbus.WithContext(life), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
		if err != nil && conn != nil {
			conn.Close()
		}
		done <- made{conn, err}
	}()
	select {
	case m := <-done:
		if m.err != nil {
			end()
			return nil, m.err
		}
		context.AfterFunc(m.conn.Context(), end)
		return m.conn, nil
	case <-ctx.Done():
		end()
		return nil, ctx.Err()
	}
}

// authenticate names us by uid, never by user name: a name lookup may itself need the network.
func authenticate(conn *dbus.Conn, hello bool) error {
	err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))})
	if err == nil && hello {
		err = conn.Hello()
	}
	return err
}

// newLink subscribes before it returns, so that no job queued later can end unseen.
func newLink(ctx context.Context, dial dialer) (*link, error) {
	conn, private, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	l := &link{
		conn: conn, private: private, dead: make(chan struct{}),
		jobs: map[*jobWait]bool{}, units: map[*unitWatch]bool{},
	}
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	go l.dispatch(signals)
	if err := l.subscribe(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return l, nil
}

// settlePing bounds the wait for one of the first answers on the private socket, and settlePings their number.
const (
	settlePing  = 100 * time.Millisecond
	settlePings = 50
)

// settleIn makes sure that PID 1 reads this connection. Up to 252 at least, a first message that arrives in one read with the
// end of the authentication stays unseen in PID 1's buffer until another one follows: calls would hang.
func (l *link) settleIn(ctx context.Context) error {
	err := errLost
	for range settlePings {
		bounded, cancel := context.WithTimeout(ctx, settlePing)
		err = l.conn.Object(busName, managerPath).CallWithContext(bounded, "org.freedesktop.DBus.Peer.Ping", 0).Err
		cancel()
		if err == nil || ctx.Err() != nil || !l.conn.Connected() {
			return err
		}
	}
	return err
}

// subscribe asks for signals. The private socket sends them all unasked and knows no AddMatch.
func (l *link) subscribe(ctx context.Context) error {
	if l.private {
		return l.settleIn(ctx)
	}
	err := l.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(busName), dbus.WithMatchInterface(managerIface), dbus.WithMatchMember("JobRemoved"))
	if err != nil {
		return err
	}
	err = l.call(ctx, managerPath, managerIface+".Subscribe").Err
	if dbusName(err) == "org.freedesktop.systemd1.AlreadySubscribed" {
		return nil
	}
	return err
}

func (l *link) dispatch(signals <-chan *dbus.Signal) {
	defer close(l.dead)
	for s := range signals {
		switch s.Name {
		case managerIface + ".JobRemoved":
			l.jobRemoved(s)
		case propertyIface + ".PropertiesChanged":
			l.unitChanged(s.Path)
		}
	}
}

func (l *link) jobRemoved(s *dbus.Signal) {
	var (
		id         uint32
		path       dbus.ObjectPath
		unit, text string
	)
	if dbus.Store(s.Body, &id, &path, &unit, &text) != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for w := range l.jobs {
		switch w.path {
		case "":
			w.seen[path] = text
		case path:
			w.finish(text)
		}
	}
}

func (w *jobWait) finish(result string) {
	select {
	case w.done <- result:
	default:
	}
}

// expect registers a waiter for the job at path, or, with path "", for a job still to be named by settle.
func (l *link) expect(path dbus.ObjectPath) *jobWait {
	w := &jobWait{path: path, seen: map[dbus.ObjectPath]string{}, done: make(chan string, 1)}
	l.mu.Lock()
	l.jobs[w] = true
	l.mu.Unlock()
	return w
}

func (l *link) settle(w *jobWait, path dbus.ObjectPath) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w.path = path
	if result, ok := w.seen[path]; ok {
		w.finish(result)
	}
	w.seen = nil
}

func (l *link) forget(w *jobWait) {
	l.mu.Lock()
	delete(l.jobs, w)
	l.mu.Unlock()
}

func (l *link) unitChanged(path dbus.ObjectPath) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w := range l.units {
		if name, ok := w.paths[path]; ok {
			w.mark(name)
		}
	}
}

// watch registers w and asks the bus for the changes of its units.
func (l *link) watch(ctx context.Context, w *unitWatch) error {
	l.mu.Lock()
	l.units[w] = true
	l.mu.Unlock()
	if l.private {
		return nil
	}
	for path := range w.paths {
		if err := l.conn.AddMatchSignalContext(ctx, unitMatch(path)...); err != nil {
			return err
		}
	}
	return nil
}

func (l *link) unwatch(w *unitWatch) {
	l.mu.Lock()
	delete(l.units, w)
	l.mu.Unlock()
	if l.private || !l.conn.Connected() {
		return
	}
	for path := range w.paths {
		l.conn.BusObject().Go("org.freedesktop.DBus.RemoveMatch", dbus.FlagNoReplyExpected, nil, matchRule(path))
	}
}

func unitMatch(path dbus.ObjectPath) []dbus.MatchOption {
	return []dbus.MatchOption{dbus.WithMatchObjectPath(path), dbus.WithMatchInterface(propertyIface), dbus.WithMatchMember("PropertiesChanged")}
}

// matchRule is unitMatch as the text that RemoveMatch wants, in the order godbus writes it.
func matchRule(path dbus.ObjectPath) string {
	return "type='signal',path='" + string(path) + "',interface='" + propertyIface + "',member='PropertiesChanged'"
}

// call is one method call. A broken connection comes back as errLost whatever godbus or the bus named it.
func (l *link) call(ctx context.Context, path dbus.ObjectPath, method string, args ...any) *dbus.Call {
	call := l.conn.Object(busName, path).CallWithContext(ctx, method, 0, args...)
	if call.Err == nil {
		return call
	}
	if ctx.Err() != nil {
		call.Err = ranOut(ctx, nil)
		return call
	}
	if broken(call.Err) {
		l.conn.Close()
		call.Err = errLost
	}
	return call
}

// ranOut names the end of a caller's patience with PID 1: running out of time is PID 1's silence, which checks must tell from
// a command's; a cancelled caller knows why.
func ranOut(ctx context.Context, last error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &UnreachableError{Err: errors.Join(ctx.Err(), last)}
	}
	return ctx.Err()
}

// broken tells a broken connection from an answer: it has no D-Bus name, unless it is the bus that lost PID 1, and it is not
// about a message of ours that cannot be written.
func broken(err error) bool {
	if _, ours := errors.AsType[dbus.FormatError](err); ours {
		return false
	}
	if _, ours := errors.AsType[dbus.InvalidMessageError](err); ours {
		return false
	}
	name := dbusName(err)
	return name == "" || slices.Contains(lostNames, name)
}

func unitPath(name string) dbus.ObjectPath {
	return managerPath + "/unit/" + dbus.ObjectPath(systemdbus.PathBusEscape(name))
}

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Server serves a directory over HTTP to the lab's hosts and misbehaves on demand. It runs in this
// process; only its listener is in the lab's namespace.
type Server struct {
	// URL is http://10.77.0.1:PORT, without a final slash.
	URL string

	dir      string
	http     *http.Server
	listener net.Listener

	mu       sync.Mutex
	status   int
	delay    time.Duration
	rate     int64
	tampers  []tamper
	requests []Request
}

// Request is one request a server answered, in the order they came.
type Request struct {
	Method, Path, Range, From string
	Status                    int
	At                        time.Time
}

type tamper struct {
	pattern string
	change  func([]byte) []byte
}

// ServeDir serves dir at the lab's own address on a free port until the lab is closed.
func (l *Lab) ServeDir(dir string) (*Server, error) {
	s := &Server{dir: dir}
	if err := l.Inside(func() (err error) {
		s.listener, err = net.Listen("tcp4", ServerAddress+":0")
		return err
	}); err != nil {
		return nil, fmt.Errorf("cannot serve %s in the lab: %w", dir, err)
	}
	s.URL = "http://" + s.listener.Addr().String()
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 30 * time.Second}
	go s.http.Serve(s.listener)
	l.mu.Lock()
	l.servers = append(l.servers, s)
	l.mu.Unlock()
	return s, nil
}

// Inside runs f on a thread that is in the lab's network namespace. Sockets that f itself makes stay
// in the lab; goroutines that it starts do not.
func (l *Lab) Inside(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	there, err := os.Open("/run/netns/" + l.ns)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("cannot enter the lab's network: %w", err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		// The thread stays locked: the runtime throws it away with this goroutine.
		return errors.Join(err, fmt.Errorf("cannot leave the lab's network: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

// DialContext connects from the lab's own address to a host of the lab; address is IP:port. It fits
// http.Transport, so a test can be the hosts' client.
func (l *Lab) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	// No second address family to race for: the dial stays on this goroutine and its thread.
	d := net.Dialer{FallbackDelay: -1}
	err = l.Inside(func() error {
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Down makes every request fail with the status, for example 503; with 0 connections are dropped
// without an answer.
func (s *Server) Down(status int) {
	if status == 0 {
		status = -1
	}
	s.set(func() { s.status = status })
}

// Up ends Down.
func (s *Server) Up() { s.set(func() { s.status = 0 }) }

// Delay lets every answer begin that much later; 0 ends it.
func (s *Server) Delay(d time.Duration) { s.set(func() { s.delay = d }) }

// Throttle bounds each answer to that many bytes a second; 0 ends it.
func (s *Server) Throttle(bytesPerSecond int64) { s.set(func() { s.rate = bytesPerSecond }) }

// Tamper changes the bytes of files whose path matches the pattern (as path.Match, against the whole
// path and against its last element) on their way out; the files stay as they are.
func (s *Server) Tamper(pattern string, change func([]byte) []byte) {
	s.set(func() { s.tampers = append(s.tampers, tamper{pattern, change}) })
}

// Honest ends every Tamper.
func (s *Server) Honest() { s.set(func() { s.tampers = nil }) }

// Requests are the requests answered so far.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func (s *Server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *Server) close() { s.http.Close() }

// ServeHTTP answers one request with whatever misbehaviour is in force.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	status, delay, rate := s.status, s.delay, s.rate
	tampers := slices.Clone(s.tampers)
	s.mu.Unlock()
	out := &answer{ResponseWriter: w, ctx: r.Context(), rate: rate, status: http.StatusOK}
	defer func() {
		s.set(func() {
			s.requests = append(s.requests, Request{r.Method, r.URL.Path, r.Header.Get("Range"), r.RemoteAddr, out.status, time.Now()})
		})
	}()
	wait(r.Context(), delay)
	switch {
	case status < 0:
		out.status = 0
		panic(http.ErrAbortHandler)
	case status > 0:
		http.Error(out, http.StatusText(status), status)
		return
	}
	s.file(out, r, tampers)
}

func (s *Server) file(w http.ResponseWriter, r *http.Request, tampers []tamper) {
	name := path.Clean("/" + r.URL.Path)
	f, err := os.OpenInRoot(s.dir, filepath.FromSlash(strings.TrimPrefix(name, "/")))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	var change []func([]byte) []byte
	for _, t := range tampers {
		whole, _ := path.Match(t.pattern, name)
		last, _ := path.Match(t.pattern, path.Base(name))
		if whole || last {
			change = append(change, t.change)
		}
	}
	if len(change) == 0 {
		http.ServeContent(w, r, name, info.ModTime(), f)
		return
	}
	var content bytes.Buffer
	content.ReadFrom(f)
	changed := content.Bytes()
	for _, c := range change {
		changed = c(changed)
	}
	http.ServeContent(w, r, name, info.ModTime(), bytes.NewReader(changed))
}

// answer notes the status and holds the bytes back to the rate.
type answer struct {
	http.ResponseWriter
	ctx    context.Context
	rate   int64
	status int
}

func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.rate <= 0 {
		return a.ResponseWriter.Write(p)
	}
	written := 0
	for piece := range slices.Chunk(p, int(max(1, a.rate/20))) {
		n, err := a.ResponseWriter.Write(piece)
		written += n
		if err != nil {
			return written, err
		}
		a.ResponseWriter.(http.Flusher).Flush()
		wait(a.ctx, time.Duration(float64(len(piece))/float64(a.rate)*float64(time.Second)))
		if a.ctx.Err() != nil {
			return written, a.ctx.Err()
		}
	}
	return written, nil
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

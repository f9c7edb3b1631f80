// Command harbor is the program that demos and stories deploy: a small HTTP service that can be told
// to behave badly.
//
// It listens on the socket systemd hands over (LISTEN_FDS), else on -listen, else on $PORT of the
// loopback. It answers
//
//	/healthz   200 {"status":"ok","version":"1.0.0"}, or 503 when it is unhealthy
//	/version   the version alone
//	anything   "harbor 1.0.0: METHOD PATH"
//
// SIGTERM lets running requests finish, SIGHUP reads version and behaviour again, READY=1 is sent once
// it accepts. The first of these that is there says how to behave: $HARBOR_BEHAVIOUR, the file
// "behaviour" beside the program, and what was set with -ldflags "-X main.behaviour=…":
//
//	ok                     the default
//	exit-at-start          exits 1 before it listens
//	unhealthy              /healthz answers 503 from the start
//	unhealthy-after=20s    /healthz answers 200 for that long, then 503
//	exit-after=20s         exits 1 after that long
//	hang                   accepts and never answers, and is never ready
//	deaf                   never listens and is never ready, but keeps running
//	slow=200ms             every answer takes that long
//	only-on=web-1,web-2    /healthz answers 200 on hosts of these names, elsewhere 503
//
// The version is $HARBOR_VERSION, the first line of the file "version" beside the program, or -X main.version=….
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var (
	version   = "0.0.0"
	behaviour = "ok"
)

func main() {
	listen := flag.String("listen", "", "address to listen on when no socket is handed over (default 127.0.0.1:$PORT)")
	grace := flag.Duration("grace", 5*time.Second, "how long running requests may take after SIGTERM")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, *listen, *grace); err != nil {
		fmt.Fprintln(os.Stderr, "harbor:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, listen string, grace time.Duration) error {
	h := &harbor{started: time.Now(), quit: make(chan error, 1)}
	if err := h.load(); err != nil {
		return err
	}
	now := h.now.Load()
	fmt.Printf("harbor %s starts, behaviour %s\n", now.version, now.behaviour)
	switch now.behaviour {
	case "exit-at-start":
		return errors.New("told to exit at start")
	case "deaf":
		<-ctx.Done()
		return nil
	}
	if now.behaviour == "exit-after" {
		time.AfterFunc(now.after, func() { h.quit <- fmt.Errorf("told to exit after %s", now.after) })
	}
	listener, err := openListener(listen)
	if err != nil {
		return err
	}
	return h.serve(ctx, listener, grace)
}

// openListener takes the socket that systemd handed over and otherwise opens one.
func openListener(listen string) (net.Listener, error) {
	pid, _ := strconv.Atoi(os.Getenv("LISTEN_PID"))
	count, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if pid == os.Getpid() && count > 0 {
		syscall.CloseOnExec(3)
		f := os.NewFile(3, "socket")
		defer f.Close()
		listener, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("cannot listen on the inherited socket: %w", err)
		}
		return listener, nil
	}
	if listen == "" {
		listen = "127.0.0.1:" + cmp.Or(os.Getenv("PORT"), "8080")
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	return listener, nil
}

// settings are what version and behaviour said when they were last read.
type settings struct {
	version   string
	behaviour string        // the word before "="
	after     time.Duration // what follows it
	hosts     []string
}

type harbor struct {
	started time.Time
	now     atomic.Pointer[settings]
	quit    chan error
}

func (h *harbor) load() error {
	s := settings{version: setting("HARBOR_VERSION", "version", version)}
	told := setting("HARBOR_BEHAVIOUR", "behaviour", behaviour)
	word, after, timed := strings.Cut(told, "=")
	s.behaviour = word
	switch word {
	case "ok", "exit-at-start", "unhealthy", "hang", "deaf":
		if timed {
			return fmt.Errorf("cannot behave as %q: %s takes no duration", told, word)
		}
	case "unhealthy-after", "exit-after", "slow":
		var err error
		if s.after, err = time.ParseDuration(after); err != nil {
			return fmt.Errorf("cannot behave as %q: want %s=DURATION: %w", told, word, err)
		}
	case "only-on":
		s.hosts = strings.Split(after, ",")
	default:
		return fmt.Errorf("cannot behave as %q: not one of ok, exit-at-start, unhealthy, unhealthy-after=, exit-after=, hang, deaf, slow=, only-on=", told)
	}
	h.now.Store(&s)
	return nil
}

// setting reads a value from the environment, from a file beside the program, or takes the built-in one.
func setting(env, file, builtin string) string {
	if value := os.Getenv(env); value != "" {
		return value
	}
	if self, err := os.Executable(); err == nil {
		// A link in the path stays: after a swap of `current`, SIGHUP has to see the new release.
		dir := filepath.Dir(self)
		if filepath.IsAbs(os.Args[0]) {
			dir = filepath.Dir(os.Args[0])
		}
		if content, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
			line, _, _ := strings.Cut(string(content), "\n")
			return strings.TrimSpace(line)
		}
	}
	return builtin
}

func (h *harbor) serve(ctx context.Context, listener net.Listener, grace time.Duration) error {
	var open connections
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ConnState: open.note}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	if h.now.Load().behaviour != "hang" {
		notify("READY=1")
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
			if err := h.load(); err != nil {
				fmt.Fprintln(os.Stderr, "harbor:", err)
			}
			fmt.Printf("harbor %s reloaded\n", h.now.Load().version)
		case err := <-h.quit:
			return err
		case err := <-served:
			return err
		case <-ctx.Done():
			notify("STOPPING=1")
			deadline, cancel := context.WithTimeout(context.Background(), grace)
			defer cancel()
			listener.Close()
			<-served
			server.SetKeepAlivesEnabled(false)
			open.wait(deadline)
			if err := server.Shutdown(deadline); err != nil {
				return fmt.Errorf("cannot finish running requests within %s: %w", grace, err)
			}
			return nil
		}
	}
}

// connections are those that a request is on, or may be on its way over: a client that was accepted expects an answer, and
// Server.Shutdown alone drops a first request that it reads after it was called.
type connections struct {
	mu   sync.Mutex
	open map[net.Conn]bool
}

func (c *connections) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if state == http.StateNew || state == http.StateActive {
		if c.open == nil {
			c.open = map[net.Conn]bool{}
		}
		c.open[conn] = true
		return
	}
	delete(c.open, conn)
}

// wait returns when all of them are answered, or when ctx ends.
func (c *connections) wait(ctx context.Context) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		c.mu.Lock()
		n := len(c.open)
		c.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (h *harbor) healthy() bool {
	s := h.now.Load()
	switch s.behaviour {
	case "unhealthy":
		return false
	case "unhealthy-after":
		return time.Since(h.started) < s.after
	case "only-on":
		name, err := os.Hostname()
		return err == nil && slices.Contains(s.hosts, name)
	}
	return true
}

// ServeHTTP answers one request as the behaviour wants it.
func (h *harbor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := h.now.Load()
	switch s.behaviour {
	case "hang":
		<-r.Context().Done()
		return
	case "slow":
		pause := time.NewTimer(s.after)
		defer pause.Stop()
		<-pause.C
	}
	switch r.URL.Path {
	case "/healthz":
		answer := map[string]string{"status": "ok", "version": s.version}
		w.Header().Set("Content-Type", "application/json")
		if !h.healthy() {
			answer["status"] = "unhealthy"
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		json.NewEncoder(w).Encode(answer)
	case "/version":
		fmt.Fprintln(w, s.version)
	default:
		fmt.Fprintf(w, "harbor %s: %s %s\n", s.version, r.Method, r.URL.Path)
	}
}

// notify tells systemd; without NOTIFY_SOCKET there is nobody to tell.
func notify(state string) {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		fmt.Fprintln(os.Stderr, "harbor: cannot notify systemd:", err)
		return
	}
	defer conn.Close()
	conn.Write([]byte(state))
}

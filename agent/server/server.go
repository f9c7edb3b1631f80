// Package server answers on the daemon's sockets: who asks is read from the kernel, what they may do from a table, and what they
// ask for is handed to the Host, which alone decides. Nothing here changes state.
//
// Two sockets are served. Control offers every route to callers with the route's role. ReadOnly offers reading routes only, and its
// file mode may let every local user in: they see what RoleAnyone sees. A TCP listener, if the host configures one, offers metrics
// and nothing else.
package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent/api"
)

// Host is what the daemon must be able to do; its obligations are written at api.Host.
type Host = api.Host

// Access is what a socket offers.
type Access int

// The two kinds of sockets.
const (
	Control Access = iota
	ReadOnly
)

// Limits of one listener. They bound what unprivileged local users can make the daemon hold.
const (
	maxConns       = 128
	maxConnsPerUID = 32
	maxStreams     = 32
	maxBody        = 64 << 10
	maxHeader      = 16 << 10
	writeTimeout   = 10 * time.Second
)

// bodyTimeout is shorter in tests.
var bodyTimeout = 10 * time.Second

// Config is what a Server needs. Roles, Audit and Metrics may be called from many goroutines at once.
type Config struct {
	Host    Host
	Version string
	// Roles is asked for every request, so that an edit of the configuration holds at once.
	Roles func() Roles
	// Audit receives two records for every request that could change something: one before the Host is asked (so that a crash
	// cannot hide who asked), one with the outcome; a request that is denied has only the second. It must not block for long,
	// and its own failure must never stop a revert.
	Audit   func(Record)
	Metrics Metrics
	Logger  hclog.Logger
	// Now is the clock for audit records and for what is in the future; nil means time.Now.
	Now func() time.Time
}

// Server serves any number of listeners with one Config.
type Server struct {
	cfg     Config
	stats   *stats
	streams chan struct{}
	busy    *inFlight
}

// New makes a Server. It listens to nothing yet.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	if cfg.Audit == nil {
		cfg.Audit = func(Record) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Roles == nil {
		cfg.Roles = func() Roles { return Roles{} }
	}
	return &Server{cfg: cfg, stats: newStats(), streams: make(chan struct{}, maxStreams), busy: newInFlight()}
}

// Serve answers on a Unix listener until ctx ends, then lets requests under way finish for a moment. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener, access Access) error {
	return s.run(ctx, newPeerListener(l, maxConns, maxConnsPerUID), s.handler(access))
}

// ServeMetrics answers GET /metrics, and nothing else, on a listener without peer credentials. It closes l.
func (s *Server) ServeMetrics(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Origin") != "":
			s.fail(w, api.NewError(api.KindForbidden, "requests from web pages are refused", ""))
		case r.URL.Path != "/metrics" || r.Method != http.MethodGet:
			s.fail(w, api.NewError(api.KindNotFound, "there is only GET /metrics here", ""))
		default:
			s.writeMetrics(w)
		}
	})
	return s.run(ctx, newCountedListener(l, maxConns), mux)
}

func (s *Server) run(ctx context.Context, l net.Listener, h http.Handler) error {
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          s.cfg.Logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext:       withPeer,
	}
	stopped := context.AfterFunc(ctx, func() {
		cancel() // event streams would hold the shutdown up
		wait, done := context.WithTimeout(context.Background(), 2*time.Second)
		defer done()
		if srv.Shutdown(wait) != nil {
			srv.Close()
		}
	})
	defer stopped()
	err := srv.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

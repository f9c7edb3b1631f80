// Package serve is a hub's face: HTTPS with certificates on both sides towards hosts and operators, and a Unix socket for whoever
// administers the hub's own machine. Who asks is read from the certificate or from the kernel, what they may do from one table,
// and what they ask for is handed to the engine, which alone decides.
//
// Everything a stranger can make the hub hold is bounded: connections, requests at a time, bodies, time, and requests per second of
// each caller.
package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/hub/roster"
	"github.com/slipway-deploy/slipway/agent/release"
)

// Engine decides. Its methods are safe for concurrent use; an error with a Kind travels as that, hub.ErrUnavailable as a request
// to ask again.
type Engine interface {
	Turn(ctx context.Context, c hub.Caller, t fleet.Turn) (fleet.TurnAnswer, error)
	Check(ctx context.Context, c hub.Caller, q fleet.Check) (fleet.CheckAnswer, error)
	Finish(ctx context.Context, c hub.Caller, f fleet.Finish) (fleet.FinishAnswer, error)
	// Act carries out an operator's act and writes its audit entry in the same transaction.
	Act(ctx context.Context, by, name string, a fleet.Act) (fleet.ActAnswer, error)
	Status(ctx context.Context) (fleet.Status, error)
	Hosts(ctx context.Context, env release.Environment, app release.App) ([]fleet.HostStatus, error)
	// AuditSince returns at most limit entries of the operators' log after entry n, oldest first.
	AuditSince(ctx context.Context, n int64, limit int) ([]fleet.AuditEntry, error)
}

// Limits of a hub.
const (
	maxConns       = 60_000
	maxRequests    = 2_000
	maxHeader      = 16 << 10
	headerTimeout  = 10 * time.Second
	bodyTimeout    = 15 * time.Second
	answerTimeout  = 60 * time.Second
	idleTimeout    = 2 * time.Minute // longer than hosts' polls are apart, so that they keep their connection
	requestTimeout = 10 * time.Second
	drainTimeout   = 5 * time.Second
	// snapshotTimeout bounds the copying of a whole store.
	snapshotTimeout = 10 * time.Minute
)

// Config is what a Server needs.
type Config struct {
	Engine Engine
	Roster *roster.Roster
	Trust  Trust
	// Certificate is the hub's own, asked for at every handshake.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Roles       Roles
	Version     string
	// Ready tells why the hub cannot serve now, for the health route; nil while it can.
	Ready func(ctx context.Context) error
	// Snapshot takes a copy of the store; the caller closes it. It may take minutes.
	Snapshot func(ctx context.Context) (copy io.ReadCloser, size int64, err error)
	Metrics  http.Handler
	Log      hclog.Logger
	Now      func() time.Time
}

// Server serves any number of listeners with one Config.
type Server struct {
	cfg     Config
	limits  *limiter
	slots   chan struct{}
	count   *counters
	drained atomic.Bool
}

// New makes a Server. It listens to nothing yet.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Ready == nil {
		cfg.Ready = func(context.Context) error { return nil }
	}
	return &Server{cfg: cfg, limits: newLimiter(cfg.Now), slots: make(chan struct{}, maxRequests), count: newCounters()}
}

// TLS is the listener's configuration: TLS 1.3 only, client certificates verified when they are given, because a host that
// enrols has none yet. Routes that need an identity refuse those without.
func (s *Server) TLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: s.cfg.Certificate,
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      s.cfg.Trust.Pool(),
		// One request at a time per host: HTTP/2 would add state per connection and gain nothing.
		NextProtos: []string{"http/1.1"},
		Time:       s.cfg.Now,
	}
}

// Serve answers hosts and operators on a TCP listener until ctx ends, then lets requests under way finish. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return s.run(ctx, tls.NewListener(newCounted(l, maxConns), s.TLS()), s.handler(), nil)
}

func (s *Server) run(ctx context.Context, l net.Listener, h http.Handler, conn func(context.Context, net.Conn) context.Context) error {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout + bodyTimeout, WriteTimeout: answerTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ConnContext: conn,
		ErrorLog:    s.cfg.Log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		Protocols:   new(http.Protocols),
	}
	srv.Protocols.SetHTTP1(true)
	done := make(chan struct{})
	stopped := context.AfterFunc(ctx, func() {
		defer close(done)
		s.drained.Store(true)
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if srv.Shutdown(wait) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(l)
	if !stopped() {
		<-done // Serve returns as soon as shutting down begins
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/config"
	"github.com/slipway-deploy/slipway/agent/hub/serve"
	"github.com/slipway-deploy/slipway/systemd"
)

func (t *tool) runCommand() *cobra.Command {
	var check bool
	c := &cobra.Command{
		Use: "run", Short: "Run the hub", Args: cobra.NoArgs,
		Long: `Runs until it is stopped. With --check-config it prints the effective configuration, or every problem in it with file and line, and
starts nothing. Without [store] in the configuration the hub keeps its data in an etcd inside it; a fleet that must go on without one
machine needs a cluster and two hubs.`,
		Example: "  slipway-hub run --check-config",
	}
	c.Flags().BoolVar(&check, "check-config", false, "print the effective configuration, or every problem in it")
	c.RunE = t.do(func(ctx context.Context, _ []string) error {
		cfg, err := t.config()
		if err != nil {
			return err
		}
		if check {
			return config.PrintHub(t.out, cfg)
		}
		return run(ctx, cfg, systemd.NewLogger("slipway-hub", hclog.LevelFromString(cfg.Log.Level)), systemd.NewNotifier())
	})
	return c
}

// notifier is the service manager's side that a hub needs.
type notifier interface {
	Ready() error
	Stopping() error
	Status(text string) error
	Watchdog(ctx context.Context, alive func() bool)
}

// run is the hub from start to end. It stops in the opposite order: first nobody is let in, then the engine ends, then the store.
func run(ctx context.Context, cfg *config.Hub, log hclog.Logger, n notifier) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w, err := wire(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer w.close()
	listeners, err := listen(cfg)
	if err != nil {
		return err
	}
	inner, stopInner := context.WithCancel(context.WithoutCancel(ctx))
	var parts, faces sync.WaitGroup
	parts.Go(func() { w.plans.run(inner) })
	parts.Go(func() { w.witness.run(inner) })
	parts.Go(func() { w.engine.Run(inner) })
	parts.Go(func() { w.roster.Run(inner) })
	parts.Go(func() { w.watchCertificates(inner) })
	face := func(what string, serve func() error) {
		faces.Go(func() {
			if err := serve(); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("cannot serve %s: %w", what, err))
			}
		})
	}
	face("hosts", func() error { return w.server.Serve(ctx, listeners.hosts) })
	face("the local socket", func() error { return w.server.ServeLocal(ctx, listeners.local) })
	if listeners.metrics != nil {
		face("metrics", func() error { return serveMetrics(ctx, listeners.metrics, w.metrics()) })
	}
	faces.Go(func() {
		select {
		case err := <-w.failed():
			cancel(fmt.Errorf("the embedded etcd ended: %w", err))
		case <-ctx.Done():
		}
	})
	faces.Go(func() { n.Watchdog(ctx, func() bool { return answers(ctx, cfg.Paths.Socket()) }) })
	log.Info("slipway-hub runs", "version", version, "fleet", cfg.Fleet, "listen", listeners.hosts.Addr().String(), "store", w.storeName, "issues", w.issues)
	_ = n.Status("fleet " + cfg.Fleet + ", store " + w.storeName)
	_ = n.Ready()
	<-ctx.Done()
	_ = n.Stopping()
	faces.Wait()
	stopInner()
	parts.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

type listeners struct{ hosts, local, metrics net.Listener }

func listen(cfg *config.Hub) (l listeners, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot listen: %w", err)
			for _, one := range []net.Listener{l.hosts, l.local, l.metrics} {
				if one != nil {
					one.Close()
				}
			}
		}
	}()
	if l.local, err = listenLocal(cfg.Paths); err != nil {
		return l, err
	}
	if l.hosts, err = net.Listen("tcp", cfg.Listen); err != nil {
		return l, err
	}
	if cfg.Metrics.Listen != "" {
		l.metrics, err = net.Listen("tcp", cfg.Metrics.Listen)
	}
	return l, err
}

// listenLocal takes the socket's place only if nobody answers there: two hubs on one directory would fight for the data.
func listenLocal(p config.HubPaths) (net.Listener, error) {
	if err := os.MkdirAll(p.Run, 0o700); err != nil {
		return nil, err
	}
	if c, err := net.DialTimeout("unix", p.Socket(), time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("another hub answers at %s", p.Socket())
	}
	if err := os.Remove(p.Socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// The directory is the hub's alone, so nobody else reaches the socket between these two steps.
	l, err := net.Listen("unix", p.Socket())
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(p.Socket(), 0o600)
}

// answers asks the hub itself through its whole front: a hub that hangs anywhere on that way is started anew. That it cannot
// reach its store is an answer.
func answers(ctx context.Context, socket string) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://slipway-hub"+serve.PathHealth, nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return true
}

func serveMetrics(ctx context.Context, l net.Listener, h http.Handler) error {
	mux := http.NewServeMux()
	mux.Handle("GET "+serve.PathMetrics, h)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (w *wired) metrics() http.Handler {
	return promhttp.HandlerFor(w.gatherers, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// snapshot copies the store into a file that goes away with its last reader.
func (w *wired) snapshot(ctx context.Context) (io.ReadCloser, int64, error) {
	dir, err := os.MkdirTemp(w.cfg.Paths.State, ".snapshot-")
	if err != nil {
		return nil, 0, fmt.Errorf("cannot take a snapshot: %w", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "store")
	size, err := w.copier.Snapshot(ctx, path)
	if err != nil {
		return nil, 0, err
	}
	f, err := os.Open(path)
	return f, size, err
}

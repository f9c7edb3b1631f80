package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent/config"
	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/server"
	"github.com/slipway-deploy/slipway/systemd"
)

// daemon runs until ctx ends. It never stops an app: what runs goes on without it.
func daemon(ctx context.Context, dir string) error {
	cfg, problems := loadOrKept(dir)
	if cfg == nil {
		return problems
	}
	log := systemd.NewLogger("slipwayd", hclog.LevelFromString(cfg.Log.Level))
	if problems != nil {
		log.Error("THE CONFIGURATION IS INVALID; the last valid one stays in force", "problems", problems)
	}
	d, err := wire(ctx, cfg, log, false)
	if err != nil {
		return err
	}
	defer d.manager.Close()
	d.identity.open(cfg, fleet.ThisMachine("/"), d.clock, log)
	if err := d.adopt(cfg); err != nil {
		return err
	}
	if problems != nil {
		d.refuse(problems)
	} else {
		d.keep(cfg)
	}
	if err := d.state.EnsureReserve(); err != nil {
		log.Error("nothing can be activated until there is space", "error", err)
	}
	if cfg.Supervisor == config.SupervisorProcess {
		d.startAll(ctx)
	}
	return d.serve(ctx, dir)
}

// startAll does at start what the boot guardian does at boot: with plain processes every start of the daemon is a boot.
func (d *wired) startAll(ctx context.Context) {
	for _, m := range d.host.Machines() {
		if err := m.Boot(ctx); err != nil {
			d.log.Error("an app could not be started", "app", m.App(), "error", err)
		}
	}
}

func (d *wired) serve(ctx context.Context, dir string) error {
	ls, err := listeners(d.config())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	srv := server.New(serverConfig(d))
	var wg sync.WaitGroup
	for name, l := range ls {
		access := server.Control
		if name == "readonly" {
			access = server.ReadOnly
		}
		wg.Go(func() {
			if err := srv.Serve(ctx, l, access); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("cannot serve the control socket: %w", err))
			}
		})
	}
	if addr := d.config().Metrics.Listen; addr != "" {
		wg.Go(func() { d.serveMetrics(ctx, srv, addr) })
	}
	wg.Go(func() { config.Watch(ctx, dir, d.log.Named("config"), d.edited) })
	wg.Go(func() { d.local.run(ctx) })
	wg.Go(func() { d.renewals(ctx) })
	wg.Go(func() { d.reloadOnHangup(ctx, dir) })
	wg.Go(func() { d.notifier.Watchdog(ctx, alive(d.host, d.log)) })
	d.log.Info("slipwayd runs", "version", version, "environment", d.config().Environment, "host", d.hostID, "supervisor", d.manager.Describe())
	_ = d.notifier.Ready()
	d.host.Run(ctx)
	_ = d.notifier.Stopping()
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// alive answers the watchdog: no sign of life is sent while a loop hangs, so that the service manager starts the daemon anew.
// The reason is logged when it first is known, because the process will not live to tell.
func alive(host interface{ Hung() error }, log hclog.Logger) func() bool {
	told := false
	return func() bool {
		err := host.Hung()
		if err != nil && !told {
			log.Error("the watchdog is no longer fed", "error", err)
		}
		told = err != nil
		return err == nil
	}
}

// edited is called with every new configuration, or with what is wrong with an edit.
func (d *wired) edited(cfg *config.Host, problems error) {
	if problems != nil {
		d.log.Error("an edit of the configuration is refused; the old one stays in force", "problems", problems)
		d.refuse(problems)
		return
	}
	if err := d.adopt(cfg); err != nil {
		d.refuse(err)
		return
	}
	d.keep(cfg)
	d.log.Info("the configuration is in force", "apps", len(cfg.Apps))
	d.host.Poke()
}

func (d *wired) refuse(problems error) {
	d.mu.Lock()
	d.refused = problems.Error()
	d.mu.Unlock()
}

func (d *wired) reloadOnHangup(ctx context.Context, dir string) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			d.edited(config.Load(dir))
		}
	}
}

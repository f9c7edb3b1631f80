package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/slipway-deploy/slipway/systemd"
)

// Config says where units are and where their processes write.
type Config struct {
	// Units is the directory of generated unit files.
	Units string
	// State holds logs/<unit>.log, credentials, and the directories of StateDirectory= and RuntimeDirectory=.
	State string
	// Guard is the command that a guard timer runs, with app:attempt:from:to as its last argument.
	Guard []string
	Log   hclog.Logger
}

// Control runs units as children of this process. Close ends them all.
type Control struct {
	cfg    Config
	spawn  spawner
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	units   map[string]*runtimeUnit
	guards  map[string]*armed
	changed chan struct{} // closed and replaced at every change of a unit
	running sync.WaitGroup
}

// New makes a Control with nothing running.
func New(cfg Config) (*Control, error) {
	for _, dir := range []string{cfg.Units, filepath.Join(cfg.State, "logs")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("cannot keep plain processes in %s: %w", dir, err)
		}
	}
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Control{
		cfg: cfg, spawn: newSpawner(), ctx: ctx, cancel: cancel,
		units: map[string]*runtimeUnit{}, guards: map[string]*armed{}, changed: make(chan struct{}),
	}, nil
}

// Describe names this implementation and its limits in one phrase.
func (c *Control) Describe() string { return "plain processes, no systemd: for demo and development" }

// Version is Describe: there is no manager with a version.
func (c *Control) Version(context.Context) (string, error) { return c.Describe(), nil }

// Close stops every unit, kills what does not stop within five seconds, and disarms every guard.
func (c *Control) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c.mu.Lock()
	units := make([]*runtimeUnit, 0, len(c.units))
	for _, u := range c.units {
		units = append(units, u)
	}
	for _, g := range c.guards {
		g.timer.Stop()
	}
	c.mu.Unlock()
	slices.SortFunc(units, func(a, b *runtimeUnit) int { return strings.Compare(path.Ext(b.name), path.Ext(a.name)) })
	for _, u := range units {
		_ = c.stop(ctx, u)
	}
	c.cancel()
	c.running.Wait()
	return nil
}

// unit returns the runtime side of a unit, with its file read. A unit whose file is gone keeps what was read before.
func (c *Control) unit(name string) (*runtimeUnit, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.units[name]
	if u != nil && u.spec != nil {
		return u, nil
	}
	s, err := readUnit(c.cfg.Units, name)
	if err != nil {
		return nil, err
	}
	if u == nil {
		u = &runtimeUnit{name: name, active: "inactive", sub: "dead", result: "success"}
		c.units[name] = u
	}
	u.spec = s
	return u, nil
}

// Reload reads the files of all known units again. What runs goes on as it was started.
func (c *Control) Reload(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, u := range c.units {
		s, err := readUnit(c.cfg.Units, name)
		switch {
		case err == nil:
			u.spec = s
		case errors.Is(err, errNotFound) && u.active == "inactive":
			delete(c.units, name)
		case !errors.Is(err, errNotFound):
			c.cfg.Log.Warn("a unit file cannot be used; the one read before stays in force", "unit", name, "error", err)
		}
	}
	return ctx.Err()
}

// Job does a verb and waits for its end, as systemd.Control does.
func (c *Control) Job(ctx context.Context, verb systemd.Verb, name string) error {
	u, err := c.unit(name)
	if errors.Is(err, errNotFound) {
		if verb == systemd.Stop || verb == systemd.TryRestart {
			return nil
		}
		return &systemd.JobError{Unit: name, Verb: verb, Result: "not-found"}
	}
	if err != nil {
		return &systemd.JobError{Unit: name, Verb: verb, Result: "refused", Detail: err.Error()}
	}
	if err := c.do(ctx, verb, u); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &systemd.JobError{Unit: name, Verb: verb, Result: "failed", Detail: err.Error()}
	}
	return nil
}

func (c *Control) do(ctx context.Context, verb systemd.Verb, u *runtimeUnit) error {
	running := c.isRunning(u)
	switch verb {
	case systemd.Start:
		return c.start(ctx, u)
	case systemd.Stop:
		return c.stop(ctx, u)
	case systemd.ReloadUnit:
		return c.reload(ctx, u)
	case systemd.ReloadOrRestart:
		if running && len(u.spec.reload) > 0 {
			return c.reload(ctx, u)
		}
	case systemd.TryRestart:
		if !running {
			return nil
		}
	case systemd.Restart:
	default:
		return fmt.Errorf("unknown verb %q", verb)
	}
	if err := c.stop(ctx, u); err != nil {
		return err
	}
	return c.start(ctx, u)
}

func (c *Control) isRunning(u *runtimeUnit) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return u.active == "active" || u.active == "reloading" || u.active == "activating"
}

// StartNoBlock starts without waiting.
func (c *Control) StartNoBlock(_ context.Context, name string) error {
	u, err := c.unit(name)
	if err != nil {
		return &systemd.JobError{Unit: name, Verb: systemd.Start, Result: "refused", Detail: err.Error()}
	}
	c.running.Go(func() {
		if err := c.start(c.ctx, u); err != nil {
			c.cfg.Log.Warn("a unit did not start", "unit", name, "error", err)
		}
	})
	return nil
}

// ResetFailed forgets a failure and the start limit. A unit that is absent or did not fail is fine.
func (c *Control) ResetFailed(_ context.Context, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.units[name]
	if u == nil {
		return nil
	}
	u.starts = nil
	u.restarts = 0
	if u.active == "failed" {
		u.active, u.sub, u.result = "inactive", "dead", "success"
		c.touch()
	}
	return nil
}

// Kill signals the process group of a unit.
func (c *Control) Kill(_ context.Context, name string, signal syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if u := c.units[name]; u != nil {
		killGroup(u.pid, signal)
	}
	return nil
}

// Unit answers as systemd would about the same unit.
func (c *Control) Unit(_ context.Context, name string) (systemd.UnitStatus, error) {
	_, err := c.unit(name)
	fresh, freshErr := readUnit(c.cfg.Units, name)
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.units[name]
	if u == nil {
		s := systemd.UnitStatus{Name: name, Load: "not-found", Active: "inactive", Sub: "dead"}
		if err != nil && !errors.Is(err, errNotFound) {
			s.Load, s.StatusText = "bad-setting", err.Error()
		}
		return s, nil
	}
	s := u.status()
	s.NeedReload = freshErr != nil || string(fresh.content) != string(u.spec.content)
	return s, nil
}

// UnitsMatching lists known units whose names match a glob pattern.
func (c *Control) UnitsMatching(_ context.Context, patterns ...string) ([]systemd.UnitStatus, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []systemd.UnitStatus
	for name, u := range c.units {
		for _, p := range patterns {
			ok, err := path.Match(p, name)
			if err != nil {
				return nil, fmt.Errorf("cannot list units: %q is no pattern", p)
			}
			if ok {
				found = append(found, u.status())
				break
			}
		}
	}
	slices.SortFunc(found, func(a, b systemd.UnitStatus) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

// Watch sends each unit's state once and after every change until ctx ends; then the channel closes.
func (c *Control) Watch(ctx context.Context, names ...string) <-chan systemd.UnitStatus {
	out := make(chan systemd.UnitStatus, len(names))
	go func() {
		defer close(out)
		last := map[string]systemd.UnitStatus{}
		for {
			c.mu.Lock()
			changed := c.changed
			c.mu.Unlock()
			for _, name := range names {
				s, _ := c.Unit(ctx, name)
				if old, known := last[name]; known && old == s {
					continue
				}
				last[name] = s
				select {
				case out <- s:
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// touch wakes watchers; the caller holds mu.
func (c *Control) touch() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// bootClock is CLOCK_MONOTONIC, which PID 1 stamps its units with.
func bootClock() time.Duration {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
		return 0
	}
	return time.Duration(now.Nano())
}

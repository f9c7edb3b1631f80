package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/config"
	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/systemd"
)

func itoa(n int) string { return strconv.Itoa(n) }

// guard ends the attempt its ticket names, with or without a daemon.
func guard(ctx context.Context, dir, text string) error {
	if _, err := agent.ParseTicket(text); err != nil {
		return err
	}
	d, err := assist(ctx, dir, false)
	if err != nil {
		return err
	}
	defer d.manager.Close()
	return d.endAttempt(ctx, text)
}

func (d *wired) endAttempt(ctx context.Context, text string) error {
	t, err := agent.ParseTicket(text)
	if err != nil {
		return err
	}
	m, ok := d.host.Machine(t.App)
	if !ok {
		return nil
	}
	return m.Guard(ctx, t, d.killDaemon(t.App))
}

// killDaemon ends a slipwayd that holds an app's lock and does not let go, stopped or not. Under systemd it comes back by
// itself; without, the pid in the lock file says whom.
func (d *wired) killDaemon(app release.App) func(context.Context) error {
	return func(ctx context.Context) error {
		if c, ok := d.manager.supervisor.(*systemd.Control); ok {
			return c.Kill(ctx, "slipwayd.service", syscall.SIGKILL)
		}
		var held *durable.LockedError
		lock, err := durable.TryLock(filepath.Join(d.state.Path(app), "lock"))
		if err == nil {
			lock.Release()
			return nil
		}
		if !errors.As(err, &held) || held.Holder <= 1 || !isSlipwayd(held.Holder) {
			return err
		}
		return syscall.Kill(held.Holder, syscall.SIGKILL)
	}
}

// isSlipwayd confirms that a process id still belongs to the program we think of.
func isSlipwayd(pid int) bool {
	exe, err := os.Readlink("/proc/" + itoa(pid) + "/exe")
	return err == nil && strings.TrimSuffix(filepath.Base(exe), " (deleted)") == "slipwayd"
}

// bootEach bounds the boot guardian's time for one app; the unit's own timeout bounds the whole.
const bootEach = 30 * time.Second

// boot settles what a reboot interrupted, for every app that has state, before any of them may start. One app's trouble keeps
// no other from being settled.
func boot(ctx context.Context, dir string) error {
	d, err := assist(ctx, dir, true)
	if err != nil {
		return err
	}
	defer d.manager.Close()
	var errs []error
	for _, m := range d.host.Machines() {
		bounded, cancel := context.WithTimeout(ctx, bootEach)
		if err := m.Boot(bounded); err != nil {
			errs = append(errs, fmt.Errorf("cannot settle %s at boot: %w", m.App(), err))
		}
		cancel()
	}
	return errors.Join(errs...)
}

// settle ends what is in flight before the package goes away.
func settle(ctx context.Context, dir string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	d, err := assist(ctx, dir, false)
	if err != nil {
		return err
	}
	defer d.manager.Close()
	var errs []error
	for _, m := range d.host.Machines() {
		errs = append(errs, m.Settle(ctx))
	}
	return errors.Join(errs...)
}

// assist loads what the guard, the boot guardian and settle need. They come when things are bad, so whatever can be used serves:
// the configuration, else its last valid copy, else the built-in defaults; of one that contradicts itself all but the check it
// failed. The state, the links and the units saved beside the state say the rest, also of apps that the configuration left out.
func assist(ctx context.Context, dir string, early bool) (*wired, error) {
	cfg, problems := loadOrKept(dir)
	if cfg == nil {
		// Another directory belongs to another installation, whose paths nobody knows now: the default ones are not its.
		if dir != config.DefaultDir {
			return nil, problems
		}
		cfg = builtIn()
	}
	return assistWith(ctx, cfg, problems, early)
}

func assistWith(ctx context.Context, cfg *config.Host, problems error, early bool) (*wired, error) {
	log := systemd.NewLogger("slipwayd", hclog.LevelFromString(cfg.Log.Level))
	d, err := wire(ctx, cfg, log, early)
	if err != nil {
		return nil, err
	}
	apps, err := d.settings(cfg)
	if err != nil {
		problems = errors.Join(problems, err)
		if apps, err = settingsOf(cfg, d.hostID, ""); err != nil {
			apps = map[release.App]agent.Settings{} // the built-in defaults have no environment
		}
	}
	if problems != nil {
		log.Error("THE CONFIGURATION CANNOT BE USED AS IT IS; going by the last valid one and the saved state", "problems", problems)
	}
	known, err := d.state.Apps()
	if err != nil {
		return nil, errors.Join(err, d.manager.Close())
	}
	for _, app := range known {
		if _, ok := apps[app]; !ok {
			apps[app] = defaultSettings(cfg, d.hostID)
		}
	}
	d.host.Configure(apps, time.Hour, 0)
	return d, nil
}

// builtIn is what agent/config makes of a file that says nothing; a test compares the two.
func builtIn() *config.Host {
	return &config.Host{
		Supervisor: config.SupervisorSystemd,
		Labels:     map[string]string{},
		Repository: config.Repository{Root: filepath.Join(config.DefaultDir, "root.json")},
		Paths:      config.Paths{Install: "/opt/slipway", State: "/var/lib/slipway", Run: "/run/slipway", Units: "/etc/systemd/system"},
		Poll:       config.Poll{Interval: 5 * time.Minute, Jitter: 0.1},
		Fleet:      config.HostFleet{Poll: 30 * time.Second},
		Space:      config.Space{Reserve: 256 << 20},
		Retention:  config.Retention{Keep: 3, MinAge: 24 * time.Hour},
		Log:        config.Log{Level: "info"},
		Apps:       map[string]config.App{},
	}
}

func defaultSettings(cfg *config.Host, hostID string) agent.Settings {
	env, _ := release.ParseEnvironment(cfg.Environment)
	return agent.Settings{Environment: env, HostID: hostID, Labels: cfg.Labels, SpaceReserve: cfg.Space.Reserve, Keep: cfg.Retention.Keep, KeepFor: cfg.Retention.MinAge}
}

// keptConfig is a copy of the last valid configuration, so that an invalid edit costs neither a restart of the daemon nor the
// guard its settings. It lies in the default state directory whatever the configuration says: it is needed to find the others.
func keptConfig(dir string) string {
	if dir == config.DefaultDir {
		return filepath.Join("/var/lib/slipway", "config")
	}
	return filepath.Join(dir, ".valid")
}

// loadOrKept returns the configuration and, if it is invalid, the last valid one with the problems. If neither is valid there is
// none: the daemon then does not start, and guard, boot guardian and settle go by assist's defaults.
func loadOrKept(dir string) (*config.Host, error) {
	cfg, problems := config.Load(dir)
	if problems == nil {
		return cfg, nil
	}
	kept, err := config.LoadCopy(keptConfig(dir), dir)
	if err != nil {
		return nil, problems
	}
	return kept, problems
}

// keep copies the files of a valid configuration aside.
func (d *wired) keep(cfg *config.Host) {
	base := configDir(cfg)
	dest := keptConfig(base)
	if base == dest {
		return
	}
	if err := copyConfig(cfg.Files, base, dest); err != nil {
		d.log.Warn("the valid configuration could not be kept aside", "error", err)
	}
}

func copyConfig(files []string, base, dest string) error {
	want := map[string]bool{}
	for _, f := range files {
		rel, err := filepath.Rel(base, f)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		path := filepath.Join(dest, rel)
		want[path] = true
		if old, err := os.ReadFile(path); err == nil && string(old) == string(data) {
			continue
		}
		if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := durable.WriteFile(path, data, 0o600); err != nil {
			return err
		}
	}
	return removeOthers(dest, want)
}

func removeOthers(dir string, want map[string]bool) error {
	return filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || want[path] {
			return err
		}
		return durable.Remove(path)
	})
}

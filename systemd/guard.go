package systemd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	systemdbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// Guard is the promise that somebody ends a trial at its deadline even when the daemon is dead or hung. Deadline is a moment
// on CLOCK_MONOTONIC since boot, so neither clock steps nor daemon-reloads move it. A guard is gone after a reboot.
type Guard struct {
	App, Attempt string
	From, To     string // short digests of the release in trial's predecessor and of itself; From is empty on a first install
	Deadline     time.Duration
}

// Instance is the guard as the instance name of slipway-guard@.service: app:attempt:from:to.
func (g Guard) Instance() string { return strings.Join([]string{g.App, g.Attempt, g.From, g.To}, ":") }

// Timer is the guard's timer unit. Its name makes it start the instance of the same name: a transient timer cannot be told
// its Unit= (252), and one that brings its own service would bypass the shipped, reviewed slipway-guard@.service.
func (g Guard) Timer() string { return "slipway-guard@" + g.Instance() + ".timer" }

// Service is the unit the timer starts.
func (g Guard) Service() string { return "slipway-guard@" + g.Instance() + ".service" }

// ParseGuard is the inverse of Instance. The Deadline is not part of it: a guard that runs reads the state.
func ParseGuard(instance string) (Guard, error) {
	parts := strings.Split(instance, ":")
	if len(parts) != 4 {
		return Guard{}, fmt.Errorf("cannot read guard %q: want app:attempt:from:to, have %d fields", instance, len(parts))
	}
	g := Guard{App: parts[0], Attempt: parts[1], From: parts[2], To: parts[3]}
	return g, g.check()
}

// check refuses what would not survive a unit name or a command line unchanged.
func (g Guard) check() error {
	for what, value := range map[string]string{"app": g.App, "attempt": g.Attempt, "from": g.From, "to": g.To} {
		if value == "" && what != "from" {
			return fmt.Errorf("cannot use guard %q: %s is empty", g.Instance(), what)
		}
		if i := strings.IndexFunc(value, notInGuard); i >= 0 {
			return fmt.Errorf("cannot use guard %q: %s holds %q", g.Instance(), what, value[i])
		}
	}
	return nil
}

func notInGuard(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.')
}

// ArmGuard makes the guard's timer and returns its name. It fires on time through any number of daemon-reloads and without its
// creator. Arming the same guard again is fine and keeps one timer with the new deadline. A deadline in the past fires at once.
func (c *Control) ArmGuard(ctx context.Context, g Guard) (string, error) {
	if err := g.check(); err != nil {
		return "", err
	}
	startup, err := c.sinceStartup(ctx, g.Deadline)
	if err != nil {
		return "", fmt.Errorf("cannot arm %s: %w", g.Timer(), err)
	}
	// transient removes a timer of that name first: for a moment there is none, but its caller is alive.
	result, err := c.transient(ctx, g.Timer(), g.properties(startup))
	if err == nil && result != "done" {
		err = errors.New("its job ended with " + result)
	}
	if err != nil {
		return "", fmt.Errorf("cannot arm %s: %w", g.Timer(), err)
	}
	return g.Timer(), nil
}

// sinceStartup turns a moment on the boot clock into OnStartupSec=, which counts from PID 1's own start. OnBootSec= would be
// the boot clock on a machine, but counts from the container's start inside one; OnActiveSec= starts anew at every reload.
func (c *Control) sinceStartup(ctx context.Context, deadline time.Duration) (time.Duration, error) {
	value, err := c.managerProperty(ctx, "UserspaceTimestampMonotonic")
	if err != nil {
		return 0, err
	}
	usec, ok := value.Value().(uint64)
	if !ok {
		return 0, fmt.Errorf("systemd's start time is a %s", value.Signature())
	}
	return max(deadline-time.Duration(usec)*time.Microsecond, time.Microsecond), nil
}

type timerBase struct {
	Base string
	USec uint64
}

// properties has no default dependencies, so that the boot guardian may arm before sysinit.target is reached.
func (g Guard) properties(startup time.Duration) []systemdbus.Property {
	return propertyList(map[string]any{
		"Description":         fmt.Sprintf("Slipway guard of %s, attempt %s", g.App, g.Attempt),
		"DefaultDependencies": false, "Conflicts": []string{"shutdown.target"}, "Before": []string{"shutdown.target"},
		"TimersMonotonic": []timerBase{{"OnStartupSec", uint64(startup / time.Microsecond)}},
		"AccuracyUSec":    uint64(100 * time.Millisecond / time.Microsecond), "RemainAfterElapse": false,
	})
}

// DisarmGuard stops the guard's timer; one that is absent or has fired is fine. A guard service that already runs is not
// stopped: it reads the state and finds its attempt over.
func (c *Control) DisarmGuard(ctx context.Context, app, attempt string) error {
	guards, err := c.guards(ctx, "slipway-guard@"+app+":"+attempt+":*.timer")
	if err != nil {
		return fmt.Errorf("cannot disarm the guard of %s: %w", app, err)
	}
	for _, g := range guards {
		if g.App != app || g.Attempt != attempt {
			continue
		}
		if err := c.Job(ctx, Stop, g.Timer()); err != nil {
			return fmt.Errorf("cannot disarm the guard of %s: %w", app, err)
		}
		if err := c.ResetFailed(ctx, g.Timer()); err != nil {
			return err
		}
	}
	return nil
}

// Guards lists the guards armed now, as PID 1 holds them.
func (c *Control) Guards(ctx context.Context) ([]Guard, error) {
	guards, err := c.guards(ctx, "slipway-guard@*.timer")
	if err != nil {
		return nil, err
	}
	for i, g := range guards {
		props, err := c.properties(ctx, g.Timer())
		if err != nil {
			return nil, fmt.Errorf("cannot read guard %s: %w", g.Timer(), err)
		}
		guards[i].Deadline = props.elapse()
	}
	return guards, nil
}

// guards lists the active timers of a pattern. Timers that somebody else named alike are not guards.
func (c *Control) guards(ctx context.Context, pattern string) ([]Guard, error) {
	units, err := c.UnitsMatching(ctx, pattern)
	if err != nil {
		return nil, err
	}
	var guards []Guard
	for _, u := range units {
		instance := strings.TrimSuffix(strings.TrimPrefix(u.Name, "slipway-guard@"), ".timer")
		if g, err := ParseGuard(instance); err == nil && (u.Active == "active" || u.Active == "activating") {
			guards = append(guards, g)
		}
	}
	return guards, nil
}

// elapse is when a timer with one monotonic base fires, on CLOCK_MONOTONIC.
func (p properties) elapse() time.Duration {
	var timers []struct {
		Base       string
		USec, Next uint64
	}
	if v, ok := p["TimersMonotonic"]; ok && dbus.Store([]any{v.Value()}, &timers) == nil && len(timers) == 1 {
		return time.Duration(timers[0].Next) * time.Microsecond
	}
	return 0
}

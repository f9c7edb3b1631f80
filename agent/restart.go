package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/units"
)

// install writes a rendered set into the unit directory and reloads the manager if it has not read what is there: after a
// change, after a reload that failed, and once in a process that cannot know.
func (m *Machine) install(ctx context.Context, set *units.Set, trial bool) error {
	old, err := m.Units.Owned(m.app)
	if err != nil {
		return err
	}
	for _, gone := range old {
		if _, keep := set.Files[gone]; !keep {
			if err := m.stop(ctx, gone); err != nil {
				return err
			}
		}
	}
	err = m.State.UseReserve(func() error {
		changed, err := m.Units.Apply(set, trial)
		if changed {
			m.loaded.Store(false)
		}
		return err
	})
	if err != nil {
		return err
	}
	return m.reload(ctx)
}

// stopPatience is how long a unit may take to stop by itself before its processes are killed.
const stopPatience = 30 * time.Second

// stop ends a unit for certain, whatever it says about how it wants to be stopped: a process that outlives its release would
// run on unwatched once the unit file is gone.
func (m *Machine) stop(ctx context.Context, unit string) error {
	if units.IsTemplate(unit) {
		instances, err := m.instances(ctx, unit)
		for _, instance := range instances {
			err = errors.Join(err, m.stop(ctx, instance))
		}
		return err
	}
	defer m.pulse.busy(2*stopPatience, "stopping "+unit)()
	bounded, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	err := m.Manager.Job(bounded, "stop", unit)
	if err == nil || kindOf(err) == managerSilent {
		return err
	}
	m.damage(sentence("unit %s did not stop (%v); its processes are killed", unit, err))
	if err := m.Manager.Kill(ctx, unit); err != nil {
		return fmt.Errorf("cannot stop %s: %w", unit, err)
	}
	again, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	if err := m.Manager.Job(again, "stop", unit); err != nil {
		m.Log.Warn("a killed unit did not stop cleanly", "unit", unit, "error", err)
	}
	return nil
}

// instances lists what was started of a template, by a person, by another unit or at boot: it runs the release too, and is
// restarted and stopped with it.
func (m *Machine) instances(ctx context.Context, template string) ([]string, error) {
	names, err := m.Manager.Instances(ctx, template)
	return slices.DeleteFunc(names, units.IsTemplate), err
}

// expanded replaces templates by their instances.
func (m *Machine) expanded(ctx context.Context, names []string) (out []string) {
	for _, name := range names {
		if !units.IsTemplate(name) {
			out = append(out, name)
			continue
		}
		instances, err := m.instances(ctx, name)
		if err != nil {
			m.Log.Warn("the instances of a unit could not be listed", "unit", name, "error", err)
		}
		out = append(out, instances...)
	}
	return out
}

// reloadPatience bounds one daemon-reload; a manager that takes longer is taken to be silent and asked again.
const reloadPatience = 90 * time.Second

func (m *Machine) reload(ctx context.Context) error {
	if m.loaded.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reloadPatience)
	defer cancel()
	if err := m.Manager.Reload(ctx); err != nil {
		return err
	}
	m.loaded.Store(true)
	return nil
}

// managerSilent is the kind of the errors that say that the service manager did not answer, which blames no release.
const managerSilent = "systemd-unreachable"

// restartWithin forgets failures and start limits first: they are of what ran before, and a crash-looped unit, or its socket,
// would refuse. It gives up waiting for a start that hangs, so that the daemon itself goes back and need not be ended by the
// guard, which would cost every other app's trial.
func (m *Machine) restartWithin(ctx context.Context, d time.Duration, id release.ID, set *units.Set) error {
	defer m.pulse.busy(d, "restarting the units of "+id.String())()
	bounded, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for _, unit := range m.expanded(bounded, set.Names()) {
		if err := m.Manager.ResetFailed(bounded, unit); err != nil {
			m.Log.Warn("a unit's failure could not be reset", "unit", unit, "error", err)
		}
	}
	err := m.restart(bounded, id, set)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("the units of %s did not start within %s: %w", id, d.Round(time.Second), err)
	}
	return err
}

// restart makes the running processes take up what `current` names, as the release's restart mode says. Sockets are started
// and never restarted: they keep the listener, so requests wait instead of failing. One unit's failure keeps no other from
// its job: after a revert no process of the bad release may go on because its neighbour would not start.
func (m *Machine) restart(ctx context.Context, id release.ID, set *units.Set) error {
	rel, _, err := m.tree.Release(id)
	if err != nil {
		return err
	}
	var errs []error
	for _, unit := range set.Start {
		errs = append(errs, m.Manager.Job(ctx, verbFor(rel.Restart, unit), unit))
	}
	if rel.Restart != release.RestartModeNone {
		for _, unit := range set.Idle {
			errs = append(errs, m.refreshIdle(ctx, rel.Restart, set, unit))
		}
	}
	return errors.Join(errs...)
}

// refreshIdle restarts a unit that something else started. With socket activation the service is started too, so that the
// trial meets the new release and not only its listener.
func (m *Machine) refreshIdle(ctx context.Context, mode release.RestartMode, set *units.Set, unit string) error {
	if units.IsTemplate(unit) {
		instances, err := m.instances(ctx, unit)
		for _, instance := range instances {
			err = errors.Join(err, m.refreshIdle(ctx, mode, set, instance))
		}
		return err
	}
	st, err := m.Manager.Unit(ctx, unit)
	if err != nil {
		return err
	}
	socket := mode == release.RestartModeSocket && set.HasSocketFor(unit)
	if st.Active != "active" && st.Active != "reloading" && st.Active != "activating" && !socket {
		return nil
	}
	return m.Manager.Job(ctx, verbFor(mode, unit), unit)
}

func verbFor(mode release.RestartMode, unit string) string {
	if !units.IsService(unit) {
		return "start"
	}
	switch mode {
	case release.RestartModeReload:
		return "reload-or-restart"
	case release.RestartModeNone:
		return "start"
	}
	return "restart"
}

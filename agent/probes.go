package agent

import (
	"context"
	"slices"
	"time"

	"github.com/slipway-deploy/slipway/agent/health"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/store"
)

// probes sets up the checks of a release: one for every unit that should be active, and those the release declares, with the
// deployment's timing over the release's and the host's endpoints over both.
func (m *Machine) probes(id release.ID, timing map[string]release.Timing) ([]health.Timed, *release.Release, error) {
	rel, _, err := m.tree.Release(id)
	if err != nil {
		return nil, nil, err
	}
	set, err := m.unitsOf(id)
	if err != nil {
		return nil, nil, err
	}
	var out []health.Timed
	active := slices.Clone(set.Start)
	for _, unit := range set.Idle {
		if rel.Restart == release.RestartModeSocket && set.HasSocketFor(unit) {
			active = append(active, unit)
		}
	}
	for _, unit := range active {
		out = append(out, health.Timed{Probe: health.Unit(health.UnitSpec{Name: unit, Unit: unit}, m.Manager.Unit), Timing: timed(timing, unit, release.Timing{})})
	}
	for _, c := range rel.Checks {
		out = append(out, health.Timed{Probe: m.probe(id, c), Timing: timed(timing, c.Name, c.Timing)})
	}
	if len(out) == 0 {
		out = append(out, health.Timed{Probe: nothingToCheck{}})
	}
	return out, rel, nil
}

// nothingToCheck lets a release that starts nothing and declares no checks pass its trial.
type nothingToCheck struct{}

func (nothingToCheck) Name() string { return "nothing" }
func (nothingToCheck) Kind() string { return "none" }

func (nothingToCheck) Check(context.Context) health.Result {
	return health.Result{Answer: health.Healthy, Detail: "the release starts no unit and declares no check"}
}

func (m *Machine) probe(id release.ID, c release.Check) health.Probe {
	at := m.cfg().Endpoints[c.Name]
	switch c.Kind {
	case release.CheckHTTP:
		return health.HTTP(health.HTTPSpec{Name: c.Name, URL: at.url(c.URL), Status: c.Status})
	case release.CheckTCP:
		return health.TCP(health.TCPSpec{Name: c.Name, Address: at.address(c.Address)})
	case release.CheckGRPC:
		return health.GRPC(health.GRPCSpec{Name: c.Name, Address: at.address(c.Address), Service: c.Service})
	case release.CheckExec:
		return health.Exec(health.ExecSpec{Name: c.Name, Command: c.Command}, m.runner(id, c))
	}
	return health.Unit(health.UnitSpec{Name: c.Name, Unit: c.Unit.String()}, m.Manager.Unit)
}

// runner runs an exec check as a transient unit under the app's user.
func (m *Machine) runner(id release.ID, c release.Check) health.Runner {
	return func(ctx context.Context, command []string) (int, string, error) {
		timeout := time.Duration(c.Timeout)
		if timeout == 0 {
			timeout = 10 * time.Second
		}
		res, err := m.Tasks.Run(ctx, m.task(id, "check-"+c.Name, command, c.User, timeout))
		if err == nil && res.TimedOut {
			return 1, "ran out of time", nil
		}
		return res.Exit, res.Output, err
	}
}

// timed merges timings field by field; zero means the next in line, and at last the defaults of package health.
func timed(over map[string]release.Timing, name string, base release.Timing) health.Timing {
	o := over[name]
	return health.Timing{
		Interval:         time.Duration(orElse(o.Interval, base.Interval)),
		Timeout:          time.Duration(orElse(o.Timeout, base.Timeout)),
		StartPeriod:      time.Duration(orElse(o.StartPeriod, base.StartPeriod)),
		SuccessThreshold: orElse(o.SuccessThreshold, base.SuccessThreshold),
		FailureThreshold: orElse(o.FailureThreshold, base.FailureThreshold),
	}
}

func orElse[T comparable](v, other T) T {
	var zero T
	if v == zero {
		return other
	}
	return v
}

// Verify compares what `current` names with its manifest.
func (m *Machine) Verify(ctx context.Context, quick bool) (release.ID, []release.Difference, error) {
	cur, err := m.current()
	if err != nil {
		return cur, nil, err
	}
	if cur.IsZero() {
		return cur, nil, store.ErrNone
	}
	diffs, err := m.tree.Verify(ctx, cur, quick)
	return cur, diffs, err
}

package main

import (
	"context"
	"strings"
	"syscall"
	"time"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/health"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/systemd"
)

// supervisor is what systemd.Control and process.Control have in common.
type supervisor interface {
	Version(ctx context.Context) (string, error)
	Reload(ctx context.Context) error
	Job(ctx context.Context, verb systemd.Verb, unit string) error
	StartNoBlock(ctx context.Context, unit string) error
	Kill(ctx context.Context, unit string, signal syscall.Signal) error
	ResetFailed(ctx context.Context, unit string) error
	Unit(ctx context.Context, unit string) (systemd.UnitStatus, error)
	UnitsMatching(ctx context.Context, patterns ...string) ([]systemd.UnitStatus, error)
	Run(ctx context.Context, t systemd.Task) (systemd.TaskResult, error)
	ArmGuard(ctx context.Context, g systemd.Guard) (string, error)
	DisarmGuard(ctx context.Context, app, attempt string) error
	Close() error
}

var (
	_ agent.Manager = manager{}
	_ agent.Tasks   = manager{}
	_ agent.Guards  = manager{}
)

// manager gives a supervisor the shape the machine asks for.
type manager struct {
	supervisor
	about string
}

func (m manager) Describe() string { return m.about }

func (m manager) Job(ctx context.Context, verb, unit string) error {
	return m.supervisor.Job(ctx, systemd.Verb(verb), unit)
}

func (m manager) Kill(ctx context.Context, unit string) error {
	return m.supervisor.Kill(ctx, unit, syscall.SIGKILL)
}

func (m manager) Instances(ctx context.Context, template string) ([]string, error) {
	found, err := m.UnitsMatching(ctx, strings.Replace(template, "@.", "@*.", 1))
	var names []string
	for _, u := range found {
		if u.Name != template && u.Load != "not-found" {
			names = append(names, u.Name)
		}
	}
	return names, err
}

func (m manager) Unit(ctx context.Context, unit string) (health.UnitStatus, error) {
	s, err := m.supervisor.Unit(ctx, unit)
	return health.UnitStatus{
		Load: s.Load, Active: s.Active, Sub: s.Sub, Result: s.Result, MainPID: s.MainPID, NRestarts: s.NRestarts,
		ExecStatus: s.ExecStatus, InvocationID: s.InvocationID, Since: s.ActiveEnter, NeedReload: s.NeedReload,
	}, err
}

func (m manager) Run(ctx context.Context, t agent.Task) (agent.TaskResult, error) {
	r, err := m.supervisor.Run(ctx, systemd.Task{
		Name: t.Name, Description: t.Description, Command: t.Command, User: t.User, Dir: t.Dir, Env: t.Env, Timeout: t.Timeout,
	})
	return agent.TaskResult{Exit: r.Exit, TimedOut: r.TimedOut, Output: r.Output}, err
}

// Arm turns the deadline on the boot clock into one on the monotonic clock, which timers use: the two differ by the time the
// host was suspended.
func (m manager) Arm(ctx context.Context, t agent.Ticket, deadline time.Duration) error {
	_, err := m.ArmGuard(ctx, systemd.Guard{
		App: t.App.String(), Attempt: t.Attempt, From: t.From, To: t.To, Deadline: deadline - bootClock() + monotonicClock(),
	})
	return err
}

func (m manager) Disarm(ctx context.Context, app release.App, attempt string) error {
	return m.DisarmGuard(ctx, app.String(), attempt)
}

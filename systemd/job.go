package systemd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godbus/dbus/v5"
)

// Verb is what a job does to a unit.
type Verb string

// The verbs of jobs.
const (
	Start           Verb = "start"
	Stop            Verb = "stop"
	Restart         Verb = "restart"
	ReloadUnit      Verb = "reload"
	TryRestart      Verb = "try-restart"
	ReloadOrRestart Verb = "reload-or-restart"
)

var verbMethods = map[Verb]string{
	Start: "StartUnit", Stop: "StopUnit", Restart: "RestartUnit", ReloadUnit: "ReloadUnit",
	TryRestart: "TryRestartUnit", ReloadOrRestart: "ReloadOrRestartUnit",
}

// recheckJob bounds how long a missed signal could hold a waiter: this often it asks whether the job still exists.
const recheckJob = 5 * time.Second

// Job queues a job, waits for its end and returns a *JobError unless it ended well. Stopping a unit that does not exist is
// fine. When ctx ends first the job goes on in PID 1. A Type=simple service counts as started once it was forked: only health
// checks say more.
func (c *Control) Job(ctx context.Context, verb Verb, unit string) error {
	method, ok := verbMethods[verb]
	if !ok {
		return fmt.Errorf("cannot %s %s: unknown verb", verb, unit)
	}
	result, err := c.run(ctx, verb, unit, method, unit, "replace")
	if dbusName(err) == errNoSuchUnit && (verb == Stop || verb == TryRestart) {
		return nil
	}
	if err != nil {
		return refused(verb, unit, err)
	}
	if result == "done" || result == "skipped" && verb == TryRestart {
		return nil
	}
	return &JobError{Unit: unit, Verb: verb, Result: result, Detail: c.whyFailed(ctx, unit)}
}

// StartNoBlock queues a start and does not wait: the only kind of job the boot guardian may use, since a job that waits for
// the boot to go on would wait for the guardian.
func (c *Control) StartNoBlock(ctx context.Context, unit string) error {
	var path dbus.ObjectPath
	if err := c.manager(ctx, "StartUnit", []any{unit, "replace"}, &path); err != nil {
		return refused(Start, unit, err)
	}
	return nil
}

// refused names an error of queueing a job.
func refused(verb Verb, unit string, err error) error {
	switch dbusName(err) {
	case "":
		return fmt.Errorf("cannot %s %s: %w", verb, unit, err)
	case errNoSuchUnit:
		return &JobError{Unit: unit, Verb: verb, Result: "not-found"}
	}
	return &JobError{Unit: unit, Verb: verb, Result: "refused", Detail: dbusText(err)}
}

// whyFailed is best effort: the job's end is known, this only adds words.
func (c *Control) whyFailed(ctx context.Context, unit string) string {
	s, err := c.Unit(ctx, unit)
	switch {
	case err != nil:
		return ""
	case s.ExecStatus != 0:
		return fmt.Sprintf("%s is %s, result %s, status %d", unit, s.Active, s.Result, s.ExecStatus)
	}
	return fmt.Sprintf("%s is %s, result %s", unit, s.Active, s.Result)
}

// run queues a job by a manager method and waits for the job's result.
func (c *Control) run(ctx context.Context, verb Verb, unit, method string, args ...any) (string, error) {
	var (
		job  dbus.ObjectPath
		wait *jobWait
		on   *link
	)
	err := c.with(ctx, func(l *link) error {
		w := l.expect("")
		if err := l.call(ctx, managerPath, managerIface+"."+method, args...).Store(&job); err != nil {
			l.forget(w)
			return err
		}
		l.settle(w, job)
		wait, on = w, l
		return nil
	})
	if err != nil {
		return "", err
	}
	result, err := on.await(ctx, wait, job)
	for errors.Is(err, errLost) {
		result, err = c.rejoin(ctx, job)
	}
	if errors.Is(err, errMissed) {
		return c.judge(ctx, verb, unit)
	}
	return result, err
}

// errMissed means that the job is over and nobody saw how it ended.
var errMissed = errors.New("the job ended unseen")

func (l *link) await(ctx context.Context, w *jobWait, job dbus.ObjectPath) (string, error) {
	defer l.forget(w)
	recheck := time.NewTicker(recheckJob)
	defer recheck.Stop()
	for {
		select {
		case result := <-w.done:
			return result, nil
		case <-ctx.Done():
			return "", ctx.Err()
		case <-l.dead:
			return "", errLost
		case <-recheck.C:
			if !l.exists(ctx, job) {
				select {
				case result := <-w.done:
					return result, nil
				default:
					return "", errMissed
				}
			}
		}
	}
}

// exists asks whether a job is still queued or running. Doubt counts as yes.
func (l *link) exists(ctx context.Context, job dbus.ObjectPath) bool {
	err := l.call(ctx, job, propertyIface+".Get", "org.freedesktop.systemd1.Job", "State").Err
	return dbusName(err) != errUnknownObject
}

// rejoin waits for a job that was queued on an earlier connection.
func (c *Control) rejoin(ctx context.Context, job dbus.ObjectPath) (result string, err error) {
	err = c.with(ctx, func(l *link) error {
		w := l.expect(job)
		if !l.exists(ctx, job) {
			l.forget(w)
			return errMissed
		}
		result, err = l.await(ctx, w, job)
		return err
	})
	return result, err
}

// judge answers for a job whose end was missed, by the state its unit was left in.
func (c *Control) judge(ctx context.Context, verb Verb, unit string) (string, error) {
	s, err := c.Unit(ctx, unit)
	if err != nil {
		return "", err
	}
	running := s.Active == "active" || s.Active == "reloading"
	switch {
	case verb == TryRestart && s.Active != "failed", verb == Stop && !running, verb != Stop && running:
		return "done", nil
	}
	return "failed", nil
}

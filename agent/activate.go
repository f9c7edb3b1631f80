package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/health"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/agent/state"
	"github.com/slipway-deploy/slipway/agent/store"
	"github.com/slipway-deploy/slipway/agent/units"
)

// guardGrace is how long after the trial's own deadline the guard fires: long enough that a living daemon always comes
// first, short enough that a dead one costs little.
const guardGrace = 15 * time.Second

var (
	fpSaved    = durable.NewFailpoint("agent.activate.attempt-saved")
	fpFallback = durable.NewFailpoint("agent.activate.fallback-set")
	fpArmed    = durable.NewFailpoint("agent.activate.guard-armed")
	fpWired    = durable.NewFailpoint("agent.activate.trial-wired")
	fpChecked  = durable.NewFailpoint("agent.activate.slot-checked")
	fpSwapped  = durable.NewFailpoint("agent.activate.swapped")
	fpUnits    = durable.NewFailpoint("agent.activate.units-written")
	fpRestart  = durable.NewFailpoint("agent.activate.restarted")
	fpTrial    = durable.NewFailpoint("agent.activate.in-trial")
)

// activate makes w current and starts its trial. Its order is the promise: everything a revert needs is durable before
// `current` moves, and the guard is armed before that too.
func (m *Machine) activate(ctx context.Context, w *wish, set *units.Set, d rollout.Decision) (time.Duration, error) {
	from, err := m.current()
	if err != nil {
		return 0, err
	}
	back, err := m.rehearse(ctx, w, from)
	if err != nil {
		return m.gateFailed(ctx, w, fmt.Errorf("cannot prove that going back would work: %w", err))
	}
	baseline := m.baseline(ctx, from)
	if diffs, err := m.verify(ctx, w.id); err != nil || len(diffs) > 0 {
		return m.discard(ctx, w, diffs, err)
	}
	if err := m.prepare(ctx, w); err != nil {
		return m.stageFailed(ctx, w, err)
	}
	if err := m.phaseWaiting(ctx); err != nil {
		return 0, err
	}
	// From here on nothing may end the step half done: only the guard bounds it.
	ctx = context.WithoutCancel(ctx)
	defer m.beginEntry()()
	return 0, m.locked(ctx, func(tx *state.Tx) error {
		if !m.stillWanted(ctx, tx.State, w) {
			return errSuperseded
		}
		if cur, err := m.current(); err != nil || cur != from {
			return errors.Join(err, errSuperseded)
		}
		a := m.newAttempt(w, from, back, baseline)
		if err := m.enter(ctx, tx, a, set, d); err != nil {
			return m.failedEntry(ctx, tx, err)
		}
		return nil
	})
}

// stillWanted asks once more, under the lock and with what is trusted at this moment, whether w may go. The documents are in
// the client's memory by now; what cannot be read quickly is not wanted.
func (m *Machine) stillWanted(ctx context.Context, st *state.App, w *wish) bool {
	ctx, cancel := context.WithTimeout(ctx, commandPatience)
	defer cancel()
	now, err := m.read(ctx, st)
	if err != nil || now.deployment.Sequence != w.deployment.Sequence || st.Sequence != w.deployment.Sequence || now.digest != w.digest {
		return false
	}
	if now.meta, err = m.Source.Known(ctx); err != nil || m.cfg().Disabled {
		return false
	}
	d := m.decide(ctx, st, now)
	return d.Act && d.Verb == rollout.VerbActivate
}

func (m *Machine) prepare(ctx context.Context, w *wish) error {
	if err := m.State.EnsureReserve(); err != nil {
		return err
	}
	if err := m.Accounts.Ensure(ctx, m.app, w.rel.Users, w.rel.Dirs); err != nil {
		return fmt.Errorf("cannot prepare users and directories: %w", err)
	}
	if w.rel.Hooks == nil {
		return nil
	}
	return m.hook(ctx, w.rel, w.id, "pre-activate", w.rel.Hooks.PreActivate)
}

// discard removes a staged release that no longer is what was signed, tree or manifest, so that it is staged anew.
func (m *Machine) discard(ctx context.Context, w *wish, diffs []release.Difference, err error) (time.Duration, error) {
	if len(diffs) > 0 {
		err = &DamagedTreeError{ID: w.id, Differences: diffs}
	}
	if len(diffs) > 0 || errors.As(err, new(store.ErrIncomplete)) {
		err = errors.Join(err, m.tree.Remove(w.id))
	}
	return m.stageFailed(ctx, w, err)
}

const (
	defaultMinHealthy = 30 * time.Second
	defaultDeadline   = 5 * time.Minute
	longestTrial      = 24 * time.Hour
	defaultBoots      = 2
)

func (m *Machine) newAttempt(w *wish, from release.ID, back rehearsal, baseline string) *state.Attempt {
	minHealthy, length, boots := trialTimes(w.deployment.Health)
	return &state.Attempt{
		ID: newAttemptID(), Sequence: w.deployment.Sequence, RolloutID: w.deployment.RolloutID, Digest: w.digest, Fence: m.grant(),
		From: from, To: w.id, Fallback: back.target, Rehearsed: back.print, Started: m.Clock.Now().UTC(),
		BootID: m.Clock.BootID(), Deadline: m.Clock.Boot() + length, Length: length, MaxBoots: boots,
		MinHealthy: minHealthy, Baseline: baseline, OnFirstFailure: w.deployment.OnFirstFailure, Timing: timings(w.deployment.Health),
	}
}

// trialTimes clamps what was signed to what makes sense: the deadline leaves room for the healthy time, and no trial is
// longer than a day.
func trialTimes(p *release.TrialPolicy) (minHealthy, length time.Duration, boots int) {
	minHealthy, length, boots = defaultMinHealthy, defaultDeadline, defaultBoots
	if p != nil {
		if p.MinHealthyTime > 0 {
			minHealthy = time.Duration(p.MinHealthyTime)
		}
		if p.HealthyDeadline > 0 {
			length = time.Duration(p.HealthyDeadline)
		}
		if p.Boots > 0 {
			boots = p.Boots
		}
	}
	minHealthy = min(minHealthy, longestTrial/2)
	return minHealthy, min(max(length, minHealthy+10*time.Second), longestTrial), boots
}

func timings(p *release.TrialPolicy) map[string]release.Timing {
	if p == nil {
		return nil
	}
	return p.Checks
}

// enter is the activation proper, under the app's lock.
func (m *Machine) enter(ctx context.Context, tx *state.Tx, a *state.Attempt, set *units.Set, d rollout.Decision) error {
	if err := tx.SaveUnits(a.To, set.Encode()); err != nil {
		return err
	}
	tx.State.Attempt = a
	if err := tx.Advance(state.Activating); err != nil {
		return err
	}
	if err := m.reportPhase(tx.State, sentence("activating %s %s (was %s): %s", m.app, a.To.Version(), orNothing(name(a.From)), d.Because)); err != nil {
		return fmt.Errorf("cannot record the activation, so it does not happen: %w", err)
	}
	var confirmed time.Duration
	steps := []struct {
		do func() error
		fp *durable.Failpoint
	}{
		{func() error {
			return tx.Mark(state.Marker{Attempt: a.ID, From: a.Fallback, To: a.To, Sequence: a.Sequence})
		}, fpSaved},
		{func() error { return m.setFallback(a.Fallback) }, fpFallback},
		{func() error { return m.Guards.Arm(ctx, ticket(m.app, a), a.Deadline+guardGrace) }, fpArmed},
		{func() error { return m.wireTrial(set) }, fpWired},
		{func() (err error) { confirmed, err = m.lastCheck(ctx, a.Fence); return err }, fpChecked},
		{func() error { return errors.Join(m.stillConfirmed(confirmed), m.tree.Swap(a.To)) }, fpSwapped},
		{func() error { return m.install(ctx, set, true) }, fpUnits},
		{func() error { return m.startEntry(ctx, a, set) }, fpRestart},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return err
		}
		if err := s.fp.Hit(); err != nil {
			return err
		}
	}
	if err := tx.Advance(state.Trial); err != nil {
		return err
	}
	_ = m.reportPhase(tx.State, sentence("%s %s is in trial: reverts unless healthy for %s within %s", m.app, a.To.Version(), a.MinHealthy, a.Length))
	return fpTrial.Hit()
}

// wireTrial makes the app's units require the boot guardian before the swap: after it, a crash and a guardian that fails must
// not together start an untried release.
func (m *Machine) wireTrial(set *units.Set) error {
	changed, err := m.Units.WireTrial(set)
	if changed {
		m.loaded.Store(false)
	}
	return err
}

func (m *Machine) setFallback(id release.ID) error {
	if id.IsZero() {
		return m.tree.ClearFallback()
	}
	return m.tree.SetFallback(id)
}

// failedEntry decides after an activation that broke off: before the swap nothing happened to the app and the attempt is
// dropped; after it, revert.
func (m *Machine) failedEntry(ctx context.Context, tx *state.Tx, cause error) error {
	if tx.State.Phase != state.Activating && tx.State.Phase != state.Trial {
		return cause
	}
	a := tx.State.Attempt
	cur, err := m.current()
	if err != nil {
		return errors.Join(cause, err)
	}
	if tx.State.Phase == state.Activating && cur != a.To {
		return errors.Join(cause, m.abort(ctx, tx, cause))
	}
	if back := new(takenBackError); errors.As(cause, &back) {
		return m.beginRevert(tx, a.Fallback, back.cause, back.reason)
	}
	why := state.CauseUnhealthy
	if durable.NoSpace(cause) || kindOf(cause) == managerSilent {
		why = state.CauseCannotTell
	}
	if a.Baseline == health.Unhealthy.String() {
		why = state.CauseFailedBefore
	}
	return m.beginRevert(tx, a.Fallback, why, sentence("the activation failed: %v", cause))
}

// abort ends an attempt that never touched the app. Guard and marker go first: afterwards nobody would know of them, and as
// long as `current` is the old release they stand for nothing. A guard that cannot be disarmed finds its attempt ended.
func (m *Machine) abort(ctx context.Context, tx *state.Tx, cause error) error {
	a, reason := tx.State.Attempt, cause.Error()
	if err := m.Guards.Disarm(ctx, m.app, a.ID); err != nil {
		m.Log.Warn("the guard of an attempt that was given up could not be disarmed", "app", m.app, "error", err)
	}
	if err := tx.Unmark(); err != nil {
		return err
	}
	if err := m.endTrialWiring(ctx); kindOf(err) == managerSilent {
		m.Log.Warn("the service manager still knows the wiring of a trial that was given up", "app", m.app, "error", err)
	} else if err != nil {
		return err
	}
	o := state.Outcome{At: m.Clock.Now().UTC(), Attempt: a.ID, Result: "aborted", From: a.From, To: a.From, Tried: a.To, Sequence: a.Sequence, Fence: a.Fence, Cause: state.CauseInterrupted, Reason: reason}
	tx.State.Record(o)
	tx.State.Attempt = nil
	r, _ := tx.State.RetryOf(a.Digest)
	if refused := new(slotRefusedError); !errors.As(cause, &refused) {
		r.Tries++ // a slot that was not confirmed says nothing about the release, nor about this host
	}
	r.Digest, r.Reason = a.Digest, reason
	r.RetryAt = m.Clock.Now().Add(retryDelay(r.Tries))
	tx.State.SetRetry(r)
	if err := tx.Advance(state.Idle); err != nil {
		return err
	}
	_ = m.reportEnd(tx.State, o, sentence("the activation of %s %s was given up before the swap: %s", m.app, a.To.Version(), reason))
	return nil
}

// hook runs one of the release's hooks to its end.
func (m *Machine) hook(ctx context.Context, rel *release.Release, id release.ID, what string, c *release.Command) error {
	if c == nil {
		return nil
	}
	timeout := time.Duration(c.Timeout)
	if timeout == 0 {
		timeout = time.Minute
	}
	defer m.pulse.busy(timeout, "hook "+what)()
	res, err := m.Tasks.Run(ctx, m.task(id, what, c.Command, c.User, timeout))
	if err != nil {
		return fmt.Errorf("cannot run hook %s: %w", what, err)
	}
	if res.TimedOut || res.Exit != 0 {
		return &HookError{Hook: what, Exit: res.Exit, TimedOut: res.TimedOut, Output: res.Output}
	}
	return nil
}

// task makes a run of a release's own program, in the release's directory and under the app's user.
func (m *Machine) task(id release.ID, what string, command []string, user string, timeout time.Duration) Task {
	if user == "" {
		user = m.app.String()
	}
	dir := m.tree.ReleaseDir(id)
	full := append([]string{store.Join(dir, command[0])}, command[1:]...)
	cfg := m.cfg()
	env := []string{"SLIPWAY_APP=" + m.app.String(), "SLIPWAY_RELEASE=" + id.String(), "SLIPWAY_ENVIRONMENT=" + cfg.Environment.String()}
	for k, v := range cfg.Env {
		env = append(env, k+"="+v)
	}
	return Task{
		Name:        sentence("slipway-%s-%s-%s", m.app, what, newAttemptID()),
		Description: sentence("%s of %s %s", what, m.app, id.Version()),
		Command:     full, User: user, Dir: dir, Env: env, Timeout: timeout,
	}
}

// HookError says that a hook of the release did not succeed.
type HookError struct {
	Hook     string
	Exit     int
	TimedOut bool
	Output   string
}

func (e *HookError) Error() string {
	how := fmt.Sprintf("exited with %d", e.Exit)
	if e.TimedOut {
		how = "ran out of time"
	}
	return fmt.Sprintf("hook %s %s: %s", e.Hook, how, e.Output)
}

// Kind names this error for metrics and the wire.
func (e *HookError) Kind() string { return "hook-failed" }

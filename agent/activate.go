package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	fallback, err := m.rehearse(ctx, w, from)
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
	return 0, m.locked(ctx, func(tx *state.Tx) error {
		if !m.stillWanted(ctx, tx.State, w) {
			return errSuperseded
		}
		if cur, err := m.current(); err != nil || cur != from {
			return errors.Join(err, errSuperseded)
		}
		a := m.newAttempt(w, from, fallback, baseline)
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

// rehearse proves that the release a revert would go back to is there, complete, unchanged and can be put into the unit
// directory. A first install has nothing to go back to.
func (m *Machine) rehearse(ctx context.Context, w *wish, from release.ID) (release.ID, error) {
	if err := m.guardianWorks(ctx); err != nil {
		return release.ID{}, err
	}
	if from.IsZero() {
		return release.ID{}, nil
	}
	st, err := m.State.Read(m.app)
	if err != nil {
		return release.ID{}, err
	}
	target := m.fallbackFor(st, w, from)
	if target.IsZero() {
		return target, fmt.Errorf("no release that runs or ran here may be gone back to from %s", w.id.Version())
	}
	diffs, err := m.verify(ctx, target)
	if err != nil {
		return target, fmt.Errorf("fallback %s: %w", target, err)
	}
	if len(diffs) > 0 {
		return target, &DamagedTreeError{ID: target, Differences: diffs}
	}
	set, err := m.unitsOf(target)
	if err != nil {
		return target, err
	}
	return target, m.Units.Check(set)
}

// verify reads every byte of a release, which may take long.
func (m *Machine) verify(ctx context.Context, id release.ID) ([]release.Difference, error) {
	if rel, _, err := m.tree.Release(id); err == nil {
		defer m.pulse.busy(treePatience(rel), "verifying "+id.String())()
	}
	return m.tree.Verify(ctx, id, false)
}

// bootGuardian is the unit that settles a trial at boot; during a trial every unit of the app requires it.
const bootGuardian = "slipway-boot.service"

// guardianWorks refuses to begin a trial that a reboot would not settle. The trial's units require the guardian, so they would
// not even start, and the release would get the blame.
func (m *Machine) guardianWorks(ctx context.Context) error {
	st, err := m.Manager.Unit(ctx, bootGuardian)
	if err != nil || st.Active != "failed" {
		return nil // who cannot ask cannot arm the guard either
	}
	return &RefusedError{Rule: "boot-guardian", Reason: fmt.Sprintf("the boot guardian %s failed on this host (result %s, exit status %d): find out why with journalctl -u %s, then systemctl restart slipwayd runs it again",
		bootGuardian, st.Result, st.ExecStatus, bootGuardian)}
}

// DamagedTreeError says that a release on disk is not what its manifest says.
type DamagedTreeError struct {
	ID          release.ID
	Differences []release.Difference
}

func (e *DamagedTreeError) Error() string {
	d := e.Differences[0]
	return fmt.Sprintf("release %s is damaged: %d differences from its manifest, first %s (%s); `slipway verify` lists them", e.ID, len(e.Differences), d.Path, d.What)
}

// Kind names this error for metrics and the wire.
func (e *DamagedTreeError) Kind() string { return "tree-damaged" }

// fallbackFor picks what a revert from w goes back to: the signed fallback if it passed its trial here, else what runs, else the
// newest known good; never a revoked one, never one below the floor of w. What was deployed before, which is what signers name
// by default, may be the very release that this host had to go back from: a revert is no second trial of it.
func (m *Machine) fallbackFor(st *state.App, w *wish, from release.ID) release.ID {
	var candidates []release.ID
	if f := w.deployment.Fallback; f != nil && w.deployment.State != release.StateRevert {
		if _, v, err := release.ParseReleasePath(f.Path); err == nil {
			candidates = append(candidates, release.NewID(v, f.SHA256))
		}
	}
	candidates = slices.DeleteFunc(candidates, func(id release.ID) bool { return !proven(st, id) })
	candidates = append(candidates, from)
	for i := len(st.KnownGood) - 1; i >= 0; i-- {
		candidates = append(candidates, st.KnownGood[i].ID)
	}
	for _, id := range candidates {
		if id != w.id && m.mayGoBackTo(st, id, w.rel.RollbackFloor) {
			return id
		}
	}
	return release.ID{}
}

// proven reports whether a release passed its trial on this host and nothing is held against it since.
func proven(st *state.App, id release.ID) bool {
	_, good := st.Good(id)
	return good && !slices.ContainsFunc(st.Quarantine, func(q state.Quarantine) bool { return q.ID == id })
}

func (m *Machine) mayGoBackTo(st *state.App, id release.ID, floor *release.Version) bool {
	_, digest, err := m.tree.Release(id)
	if err != nil || m.revoked(st, digest) {
		return false
	}
	return floor == nil || id.Version().Compare(*floor) >= 0
}

// baseline is the health of what runs now, so that a trial is not blamed for what was already broken.
func (m *Machine) baseline(ctx context.Context, from release.ID) string {
	if from.IsZero() {
		return "none"
	}
	probes, _, err := m.probes(from, nil)
	if err != nil {
		return health.CannotTell.String()
	}
	defer m.pulse.busy(baselinePatience(probes), "the baseline")()
	return health.Baseline(ctx, probes).Answer.String()
}

// servesPatience bounds one look at what runs beside everything else.
const servesPatience = 30 * time.Second

// serves reports whether what runs is not known to be unhealthy; what cannot be told in time is not.
func (m *Machine) serves(ctx context.Context, id release.ID) bool {
	ctx, cancel := context.WithTimeout(ctx, servesPatience)
	defer cancel()
	probes, _, err := m.probes(id, nil)
	return err != nil || health.Baseline(ctx, probes).Answer != health.Unhealthy
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

// discard removes a staged tree that no longer is what its manifest says, so that it is staged anew.
func (m *Machine) discard(ctx context.Context, w *wish, diffs []release.Difference, err error) (time.Duration, error) {
	if len(diffs) > 0 {
		err = errors.Join(&DamagedTreeError{ID: w.id, Differences: diffs}, m.tree.Remove(w.id))
	}
	return m.stageFailed(ctx, w, err)
}

const (
	defaultMinHealthy = 30 * time.Second
	defaultDeadline   = 5 * time.Minute
	longestTrial      = 24 * time.Hour
	defaultBoots      = 2
)

func (m *Machine) newAttempt(w *wish, from, fallback release.ID, baseline string) *state.Attempt {
	minHealthy, length, boots := trialTimes(w.deployment.Health)
	return &state.Attempt{
		ID: newAttemptID(), Sequence: w.deployment.Sequence, RolloutID: w.deployment.RolloutID, Digest: w.digest,
		From: from, To: w.id, Fallback: fallback, Started: m.Clock.Now().UTC(),
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
		{func() error { return m.tree.Swap(a.To) }, fpSwapped},
		{func() error { return m.install(ctx, set, true) }, fpUnits},
		{func() error { return m.restartWithin(ctx, a.Deadline-m.Clock.Boot(), a.To, set) }, fpRestart},
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
		return errors.Join(cause, m.abort(ctx, tx, cause.Error()))
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
func (m *Machine) abort(ctx context.Context, tx *state.Tx, reason string) error {
	a := tx.State.Attempt
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
	o := state.Outcome{At: m.Clock.Now().UTC(), Attempt: a.ID, Result: "aborted", From: a.From, To: a.From, Tried: a.To, Sequence: a.Sequence, Cause: state.CauseInterrupted, Reason: reason}
	tx.State.Record(o)
	tx.State.Attempt = nil
	r, _ := tx.State.RetryOf(a.Digest)
	r.Digest, r.Tries, r.Reason = a.Digest, r.Tries+1, reason
	r.RetryAt = m.Clock.Now().Add(retryDelay(r.Tries))
	tx.State.SetRetry(r)
	if err := tx.Advance(state.Idle); err != nil {
		return err
	}
	_ = m.reportEnd(tx.State, o, sentence("the activation of %s %s was given up before the swap: %s", m.app, a.To.Version(), reason))
	return nil
}

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
		return nil
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
	for _, unit := range set.Names() {
		if units.IsTemplate(unit) {
			continue
		}
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
		return nil
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

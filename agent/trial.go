package agent

import (
	"context"
	"errors"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/health"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/agent/state"
)

var (
	fpVerdict   = durable.NewFailpoint("agent.commit.verdict")
	fpCommitted = durable.NewFailpoint("agent.commit.saved")
	fpDisarmed  = durable.NewFailpoint("agent.commit.disarmed")
	fpUnwired   = durable.NewFailpoint("agent.commit.unwired")
)

// verdict is the end of a watch: of a trial, or of the fallback after a revert.
type verdict struct {
	attempt string
	health.Verdict
}

// watch starts watching the attempt's trial unless it is being watched already. The verdict arrives in Run's loop.
func (m *Machine) watch(ctx context.Context, st *state.App) {
	a := st.Attempt
	ctx, cancel := context.WithCancel(ctx)
	m.mu.Lock()
	busy := m.watching == a.ID
	if !busy {
		m.watching, m.endWatch = a.ID, cancel
	}
	m.mu.Unlock()
	if busy {
		cancel()
		return
	}
	go func() {
		defer cancel()
		select {
		case m.verdicts <- verdict{attempt: a.ID, Verdict: m.observe(ctx, a)}:
		case <-ctx.Done():
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.watching == a.ID {
			m.watching = "" // only now: a trial whose verdict is on its way is not watched a second time
		}
	}()
}

// stopWatching ends the watch of a trial that was decided otherwise.
func (m *Machine) stopWatching() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.endWatch != nil {
		m.endWatch()
	}
}

// observe watches one trial to its verdict. What it learns that must survive a restart (healthy, since when) is saved as it
// is learned.
func (m *Machine) observe(ctx context.Context, a *state.Attempt) health.Verdict {
	probes, _, err := m.probes(a.To, a.Timing)
	if err != nil {
		return health.Verdict{Answer: health.CannotTell, Reason: "cannot set up the checks: " + err.Error()}
	}
	remaining := a.Deadline - m.Clock.Boot()
	w := health.Watch{
		Probes: probes, MinHealthy: a.MinHealthy, Deadline: remaining, Length: a.Length,
		OnChange: func(s health.Snapshot) { m.learned(ctx, a, s) },
	}
	if a.HealthySince > 0 {
		w.HealthyFor = m.Clock.Boot() - a.HealthySince
	}
	return w.Run(ctx)
}

func (m *Machine) learned(ctx context.Context, a *state.Attempt, s health.Snapshot) {
	m.show(func(v *View) { v.Checks = s.Checks })
	since := time.Duration(0)
	if s.Healthy {
		since = m.Clock.Boot() - s.HealthyFor
	}
	err := m.locked(ctx, func(tx *state.Tx) error {
		now := tx.State.Attempt
		if tx.State.Phase != state.Trial || now == nil || now.ID != a.ID {
			return errSuperseded
		}
		if (now.HealthySince > 0) == s.Healthy {
			return nil
		}
		now.HealthySince, now.WasHealthy = since, now.WasHealthy || s.Healthy
		return tx.Save()
	})
	if err != nil && !errors.Is(err, errSuperseded) && ctx.Err() == nil {
		m.Log.Warn("the trial's progress could not be saved", "app", m.app, "error", err)
	}
}

// overrulePatience bounds one look at newer documents during a trial.
const overrulePatience = time.Minute

// overrule looks, beside the watch, whether the signers or the emergency key take the release in trial back, and ends the
// trial early if so. It has a goroutine of its own: the network must not keep a verdict or a command waiting.
func (m *Machine) overrule(ctx context.Context, st *state.App) {
	if !m.overruling.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer m.overruling.Store(false)
		bounded, cancel := context.WithTimeout(ctx, overrulePatience)
		defer cancel()
		if w, err := m.resolve(bounded, st); err == nil {
			m.takeBack(ctx, st, m.decide(bounded, st, w))
		}
	}()
}

// takeBack reverts a trial that signed documents no longer want.
func (m *Machine) takeBack(ctx context.Context, st *state.App, d rollout.Decision) {
	cause, back := takesBack(d)
	if !back {
		return
	}
	err := m.locked(ctx, func(tx *state.Tx) error {
		a := tx.State.Attempt
		if tx.State.Phase != state.Trial || a == nil || a.ID != st.Attempt.ID {
			return nil
		}
		return m.beginRevert(tx, a.Fallback, cause, d.Because)
	})
	if err != nil {
		m.fail("cannot end the trial of "+m.app.String()+" early", err)
	}
	m.Wake()
}

// pause keeps what a trial has shown so far when the daemon is stopped in good order; what happens while nobody watches
// counts for nothing.
func (m *Machine) pause() {
	ctx, cancel := context.WithTimeout(context.Background(), commandPatience)
	defer cancel()
	err := m.locked(ctx, func(tx *state.Tx) error {
		a := tx.State.Attempt
		if tx.Damaged != nil || tx.State.Phase != state.Trial || a == nil || a.HealthySince == 0 {
			return nil
		}
		a.HealthyFor, a.HealthySince = m.Clock.Boot()-a.HealthySince, 0
		return tx.Save()
	})
	if err != nil {
		m.Log.Warn("the trial's progress could not be saved", "app", m.app, "error", err)
	}
}

// finish turns a trial's verdict into commit or revert, if the trial is still the one that was watched.
func (m *Machine) finish(ctx context.Context, v verdict) {
	ctx = context.WithoutCancel(ctx)
	err := m.locked(ctx, func(tx *state.Tx) error {
		a := tx.State.Attempt
		if tx.State.Phase != state.Trial || a == nil || a.ID != v.attempt {
			return nil
		}
		cur, err := m.current()
		if err != nil {
			return err
		}
		if err := fpVerdict.Hit(); err != nil {
			return err
		}
		if cur == a.To && v.Answer == health.Healthy {
			return m.commit(tx, a)
		}
		cause := causeOf(v.Verdict, a)
		if cur != a.To {
			cause = state.CauseInterrupted
		}
		return m.beginRevert(tx, a.Fallback, cause, v.Reason)
	})
	if err != nil {
		m.fail("cannot end the trial of "+m.app.String(), err)
	}
}

func causeOf(v health.Verdict, a *state.Attempt) state.Cause {
	switch {
	case a.Baseline == health.Unhealthy.String():
		return state.CauseFailedBefore
	case v.Answer == health.CannotTell:
		return state.CauseCannotTell
	}
	return state.CauseUnhealthy
}

// commit makes the end of the trial durable; only then may the guard be disarmed. A release that followed one that was
// already failing is kept, but not recorded as known good by itself.
func (m *Machine) commit(tx *state.Tx, a *state.Attempt) error {
	o := state.Outcome{At: m.Clock.Now().UTC(), Attempt: a.ID, Result: "committed", From: a.From, To: a.To, Tried: a.To, Sequence: a.Sequence, Fence: a.Fence}
	message := sentence("%s %s is committed: healthy for %s", m.app, a.To.Version(), a.MinHealthy)
	if a.Baseline == health.Unhealthy.String() {
		o.Result, o.Cause = "failed-before", state.CauseFailedBefore
		o.Reason = sentence("%s was already failing before the swap", a.From.Version())
		message = sentence("%s %s is healthy and stays, but %s: it is not recorded as known good", m.app, a.To.Version(), o.Reason)
	} else {
		tx.State.MarkGood(state.Good{ID: a.To, Digest: a.Digest, Since: o.At})
	}
	tx.State.ClearQuarantine(a.Digest)
	tx.State.ClearRetry(a.Digest)
	tx.State.Record(o)
	if err := tx.Advance(state.Committed); err != nil {
		return err
	}
	_ = m.reportEnd(tx.State, o, message)
	return fpCommitted.Hit()
}

// settleCommit clears away what the trial needed: guard, trial drop-ins, marker. Each step may be repeated.
func (m *Machine) settleCommit(ctx context.Context, a *state.Attempt) {
	ctx = context.WithoutCancel(ctx)
	if err := m.locked(ctx, func(tx *state.Tx) error { return m.unwire(ctx, tx) }); err != nil {
		m.fail("cannot clear away the trial of "+m.app.String(), err)
		return
	}
	err := m.locked(ctx, func(tx *state.Tx) error {
		if tx.State.Phase != state.Committed {
			return nil
		}
		tx.State.Attempt = nil
		return tx.Advance(state.Idle)
	})
	if err != nil {
		m.fail("cannot end the trial of "+m.app.String(), err)
		return
	}
	if a != nil {
		m.hookAfter(ctx, a.To, "post-commit")
	}
}

func (m *Machine) unwire(ctx context.Context, tx *state.Tx) error {
	a := tx.State.Attempt
	if tx.State.Phase != state.Committed || a == nil {
		return nil
	}
	if err := m.Guards.Disarm(ctx, m.app, a.ID); err != nil {
		return err
	}
	if err := fpDisarmed.Hit(); err != nil {
		return err
	}
	if err := m.endTrialWiring(ctx); err != nil {
		return err
	}
	if err := fpUnwired.Hit(); err != nil {
		return err
	}
	return tx.Unmark()
}

func (m *Machine) endTrialWiring(ctx context.Context) error {
	changed, err := m.Units.UnwireTrial(m.app)
	if changed {
		m.loaded.Store(false)
	}
	if err != nil {
		return err
	}
	return m.reload(ctx)
}

// hookAfter runs a hook whose failure is told and changes nothing.
func (m *Machine) hookAfter(ctx context.Context, id release.ID, what string) {
	rel, _, err := m.tree.Release(id)
	if err != nil || rel.Hooks == nil {
		return
	}
	c := rel.Hooks.PostCommit
	if what == "post-revert" {
		c = rel.Hooks.PostRevert
	}
	if err := m.hook(ctx, rel, id, what, c); err != nil {
		m.damage(sentence("%s of %s %s: %v", what, m.app, id.Version(), err))
	}
}

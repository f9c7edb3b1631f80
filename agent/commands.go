package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/slipway-deploy/slipway/agent/audit"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/agent/state"
)

// Command is what an operator asks and who asks. Expect is the revision they saw; a command that would do something and saw
// another one does nothing.
type Command struct {
	Expect int64
	By     string
	Reason string
}

// StaleError says that the state moved since the caller looked.
type StaleError struct{ Expected, Is int64 }

func (e *StaleError) Error() string {
	return fmt.Sprintf("cannot do that: the state is at revision %d, the command was made for revision %d; look again and repeat it if it still makes sense", e.Is, e.Expected)
}

// Kind names this error for metrics and the wire.
func (e *StaleError) Kind() string { return "stale" }

// BusyError says that something under way must end first.
type BusyError struct{ Phase state.Phase }

func (e *BusyError) Error() string { return fmt.Sprintf("cannot do that while the app is %s", e.Phase) }

// Kind names this error for metrics and the wire.
func (e *BusyError) Kind() string { return "busy" }

const commandPatience = 10 * time.Second

// command makes a command's effect on the saved state durable and wakes the machine. The new revision is returned.
func (m *Machine) command(ctx context.Context, what string, c Command, compare bool, f func(*state.Tx) error) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, commandPatience)
	defer cancel()
	var revision int64
	var phase state.Phase
	err := m.locked(ctx, func(tx *state.Tx) error {
		if tx.Damaged != nil {
			return m.rebuildFirst(tx)
		}
		if compare && tx.State.Revision != c.Expect {
			return &StaleError{Expected: c.Expect, Is: tx.State.Revision}
		}
		if err := f(tx); err != nil {
			return err
		}
		revision, phase = tx.State.Revision, tx.State.Phase
		return nil
	})
	if err != nil {
		return 0, err
	}
	m.reportCommand(what, c)
	switch phase {
	case state.Idle, state.Staging, state.Waiting, state.Stuck:
		m.Wake() // a hold costs no download: the step sees it before it activates anything
	default:
		m.interruptStep()
	}
	return revision, nil
}

func (m *Machine) reportCommand(what string, c Command) {
	_ = m.report(audit.Event{Type: "command", Cause: what, Message: sentence("%s of %s by %s: %s", what, m.app, c.By, orNothing(c.Reason)), Fields: map[string]string{"by": c.By}})
}

// rebuildFirst settles a damaged state file before any command may write over it: the marker of a trial counts only while the
// damage is seen.
func (m *Machine) rebuildFirst(tx *state.Tx) error {
	if err := m.rebuild(tx); err != nil {
		return err
	}
	m.Wake()
	return &BusyError{Phase: "recovering from a damaged state file"}
}

// Revert goes back to the fallback and quarantines what runs. It needs nothing but the disk, and waits for no start that hangs.
func (m *Machine) Revert(ctx context.Context, c Command) (int64, error) {
	if revision, done, err := m.revertEntry(ctx, c); done {
		return revision, err
	}
	return m.command(ctx, "revert", c, true, func(tx *state.Tx) error {
		switch tx.State.Phase {
		case state.Activating, state.Committed, state.Reverting, state.Removing:
			return &BusyError{Phase: tx.State.Phase}
		}
		return m.startRevert(tx, retreat{cause: state.CauseOperator, reason: byOperator(c)})
	})
}

// Hold stops new activations until a time, or until resume if it is zero. Stopping needs no revision.
func (m *Machine) Hold(ctx context.Context, c Command, until time.Time) (int64, error) {
	return m.command(ctx, "hold", c, false, func(tx *state.Tx) error {
		tx.State.Hold = &state.Hold{Until: until, Reason: c.Reason, By: c.By, At: m.Clock.Now().UTC()}
		return tx.Save()
	})
}

// Resume ends a hold.
func (m *Machine) Resume(ctx context.Context, c Command) (int64, error) {
	return m.command(ctx, "resume", c, true, func(tx *state.Tx) error {
		if tx.State.Hold == nil {
			return &RefusedError{Rule: "refused", Reason: sentence("%s is not held", m.app)}
		}
		tx.State.Hold = nil
		return tx.Save()
	})
}

// Retry gives a quarantined digest, or all of them if it is zero, a new chance. A release that runs without being known good
// gets its trial anew.
func (m *Machine) Retry(ctx context.Context, c Command, digest release.Digest) (int64, error) {
	return m.command(ctx, "retry", c, true, func(tx *state.Tx) error {
		if tx.State.Phase == state.Stuck {
			return tx.Advance(state.Idle)
		}
		cleared := false
		for _, q := range append([]state.Quarantine(nil), tx.State.Quarantine...) {
			if (digest.IsZero() || q.Digest == digest) && q.Cause != state.CauseRevoked {
				cleared = tx.State.ClearQuarantine(q.Digest) || cleared
			}
		}
		if digest.IsZero() && len(tx.State.Retries) > 0 {
			tx.State.Retries, cleared = nil, true
		}
		if !cleared {
			return m.trialAnew(tx)
		}
		return tx.Save()
	})
}

// trialAnew starts the trial of what already runs but never passed one on its own merit. Nothing is swapped or restarted; a
// trial that fails goes back to the newest earlier release, and without one it is not begun.
func (m *Machine) trialAnew(tx *state.Tx) error {
	cur, err := m.current()
	if err != nil {
		return err
	}
	_, good := tx.State.Good(cur)
	if cur.IsZero() || good || tx.State.Phase != state.Idle {
		return &RefusedError{Rule: "refused", Reason: sentence("nothing of %s is quarantined", m.app)}
	}
	fallback := m.earlier(tx.State, cur)
	if fallback.IsZero() {
		return &RefusedError{Rule: "no-fallback", Reason: sentence("%s %s has no intact earlier release to go back to, so its trial cannot begin anew", m.app, cur.Version())}
	}
	_, digest, err := m.tree.Release(cur)
	if err != nil {
		return err
	}
	minHealthy, length, boots := trialTimes(nil)
	a := &state.Attempt{
		ID: newAttemptID(), Sequence: tx.State.Sequence, Digest: digest, From: cur, To: cur, Fallback: fallback, Started: m.Clock.Now().UTC(),
		BootID: m.Clock.BootID(), Deadline: m.Clock.Boot() + length, Length: length, MaxBoots: boots, MinHealthy: minHealthy, Baseline: "none",
	}
	tx.State.Attempt = a
	if err := tx.Advance(state.Activating); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandPatience)
	defer cancel()
	if err := m.enterAnew(ctx, tx, a); err != nil {
		if tx.State.Phase != state.Activating {
			return err
		}
		// Nothing was touched: what runs must not be reverted for a trial that could not begin.
		err = errors.Join(err, m.abort(context.WithoutCancel(ctx), tx, err))
		tx.State.ClearRetry(a.Digest) // it is staged, and the operator says when it is tried again
		return errors.Join(err, tx.Save())
	}
	_ = m.reportPhase(tx.State, sentence("the trial of %s %s begins anew: reverts unless healthy for %s within %s", m.app, a.To.Version(), a.MinHealthy, a.Length))
	return nil
}

func (m *Machine) enterAnew(ctx context.Context, tx *state.Tx, a *state.Attempt) error {
	if err := tx.Mark(state.Marker{Attempt: a.ID, From: a.Fallback, To: a.To, Sequence: a.Sequence}); err != nil {
		return err
	}
	if err := m.setFallback(a.Fallback); err != nil {
		return err
	}
	if err := m.Guards.Arm(ctx, ticket(m.app, a), a.Deadline+guardGrace); err != nil {
		return err
	}
	return tx.Advance(state.Trial)
}

// Remove takes the app off this host. It is not managed again before it has left the configuration.
func (m *Machine) Remove(ctx context.Context, c Command) (int64, error) {
	return m.command(ctx, "remove", c, true, func(tx *state.Tx) error {
		switch tx.State.Phase {
		case state.Idle, state.Waiting, state.Staging, state.Stuck:
		default:
			return &BusyError{Phase: tx.State.Phase}
		}
		tx.State.Removed = true
		return m.beginRemove(tx, sentence("an operator (%s) removed it", c.By))
	})
}

// Nudge makes the machine look now without waiting out a back-off. Every rule still holds.
func (m *Machine) Nudge() {
	m.mu.Lock()
	m.nudged = true
	m.mu.Unlock()
	m.Wake()
}

// Plan says what a look would do now, without doing it.
func (m *Machine) Plan(ctx context.Context) (act bool, plan []string, err error) {
	st, err := m.State.Read(m.app)
	if err != nil {
		return false, nil, err
	}
	w, err := m.read(ctx, st)
	if err != nil {
		return false, []string{err.Error()}, nil
	}
	if w.meta, err = m.Source.Known(ctx); err != nil {
		return false, nil, err
	}
	cur, err := m.current()
	if err != nil {
		return false, nil, err
	}
	if !w.id.IsZero() && cur == w.id && !st.Keeps(cur) {
		return false, []string{sentence("nothing: %s %s runs, as signed", m.app, cur.Version())}, nil
	}
	d := m.decide(ctx, st, w)
	if unfit := m.cfg().Unfit; unfit != "" && d.Verb != rollout.VerbRevert && d.Verb != rollout.VerbStop {
		return false, []string{"wait: " + unfit}, nil
	}
	if !d.Act {
		return false, []string{"wait: " + d.Because}, nil
	}
	if d.Verb != rollout.VerbActivate {
		return true, []string{string(d.Verb) + ": " + d.Because}, nil
	}
	return true, m.planSteps(w, cur), nil
}

func (m *Machine) planSteps(w *wish, cur release.ID) []string {
	minHealthy, length, _ := trialTimes(w.deployment.Health)
	steps := []string{}
	if _, _, err := m.tree.Release(w.id); err != nil {
		steps = append(steps, sentence("stage %s %s", m.app, w.id.Version()))
	}
	for _, g := range m.Gates {
		steps = append(steps, "gate: "+g.Name())
	}
	return append(steps,
		sentence("activate %s (now %s), restart mode %s", w.id, orNothing(name(cur)), w.rel.Restart),
		sentence("trial: healthy for %s within %s, else revert", minHealthy, length))
}

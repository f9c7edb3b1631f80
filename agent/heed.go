package agent

import (
	"context"
	"errors"

	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/agent/state"
	"github.com/slipway-deploy/slipway/agent/units"
)

// heed looks, while a step brings w nearer, at every wake whether something else is signed by now, and then ends the step.
// Fetching, gates, hooks and a start that hangs may take hours: a signed revert or a revocation waits for none of them. The
// returned function ends the looking.
func (m *Machine) heed(ctx context.Context, w *wish) (done func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.heedWakes(ctx, w)
	}()
	return func() { cancel(); <-ended }
}

func (m *Machine) heedWakes(ctx context.Context, w *wish) {
	for woken := false; ; woken = true {
		select {
		case <-m.wake:
		case <-ctx.Done():
			if woken {
				m.Wake() // what it was for may be for the loop
			}
			return
		}
		d, overtaken := m.overtaken(ctx, w)
		if !overtaken {
			continue
		}
		if cause, back := takesBack(d); back {
			m.endEntry(&takenBackError{cause, d.Because})
		}
		m.interruptStep()
		return
	}
}

// overtaken reports whether going on towards w is pointless. What cannot be read now changes nothing.
func (m *Machine) overtaken(ctx context.Context, w *wish) (d rollout.Decision, pointless bool) {
	ctx, cancel := context.WithTimeout(ctx, overrulePatience)
	defer cancel()
	st, err := m.State.Read(m.app)
	if err != nil || m.cfg().Disabled {
		return d, true
	}
	now, err := m.read(ctx, st)
	if err != nil {
		return d, false
	}
	if now.meta, err = m.Source.Known(ctx); err != nil {
		return d, false
	}
	d = m.decide(ctx, st, now)
	return d, now.digest != w.digest || permanent(d) || d.Act && d.Verb != rollout.VerbActivate
}

// takesBack reports whether signed documents take back what was activated, and as what that counts. A policy that would stop
// a running release takes back one in trial. A coordinator's order does not: the update under its slot ends first.
func takesBack(d rollout.Decision) (state.Cause, bool) {
	if !d.Act || d.Verb != rollout.VerbRevert && d.Verb != rollout.VerbStop || d.Rule == rollout.RuleOrder {
		return "", false
	}
	if d.Rule == rollout.RuleRevoked {
		return state.CauseRevoked, true
	}
	return state.CauseSigned, true
}

// entry is an activation under way, which holds the app's lock until its release has started. A start may hang for as long as
// the trial may take; who takes the release back meanwhile cannot have the lock, and ends the start instead.
type entry struct {
	back  *takenBackError
	end   context.CancelCauseFunc // of the start; nil before it
	ended chan struct{}           // closed when what became of the activation is saved
}

// takenBackError ends a start because an operator or signed documents want the release gone.
type takenBackError struct {
	cause  state.Cause
	reason string
}

func (e *takenBackError) Error() string { return e.reason }

func (m *Machine) beginEntry() (done func()) {
	e := &entry{ended: make(chan struct{})}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entry = e
	return func() {
		m.mu.Lock()
		m.entry = nil
		m.mu.Unlock()
		close(e.ended)
	}
}

// endEntry ends the activation under way, if there is one, in a revert. What became of it is saved when ended is closed.
func (m *Machine) endEntry(back *takenBackError) (ended <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entry
	if e == nil {
		return nil
	}
	e.back = back
	if e.end != nil {
		e.end(back)
	}
	return e.ended
}

// startEntry is the restart of an activation. It ends early, with a takenBackError, when the release is taken back.
func (m *Machine) startEntry(ctx context.Context, a *state.Attempt, set *units.Set) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m.mu.Lock()
	if e := m.entry; e != nil {
		e.end = cancel
		if e.back != nil {
			cancel(e.back)
		}
	}
	m.mu.Unlock()
	err := m.restartWithin(ctx, a.Deadline-m.Clock.Boot(), a.To, set)
	if back := new(takenBackError); err != nil && errors.As(context.Cause(ctx), &back) {
		return back
	}
	return err
}

// revertEntry is Revert for an activation under way. done is false if there is none that the command was made for.
func (m *Machine) revertEntry(ctx context.Context, c Command) (revision int64, done bool, err error) {
	st, err := m.State.Read(m.app)
	if err != nil || st.Phase != state.Activating || st.Revision != c.Expect {
		return 0, false, nil
	}
	ended := m.endEntry(&takenBackError{state.CauseOperator, byOperator(c)})
	if ended == nil {
		return 0, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, commandPatience)
	defer cancel()
	select {
	case <-ended:
	case <-ctx.Done():
		return 0, true, &BusyError{Phase: state.Activating}
	}
	now, err := m.State.Read(m.app)
	if err != nil {
		return 0, true, err
	}
	if now.Phase == state.Trial { // it had started by then
		return 0, true, &StaleError{Expected: c.Expect, Is: now.Revision}
	}
	m.reportCommand("revert", c)
	return now.Revision, true, nil
}

func byOperator(c Command) string {
	return sentence("an operator (%s) reverted it: %s", c.By, orNothing(c.Reason))
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
	"github.com/slipway-deploy/slipway/agent/units"
)

// recover brings an app from wherever an earlier run, the guard or a reboot left it back into the machine.
func (m *Machine) recover(ctx context.Context) {
	st, err := m.State.Read(m.app)
	if err != nil {
		m.recoverDamaged(ctx)
		return
	}
	switch st.Phase {
	case state.Activating, state.Trial:
		err = m.locked(ctx, func(tx *state.Tx) error { return m.recoverAttempt(ctx, tx) })
	case state.Staging, state.Waiting:
		err = m.phaseIdle(ctx)
	}
	if err != nil && !errors.Is(err, errSuperseded) {
		m.fail("cannot recover "+m.app.String(), err)
	}
}

// recoverAttempt handles the cases of an attempt that somebody else began: before the swap nothing happened; after it but
// before the trial we do not know how far it came, so it goes back; a trial goes on within its deadline.
func (m *Machine) recoverAttempt(ctx context.Context, tx *state.Tx) error {
	a := tx.State.Attempt
	cur, err := m.current()
	if err != nil {
		return err
	}
	switch {
	case tx.State.Phase == state.Activating && cur != a.To:
		return m.abort(ctx, tx, errors.New("slipwayd was interrupted before the swap"))
	case tx.State.Phase == state.Activating:
		return m.beginRevert(tx, a.Fallback, state.CauseInterrupted, "slipwayd was interrupted during the activation")
	case tx.State.Phase != state.Trial:
		return nil
	case cur != a.To:
		return m.beginRevert(tx, a.Fallback, state.CauseInterrupted, "`current` no longer names the release in trial")
	case a.BootID != m.Clock.BootID():
		return m.resumeAfterBoot(ctx, tx)
	case m.Clock.Boot() >= a.Deadline:
		return m.beginRevert(tx, a.Fallback, state.CauseInterrupted, "slipwayd was not running when the trial's deadline passed")
	}
	a.HealthySince = 0
	if a.HealthyFor > 0 {
		a.HealthySince, a.HealthyFor = m.Clock.Boot()-a.HealthyFor, 0
	}
	if err := tx.Save(); err != nil {
		return err
	}
	return m.Guards.Arm(ctx, ticket(m.app, a), a.Deadline+guardGrace)
}

// resumeAfterBoot decides what a reboot does to a trial: one that was never healthy is reverted, a healthy one gets another
// boot and a fresh, clamped deadline, until its boots are used up.
func (m *Machine) resumeAfterBoot(ctx context.Context, tx *state.Tx) error {
	a := tx.State.Attempt
	a.Boots++
	switch {
	case !a.WasHealthy:
		return m.beginRevert(tx, a.Fallback, state.CauseInterrupted, "the host rebooted before the release was healthy once")
	case a.Boots >= a.MaxBoots:
		return m.beginRevert(tx, a.Fallback, state.CauseInterrupted, sentence("the host rebooted %d times during the trial", a.Boots))
	}
	a.BootID, a.HealthySince, a.HealthyFor = m.Clock.BootID(), 0, 0
	a.Deadline = m.Clock.Boot() + min(a.Length, longestTrial)
	if err := tx.Save(); err != nil {
		return err
	}
	_ = m.reportPhase(tx.State, sentence("the trial of %s %s goes on after a reboot, within %s", m.app, a.To.Version(), a.Length))
	return m.Guards.Arm(ctx, ticket(m.app, a), a.Deadline+guardGrace)
}

// recoverDamaged handles a state file that cannot be read: with a marker an untried release may be current, so it goes back;
// without one what runs is kept. Either way a new state file starts and the damaged one is set aside.
func (m *Machine) recoverDamaged(ctx context.Context) time.Duration {
	err := m.locked(ctx, func(tx *state.Tx) error {
		if tx.Damaged == nil {
			return nil
		}
		return m.rebuild(tx)
	})
	if err != nil {
		m.fail("cannot recover the damaged state of "+m.app.String(), err)
		return retryStep
	}
	return 0
}

func (m *Machine) rebuild(tx *state.Tx) error {
	m.damage(sentence("THE STATE FILE OF %s IS DAMAGED and is set aside: %v", m.app, tx.Damaged))
	cur, err := m.current()
	if err != nil {
		return err
	}
	if !cur.IsZero() {
		if _, digest, err := m.tree.Release(cur); err == nil {
			tx.State.KnownGood = []state.Good{{ID: cur, Digest: digest, Since: m.Clock.Now().UTC()}}
		}
	}
	mark := m.State.Marker(m.app)
	if mark == nil || cur.IsZero() || (!mark.To.IsZero() && mark.To != cur) {
		return tx.Save()
	}
	tx.State.KnownGood, tx.State.Sequence = nil, mark.Sequence
	target := mark.From
	if link, err := m.tree.Fallback(); err == nil {
		target = link
	}
	a := &state.Attempt{
		ID: mark.Attempt, Sequence: mark.Sequence, From: target, To: cur, Fallback: target, Started: m.Clock.Now().UTC(), BootID: m.Clock.BootID(),
		Deadline: m.Clock.Boot() + fallbackDeadline, Length: fallbackDeadline, MaxBoots: defaultBoots, Baseline: "none",
	}
	if a.ID == "" {
		a.ID = newAttemptID()
	}
	if _, digest, err := m.tree.Release(cur); err == nil {
		a.Digest = digest
	}
	tx.State.Attempt = a
	return m.beginRevert(tx, target, state.CauseInterrupted, "the state file was damaged during a trial")
}

// unitsOf returns the units of a release as they were rendered when it was activated, or renders them if that record is
// gone.
func (m *Machine) unitsOf(id release.ID) (*units.Set, error) {
	if data, err := m.State.Units(m.app, id); err == nil {
		if set, err := units.Decode(data); err == nil && set.ID == id && set.App == m.app {
			return set, nil
		}
	}
	rel, _, err := m.tree.Release(id)
	if err != nil {
		return nil, err
	}
	return m.render(rel, id)
}

// reconcile makes the unit directory agree with what `current` names and with the host's configuration. A change of
// variables or credentials is written at once and counts from the unit's next start.
func (m *Machine) reconcile(ctx context.Context, cur release.ID) {
	if st, err := m.State.Read(m.app); err != nil || st.Keeps(cur) {
		return // a release kept for inspection is left as it is
	}
	rel, _, err := m.tree.Release(cur)
	if err != nil {
		m.fail("cannot read the current release of "+m.app.String(), err)
		return
	}
	set, err := m.render(rel, cur)
	if err != nil {
		m.fail("cannot render the units of "+m.app.String(), err)
		return
	}
	if diffs := m.Units.Differences(set); len(diffs) > 0 {
		err = m.locked(ctx, func(tx *state.Tx) error {
			now, err := m.current()
			if p := tx.State.Phase; err != nil || now != cur || p != state.Idle && p != state.Waiting && p != state.Stuck {
				return err
			}
			m.damage(sentence("%d unit files of %s differ from what was activated or configured, first %s; they are written anew", len(diffs), m.app, diffs[0]))
			return errors.Join(tx.SaveUnits(cur, set.Encode()), m.install(ctx, set, false))
		})
	}
	if err != nil {
		m.fail("cannot reconcile the units of "+m.app.String(), err)
	}
}

// Guard is the work of the guard's process: revert the attempt its ticket names, unless that attempt has ended. kill ends a
// daemon that holds the app's lock and does not let go.
func (m *Machine) Guard(ctx context.Context, t Ticket, kill func(context.Context) error) error {
	tx, err := m.lockOrKill(ctx, kill)
	if err != nil {
		return err
	}
	err = m.guardDecides(ctx, tx, t)
	tx.Unlock()
	if errors.Is(err, errSuperseded) {
		return nil
	}
	if err != nil {
		return err
	}
	return m.goBack(context.WithoutCancel(ctx))
}

const guardPatience = 10 * time.Second

func (m *Machine) lockOrKill(ctx context.Context, kill func(context.Context) error) (*state.Tx, error) {
	patient, cancel := context.WithTimeout(ctx, guardPatience)
	defer cancel()
	tx, err := m.State.Lock(patient, m.app)
	if err == nil || ctx.Err() != nil {
		return tx, err
	}
	m.damage(sentence("the guard of %s did not get the lock in %s and ends slipwayd: %v", m.app, guardPatience, err))
	if err := kill(ctx); err != nil {
		return nil, fmt.Errorf("cannot end the hung slipwayd: %w", err)
	}
	return m.State.Lock(ctx, m.app)
}

// guardDecides leaves the app in Reverting, or answers errSuperseded if there is nothing to do.
func (m *Machine) guardDecides(ctx context.Context, tx *state.Tx, t Ticket) error {
	if tx.Damaged != nil {
		mark := m.State.Marker(m.app)
		if mark == nil || (mark.Attempt != "" && mark.Attempt != t.Attempt) {
			return errSuperseded
		}
		return m.rebuild(tx)
	}
	a := tx.State.Attempt
	if a == nil || a.ID != t.Attempt {
		return errSuperseded
	}
	cur, err := m.current()
	if err != nil {
		return err
	}
	switch {
	case tx.State.Phase == state.Reverting && !a.Restarted:
		return nil
	case tx.State.Phase == state.Activating && cur != a.To:
		return errors.Join(m.abort(ctx, tx, errors.New("the guard found the activation unfinished")), errSuperseded)
	case tx.State.Phase != state.Trial && tx.State.Phase != state.Activating:
		return errSuperseded
	case a.BootID == m.Clock.BootID() && m.Clock.Boot() < a.Deadline:
		return errSuperseded
	}
	return m.beginRevert(tx, a.Fallback, state.CauseGuard, "the deadline passed and slipwayd did not end the trial")
}

// Boot is the boot guardian's work for one app, before any unit of it may start: settle a trial that the reboot interrupted,
// finish a revert, make unit files agree with `current`, and queue what the boot transaction lacks. It waits for no job.
func (m *Machine) Boot(ctx context.Context) error {
	m.loaded.Store(true) // the manager has just read everything
	return m.locked(ctx, func(tx *state.Tx) error {
		if err := m.bootSettle(ctx, tx); err != nil {
			return err
		}
		if tx.State.Phase == state.Reverting && !tx.State.Attempt.Restarted {
			set, err := m.restoreLinks(ctx, tx, tx.State.Attempt)
			if err != nil {
				return err
			}
			tx.State.Attempt.Restarted = true
			if err := errors.Join(tx.Save(), tx.Unmark()); err != nil {
				return err
			}
			return m.queue(ctx, set)
		}
		return m.bootReconcile(ctx, tx)
	})
}

func (m *Machine) bootSettle(ctx context.Context, tx *state.Tx) error {
	if tx.Damaged != nil {
		return m.rebuild(tx)
	}
	if p := tx.State.Phase; p != state.Trial && p != state.Activating {
		return nil
	}
	cur, err := m.current()
	if err != nil {
		return err
	}
	a := tx.State.Attempt
	if tx.State.Phase == state.Activating && cur == a.To {
		return m.beginRevert(tx, a.Fallback, state.CauseInterrupted, "the host went down during the activation")
	}
	if tx.State.Phase == state.Trial && cur == a.To {
		if diffs, err := m.tree.Verify(ctx, cur, true); err != nil || len(diffs) > 0 {
			return m.beginRevert(tx, a.Fallback, state.CauseInterrupted, "the release in trial is damaged on disk")
		}
	}
	return m.recoverAttempt(ctx, tx)
}

// bootReconcile repairs the wiring of an app at rest. A damaged tree is told and kept: outside a trial the guardian starts
// what was running.
func (m *Machine) bootReconcile(ctx context.Context, tx *state.Tx) error {
	cur, err := m.current()
	if err != nil || cur.IsZero() {
		return err
	}
	if diffs, err := m.tree.Verify(ctx, cur, true); err != nil || len(diffs) > 0 {
		m.damage(sentence("%s %s differs from its manifest in %d places at boot (%v)", m.app, cur.Version(), len(diffs), err))
	}
	set, err := m.unitsOf(cur)
	if err != nil {
		return err
	}
	if tx.State.Keeps(cur) {
		set = set.Inert()
	}
	if err := m.install(ctx, set, tx.State.Phase == state.Trial); err != nil {
		return err
	}
	return m.queue(ctx, set)
}

// queue starts the app's units without waiting; one that the boot transaction already starts is unaffected.
func (m *Machine) queue(ctx context.Context, set *units.Set) error {
	if set == nil {
		return nil
	}
	var errs []error
	for _, unit := range set.Start {
		errs = append(errs, m.Manager.StartNoBlock(ctx, unit))
	}
	return errors.Join(errs...)
}

// Settle ends what is in flight before Slipway itself goes away: a trial is reverted, a commit or revert finished.
func (m *Machine) Settle(ctx context.Context) error {
	err := m.locked(ctx, func(tx *state.Tx) error {
		if tx.Damaged != nil {
			return m.rebuild(tx)
		}
		switch tx.State.Phase {
		case state.Trial:
			return m.beginRevert(tx, tx.State.Attempt.Fallback, state.CauseInterrupted, "Slipway is being removed from this host during the trial")
		case state.Activating:
			return m.recoverAttempt(ctx, tx)
		}
		return nil
	})
	if err != nil {
		return err
	}
	st, err := m.State.Read(m.app)
	if err != nil {
		return err
	}
	switch st.Phase {
	case state.Committed:
		m.settleCommit(ctx, st.Attempt)
	case state.Reverting:
		m.revert(ctx)
	}
	if st, err = m.State.Read(m.app); err == nil && st.Attempt != nil {
		err = fmt.Errorf("cannot settle %s: it is still %s", m.app, st.Phase)
	}
	return err
}

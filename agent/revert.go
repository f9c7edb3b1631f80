package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/health"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/agent/state"
	"github.com/slipway-deploy/slipway/agent/units"
)

var (
	fpReverting  = durable.NewFailpoint("agent.revert.saved")
	fpBack       = durable.NewFailpoint("agent.revert.swapped")
	fpBackUnits  = durable.NewFailpoint("agent.revert.units-written")
	fpBackUp     = durable.NewFailpoint("agent.revert.restarted")
	fpKept       = durable.NewFailpoint("agent.revert.kept")
	fpRevertDone = durable.NewFailpoint("agent.revert.done")
)

// beginRevert makes the decision to go back durable, with the quarantine in the same write: a crash right after it ends in
// the same place. The caller holds the lock; revert does the rest.
func (m *Machine) beginRevert(tx *state.Tx, target release.ID, cause state.Cause, reason string) error {
	a := tx.State.Attempt
	a.Fallback, a.Cause, a.Reason, a.Restarted = target, cause, reason, false
	if cause != state.CauseSigned && !a.Digest.IsZero() {
		tx.State.AddQuarantine(state.Quarantine{
			Digest: a.Digest, ID: a.To, Sequence: a.Sequence, RolloutID: a.RolloutID, Cause: cause, Reason: reason, At: m.Clock.Now().UTC(),
		})
	}
	if err := tx.Advance(state.Reverting); err != nil {
		return err
	}
	_ = m.reportPhase(tx.State, sentence("reverting %s from %s to %s: %s", m.app, a.To.Version(), orNothing(name(target)), reason))
	return fpReverting.Hit()
}

// revert is the only way back. Every ending of a failed trial, every command and every recovery goes through it; it may be
// interrupted anywhere and run again, by this daemon, the guard or the boot guardian. It asks nothing of network, metadata,
// audit or free space.
func (m *Machine) revert(ctx context.Context) {
	m.stopWatching()
	if err := m.goBack(context.WithoutCancel(ctx)); err != nil {
		m.fail("cannot finish reverting "+m.app.String()+" yet", err)
		return
	}
	if err := m.judgeFallback(ctx); err != nil {
		m.fail("cannot end the revert of "+m.app.String(), err)
	}
}

// goBack swaps to the fallback and starts it, under the lock.
func (m *Machine) goBack(ctx context.Context) error {
	return m.locked(ctx, func(tx *state.Tx) error {
		a := tx.State.Attempt
		if tx.State.Phase != state.Reverting || a == nil {
			return errSuperseded
		}
		if a.Restarted {
			return errors.Join(m.Guards.Disarm(ctx, m.app, a.ID), tx.Unmark())
		}
		m.rearm(ctx, a)
		set, err := m.restoreLinks(ctx, tx, a)
		if err != nil {
			return err
		}
		if set != nil {
			err = m.startFallback(ctx, a, set)
		}
		if kindOf(err) == managerSilent {
			return err
		}
		if err != nil {
			m.damage(sentence("the fallback of %s did not start as it should: %v", m.app, err))
		}
		if err := fpBackUp.Hit(); err != nil {
			return err
		}
		a.Restarted = true
		if err := tx.Save(); err != nil {
			return err
		}
		return errors.Join(m.Guards.Disarm(ctx, m.app, a.ID), tx.Unmark())
	})
}

// rearm moves the guard to where this revert itself would be late: until then a fallback may take its time to start, and after
// it somebody must finish what this process could not. A manager that does not answer now has kept the older guard.
func (m *Machine) rearm(ctx context.Context, a *state.Attempt) {
	bounded, cancel := context.WithTimeout(ctx, guardPatience)
	defer cancel()
	if err := m.Guards.Arm(bounded, ticket(m.app, a), m.Clock.Boot()+2*fallbackDeadline+guardGrace); err != nil {
		m.Log.Warn("the guard of a revert could not be armed", "app", m.app, "error", err)
	}
}

// startFallback starts what was gone back to. On a full disk the service manager itself lacks the block that a private /tmp
// takes, so it is lent the reserve.
func (m *Machine) startFallback(ctx context.Context, a *state.Attempt, set *units.Set) error {
	err := m.restartWithin(ctx, fallbackDeadline, a.Fallback, set)
	if err == nil || !m.lackedResources(ctx, set) {
		return err
	}
	m.damage(sentence("the fallback of %s could not be started for want of resources (%v); it is started again with the disk space kept in reserve", m.app, err))
	return m.State.LendReserve(func() error { return m.restartWithin(ctx, fallbackDeadline, a.Fallback, set) })
}

func (m *Machine) lackedResources(ctx context.Context, set *units.Set) bool {
	for _, unit := range m.expanded(ctx, set.Names()) {
		if st, err := m.Manager.Unit(ctx, unit); err == nil && st.Active == "failed" && st.Result == "resources" {
			return true
		}
	}
	return false
}

// restoreLinks is the part of a revert that the boot guardian shares: links and unit files. It returns the units to start,
// or nil if there is nothing to go back to.
func (m *Machine) restoreLinks(ctx context.Context, tx *state.Tx, a *state.Attempt) (*units.Set, error) {
	target := m.intact(ctx, tx.State, a)
	if target != a.Fallback {
		m.damage(sentence("fallback %s of %s is not intact, using %s", a.Fallback, m.app, orNothing(name(target))))
		a.Fallback = target
		if err := tx.Save(); err != nil {
			return nil, err
		}
	}
	switch cur, err := m.current(); {
	case err != nil:
		return nil, err
	case target.IsZero() && a.KeepsFailed() && cur == a.To:
		return nil, m.keepFailed(ctx, tx, a)
	case target.IsZero():
		return nil, m.takeOff(ctx)
	}
	tx.State.Kept = release.ID{}
	if err := m.tree.Swap(target); err != nil {
		return nil, err
	}
	if err := fpBack.Hit(); err != nil {
		return nil, err
	}
	set, err := m.unitsOf(target)
	if err != nil {
		return nil, err
	}
	if err := m.install(ctx, set, false); err != nil {
		return nil, err
	}
	return set, fpBackUnits.Hit()
}

// intact returns the attempt's fallback if it can be gone back to, else the newest known good release that can.
func (m *Machine) intact(ctx context.Context, st *state.App, a *state.Attempt) release.ID {
	if a.Fallback.IsZero() {
		return a.Fallback
	}
	var floor *release.Version
	if rel, _, err := m.tree.Release(a.To); err == nil {
		floor = rel.RollbackFloor
	}
	candidates := []release.ID{a.Fallback}
	for i := len(st.KnownGood) - 1; i >= 0; i-- {
		candidates = append(candidates, st.KnownGood[i].ID)
	}
	for _, id := range candidates {
		if id == a.To || !m.mayGoBackTo(st, id, floor) {
			continue
		}
		if m.whole(ctx, a, id) {
			return id
		}
	}
	return release.ID{}
}

// keepFailed is the end of a failed first installation that its signers want to look at: `current` and the unit files stay, so
// that everything can be inspected and started by hand, the units are stopped, and no boot starts them. The caller saves.
func (m *Machine) keepFailed(ctx context.Context, tx *state.Tx, a *state.Attempt) error {
	set, err := m.unitsOf(a.To)
	if err != nil {
		return err
	}
	for _, unit := range stopOrder(set.Names()) {
		if err := m.stop(ctx, unit); err != nil {
			return err
		}
	}
	if err := m.install(ctx, set.Inert(), false); err != nil {
		return err
	}
	tx.State.Kept = a.To
	return fpKept.Hit()
}

// giveUpKept takes a failed first installation that was kept for inspection off the host, so that what follows is a first
// installation again.
func (m *Machine) giveUpKept(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	return m.locked(ctx, func(tx *state.Tx) error {
		switch tx.State.Phase {
		case state.Idle, state.Staging, state.Waiting, state.Stuck:
		default:
			return errSuperseded
		}
		if cur, err := m.current(); err != nil || !tx.State.Keeps(cur) {
			return err
		}
		m.Log.Info("a failed first installation is no longer kept", "app", m.app, "release", tx.State.Kept)
		if err := m.takeOff(ctx); err != nil {
			return err
		}
		tx.State.Kept = release.ID{}
		return tx.Save()
	})
}

// takeOff stops the app and leaves `current` absent: the end of a failed first installation and of a removal. The trees
// stay.
func (m *Machine) takeOff(ctx context.Context) error {
	owned, err := m.Units.Owned(m.app)
	if err != nil {
		return err
	}
	for _, unit := range stopOrder(owned) {
		if err := m.stop(ctx, unit); err != nil {
			return err // a unit whose file is gone could not be stopped any more
		}
	}
	if err := m.tree.RemoveCurrent(); err != nil {
		return err
	}
	if err := fpBack.Hit(); err != nil {
		return err
	}
	changed, err := m.Units.Remove(m.app)
	if changed {
		m.loaded.Store(false)
	}
	if err != nil {
		return err
	}
	if err := m.reload(ctx); err != nil {
		return err
	}
	for _, unit := range slices.DeleteFunc(owned, units.IsTemplate) {
		if err := m.Manager.ResetFailed(ctx, unit); err != nil {
			m.Log.Warn("a unit's failure could not be reset", "unit", unit, "error", err)
		}
	}
	return m.tree.ClearFallback()
}

// stopOrder puts sockets, timers and paths before services, so that nothing starts again what was just stopped.
func stopOrder(names []string) []string {
	var first, last []string
	for _, n := range names {
		if units.IsService(n) {
			last = append(last, n)
		} else {
			first = append(first, n)
		}
	}
	return append(first, last...)
}

// fallbackWatch bounds how long a fallback may take to show that it is healthy.
const (
	fallbackDeadline   = 2 * time.Minute
	fallbackMinHealthy = 3 * time.Second
)

// judgeFallback watches the fallback and ends the attempt. An unhealthy fallback is not swapped again: that would flip-flop. A
// daemon that is stopped meanwhile does not wait: the fallback is up and the phase says so, and the next start watches it anew.
func (m *Machine) judgeFallback(ctx context.Context) error {
	st, err := m.State.Read(m.app)
	if err != nil {
		return err
	}
	a := st.Attempt
	if st.Phase != state.Reverting || a == nil {
		return errSuperseded
	}
	v := health.Verdict{Answer: health.Healthy}
	if !a.Fallback.IsZero() {
		v = m.watchFallback(ctx, a)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.hookAfter(context.WithoutCancel(ctx), a.Fallback, "post-revert")
	}
	ctx = context.WithoutCancel(ctx)
	return m.locked(ctx, func(tx *state.Tx) error {
		if tx.State.Phase != state.Reverting || tx.State.Attempt == nil || tx.State.Attempt.ID != a.ID {
			return nil
		}
		return m.endRevert(tx, v)
	})
}

func (m *Machine) watchFallback(ctx context.Context, a *state.Attempt) health.Verdict {
	probes, _, err := m.probes(a.Fallback, a.Timing)
	if err != nil {
		return health.Verdict{Answer: health.CannotTell, Reason: err.Error()}
	}
	defer m.pulse.busy(fallbackDeadline, "watching the fallback")()
	w := health.Watch{Probes: probes, MinHealthy: fallbackMinHealthy, Deadline: fallbackDeadline, Length: fallbackDeadline}
	return w.Run(ctx)
}

func (m *Machine) endRevert(tx *state.Tx, v health.Verdict) error {
	a := tx.State.Attempt
	o := state.Outcome{
		At: m.Clock.Now().UTC(), Attempt: a.ID, Result: "reverted", From: a.To, To: a.Fallback, Tried: a.To, Sequence: a.Sequence, Fence: a.Fence, Cause: a.Cause, Reason: a.Reason,
	}
	to, message := state.Idle, sentence("%s is back on %s: %s", m.app, orNothing(name(a.Fallback)), a.Reason)
	switch {
	case tx.State.Keeps(a.To):
		o.To = a.To
		message = sentence("%s %s failed and there is nothing to go back to: its units are stopped and, as signed, it is kept for inspection: %s", m.app, a.To.Version(), a.Reason)
	case a.Fallback.IsZero():
		message = sentence("%s %s failed and there is nothing to go back to: its units are stopped and `current` is absent: %s", m.app, a.To.Version(), a.Reason)
	case a.Cause == state.CauseFailedBefore:
		o.Result = "failed-before"
		message = sentence("%s is back on %s, which was already failing before %s was tried: %s", m.app, a.Fallback.Version(), a.To.Version(), a.Reason)
	case v.Answer == health.Unhealthy:
		o.Result, to = "stuck", state.Stuck
		message = sentence("%s IS DOWN: it was reverted to %s (%s), and that is unhealthy too: %s. A person is needed; nothing will be swapped again by itself", m.app, a.Fallback.Version(), a.Reason, v.Reason)
	}
	tx.State.Record(o)
	tx.State.Attempt = nil
	if err := tx.Advance(to); err != nil {
		return err
	}
	_ = m.reportEnd(tx.State, o, message)
	return fpRevertDone.Hit()
}

// revertSigned goes back because the deployment signs it, or because what runs is revoked and the deployment's signed policy
// says so.
func (m *Machine) revertSigned(ctx context.Context, w *wish, d rollout.Decision) error {
	to := retreat{cause: state.CauseSigned, reason: d.Because}
	if d.Target != nil && m.complete(w.id) && d.Target.SHA256 == w.digest {
		to.target = w.id
	}
	if d.Rule == rollout.RuleRevoked {
		to.cause = state.CauseRevoked
	} else {
		to.fence = m.grant() // which paces it, and is not asked to confirm what is signed
	}
	return m.locked(ctx, func(tx *state.Tx) error { return m.startRevert(tx, to) })
}

// orderedBack goes to the signed fallback because the coordinator takes the rollout back and rollout.Decide lets it. The
// fallback is made ready first, so that a slot is asked for last here, too.
func (m *Machine) orderedBack(ctx context.Context, st *state.App, w *wish, d rollout.Decision) (time.Duration, error) {
	back, err := m.fallbackOf(ctx, w)
	if err != nil {
		return 0, err
	}
	if err := m.stage(ctx, back); err != nil {
		return m.stageFailed(ctx, back, err)
	}
	if err := m.phaseIdle(ctx); err != nil {
		return 0, err
	}
	q, bad := st.Quarantined(back.digest, 0, "")
	if bad = bad && q.Cause.Sticky(); bad || !m.mayGoBackTo(st, back.id, m.floor()) {
		m.wait(rollout.RuleOrder, sentence("the hub takes %s %s back and this host cannot go to the signed fallback %s: it is quarantined here, revoked, or below the rollback floor",
			m.app, w.id.Version(), back.id.Version()))
		return idleWait, nil
	}
	if d = m.askFor(ctx, st, w, d); !d.Act {
		return m.notNow(st, d)
	}
	if diffs, err := m.verify(ctx, back.id); err != nil || len(diffs) > 0 {
		return m.discard(ctx, back, diffs, err)
	}
	fence := m.grant()
	confirmed, err := m.lastCheck(ctx, fence)
	if err != nil {
		return m.slotRefused(err)
	}
	return 0, m.locked(ctx, func(tx *state.Tx) error {
		if tx.State.Sequence != w.deployment.Sequence {
			return errSuperseded
		}
		if err := m.stillConfirmed(confirmed); err != nil {
			return err
		}
		tx.State.GoneBack(w.deployment.RolloutID)
		return m.startRevert(tx, retreat{target: back.id, cause: state.CauseOrdered, reason: d.Because, fence: fence})
	})
}

// fallbackOf is the wish for a deployment's signed fallback.
func (m *Machine) fallbackOf(ctx context.Context, w *wish) (*wish, error) {
	back, ref := *w, *w.deployment.Fallback
	var err error
	if back.rel, back.relRaw, err = m.release(ctx, ref); err != nil {
		return nil, err
	}
	back.digest, back.id = ref.SHA256, release.NewID(back.rel.Version, ref.SHA256)
	return &back, nil
}

// floor is the oldest version that what runs can go back to; nil means any.
func (m *Machine) floor() *release.Version {
	cur, err := m.current()
	if err != nil || cur.IsZero() {
		return nil
	}
	rel, _, err := m.tree.Release(cur)
	if err != nil {
		return nil
	}
	return rel.RollbackFloor
}

// retreat is where an app goes back to and why. A zero target lets the machine choose; fence is the coordinator's grant for it.
type retreat struct {
	target release.ID
	cause  state.Cause
	reason string
	fence  int64
}

func (m *Machine) complete(id release.ID) bool {
	_, _, err := m.tree.Release(id)
	return err == nil
}

// startRevert turns an app at rest, or in trial, back. It only saves.
func (m *Machine) startRevert(tx *state.Tx, to retreat) error {
	st := tx.State
	if a := st.Attempt; a != nil && (st.Phase == state.Trial || st.Phase == state.Activating) {
		return m.beginRevert(tx, a.Fallback, to.cause, to.reason)
	}
	cur, err := m.current()
	if err != nil {
		return err
	}
	if cur.IsZero() {
		return &RefusedError{Rule: "nothing-runs", Reason: sentence("%s has no current release to revert from", m.app)}
	}
	if to.target.IsZero() {
		to.target = m.earlier(st, cur)
	}
	if to.target.IsZero() {
		return &RefusedError{Rule: "no-fallback", Reason: sentence("%s %s has no intact earlier release to go back to", m.app, cur.Version())}
	}
	a := &state.Attempt{
		ID: newAttemptID(), Sequence: st.Sequence, RolloutID: m.rolloutSeen(), From: cur, To: cur, Fallback: to.target, Fence: to.fence, Started: m.Clock.Now().UTC(),
		BootID: m.Clock.BootID(), Deadline: m.Clock.Boot() + fallbackDeadline, Length: fallbackDeadline, MaxBoots: defaultBoots, Baseline: "none",
	}
	if _, digest, err := m.tree.Release(cur); err == nil {
		a.Digest = digest
	}
	st.Attempt = a
	return m.beginRevert(tx, to.target, to.cause, to.reason)
}

// rolloutSeen is the rollout of the deployment that was read last: what is quarantined now stays so through its amendments.
func (m *Machine) rolloutSeen() string {
	if d := m.View().Deployment; d != nil {
		return d.RolloutID
	}
	return ""
}

// earlier picks the release to go back to from cur: the fallback link if it is usable, else the newest other known good.
func (m *Machine) earlier(st *state.App, cur release.ID) release.ID {
	floor := m.floor()
	var candidates []release.ID
	if id, err := m.tree.Fallback(); err == nil {
		candidates = append(candidates, id)
	}
	for i := len(st.KnownGood) - 1; i >= 0; i-- {
		candidates = append(candidates, st.KnownGood[i].ID)
	}
	for _, id := range candidates {
		if id != cur && m.mayGoBackTo(st, id, floor) {
			return id
		}
	}
	return release.ID{}
}

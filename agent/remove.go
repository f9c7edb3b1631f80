package agent

import (
	"context"
	"errors"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/agent/state"
	"github.com/slipway-deploy/slipway/agent/store"
)

var fpTakenOff = durable.NewFailpoint("agent.remove.taken-off")

// takeDown acts on a deployment that signs the app absent, or on a policy that stops a revoked release.
func (m *Machine) takeDown(ctx context.Context, w *wish, d rollout.Decision) (time.Duration, error) {
	st, err := m.State.Read(m.app)
	if err != nil {
		return 0, err
	}
	if unfit := m.cfg().Unfit; unfit != "" && d.Verb == rollout.VerbRemove {
		m.wait("clone", unfit)
		return idleWait, nil
	}
	if d = m.askFor(ctx, st, w, d); !d.Act {
		return m.notNow(st, d)
	}
	fence := int64(0)
	if d.Verb == rollout.VerbRemove { // what is revoked is stopped without asking
		fence = m.grant()
	}
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
		tx.State.Fence = fence
		return m.beginRemove(tx, d.Because)
	})
}

func (m *Machine) beginRemove(tx *state.Tx, because string) error {
	if err := tx.Advance(state.Removing); err != nil {
		return err
	}
	return m.reportPhase(tx.State, sentence("taking %s off this host: %s", m.app, because))
}

// remove stops the app and takes units and links away. Data and staged trees stay; pruning deals with the latter.
func (m *Machine) remove(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	err := m.locked(ctx, func(tx *state.Tx) error {
		if tx.State.Phase != state.Removing {
			return nil
		}
		cur, err := m.current()
		if err != nil {
			return err
		}
		if err := m.takeOff(ctx); err != nil {
			return err
		}
		if err := fpTakenOff.Hit(); err != nil {
			return err
		}
		tx.State.Kept = release.ID{}
		o := state.Outcome{At: m.Clock.Now().UTC(), Result: "removed", From: cur, Sequence: tx.State.Sequence, Fence: tx.State.Fence}
		tx.State.Fence = 0
		tx.State.Record(o)
		if err := tx.Advance(state.Idle); err != nil {
			return err
		}
		return m.reportEnd(tx.State, o, sentence("%s is off this host: units stopped, `current` absent; its data stays", m.app))
	})
	if err != nil {
		m.fail("cannot take "+m.app.String()+" off this host", err)
	}
}

// tidy is for an app that has nothing to do for now: its unit files are put right, and what nobody needs is deleted.
func (m *Machine) tidy(ctx context.Context, cur release.ID) {
	if !cur.IsZero() {
		m.reconcile(ctx, cur)
	}
	defer m.pulse.busy(sweepPatience, "deleting what nobody needs")()
	m.sweep(ctx)
	m.prune(ctx)
}

// sweep deletes, once a run and only while nothing is in flight, what crashes left.
func (m *Machine) sweep(ctx context.Context) {
	if m.swept {
		return
	}
	err := m.locked(ctx, func(tx *state.Tx) error {
		if tx.State.Phase != state.Idle {
			return nil
		}
		m.swept = true
		return m.tree.SweepGarbage()
	})
	if err != nil {
		m.Log.Warn("leftovers could not be swept", "app", m.app, "error", err)
	}
}

// pruneAfter keeps pruning well away from staging: creating files is slow just after a mass delete.
const pruneAfter = 10 * time.Minute

// prune deletes releases that nothing can need any more.
func (m *Machine) prune(ctx context.Context) {
	st, err := m.State.Read(m.app)
	if err != nil || st.Last == nil || m.Clock.Now().Sub(st.Last.At) < pruneAfter {
		return
	}
	cfg := m.cfg()
	keep := store.Keep{IDs: map[release.ID]bool{}, Newest: cfg.Keep, MinAge: cfg.KeepFor}
	for i := max(0, len(st.KnownGood)-max(1, cfg.Keep)); i < len(st.KnownGood); i++ {
		keep.IDs[st.KnownGood[i].ID] = true
	}
	err = m.locked(ctx, func(tx *state.Tx) error {
		if tx.State.Phase != state.Idle {
			return nil
		}
		pruned, err := m.tree.Prune(ctx, keep)
		if len(pruned.Removed) > 0 {
			m.Log.Info("old releases were pruned", "app", m.app, "removed", pruned.Removed)
			err = errors.Join(err, tx.ForgetUnits(m.complete))
		}
		return err
	})
	if err != nil {
		m.Log.Warn("not everything could be pruned", "app", m.app, "error", err)
	}
}

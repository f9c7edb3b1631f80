package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/slipway-deploy/slipway/agent/gate"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/agent/state"
	"github.com/slipway-deploy/slipway/agent/store"
	"github.com/slipway-deploy/slipway/agent/units"
)

// consider is one look at what signed documents want of an app at rest: resolve, stage, gate, wait for turn, activate. It
// says how long to wait before looking again.
func (m *Machine) consider(ctx context.Context) time.Duration {
	again := time.Duration(0)
	err := m.interruptible(ctx, func(ctx context.Context) error {
		var err error
		again, err = m.advance(ctx)
		return err
	})
	if errors.Is(err, errSuperseded) || ctx.Err() != nil {
		m.standDown(ctx)
		return 0
	}
	if err != nil {
		again = m.explain(err)
	}
	return m.untilAsk(again)
}

// standDown ends a staging that was broken off.
func (m *Machine) standDown(ctx context.Context) {
	m.show(func(v *View) { v.Progress = nil })
	err := m.locked(ctx, func(tx *state.Tx) error {
		if tx.State.Phase != state.Staging {
			return nil
		}
		return tx.Advance(state.Idle)
	})
	if err != nil {
		m.fail("cannot end the staging of "+m.app.String(), err)
	}
}

// explain turns an error of consider into the sentence for the operator and the wait that fits it.
func (m *Machine) explain(err error) time.Duration {
	m.showTurn(nil)
	var refused *RefusedError
	switch {
	case errors.Is(err, ErrNoDocument):
		m.wait("no-deployment", sentence("no deployment of %s is signed for %s", m.app, m.cfg().Environment))
	case errors.As(err, &refused):
		m.wait(refused.Rule, "refused: "+refused.Reason)
	case errors.Is(err, errNoMetadataYet):
		m.wait("first-metadata", sentence("waiting for the first metadata from the repository before anything of %s is decided", m.app))
	default:
		m.fail("cannot go on with "+m.app.String(), err)
		return retryFirst
	}
	return idleWait
}

// errNoMetadataYet says that nothing is trusted and that no refresh has ended yet: that is how every new host begins.
var errNoMetadataYet = errors.New("no metadata yet")

func (m *Machine) advance(ctx context.Context) (time.Duration, error) {
	st, err := m.State.Read(m.app)
	if err != nil {
		return 0, err
	}
	m.forgetGrant()
	m.settleSlot(ctx, st)
	if m.atRest(ctx, st) {
		return idleWait, nil
	}
	meta, err := m.known(ctx)
	if err != nil {
		return idleWait, err
	}
	w, err := m.resolveInTime(ctx, st)
	if err != nil {
		return idleWait, err
	}
	w.meta = meta
	if st, err = m.State.Read(m.app); err != nil {
		return 0, err
	}
	m.show(func(v *View) { v.Deployment, v.Candidate = w.deployment, w.id })
	cur, err := m.current()
	if err != nil {
		return 0, err
	}
	d := m.tell(ctx, st, w, m.decide(ctx, st, w))
	if done, wait, err := m.settled(ctx, st, w, cur, d); done {
		m.showTurn(nil)
		return wait, err
	}
	m.showTurn(&d)
	defer m.letGoUnused(ctx)
	switch {
	case w.deployment.Absent || d.Verb == rollout.VerbStop || d.Verb == rollout.VerbRemove:
		return m.takeDown(ctx, w, d)
	case d.Verb == rollout.VerbRevert && w.deployment.State != release.StateRevert && d.Rule != rollout.RuleRevoked:
		return m.orderedBack(ctx, st, w, d)
	case d.Verb == rollout.VerbRevert:
		if d = m.askFor(ctx, st, w, d); d.Act {
			return 0, m.revertSigned(ctx, w, d)
		}
	}
	return m.approach(ctx, st, w, cur, d)
}

// atRest answers for an app that an operator or the configuration keeps from starting anything.
func (m *Machine) atRest(ctx context.Context, st *state.App) bool {
	switch {
	case st.Removed:
		m.setWhy(sentence("%s was removed from this host by an operator; take it out of the configuration, and in again to install it anew", m.app))
	case m.cfg().Disabled:
		m.setWhy(sentence("%s is disabled in this host's configuration: what runs goes on, nothing new starts", m.app))
	default:
		return false
	}
	m.showTurn(nil)
	m.letGo(ctx, st)
	return true
}

// approach brings what is signed nearer: stage, gate, wait for turn and slot, activate.
func (m *Machine) approach(ctx context.Context, st *state.App, w *wish, cur release.ID, d rollout.Decision) (time.Duration, error) {
	if unfit := m.cfg().Unfit; unfit != "" {
		m.wait("clone", unfit)
		return idleWait, nil
	}
	if permanent(d) {
		m.tidy(ctx, cur)
		return m.notNow(st, d)
	}
	if last := st.Last; st.Phase == state.Stuck && last != nil && w.deployment.Sequence <= last.Sequence {
		m.setWhy(sentence("%s is stuck since %s: %s; `slipway retry %s` or a new deployment starts it again", m.app, last.At.Format(time.RFC3339), last.Reason, m.app))
		return idleWait, nil
	}
	defer m.heed(ctx, w)()
	staged := m.complete(w.id)
	if err := m.stage(ctx, w); err != nil {
		return m.stageFailed(ctx, w, err)
	}
	if !staged {
		return 0, nil // that took its time: begin again with what is signed now
	}
	set, err := m.checkStaged(ctx, w)
	if err != nil {
		return m.gateFailed(ctx, w, err)
	}
	d = m.decide(ctx, st, w)
	if d.Act || d.Rule == rollout.RuleCoordinator {
		if err := m.backOff(w.digest); err != nil { // of an activation that was given up before the swap
			m.letGo(ctx, st)
			return m.stageFailed(ctx, w, err)
		}
		d = m.askFor(ctx, st, w, d)
	}
	m.showTurn(&d)
	if !d.Act {
		if err := m.phaseWaiting(ctx); err != nil {
			return 0, err
		}
		m.tidy(ctx, cur)
		return m.notNow(st, d)
	}
	if st.Keeps(cur) {
		return 0, m.giveUpKept(ctx)
	}
	return m.activate(ctx, w, set, d)
}

// showTurn takes a copy, because the machine goes on with its own.
func (m *Machine) showTurn(d *rollout.Decision) {
	if d != nil {
		d = new(*d)
	}
	m.show(func(v *View) { v.Turn = d })
}

// known is the metadata decisions are based on. Without any there is nothing to decide.
func (m *Machine) known(ctx context.Context) (Metadata, error) {
	meta, err := m.Source.Known(ctx)
	if err == nil {
		return meta, nil
	}
	m.mu.Lock()
	waiting := m.expectsRefresh
	m.mu.Unlock()
	if waiting {
		return meta, errNoMetadataYet
	}
	return meta, fmt.Errorf("cannot trust any metadata yet: %w", err)
}

// resolveInTime is resolve with an end: a mirror that trickles must not keep a command waiting for ever.
func (m *Machine) resolveInTime(ctx context.Context, st *state.App) (*wish, error) {
	defer m.pulse.busy(documentsPatience, "reading signed documents")()
	ctx, cancel := context.WithTimeout(ctx, documentsPatience)
	defer cancel()
	return m.resolve(ctx, st)
}

// settled answers the cases that need no staging: what is signed already runs, or is signed to be absent and is.
func (m *Machine) settled(ctx context.Context, st *state.App, w *wish, cur release.ID, d rollout.Decision) (bool, time.Duration, error) {
	if w.deployment.Absent {
		if cur.IsZero() {
			m.setWhy(sentence("%s is signed to be absent in %s (sequence %d), and is", m.app, w.deployment.Environment, w.deployment.Sequence))
			err := m.phaseIdle(ctx)
			m.tidy(ctx, cur)
			return true, idleWait, err
		}
		return false, 0, nil
	}
	if cur.IsZero() || cur != w.id || st.Phase == state.Stuck || st.Keeps(cur) || m.revoked(st, w.digest) || d.Verb == rollout.VerbRevert {
		return false, 0, nil
	}
	if err := m.phaseIdle(ctx); err != nil {
		return true, 0, err
	}
	m.tidy(ctx, cur)
	if _, good := st.Good(cur); good {
		m.setWhy(sentence("%s %s runs, as signed (sequence %d)", m.app, cur.Version(), w.deployment.Sequence))
	} else {
		m.setWhy(sentence("%s %s runs, but what ran before it was already failing, so it is not recorded as known good: `slipway retry %s` starts its trial anew", m.app, cur.Version(), m.app))
	}
	return true, idleWait, nil
}

func (m *Machine) revoked(st *state.App, digest release.Digest) bool {
	for _, d := range st.Revoked {
		if d == digest {
			return true
		}
	}
	return false
}

// permanent reports a wait that staging would not bring nearer.
func permanent(d rollout.Decision) bool {
	switch d.Rule {
	case rollout.RuleQuarantined, rollout.RuleRevoked, rollout.RuleMinimum:
		return !d.Act
	}
	return false
}

func (m *Machine) notNow(st *state.App, d rollout.Decision) (time.Duration, error) {
	m.showTurn(&d)
	m.wait(d.Rule, d.Because)
	if d.Until.IsZero() {
		return idleWait, nil
	}
	return max(time.Second, min(idleWait, d.Until.Sub(m.Clock.Now()))), nil
}

func (m *Machine) phaseWaiting(ctx context.Context) error { return m.phaseIfRest(ctx, state.Waiting) }
func (m *Machine) phaseIdle(ctx context.Context) error    { return m.phaseIfRest(ctx, state.Idle) }

// phaseIfRest moves between the phases in which nothing is in flight.
func (m *Machine) phaseIfRest(ctx context.Context, to state.Phase) error {
	return m.locked(ctx, func(tx *state.Tx) error {
		switch tx.State.Phase {
		case to:
			return nil
		case state.Idle, state.Staging, state.Waiting, state.Stuck:
			return tx.Advance(to)
		}
		return errSuperseded
	})
}

// stage brings the release onto the disk, complete and inert. It needs no slot and is idempotent.
func (m *Machine) stage(ctx context.Context, w *wish) error {
	if _, digest, err := m.tree.Release(w.id); err == nil && digest == w.digest {
		return nil
	}
	if err := m.backOff(w.digest); err != nil {
		return err
	}
	platform, err := release.ParsePlatform(runtime.GOOS + "/" + runtime.GOARCH)
	if err != nil {
		return err
	}
	art, ok := w.rel.Platforms[platform]
	if !ok {
		return &RefusedError{Rule: "no-platform", Reason: sentence("%s %s has no archive for %s", m.app, w.rel.Version, platform)}
	}
	if err := m.phaseIfRest(ctx, state.Staging); err != nil {
		return err
	}
	m.wait("staging", sentence("staging %s %s: %d MB to fetch", m.app, w.rel.Version, art.Archive.Length>>20))
	m.pulse.rest()
	select {
	case m.StageSlots <- struct{}{}:
		defer func() { <-m.StageSlots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	m.pulse.within(stepPatience, "staging")
	return m.fill(ctx, w, art)
}

func (m *Machine) fill(ctx context.Context, w *wish, art release.Artifact) error {
	if err := m.checkSpace(art); err != nil {
		return err
	}
	in, err := m.tree.Begin(w.id, w.digest)
	if errors.Is(err, store.ErrComplete) {
		return nil
	}
	if err != nil {
		return err
	}
	stillness := stepPatience + treePatience(w.rel)
	m.pulse.within(stillness, "staging")
	manifest, err := m.Source.Stage(ctx, art, in.Dir, m.progress(stillness))
	if err != nil {
		return errors.Join(err, in.Abandon())
	}
	m.show(func(v *View) { v.Progress = nil })
	if err := in.Complete(store.Stamp{Digest: w.digest, Release: w.relRaw, Manifest: manifest}); err != nil {
		return errors.Join(err, in.Abandon())
	}
	return m.locked(ctx, func(tx *state.Tx) error {
		if _, had := tx.State.RetryOf(w.digest); !had {
			return nil
		}
		tx.State.ClearRetry(w.digest)
		return tx.Save()
	})
}

// checkSpace asks for the unpacked size plus the manifest, and one inode a file, before any byte is fetched. The archive is
// streamed and needs no room of its own.
func (m *Machine) checkSpace(art release.Artifact) error {
	need := store.Need{Path: m.tree.Root(), Bytes: art.Unpacked + art.Manifest.Length, Inodes: art.Files + 16}
	return store.CheckSpace([]store.Need{need}, m.cfg().SpaceReserve)
}

// progress shows how far a step has come; every byte is a sign of life.
func (m *Machine) progress(stillness time.Duration) func(Progress) {
	begin := m.Clock.Boot()
	return func(p Progress) {
		m.pulse.within(stillness, "staging")
		if took := m.Clock.Boot() - begin; took > 0 {
			p.Rate = int64(float64(p.Done) / took.Seconds())
		}
		m.show(func(v *View) { v.Progress = &p })
	}
}

// backOffError is "not yet" after a failed staging.
type backOffError struct {
	until time.Time
	last  string
}

func (e *backOffError) Error() string {
	return sentence("waiting until %s after: %s", e.until.UTC().Format(time.TimeOnly), e.last)
}

// Kind names this error for metrics and the wire.
func (e *backOffError) Kind() string { return "back-off" }

func (m *Machine) backOff(digest release.Digest) error {
	st, err := m.State.Read(m.app)
	if err != nil {
		return err
	}
	m.mu.Lock()
	nudged := m.nudged
	m.nudged = false
	m.mu.Unlock()
	if r, ok := st.RetryOf(digest); ok && !nudged && m.Clock.Now().Before(r.RetryAt) {
		return &backOffError{until: r.RetryAt, last: r.Reason}
	}
	return nil
}

const (
	retryFirst = 15 * time.Second
	retryMost  = time.Hour
)

// retryDelay doubles from 15 s to an hour, with up to a fifth of jitter so that a fleet does not come back in step.
func retryDelay(tries int) time.Duration {
	d := retryMost
	if tries < 10 {
		d = min(retryMost, retryFirst<<max(0, tries-1))
	}
	return d + rand.N(d/5+1)
}

func (m *Machine) stageFailed(ctx context.Context, w *wish, cause error) (time.Duration, error) {
	var later *backOffError
	if errors.As(cause, &later) {
		doing := "stage"
		if m.complete(w.id) {
			doing = "activate"
		}
		m.setWhy(sentence("cannot %s %s %s: %v", doing, m.app, w.rel.Version, cause))
		return max(time.Second, later.until.Sub(m.Clock.Now())), nil
	}
	if ctx.Err() != nil || errors.Is(cause, errSuperseded) {
		return 0, errSuperseded
	}
	m.show(func(v *View) { v.Progress = nil })
	delay := retryFirst
	err := m.locked(ctx, func(tx *state.Tx) error {
		r, _ := tx.State.RetryOf(w.digest)
		r.Digest, r.Tries, r.Reason = w.digest, r.Tries+1, cause.Error()
		delay = retryDelay(r.Tries)
		r.RetryAt = m.Clock.Now().Add(delay)
		tx.State.SetRetry(r)
		if tx.State.Phase == state.Staging {
			return tx.Advance(state.Idle)
		}
		return tx.Save()
	})
	if err != nil {
		cause = errors.Join(cause, err)
	}
	m.wait(kindOf(cause), sentence("cannot stage %s %s: %v", m.app, w.rel.Version, cause))
	return delay, nil
}

// checkStaged runs everything that may refuse a staged release: unit rules, collisions, gates.
func (m *Machine) checkStaged(ctx context.Context, w *wish) (*units.Set, error) {
	set, err := m.render(w.rel, w.id)
	if err != nil {
		return nil, err
	}
	if err := m.Units.Check(set); err != nil {
		return nil, err
	}
	if err := m.missingGates(w.deployment.Gates); err != nil {
		return nil, err
	}
	defer m.pulse.busy(treePatience(w.rel), "the gates")()
	return set, gate.All(ctx, m.Gates, gate.Subject{
		App: m.app, ID: w.id, Digest: w.digest, Tree: m.tree.ReleaseDir(w.id), Release: w.rel, Deployment: w.deployment,
		Manifest: func() (*release.Manifest, error) {
			_, manifest, _, err := m.tree.Load(w.id)
			return manifest, err
		},
	})
}

// missingGates refuses a deployment that requires a gate this host does not have: passing it by would be a lie.
func (m *Machine) missingGates(g *release.Gates) error {
	if g == nil {
		return nil
	}
	for name, policy := range map[string]*release.GatePolicy{"provenance": g.Provenance, "sbom": g.SBOM, "malware": g.Malware, "command": g.Command} {
		has := slices.ContainsFunc(m.Gates, func(have gate.Gate) bool { return have.Name() == name })
		if policy != nil && policy.Required && !has {
			return &gate.Denied{Gate: name, Reason: "the deployment requires it and this host does not have it"}
		}
	}
	return nil
}

func (m *Machine) render(rel *release.Release, id release.ID) (*units.Set, error) {
	cfg := m.cfg()
	return units.Render(rel, id, m.tree.ReleaseDir(id), units.Options{
		AppRoot: m.tree.Root(), Env: cfg.Env, Credentials: cfg.Credentials, AllowRoot: cfg.AllowRoot,
	})
}

func (m *Machine) gateFailed(ctx context.Context, w *wish, err error) (time.Duration, error) {
	if ctx.Err() != nil {
		return 0, errSuperseded
	}
	if perr := m.phaseIdle(ctx); perr != nil {
		return 0, perr
	}
	m.wait(kindOf(err), sentence("%s %s is staged but refused: %v", m.app, w.rel.Version, err))
	var later *gate.Deferred
	if errors.As(err, &later) && !later.Until.IsZero() {
		return max(time.Second, later.Until.Sub(m.Clock.Now())), nil
	}
	return idleWait, nil
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/agent/state"
)

// RefusedError says that a signed document is not for this host or not to be believed. It is final for that document.
type RefusedError struct{ Rule, Reason string }

func (e *RefusedError) Error() string { return "refused: " + e.Reason }

// Kind names this error for metrics and the wire.
func (e *RefusedError) Kind() string { return e.Rule }

// wish is what signed documents ask of this app on this host.
type wish struct {
	deployment *release.Deployment
	depDoc     Document
	emergency  *release.Emergency
	emergDoc   Document
	emergExp   bool
	schedule   *rollout.Schedule // made from the pinned inventory; nil if none is pinned
	meta       Metadata

	rel    *release.Release
	relRaw []byte
	id     release.ID
	digest release.Digest
}

// resolve reads what is signed for this app and makes the sequence and the epoch durable before anything acts on them.
func (m *Machine) resolve(ctx context.Context, st *state.App) (*wish, error) {
	w, err := m.read(ctx, st)
	if err != nil {
		return nil, err
	}
	return w, m.remember(ctx, st, w)
}

// read reads the documents signed for this app. It accepts a deployment only if it is for this app and environment and
// not older than one already accepted, and a release only by the digest the deployment signs.
func (m *Machine) read(ctx context.Context, st *state.App) (*wish, error) {
	cfg := m.cfg()
	doc, err := m.Source.Document(ctx, release.DeploymentPath(cfg.Environment, m.app))
	if err != nil {
		return nil, err
	}
	dep, err := m.deployment(doc.Bytes)
	if err != nil {
		return nil, &RefusedError{Rule: "bad-document", Reason: err.Error()}
	}
	if err := m.accept(st, dep, doc); err != nil {
		return nil, err
	}
	w := &wish{deployment: dep, depDoc: doc}
	if err := m.emergency(ctx, st, w); err != nil {
		return nil, err
	}
	if dep.Inventory != nil {
		if w.schedule, err = m.schedule(ctx, dep, release.Sum(doc.Bytes)); err != nil {
			return nil, err
		}
	}
	ref := dep.Release
	if dep.State == release.StateRevert {
		ref = dep.Fallback
	}
	if ref == nil {
		return w, nil
	}
	if w.rel, w.relRaw, err = m.release(ctx, *ref); err != nil {
		return nil, err
	}
	w.digest = ref.SHA256
	w.id = release.NewID(w.rel.Version, ref.SHA256)
	return w, nil
}

func (m *Machine) accept(st *state.App, dep *release.Deployment, doc Document) error {
	cfg := m.cfg()
	if dep.App != m.app || dep.Environment != cfg.Environment {
		return &RefusedError{Rule: "wrong-environment", Reason: sentence("the deployment under %s is for %s in %s, this host runs %s in %s",
			doc.Path, dep.App, dep.Environment, m.app, cfg.Environment)}
	}
	if dep.Sequence < st.Sequence && !rotatedAway(st.SequenceKeys, doc.AllKeyIDs) {
		return &RefusedError{Rule: "old-sequence", Reason: sentence("the deployment has sequence %d, this host has already accepted %d: a replay, or a publisher that lost its history",
			dep.Sequence, st.Sequence)}
	}
	return nil
}

// rotatedAway reports whether a key that signed the remembered sequence has been taken from the role since: then the memory
// may be an attacker's and is given up, like the versions of TUF specification 5.3.11.
func rotatedAway(signers, now []string) bool {
	if len(signers) == 0 || len(now) == 0 {
		return false
	}
	return slices.ContainsFunc(signers, func(k string) bool { return !slices.Contains(now, k) })
}

// remember saves what must never go back. Somebody else may have saved newer news since st was read: they win.
func (m *Machine) remember(ctx context.Context, st *state.App, w *wish) error {
	if !m.news(st, w) {
		return nil
	}
	return m.locked(ctx, func(tx *state.Tx) error {
		now := tx.State
		if err := m.accept(now, w.deployment, w.depDoc); err != nil {
			return err
		}
		if w.emergency != nil && w.emergency.Epoch < now.Epoch && !rotatedAway(now.EpochKeys, w.emergDoc.AllKeyIDs) {
			return errSuperseded
		}
		if !m.news(now, w) {
			return nil
		}
		now.Sequence, now.SequenceKeys = w.deployment.Sequence, w.depDoc.KeyIDs
		if w.emergency != nil {
			now.Epoch, now.EpochKeys = w.emergency.Epoch, w.emergDoc.KeyIDs
			now.Revoked = m.revokedNow(w.emergency)
			now.LiftRevocations()
		}
		return tx.Save()
	})
}

func (m *Machine) news(st *state.App, w *wish) bool {
	if st.Sequence != w.deployment.Sequence {
		return true
	}
	return w.emergency != nil && (st.Epoch != w.emergency.Epoch || !slices.Equal(st.Revoked, m.revokedNow(w.emergency)))
}

// revokedNow lists the digests that an emergency document revokes for this app at this time.
func (m *Machine) revokedNow(e *release.Emergency) []release.Digest {
	var out []release.Digest
	now := m.Clock.Now()
	for _, entry := range e.Entries {
		lapsed := entry.Until != nil && !now.Before(*entry.Until)
		other := entry.App != nil && *entry.App != m.app
		if entry.Kind == "revoke" && entry.Digest != nil && !lapsed && !other {
			out = append(out, *entry.Digest)
		}
	}
	return out
}

func (m *Machine) emergency(ctx context.Context, st *state.App, w *wish) error {
	cfg := m.cfg()
	doc, err := m.Source.Document(ctx, release.EmergencyPath(cfg.Environment))
	if errors.Is(err, ErrNoDocument) {
		return nil
	}
	if expired := new(ExpiredError); errors.As(err, &expired) && strings.HasPrefix(expired.Role, "emergency.") {
		w.emergExp = true
		return nil
	}
	if err != nil {
		return err
	}
	e, err := release.ParseEmergency(doc.Bytes)
	if err != nil {
		return &RefusedError{Rule: "bad-document", Reason: err.Error()}
	}
	if e.Environment != cfg.Environment {
		return &RefusedError{Rule: "wrong-environment", Reason: sentence("the emergency document is for %s, this host is in %s", e.Environment, cfg.Environment)}
	}
	if e.Epoch < st.Epoch && !rotatedAway(st.EpochKeys, doc.AllKeyIDs) {
		return &RefusedError{Rule: "old-epoch", Reason: sentence("the emergency document has epoch %d, this host has already accepted %d", e.Epoch, st.Epoch)}
	}
	w.emergency, w.emergDoc = e, doc
	return nil
}

// ranked is a deployment whose inventory was ranked: that takes seconds for a large fleet, so it is done once for each
// deployment. Of the inventory only this host's place is kept.
type ranked struct {
	raw      release.Digest // of the deployment's bytes
	host     string
	doc      *release.Deployment
	schedule *rollout.Schedule
}

// deployment parses, or gives the document that was parsed before from the same bytes.
func (m *Machine) deployment(raw []byte) (*release.Deployment, error) {
	if known := m.ranked.Load(); known != nil && known.raw == release.Sum(raw) {
		return known.doc, nil
	}
	return release.ParseDeployment(raw)
}

// schedule ranks the pinned inventory, which must be the one that is published now.
func (m *Machine) schedule(ctx context.Context, dep *release.Deployment, raw release.Digest) (*rollout.Schedule, error) {
	cfg, digest := m.cfg(), dep.Inventory.SHA256
	doc, err := m.Source.Document(ctx, release.InventoryPath(cfg.Environment))
	if err != nil {
		return nil, fmt.Errorf("cannot read the inventory the deployment pins: %w", err)
	}
	if got := release.Sum(doc.Bytes); got != digest {
		return nil, &RefusedError{Rule: "inventory-changed", Reason: sentence("the deployment pins inventory %s, the repository has %s: sign a deployment for the new inventory", digest.Short(), got.Short())}
	}
	if known := m.ranked.Load(); known != nil && known.doc == dep && known.host == cfg.HostID {
		return known.schedule, nil
	}
	inv, err := release.ParseInventory(doc.Bytes)
	if err != nil {
		return nil, &RefusedError{Rule: "bad-document", Reason: err.Error()}
	}
	s := rollout.NewSchedule(dep, inv, digest).For(cfg.HostID)
	m.ranked.Store(&ranked{raw, cfg.HostID, dep, s})
	return s, nil
}

func (m *Machine) release(ctx context.Context, ref release.Reference) (*release.Release, []byte, error) {
	app, version, err := release.ParseReleasePath(ref.Path)
	if err != nil || app != m.app {
		return nil, nil, &RefusedError{Rule: "bad-document", Reason: sentence("the deployment names release %q, which is not a release of %s", ref.Path, m.app)}
	}
	doc, err := m.Source.Document(ctx, ref.Path)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read release %s: %w", ref.Path, err)
	}
	if got := release.Sum(doc.Bytes); got != ref.SHA256 {
		return nil, nil, &RefusedError{Rule: "release-changed", Reason: sentence("the deployment signs release %s with digest %s, the repository has %s", version, ref.SHA256.Short(), got.Short())}
	}
	rel, err := release.ParseRelease(doc.Bytes)
	if err != nil {
		return nil, nil, &RefusedError{Rule: "bad-document", Reason: err.Error()}
	}
	if rel.App != app || rel.Version != version {
		return nil, nil, &RefusedError{Rule: "bad-document", Reason: sentence("%s is about %s %s", ref.Path, rel.App, rel.Version)}
	}
	return rel, doc.Bytes, nil
}

// decide asks the pure rollout rules.
func (m *Machine) decide(ctx context.Context, st *state.App, w *wish) rollout.Decision {
	cfg := m.cfg()
	in := rollout.Input{
		Deployment: w.deployment, Emergency: w.emergency, EmergencyExpired: w.emergExp, Schedule: w.schedule,
		Host: rollout.Host{ID: cfg.HostID, Labels: cfg.Labels, Environment: cfg.Environment},
		Now:  m.Clock.Now(), ClockTrusted: m.Clock.Synchronised(), Issued: w.meta.Issued,
		MetadataExpired: expiredRole(w.meta, m.Clock.Now()),
		Bundle:          w.meta.Bundle, MaxBundleAge: cfg.MaxBundleAge,
		Slot: m.slot(w), WentBack: slices.Contains(st.WentBack, w.deployment.RolloutID),
	}
	if st.Hold != nil {
		in.Hold = &rollout.Hold{Until: st.Hold.Until, Reason: st.Hold.Reason, By: st.Hold.By}
	}
	if id, err := m.current(); err == nil && !id.IsZero() {
		if _, digest, err := m.tree.Release(id); err == nil {
			in.Current = m.running(ctx, st, w, id, digest)
		}
	}
	if q, ok := st.Quarantined(w.digest, w.deployment.Sequence, w.deployment.RolloutID); ok && !w.digest.IsZero() && m.quarantineBinds(q) {
		in.Quarantined = &q.Reason
	}
	return rollout.Decide(in)
}

// running describes what `current` names. Its health is asked only when it counts: in a revert with a pace, where a host that
// does not serve has no turn to wait for.
func (m *Machine) running(ctx context.Context, st *state.App, w *wish, id release.ID, digest release.Digest) *rollout.Running {
	r := &rollout.Running{Version: id.Version(), Digest: digest, Stopped: st.Keeps(id)}
	d := w.deployment
	paced := (d.State == release.StateRevert && d.Revert != nil || m.slot(w).Order) && d.Release != nil && d.Release.SHA256 == digest
	r.Healthy = !r.Stopped && (!paced || m.serves(ctx, id))
	return r
}

func (m *Machine) quarantineBinds(q state.Quarantine) bool {
	return q.Cause.Sticky() || q.RetryAt.IsZero() || m.Clock.Now().Before(q.RetryAt)
}

// expiredRole names the top-level role whose expiry was passed longest ago, if any. Delegated roles answer for themselves
// when their documents are read.
func expiredRole(meta Metadata, now time.Time) *rollout.Expired {
	var out *rollout.Expired
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		at, ok := meta.Expires[role]
		if ok && now.After(at) && (out == nil || at.Before(out.At)) {
			out = &rollout.Expired{Role: role, At: at}
		}
	}
	return out
}

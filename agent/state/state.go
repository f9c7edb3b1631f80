// Package state owns what must survive a restart: one fsynced JSON file per app.
//
// The links in the store and this file are the only truth about an app. Every writer (daemon, guard, boot guardian, package
// scripts) opens the app with Lock, which takes the app's lock and reads the file anew, and compares attempt, phase and
// `current` before it changes anything: what it knew before it held the lock proves nothing.
package state

import (
	"slices"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// Schema is the format of state.json. A reader refuses any other.
const Schema = "slipway.state/v1"

// Phase is where an app stands. The set is closed; Next says which steps are legal.
type Phase string

// The phases. Activating, Trial and Reverting have an attempt; only in them is a guard armed.
const (
	Idle       Phase = "idle"       // nothing is in flight
	Staging    Phase = "staging"    // the candidate is being fetched, verified and unpacked
	Waiting    Phase = "waiting"    // the candidate is staged and gated; its turn has not come
	Activating Phase = "activating" // the attempt is on disk; `current` may or may not name it yet
	Trial      Phase = "trial"      // `current` names the new release; health is watched, revert is armed
	Committed  Phase = "committed"  // the release is known good; guard and marker are being cleared away
	Reverting  Phase = "reverting"  // going back to the fallback; repeated until done
	Stuck      Phase = "stuck"      // the fallback is unhealthy too, or there is none: a person is needed
	Removing   Phase = "removing"   // the app is being taken off this host
)

// Next lists the legal successors of each phase. A phase may always be written again unchanged.
var Next = map[Phase][]Phase{
	Idle:       {Staging, Waiting, Activating, Reverting, Removing},
	Staging:    {Waiting, Idle, Reverting, Removing},
	Waiting:    {Activating, Staging, Idle, Reverting, Removing},
	Activating: {Trial, Reverting, Idle},
	Trial:      {Committed, Reverting},
	Committed:  {Idle},
	Reverting:  {Idle, Stuck},
	Stuck:      {Idle, Staging, Waiting, Reverting, Removing},
	Removing:   {Idle},
}

// Cause says why a release was quarantined or an attempt ended; it is also a metric label and an audit field.
type Cause string

// The causes. Unhealthy, Operator, Revoked and Ordered (a hub took the rollout back) are sticky per digest and sequence; Signed
// quarantines nothing; the others get bounded, backed-off retries because they say little about the release itself.
const (
	CauseUnhealthy    Cause = "unhealthy"
	CauseInterrupted  Cause = "interrupted"
	CauseCannotTell   Cause = "cannot-tell"
	CauseGuard        Cause = "guard"
	CauseFailedBefore Cause = "failed-before"
	CauseOperator     Cause = "operator"
	CauseSigned       Cause = "signed"
	CauseRevoked      Cause = "revoked"
	CauseOrdered      Cause = "ordered"
)

// Sticky reports whether only a new deployment sequence or an operator's retry clears a quarantine of this cause.
func (c Cause) Sticky() bool {
	return c == CauseUnhealthy || c == CauseRevoked || c == CauseOperator || c == CauseOrdered
}

// App is the content of state.json.
type App struct {
	Schema string      `json:"schema"`
	App    release.App `json:"app"`
	// Revision counts saves. Commands carry the revision they saw; a stale one does nothing.
	Revision int64 `json:"revision"`
	Phase    Phase `json:"phase"`
	// Sequence is the highest deployment sequence ever accepted. It never decreases, and guards against replay beside
	// TUF's own versions.
	Sequence int64 `json:"sequence"`
	// SequenceKeys signed that deployment. If one of them is taken from the role, the memory is given up: it may have been
	// an attacker's.
	SequenceKeys []string `json:"sequence_keys,omitempty"`
	// Epoch is the highest emergency epoch ever accepted, and EpochKeys are those that signed it.
	Epoch      int64            `json:"epoch,omitempty"`
	EpochKeys  []string         `json:"epoch_keys,omitempty"`
	Attempt    *Attempt         `json:"attempt,omitempty"`
	KnownGood  []Good           `json:"known_good,omitempty"`
	Quarantine []Quarantine     `json:"quarantine,omitempty"`
	Retries    []Retry          `json:"retries,omitempty"`
	Hold       *Hold            `json:"hold,omitempty"`
	Last       *Outcome         `json:"last,omitempty"`
	History    []Outcome        `json:"history,omitempty"`
	Revoked    []release.Digest `json:"revoked,omitempty"`
	// Removed says that an operator took the app off this host; nothing starts until it has left the configuration.
	Removed bool `json:"removed,omitempty"`
	// Kept is a failed first installation that its signers want left for inspection. As long as `current` names it, its
	// units are stopped and nothing here starts them, not even a boot.
	Kept release.ID `json:"kept,omitzero"`
	// Fence is the coordinator's grant of the removal under way. That of an attempt is in the attempt.
	Fence int64 `json:"fence,omitempty"`
	// WentBack are the rollouts in which a coordinator's order took this app back: one such order a rollout is obeyed.
	WentBack []string `json:"went_back,omitempty"`
}

const wentBackMax = 16

// GoneBack remembers that rollout was taken back here by order.
func (a *App) GoneBack(rollout string) {
	a.WentBack = append(a.WentBack, rollout)
	a.WentBack = a.WentBack[max(0, len(a.WentBack)-wentBackMax):]
}

// UnderWay reports whether what is in flight has this grant.
func (a *App) UnderWay(fence int64) bool {
	return a.Attempt != nil && a.Attempt.Fence == fence || a.Phase == Removing && a.Fence == fence
}

// EndOf returns how what had this grant ended, nil if it is not known.
func (a *App) EndOf(fence int64) *Outcome {
	for i := len(a.History) - 1; i >= 0; i-- {
		if a.History[i].Fence == fence {
			return &a.History[i]
		}
	}
	return nil
}

// Keeps reports whether id, which `current` names, is kept for inspection and does not run.
func (a *App) Keeps(id release.ID) bool { return !id.IsZero() && a.Kept == id }

// Attempt is one try at making a release current. It is saved before the first effect.
type Attempt struct {
	ID        string         `json:"id"`
	Sequence  int64          `json:"sequence"`
	RolloutID string         `json:"rollout_id,omitempty"`
	Digest    release.Digest `json:"digest,omitzero"`
	// Fence is the coordinator's grant, zero without one. It goes into the outcome, whoever ends the attempt.
	Fence int64 `json:"fence,omitempty"`
	// From is what `current` named before; zero for a first install.
	From release.ID `json:"from,omitzero"`
	To   release.ID `json:"to,omitzero"`
	// Fallback is what a revert goes back to; zero means stop the units and remove `current`.
	Fallback release.ID `json:"fallback,omitzero"`
	Started  time.Time  `json:"started"`

	// BootID and Deadline belong together: Deadline is on the boot clock of that boot. After a reboot a fresh deadline
	// of at most Length is set, Boots times at most, so neither clock steps nor reboots stretch a trial without end.
	BootID   string        `json:"boot_id"`
	Deadline time.Duration `json:"deadline"`
	Length   time.Duration `json:"length"`
	Boots    int           `json:"boots"`
	MaxBoots int           `json:"max_boots"`

	MinHealthy time.Duration `json:"min_healthy"`
	// HealthyFor is what a daemon that was stopped in good order had already seen of the healthy time. Time that nobody
	// watched never counts.
	HealthyFor   time.Duration `json:"healthy_for,omitempty"`
	HealthySince time.Duration `json:"healthy_since,omitempty"`
	WasHealthy   bool          `json:"was_healthy,omitempty"`
	// Rehearsed is the fallback's fingerprint when its bytes were last proven, before the swap; empty if they were not.
	Rehearsed string `json:"rehearsed,omitempty"`
	// Baseline is the health of what ran before: "healthy", "unhealthy", "cannot-tell", or "none" if nothing ran.
	Baseline string `json:"baseline"`
	// OnFirstFailure is what the deployment signs for a first installation that fails: KeepFailed, or anything else for
	// taking it off.
	OnFirstFailure string `json:"on_first_failure,omitempty"`
	// Timing is the deployment's timing of checks by name.
	Timing map[string]release.Timing `json:"timing,omitempty"`

	// Cause and Reason are set when the attempt turns into a revert. Restarted is set once the fallback has been started:
	// whoever finishes the revert then only watches.
	Cause     Cause  `json:"cause,omitempty"`
	Reason    string `json:"reason,omitempty"`
	Restarted bool   `json:"restarted,omitempty"`
}

// KeepFailed is the OnFirstFailure that leaves the release for inspection.
const KeepFailed = "keep"

// KeepsFailed reports whether the end of this attempt leaves To in its place with its units stopped: only a first
// installation that failed, not one that signers or the emergency key took back.
func (a *Attempt) KeepsFailed() bool {
	return a.OnFirstFailure == KeepFailed && a.From.IsZero() && a.Fallback.IsZero() && a.Cause != CauseSigned && a.Cause != CauseRevoked
}

// Good is a release that passed its trial on this host.
type Good struct {
	ID     release.ID     `json:"id"`
	Digest release.Digest `json:"digest"`
	Since  time.Time      `json:"since"`
}

// Quarantine keeps one digest from being tried again by itself.
type Quarantine struct {
	Digest   release.Digest `json:"digest"`
	ID       release.ID     `json:"id"`
	Sequence int64          `json:"sequence"`
	// RolloutID is the rollout that the sequence belongs to; empty in states of older versions. An amendment (a wave opened, a
	// pause) is a new sequence of the same rollout and brings no second chance.
	RolloutID string    `json:"rollout_id,omitempty"`
	Cause     Cause     `json:"cause"`
	Reason    string    `json:"reason"`
	At        time.Time `json:"at"`
	// Tries counts attempts of this digest under this sequence or rollout; RetryAt is when the next one is allowed for causes that
	// are not sticky. A zero RetryAt means never.
	Tries   int       `json:"tries"`
	RetryAt time.Time `json:"retry_at,omitzero"`
}

// Retry is the back-off of fetching and staging one digest.
type Retry struct {
	Digest  release.Digest `json:"digest"`
	Tries   int            `json:"tries"`
	RetryAt time.Time      `json:"retry_at"`
	Reason  string         `json:"reason"`
}

// Hold is an operator's stop on this host.
type Hold struct {
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
}

// Active reports whether the hold still stops starts at now. A hold without an end lasts until it is resumed.
func (h *Hold) Active(now time.Time) bool {
	return h != nil && (h.Until.IsZero() || now.Before(h.Until))
}

// Outcome is how an attempt ended: Result is "committed", "reverted", "failed-before", "aborted", "removed" or "stuck". From
// and To are what `current` named before and after it; Tried is the release it was about, which a revert came from.
type Outcome struct {
	At       time.Time  `json:"at"`
	Attempt  string     `json:"attempt"`
	Result   string     `json:"result"`
	From     release.ID `json:"from,omitzero"`
	To       release.ID `json:"to,omitzero"`
	Tried    release.ID `json:"tried,omitzero"`
	Sequence int64      `json:"sequence,omitempty"`
	Fence    int64      `json:"fence,omitempty"`
	Cause    Cause      `json:"cause,omitempty"`
	Reason   string     `json:"reason,omitempty"`
}

const historyMax = 50

// Record makes o the last outcome and keeps the newest 50.
func (a *App) Record(o Outcome) {
	a.Last = &o
	a.History = append(a.History, o)
	if n := len(a.History) - historyMax; n > 0 {
		a.History = append([]Outcome(nil), a.History[n:]...)
	}
}

// Good returns the record of id if it passed a trial here.
func (a *App) Good(id release.ID) (Good, bool) {
	for _, g := range a.KnownGood {
		if g.ID == id {
			return g, true
		}
	}
	return Good{}, false
}

const goodMax = 256

// MarkGood records that id passed its trial, as the newest, and keeps the newest 256: releases that passed before them are long
// pruned, and a file that only grows would one day be taken for a damaged one.
func (a *App) MarkGood(g Good) {
	kept := a.KnownGood[:0:0]
	for _, k := range a.KnownGood {
		if k.ID != g.ID {
			kept = append(kept, k)
		}
	}
	a.KnownGood = append(kept, g)
	if n := len(a.KnownGood) - goodMax; n > 0 {
		a.KnownGood = slices.Clone(a.KnownGood[n:])
	}
}

// Quarantined returns the quarantine that binds digest under a deployment's sequence and rollout: an entry of an older sequence
// of another rollout binds no more, except a revocation, which only the emergency document lifts.
func (a *App) Quarantined(digest release.Digest, sequence int64, rolloutID string) (Quarantine, bool) {
	for _, q := range a.Quarantine {
		same := q.RolloutID != "" && q.RolloutID == rolloutID
		if q.Digest == digest && (q.Sequence >= sequence || same || q.Cause == CauseRevoked) {
			return q, true
		}
	}
	return Quarantine{}, false
}

const (
	quarantineTries = 3
	quarantineWait  = 10 * time.Minute
	quarantineMax   = 64
)

// AddQuarantine records that digest failed. Causes that are not sticky get at most three tries, ten minutes apart and
// doubling.
func (a *App) AddQuarantine(q Quarantine) {
	old, ok := a.Quarantined(q.Digest, q.Sequence, q.RolloutID)
	if ok && (old.Sequence == q.Sequence || old.RolloutID != "" && old.RolloutID == q.RolloutID) {
		q.Tries = old.Tries
	}
	q.Tries++
	if !q.Cause.Sticky() && q.Tries < quarantineTries {
		q.RetryAt = q.At.Add(quarantineWait << (q.Tries - 1))
	}
	a.ClearQuarantine(q.Digest)
	a.Quarantine = append(a.Quarantine, q)
	if n := len(a.Quarantine) - quarantineMax; n > 0 {
		a.Quarantine = a.Quarantine[n:]
	}
}

// ClearQuarantine forgets what is held against digest and reports whether there was anything.
func (a *App) ClearQuarantine(digest release.Digest) bool {
	n := len(a.Quarantine)
	kept := a.Quarantine[:0:0]
	for _, q := range a.Quarantine {
		if q.Digest != digest {
			kept = append(kept, q)
		}
	}
	a.Quarantine = kept
	return len(kept) != n
}

// RetryOf returns the back-off entry of digest.
func (a *App) RetryOf(digest release.Digest) (Retry, bool) {
	for _, r := range a.Retries {
		if r.Digest == digest {
			return r, true
		}
	}
	return Retry{}, false
}

// SetRetry replaces the back-off entry of r.Digest; ClearRetry removes it.
func (a *App) SetRetry(r Retry) {
	a.ClearRetry(r.Digest)
	a.Retries = append(a.Retries, r)
	if len(a.Retries) > quarantineMax {
		a.Retries = a.Retries[1:]
	}
}

// ClearRetry forgets the back-off of digest.
func (a *App) ClearRetry(digest release.Digest) {
	kept := a.Retries[:0:0]
	for _, r := range a.Retries {
		if r.Digest != digest {
			kept = append(kept, r)
		}
	}
	a.Retries = kept
}

// LiftRevocations forgets quarantines for revocations that are no longer in force.
func (a *App) LiftRevocations() {
	kept := a.Quarantine[:0:0]
	for _, q := range a.Quarantine {
		if q.Cause != CauseRevoked || slices.Contains(a.Revoked, q.Digest) {
			kept = append(kept, q)
		}
	}
	a.Quarantine = kept
}

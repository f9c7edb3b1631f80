package rollout

import (
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// Host is the asking host as its own configuration describes it. Labels select waves only where no inventory is pinned: a
// pinned inventory's labels are signed and win.
type Host struct {
	ID          string
	Environment release.Environment
	Labels      map[string]string
}

// Input is everything a decision depends on. Documents must be verified and parsed by the caller; the zero value of every
// optional field means "nothing known", never "allowed".
type Input struct {
	Deployment *release.Deployment
	// Emergency is nil if the environment publishes none. A document that has expired is still passed, with
	// EmergencyExpired set: its entries go on counting and nothing starts.
	Emergency        *release.Emergency
	EmergencyExpired bool
	// Inventory counts only if the deployment pins it and InventoryDigest, of its exact bytes, is the pinned one.
	Inventory       *release.Inventory
	InventoryDigest release.Digest
	// Schedule saves ranking the inventory again on each call. One that was made for another deployment is ignored.
	Schedule *Schedule
	Host     Host
	// Now is wall time. ClockTrusted says that it was synchronised and is not behind the latest time ever verified.
	Now          time.Time
	ClockTrusted bool
	// Issued is the signed issue time of the newest verified timestamp; zero if it carried none.
	Issued time.Time
	// Bundle is the file that brought the newest timestamp, "" if a server or directory did; MaxBundleAge is how long ago the
	// host's own configuration lets one from a bundle have been issued, zero for no such bound.
	Bundle       string
	MaxBundleAge time.Duration
	// MetadataExpired names a role whose metadata has ended; nil means all are in date.
	MetadataExpired *Expired
	Hold            *Hold
	// Current is what `current` names; nil if nothing is installed.
	Current *Running
	// Quarantined is why this host does not try the wanted release again; nil if it may.
	Quarantined *string
	Slot        Slot
	// WentBack says that this host already went back once by order of the coordinator in this rollout.
	WentBack bool
}

// Expired says which role's metadata ended and when.
type Expired struct {
	Role string
	At   time.Time
}

// Hold is an operator's local stop. A zero Until lasts until `resume`.
type Hold struct {
	Until  time.Time
	Reason string
	By     string
}

// Running is the release that `current` names, by the digest of its release.json. Stopped says that its units were stopped
// on purpose (on_revoked "stop"), so that the stop is not asked for again and a start of something else can follow. Healthy
// matters for a fleet revert only: a host that does not serve has no turn to wait for.
type Running struct {
	Version release.Version
	Digest  release.Digest
	Healthy bool
	Stopped bool
}

// Answer is what the coordinator last said about this host and this rollout.
type Answer string

// The answers. AnswerLost means silence, never refusal: a refusal stays a refusal however long it lasts, or a halted
// coordinator would be overruled by patience.
const (
	AnswerNone    Answer = ""
	AnswerGranted Answer = "granted"
	AnswerWait    Answer = "wait"
	AnswerLost    Answer = "lost"
)

// Slot is the coordinator's answer, since when it has been the same, and its own words. Back says that it answers a host that
// asked to go to the fallback: a slot is for one direction. Order says that the coordinator takes the rollout back; it counts
// only as far as the signed deployment lets a coordinator order that.
type Slot struct {
	Answer Answer
	Since  time.Time
	Reason string
	Back   bool
	Order  bool
}

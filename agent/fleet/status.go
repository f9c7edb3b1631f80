package fleet

import (
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// The paths of the hub's API for operators. Those under PathActs are POST, the others GET.
const (
	PathStatus = "/v1/fleet/status"
	PathHosts  = "/v1/fleet/hosts"
	PathSlots  = "/v1/fleet/slots"
	PathActs   = "/v1/fleet/" // + the act's name
)

// The acts of operators. Each names its reason, is compared with what the operator saw, and leaves one audit entry in the
// transaction that carries it out. Resume, Promote, Forget and Reconcile need more rights than Halt, Pause and Revert: starting again is
// the dangerous direction.
const (
	ActHalt      = "halt"
	ActResume    = "resume"
	ActPause     = "pause"
	ActPromote   = "promote"
	ActRevert    = "revert"
	ActForget    = "forget"
	ActReconcile = "reconcile"
)

// Act is an operator's request. Halt and Resume without App mean the whole fleet.
type Act struct {
	Environment release.Environment `json:"environment,omitzero"`
	App         release.App         `json:"app,omitzero"`
	// Rollout is the one the operator looked at. Another one in force refuses the act; halt and pause may leave it out.
	Rollout string `json:"rollout,omitempty"`
	Wave    string `json:"wave,omitempty"` // promote: the wave to open
	Host    string `json:"host,omitempty"` // forget
	Reason  string `json:"reason"`
}

// ActAnswer says what the act changed, in one sentence.
type ActAnswer struct {
	Done     string `json:"done"`
	Revision int64  `json:"revision"`
}

// Status is the operator's view of a fleet at one revision of the store.
type Status struct {
	Fleet    string          `json:"fleet"`
	At       time.Time       `json:"at"`
	Revision int64           `json:"revision"`
	Halt     *Stop           `json:"halt,omitempty"` // the whole fleet's
	Rollouts []RolloutStatus `json:"rollouts"`
}

// Stop says who stopped something, when and why.
type Stop struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// The states of a rollout.
const (
	StateOpen      = "open"
	StatePaused    = "paused"
	StateHalted    = "halted"
	StateReverting = "reverting"
	StateDone      = "done"
	StateRestored  = "restored"
)

// RolloutStatus is one (environment, app).
type RolloutStatus struct {
	Environment release.Environment `json:"environment"`
	App         release.App         `json:"app"`
	Rollout     string              `json:"rollout"`
	Sequence    int64               `json:"sequence"`
	Version     release.Version     `json:"version,omitzero"`
	Digest      release.Digest      `json:"digest,omitzero"`
	State       string              `json:"state"`
	Stop        *Stop               `json:"stop,omitempty"`
	Wave        string              `json:"wave,omitempty"` // the last one open
	Waves       []WaveStatus        `json:"waves,omitempty"`
	Cells       []CellStatus        `json:"cells"`
	Slots       []SlotStatus        `json:"slots,omitempty"`
	Failures    []Failure           `json:"failures,omitempty"`
	Counts      Counts              `json:"counts"`
	Hosts       int                 `json:"hosts"` // 0: unknown, neither inventory nor population is signed
	Started     time.Time           `json:"started,omitzero"`
	// Done is when it will be over at the pace so far; zero if nobody can tell.
	Done time.Time `json:"done,omitzero"`
	Why  string    `json:"why"` // what it waits for, in one sentence
}

// Counts are hosts by how they ended. Tried = Committed + Reverted + Stuck + Lost + FailedBefore; Failed = Reverted + Stuck + Lost.
type Counts struct {
	Committed    int `json:"committed"`
	Reverted     int `json:"reverted"`
	Stuck        int `json:"stuck"`
	Lost         int `json:"lost"`
	FailedBefore int `json:"failed_before"`
	Skipped      int `json:"skipped"`
}

// Tried counts the hosts that went through the swap, or were never heard of again.
func (c Counts) Tried() int { return c.Committed + c.Failed() + c.FailedBefore }

// Failed counts the hosts that speak against the release.
func (c Counts) Failed() int { return c.Reverted + c.Stuck + c.Lost }

// WaveStatus is one wave. Hosts is -1 if nobody can know it.
type WaveStatus struct {
	Name   string    `json:"name"`
	Open   bool      `json:"open"`
	Hosts  int       `json:"hosts"`
	Counts Counts    `json:"counts"`
	Opens  time.Time `json:"opens,omitzero"` // the signed floor
	Why    string    `json:"why,omitempty"`  // what the next one waits for
}

// CellStatus is one budget: of all hosts, or of one combination of the group_by labels.
type CellStatus struct {
	Cell  string `json:"cell"`
	Limit int    `json:"limit"`
	Held  int    `json:"held"`
	Lost  int    `json:"lost"`
}

// SlotStatus is one slot in use.
type SlotStatus struct {
	Cell      string      `json:"cell"`
	App       release.App `json:"app"`
	Host      string      `json:"host"`
	Rollout   string      `json:"rollout"`
	Direction Direction   `json:"direction"`
	State     string      `json:"state"` // held, lost, or unhealthy: reported, and still not serving
	Fence     int64       `json:"fence"`
	Since     time.Time   `json:"since"`
	Deadline  time.Time   `json:"deadline"`
	Reason    string      `json:"reason,omitempty"`
}

// Failure is one host that speaks against the release, and why.
type Failure struct {
	Host   string    `json:"host"`
	Wave   string    `json:"wave,omitempty"`
	Result Result    `json:"result"`
	Cause  string    `json:"cause,omitempty"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// HostStatus is one host as it last told, for one app.
type HostStatus struct {
	Environment release.Environment `json:"environment"`
	App         release.App         `json:"app"`
	Host        string              `json:"host"`
	Install     string              `json:"install"`
	Labels      map[string]string   `json:"labels,omitempty"`
	Runs        *Runs               `json:"runs,omitempty"`
	Phase       string              `json:"phase,omitempty"`
	Why         string              `json:"why,omitempty"`
	Wave        string              `json:"wave,omitempty"`
	Seen        time.Time           `json:"seen"` // coarse: hosts that do not change are written down every quarter of an hour
	Clone       bool                `json:"clone,omitempty"`
}

package fleet

import (
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// The paths of the hub's API for hosts. All are POST with a JSON body of at most MaxBody bytes.
const (
	PathTurn   = "/v1/turn"
	PathCheck  = "/v1/check"
	PathFinish = "/v1/finish"
	PathEnroll = "/v1/enroll"
)

// MaxBody bounds a request and an answer, in bytes.
const MaxBody = 64 << 10

// Direction is which way a host wants to go.
type Direction string

// The directions. Back is to the signed fallback: it has a budget of its own and knows no waves.
const (
	Nowhere Direction = ""
	Forward Direction = "forward"
	Back    Direction = "back"
)

// Turn is a host's question. Environment and host id come from its certificate.
type Turn struct {
	App      release.App    `json:"app"`
	Rollout  string         `json:"rollout"`
	Sequence int64          `json:"sequence"`
	Document release.Digest `json:"document"` // of the deployment's exact bytes: both must have read the same plan
	Epoch    int64          `json:"epoch,omitempty"`
	// Install is made once per installation and never copied: two machines with one host id have two of them.
	Install string            `json:"install"`
	Boot    string            `json:"boot,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"` // count only without a pinned inventory
	Want    Direction         `json:"want,omitempty"`
	Fence   int64             `json:"fence,omitempty"` // the slot the host believes it holds
	Wave    string            `json:"wave,omitempty"`  // as the host itself works it out
	Runs    *Runs             `json:"runs,omitempty"`
	Phase   string            `json:"phase,omitempty"`
	Why     string            `json:"why,omitempty"` // the host's own sentence, for people
}

// Runs is what `current` names on the host.
type Runs struct {
	Version release.Version `json:"version"`
	Digest  release.Digest  `json:"digest"`
	Healthy bool            `json:"healthy"`
}

// The answers to a turn.
const (
	Granted = "granted"
	Wait    = "wait"
)

// TurnAnswer is what the hub says. It authorises nothing that is not signed.
type TurnAnswer struct {
	Answer string `json:"answer"`
	// Rule is the kind of a wait, of a small closed set: see the Rule constants.
	Rule   string `json:"rule,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Fence names the grant. It grows with every grant of a fleet and is what check and finish are compared with.
	Fence    int64     `json:"fence,omitempty"`
	Deadline time.Time `json:"deadline,omitzero"` // a host silent until then counts as lost, and keeps its slot
	// Rollout says whose grant Fence is, in an answer of RuleHeld. A host whose journal does not know that grant never acted on
	// it (the answer that brought it was lost) and gives it back.
	Rollout string `json:"rollout,omitempty"`
	// Order is Back while the rollout is being taken back to its signed fallback. The host does so only if its own reading of
	// the deployment allows it, and once per rollout.
	Order Direction `json:"order,omitempty"`
	// Hint grows when there is news worth fetching: a new plan, a halt. It carries none of it.
	Hint int64 `json:"hint,omitempty"`
	// Poll is when to ask again, in seconds; zero leaves it to the host.
	Poll int `json:"poll,omitempty"`
}

// The rules of a wait. They label metrics, so the set is closed.
const (
	RuleHalted   = "halted"    // the rollout or the fleet is halted
	RulePaused   = "paused"    // an operator paused it
	RuleWave     = "wave"      // the host's wave is not open yet
	RuleBudget   = "budget"    // every slot is taken
	RulePlan     = "plan"      // hub and host have not read the same deployment yet
	RuleClone    = "clone"     // another machine uses this host id
	RuleUnknown  = "unknown"   // the signed inventory does not list this host
	RuleHeld     = "held"      // the host still holds a slot of another rollout
	RuleReverted = "reverting" // the rollout is being taken back: nothing goes forward
	RuleBusy     = "busy"      // the store did not answer in time: ask again
	RuleSigned   = "signed"    // the signed plan itself lets nobody start now: calendar, freshness, expiry
	RuleRestored = "restored"  // the store came back from an old copy; an operator has to reconcile first
)

// Check is asked just before the swap. A host that gets no OK, for whatever reason, does not swap.
type Check struct {
	App     release.App `json:"app"`
	Rollout string      `json:"rollout"`
	Install string      `json:"install"`
	Fence   int64       `json:"fence"`
}

// CheckAnswer is OK for Within seconds from when it was asked, on the host's boot clock.
type CheckAnswer struct {
	OK     bool   `json:"ok"`
	Within int    `json:"within,omitempty"`
	Rule   string `json:"rule,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Result is how an update ended on a host.
type Result string

// The results. Skipped is an update given up before the swap: nothing happened to the app. FailedBefore is one whose app was
// failing before it; it counts as tried and against nobody.
const (
	Committed    Result = "committed"
	Reverted     Result = "reverted"
	FailedBefore Result = "failed-before"
	Stuck        Result = "stuck"
	Skipped      Result = "skipped"
	// Lost is the hub's own word for a host that was silent past its deadline. No host reports it.
	Lost Result = "lost"
)

// Finish ends a grant. It is repeated until answered; a second one for the same fence changes nothing.
type Finish struct {
	App     release.App `json:"app"`
	Rollout string      `json:"rollout"`
	Install string      `json:"install"`
	Fence   int64       `json:"fence"`
	Result  Result      `json:"result"`
	// Serving says that the app is healthy now, on whatever release. A host that is not keeps its slot: it is unavailable, and
	// the budget has to say so. It reports again once it serves.
	Serving bool   `json:"serving"`
	Runs    *Runs  `json:"runs,omitempty"`
	Cause   string `json:"cause,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Wave    string `json:"wave,omitempty"`
	// Took is from swap to verdict, in seconds.
	Took int `json:"took,omitempty"`
}

// FinishAnswer says whether the report counted. Stale is final: the fence was forgotten or is somebody else's.
type FinishAnswer struct {
	Accepted bool   `json:"accepted"`
	Stale    bool   `json:"stale,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// Error is the body of every answer that is not a success: a kind of a small closed set, a sentence, and what to do.
type Error struct {
	Kind    string `json:"kind"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func (e *Error) Error() string { return e.Message }

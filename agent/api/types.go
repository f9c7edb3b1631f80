package api

import (
	"time"
)

// Duration is a time.Duration that travels as text ("1m30s").
type Duration time.Duration

// String is the form of time.Duration.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes the form String has.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// Status is everything a person wants to see first.
type Status struct {
	Host        string      `json:"host"`
	Environment string      `json:"environment"`
	Version     string      `json:"version"`
	Supervisor  string      `json:"supervisor,omitempty"`
	Repository  Repository  `json:"repository"`
	Apps        []AppStatus `json:"apps"`
	// Hold is the hold over the whole host, if one is in force: apps that appear while it is are held too. What holds each app
	// now is in Apps.
	Hold *Hold `json:"hold,omitempty"`
	// Revision grows with every hold and resume on this host; it is what resuming the whole host is compared with. Every app
	// has its own.
	Revision int64 `json:"revision"`
	// Warnings are whole sentences about the host: a configuration edit that was refused, options that weaken safety.
	Warnings []string `json:"warnings,omitempty"`
}

// RepositoryState is one word on the trusted metadata.
type RepositoryState string

// The states of the repository as this host sees it. Everything but RepositoryOK means that nothing new starts; nothing that
// runs is ever touched because of it.
const (
	RepositoryOK          RepositoryState = "ok"
	RepositoryNever       RepositoryState = "never"       // not one refresh succeeded yet
	RepositoryUnreachable RepositoryState = "unreachable" // the last refresh failed, what is trusted is still fresh
	RepositoryExpired     RepositoryState = "expired"
	RepositoryRefused     RepositoryState = "refused" // what the repository served was refused
)

// Repository is the state of the trusted metadata. Expires holds the time of every role, LastRefresh is the last success and
// Issued the time the publisher signed into the timestamp.
type Repository struct {
	State       RepositoryState      `json:"state"`
	LastRefresh time.Time            `json:"last_refresh,omitzero"`
	NextRefresh time.Time            `json:"next_refresh,omitzero"`
	Issued      time.Time            `json:"issued,omitzero"`
	Expires     map[string]time.Time `json:"expires,omitempty"`
	Error       string               `json:"error,omitempty"`
}

// AppStatus is one app of this host. Current, Fallback and Candidate are release names ("2.4.1-0123456789ab"), empty if absent.
type AppStatus struct {
	App     string `json:"app"`
	Enabled bool   `json:"enabled"`
	Phase   string `json:"phase"`
	// Busy says that the daemon is at work on this app and will leave the phase without help from outside. Waiting for a
	// turn, a window or a hold's end is not busy.
	Busy       bool         `json:"busy"`
	Current    string       `json:"current,omitempty"`
	Version    string       `json:"version,omitempty"`
	Fallback   string       `json:"fallback,omitempty"`
	Candidate  string       `json:"candidate,omitempty"`
	Deployment *Deployment  `json:"deployment,omitempty"`
	Trial      *Trial       `json:"trial,omitempty"`
	Hold       *Hold        `json:"hold,omitempty"`
	Quarantine []Quarantine `json:"quarantine,omitempty"`
	Progress   *Progress    `json:"progress,omitempty"`
	Units      []Unit       `json:"units,omitempty"`
	// Why is one sentence: what happens, or why nothing does.
	Why string `json:"why"`
	// Turn is the host's place in the rollout, while the rollout's rules have something to decide.
	Turn        *Turn    `json:"turn,omitempty"`
	LastOutcome *Outcome `json:"last_outcome,omitempty"`
	// Revision grows with every change of the app's saved state; it is what expect_revision is compared with.
	Revision int64 `json:"revision"`
}

// Deployment is the signed statement in force for an app.
type Deployment struct {
	Sequence  int64     `json:"sequence"`
	RolloutID string    `json:"rollout_id,omitempty"`
	State     string    `json:"state"`
	Release   string    `json:"release,omitempty"`
	Version   string    `json:"version,omitempty"`
	Absent    bool      `json:"absent,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Ticket    string    `json:"ticket,omitempty"`
	Expires   time.Time `json:"expires,omitzero"`
}

// Turn is what the rules of a rollout say of this host. Rule names the one in the way ("open" if none is), Position is the host's
// published place in [0, 1), Wave the wave that takes it. Earliest is when the known times alone let it start and Until when
// everything known does; zero where no end is known.
type Turn struct {
	Act      bool      `json:"act"`
	Verb     string    `json:"verb"`
	Rule     string    `json:"rule"`
	Because  string    `json:"because"`
	Position float64   `json:"position"`
	Wave     string    `json:"wave,omitempty"`
	Earliest time.Time `json:"earliest,omitzero"`
	Until    time.Time `json:"until,omitzero"`
}

// Trial is the time between activation and commit. Unless HealthyFor reaches MinHealthy before Deadline, the release is
// reverted; the guard sees to it without the daemon.
type Trial struct {
	Attempt    string    `json:"attempt,omitempty"`
	Started    time.Time `json:"started"`
	Deadline   time.Time `json:"deadline"`
	HealthyFor Duration  `json:"healthy_for"`
	MinHealthy Duration  `json:"min_healthy"`
	Checks     []Check   `json:"checks,omitempty"`
}

// Check is the newest answer of one health check: "healthy", "unhealthy" or "cannot-tell".
type Check struct {
	Name   string    `json:"name"`
	Kind   string    `json:"kind,omitempty"`
	Answer string    `json:"answer"`
	Detail string    `json:"detail,omitempty"`
	Since  time.Time `json:"since,omitzero"`
}

// Unit is what the supervisor says about one unit of the current release. Active is "unknown" if it did not answer in time.
type Unit struct {
	Name   string    `json:"name"`
	Active string    `json:"active"`
	Sub    string    `json:"sub,omitempty"`
	Since  time.Time `json:"since,omitzero"`
}

// Hold is an operator's stop; without Until it stays until resume.
type Hold struct {
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by,omitempty"`
}

// Quarantine is a release this host will not try again by itself. Cause "unhealthy" is sticky; for other causes RetryAt says
// when the host tries again.
type Quarantine struct {
	Release  string    `json:"release"`
	Version  string    `json:"version"`
	Digest   string    `json:"digest"`
	Sequence int64     `json:"sequence,omitempty"`
	Cause    string    `json:"cause"`
	Reason   string    `json:"reason,omitempty"`
	At       time.Time `json:"at"`
	RetryAt  time.Time `json:"retry_at,omitzero"`
}

// Progress is how far the present step has come. Total zero means unknown; Rate is in bytes per second.
type Progress struct {
	Step    string  `json:"step"`
	Percent float64 `json:"percent"`
	Bytes   int64   `json:"bytes"`
	Total   int64   `json:"total"`
	Rate    int64   `json:"rate"`
}

// The results an attempt can end with.
const (
	ResultCommitted    = "committed"
	ResultReverted     = "reverted"
	ResultRefused      = "refused"       // policy, gate or unit rules said no; nothing was activated
	ResultFailed       = "failed"        // could not be staged or activated; what ran before still runs
	ResultFailedBefore = "failed-before" // the app was already unhealthy before the swap
	ResultRemoved      = "removed"       // the app is absent now, as asked
)

// Outcome is how the last attempt ended. Release and Version are what it tried, whatever runs after it.
type Outcome struct {
	Attempt string    `json:"attempt"`
	Result  string    `json:"result"`
	Release string    `json:"release,omitempty"`
	Version string    `json:"version,omitempty"`
	At      time.Time `json:"at"`
	Message string    `json:"message"`
}

// HistoryEntry is one attempt, newest first in answers. From and To are what ran before and after it, Tried is the release it
// was about.
type HistoryEntry struct {
	Attempt  string    `json:"attempt"`
	Started  time.Time `json:"started"`
	Ended    time.Time `json:"ended,omitzero"`
	From     string    `json:"from,omitempty"`
	To       string    `json:"to,omitempty"`
	Tried    string    `json:"tried,omitempty"`
	Sequence int64     `json:"sequence,omitempty"`
	Result   string    `json:"result,omitempty"`
	Cause    string    `json:"cause,omitempty"`
	Message  string    `json:"message,omitempty"`
}

// Event is one line of the event stream: the same sentence that the journal and the audit log hold.
type Event struct {
	Time    time.Time         `json:"time"`
	App     string            `json:"app,omitempty"`
	Kind    string            `json:"kind"`
	Phase   string            `json:"phase,omitempty"`
	Attempt string            `json:"attempt,omitempty"`
	From    string            `json:"from,omitempty"`
	To      string            `json:"to,omitempty"`
	Cause   string            `json:"cause,omitempty"`
	Message string            `json:"message"`
	Fields  map[string]string `json:"fields,omitempty"`
}

// VerifyReport compares the tree that `current` names with its signed manifest. OK means that Differences is empty.
type VerifyReport struct {
	App         string       `json:"app"`
	Release     string       `json:"release"`
	OK          bool         `json:"ok"`
	Quick       bool         `json:"quick,omitempty"`
	Files       int64        `json:"files,omitempty"`
	Bytes       int64        `json:"bytes,omitempty"`
	Took        Duration     `json:"took,omitempty"`
	Differences []Difference `json:"differences,omitempty"`
}

// Difference is one path that is not what was signed. What is a short word: "missing", "extra", "content", "mode", "type", "target".
type Difference struct {
	Path string `json:"path"`
	What string `json:"what"`
	Want string `json:"want,omitempty"`
	Got  string `json:"got,omitempty"`
}

// The statuses of a doctor's check.
const (
	DoctorOK   = "ok"
	DoctorWarn = "warn"
	DoctorFail = "fail"
)

// DoctorReport lists everything that was looked at, also what is well.
type DoctorReport struct {
	Checks []DoctorCheck `json:"checks"`
}

// DoctorCheck is one thing that was looked at. Hint is set when Status is not DoctorOK.
type DoctorCheck struct {
	Name    string `json:"name"`
	Status  string `json:"status"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

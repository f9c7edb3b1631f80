package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent/audit"
	"github.com/slipway-deploy/slipway/agent/gate"
	"github.com/slipway-deploy/slipway/agent/health"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
	"github.com/slipway-deploy/slipway/agent/store"
	"github.com/slipway-deploy/slipway/agent/units"
)

// Source is the only way to the network and to untrusted bytes. It speaks plain data, so that it can live in an
// unprivileged process; what it returns as documents has been verified against the pinned root, what it stages has been
// verified against the manifest.
type Source interface {
	// Refresh brings metadata up to date. On an error the answer still describes what is trusted.
	Refresh(ctx context.Context) (Metadata, error)
	// Known describes trusted metadata without touching the network; an error if there is none.
	Known(ctx context.Context) (Metadata, error)
	// Document returns the verified bytes of a signed document from trusted metadata, fetching them if needed.
	// ErrNoDocument says that nobody signs one under this path, as opposed to not being able to tell.
	Document(ctx context.Context, path string) (Document, error)
	// Stage fills the empty directory dir with the archive's tree, exactly as the manifest says, synced to disk, and
	// returns the manifest's bytes. It may be called again after any failure, on an empty directory.
	Stage(ctx context.Context, a release.Artifact, dir string, progress func(Progress)) (manifest []byte, err error)
}

// ErrNoDocument is Source's definite "there is none".
var ErrNoDocument = errors.New("no document is signed under this path")

// ExpiredError says that a role's signature lapsed. It stops starts and nothing else.
type ExpiredError struct {
	Role string
	At   time.Time
}

func (e *ExpiredError) Error() string {
	return fmt.Sprintf("%s expired on %s; what runs is not touched, and nothing new starts until it is signed anew", e.Role, e.At.UTC().Format(time.RFC3339))
}

// Kind names this error for metrics and the wire.
func (e *ExpiredError) Kind() string { return "expired" }

// Metadata is what trusted metadata says about itself.
type Metadata struct {
	// Issued is the time signed into the timestamp: the metadata is at most this old whatever a mirror does.
	Issued time.Time
	// Verified is when a refresh last succeeded on this host.
	Verified time.Time
	Versions map[string]int64
	Expires  map[string]time.Time
	// Bundle is the file that brought the newest news, "" if they came or were confirmed another way.
	Bundle  string
	Changed bool
}

// Document is a signed document and who signed it. AllKeyIDs are the keys its role lists now, KeyIDs those that signed.
type Document struct {
	Path      string
	Bytes     []byte
	Roles     []string
	KeyIDs    []string
	AllKeyIDs []string
}

// Progress is how far a step has come; Total is 0 while unknown, Rate is in bytes per second over the step so far.
type Progress struct {
	Step              string
	Done, Total, Rate int64
}

// Manager controls the units of the host.
type Manager interface {
	// Describe names the implementation in one phrase, for status and logs.
	Describe() string
	// Reload makes the manager read unit files again.
	Reload(ctx context.Context) error
	// Job does start, stop, restart, reload or reload-or-restart and waits for the end of the job. A job that did not
	// succeed is an error that says how it ended.
	Job(ctx context.Context, verb, unit string) error
	// StartNoBlock queues a start and does not wait, for early boot.
	StartNoBlock(ctx context.Context, unit string) error
	// Kill ends every process of a unit at once. A unit without processes is fine.
	Kill(ctx context.Context, unit string) error
	// ResetFailed forgets failures and start limits of a unit; a unit that is not loaded is fine.
	ResetFailed(ctx context.Context, unit string) error
	// Instances lists the loaded instances of a template, by the template's name.
	Instances(ctx context.Context, template string) ([]string, error)
	// Unit says how a unit is.
	Unit(ctx context.Context, unit string) (health.UnitStatus, error)
}

// Tasks runs a program of a release once, under the app's user, never as a child of the daemon.
type Tasks interface {
	Run(ctx context.Context, t Task) (TaskResult, error)
}

// Task is one run. Command's first word is an absolute path.
type Task struct {
	Name, Description string
	Command           []string
	User, Dir         string
	Env               []string
	Timeout           time.Duration
}

// TaskResult is how it ended; Output is the last few KiB.
type TaskResult struct {
	Exit     int
	TimedOut bool
	Output   string
}

// Guards arms what reverts a trial when this process cannot.
type Guards interface {
	// Arm starts a timer outside this process that runs the guard at Deadline unless disarmed. Arming the same attempt
	// again replaces it.
	Arm(ctx context.Context, g Ticket, deadline time.Duration) error
	// Disarm stops the timer of an attempt; none is fine.
	Disarm(ctx context.Context, app release.App, attempt string) error
}

// Accounts creates the users and directories an app needs. It must be idempotent and never removes.
type Accounts interface {
	Ensure(ctx context.Context, app release.App, users []release.User, dirs []release.Directory) error
}

// Clock is the host's time: Now for signed times, Boot (CLOCK_BOOTTIME) for deadlines, BootID to tell boots apart.
type Clock interface {
	Now() time.Time
	Boot() time.Duration
	BootID() string
	// Synchronised says whether Now may be compared with signed times.
	Synchronised() bool
}

// Deps is what a Machine works with.
type Deps struct {
	Source   Source
	Store    *store.Store
	State    *state.Dir
	Units    units.Dir
	Manager  Manager
	Tasks    Tasks
	Guards   Guards
	Accounts Accounts
	Gates    []gate.Gate
	Sink     audit.Sink
	// Observe gets every event after it was recorded, for the status line, the event stream and metrics. It must not block.
	Observe func(audit.Event)
	Clock   Clock
	Log     hclog.Logger
	// StageSlots bounds how many apps stage at once.
	StageSlots chan struct{}
	// Coordinator is asked by deployments that name one; nil in processes that must not touch the network.
	Coordinator Coordinator
}

// Settings are the wishes of the host's configuration for one app. They are replaced as a whole.
type Settings struct {
	// Disabled keeps what runs and starts nothing new.
	Disabled    bool
	Environment release.Environment
	HostID      string
	Labels      map[string]string
	Env         map[string]string
	Credentials map[string]string
	AllowRoot   bool
	// Endpoints overrides where the release's checks connect to, by check name.
	Endpoints map[string]Endpoint
	// SpaceReserve is what must stay free on every filesystem after staging, in bytes.
	SpaceReserve int64
	Keep         int
	KeepFor      time.Duration
	// MaxBundleAge bounds the age of news that came in a bundle; zero leaves what is signed as the only bound.
	MaxBundleAge time.Duration
	// SlotPoll is how often a coordinator is asked or told; zero means every 30 seconds. Its own wish comes first.
	SlotPoll time.Duration
	// Unfit is why this host may start nothing new for now: its identity belongs to another machine. What runs goes on.
	Unfit string
}

// Endpoint replaces where one check connects to: a whole URL, an address, or the port alone.
type Endpoint struct {
	URL, Address string
	Port         int
}

func (e Endpoint) url(of string) string {
	if e.URL != "" {
		return e.URL
	}
	u, err := url.Parse(of)
	if err != nil || e.Port == 0 && e.Address == "" {
		return of
	}
	u.Host = e.address(u.Host)
	return u.String()
}

func (e Endpoint) address(of string) string {
	if e.Address != "" {
		return e.Address
	}
	host, _, err := net.SplitHostPort(of)
	if err != nil || e.Port == 0 {
		return of
	}
	return net.JoinHostPort(host, strconv.Itoa(e.Port))
}

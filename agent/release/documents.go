package release

import "time"

// Schema names of the signed documents. A reader accepts the newest and the one before it; a publisher writes the lowest
// version that can express the document.
const (
	ReleaseSchema    = "slipway.release/v1"
	ManifestSchema   = "slipway.manifest/v1"
	DeploymentSchema = "slipway.deployment/v1"
	EmergencySchema  = "slipway.emergency/v1"
	InventorySchema  = "slipway.inventory/v1"
)

// Release is releases/<app>/<version>/release.json: what the app's own keys say these bytes are. The SHA-256 of its exact
// bytes is the release's digest, the name under which hosts quarantine, revoke and keep it.
type Release struct {
	Schema    string                `json:"schema"`
	App       App                   `json:"app"`
	Version   Version               `json:"version"`
	Created   time.Time             `json:"created"`
	Source    *Source               `json:"source,omitempty"`
	Platforms map[Platform]Artifact `json:"platforms"`
	Restart   RestartMode           `json:"restart"`
	Units     []UnitFile            `json:"units"`
	Users     []User                `json:"users,omitempty"`
	Dirs      []Directory           `json:"directories,omitempty"`
	Checks    []Check               `json:"checks,omitempty"`
	Hooks     *Hooks                `json:"hooks,omitempty"`
	// RollbackFloor is the oldest version a revert from this release may go back to; empty means any. It guards data
	// that an older version could not read.
	RollbackFloor *Version `json:"rollback_floor,omitempty"`
	SBOM          *File    `json:"sbom,omitempty"`
	Provenance    []File   `json:"provenance,omitempty"`
	Approvals     []File   `json:"approvals,omitempty"`
	// Patches is reserved for byte-level deltas; a v1 host ignores it.
	Patches []Patch `json:"patches,omitempty"`
}

// Source says where a release was built from. It is information for people; provenance is what gates check.
type Source struct {
	Repository string `json:"repository"`
	Commit     string `json:"commit,omitempty"`
}

// File pins a file of the repository by content. Path is its target path; the stored name carries the digest
// (consistent snapshots), so a File can be fetched without being listed in targets metadata.
type File struct {
	Path   string `json:"path"`
	SHA256 Digest `json:"sha256"`
	Length int64  `json:"length"`
}

// Artifact is one platform's payload: a tar.zst archive and the manifest that is the authority for every byte in it.
// Unpacked and Files bound what unpacking may write, before the manifest itself has been read.
type Artifact struct {
	Archive  File  `json:"archive"`
	Manifest File  `json:"manifest"`
	Unpacked int64 `json:"unpacked"`
	Files    int64 `json:"files"`
}

// Patch is reserved: how to make this release's archive content from another release's tree.
type Patch struct {
	Platform Platform `json:"platform"`
	From     Digest   `json:"from"`
	File     File     `json:"file"`
}

// RestartMode says how running processes take up a new release.
type RestartMode string

// The restart modes. Reload and None keep processes that opened files of the old release running over the swap: a release
// that asks for them declares that it tolerates seeing the new tree through `current`.
const (
	RestartModeRestart RestartMode = "restart"
	RestartModeReload  RestartMode = "reload"
	RestartModeSocket  RestartMode = "socket"
	RestartModeNone    RestartMode = "none"
)

// UnitFile names a systemd unit that the release ships. Path is inside the release; Name must belong to the app.
type UnitFile struct {
	Name UnitName `json:"name"`
	Path string   `json:"path"`
}

// User is a system user the app runs as, named <app> or <app>-*; it is created if absent and never removed.
type User struct {
	Name string `json:"name"`
	Home string `json:"home,omitempty"`
}

// Directory is a directory outside the release that the app needs, below /var/lib, /var/log, /var/cache, /run or /etc and
// there below a directory named <app> or <app>-*. Mode is octal text such as "0750".
type Directory struct {
	Path  string `json:"path"`
	Mode  string `json:"mode"`
	User  string `json:"user"`
	Group string `json:"group,omitempty"`
}

// CheckKind selects how a health check asks.
type CheckKind string

// The kinds of health checks. The first is not called CheckUnit because that is the rule check of unit files.
const (
	CheckUnitState CheckKind = "unit"
	CheckHTTP      CheckKind = "http"
	CheckTCP       CheckKind = "tcp"
	CheckExec      CheckKind = "exec"
	CheckGRPC      CheckKind = "grpc"
)

// Check is one default health check of a release. Only the fields of its kind may be set: Unit (unit), URL and Status
// (http), Address (tcp, grpc), Service (grpc), Command and User (exec; the command's first word is a path inside the
// release). Hosts may override endpoints, deployments may override times and thresholds, nobody may override commands.
type Check struct {
	Name    string    `json:"name"`
	Kind    CheckKind `json:"kind"`
	Unit    UnitName  `json:"unit,omitzero"`
	URL     string    `json:"url,omitempty"`
	Status  int       `json:"status,omitempty"`
	Address string    `json:"address,omitempty"`
	Service string    `json:"service,omitempty"`
	Command []string  `json:"command,omitempty"`
	User    string    `json:"user,omitempty"`
	Timing
}

// Timing holds the times and thresholds of a check. Zero values mean the defaults in docs/health.md.
type Timing struct {
	Interval         Duration `json:"interval,omitempty"`
	Timeout          Duration `json:"timeout,omitempty"`
	StartPeriod      Duration `json:"start_period,omitempty"`
	SuccessThreshold int      `json:"success_threshold,omitempty"`
	FailureThreshold int      `json:"failure_threshold,omitempty"`
}

// Hooks are commands of the release that run once around an activation, as transient units under the app's user. They must
// be idempotent: a crash may run them twice.
type Hooks struct {
	PreActivate *Command `json:"pre_activate,omitempty"`
	PostCommit  *Command `json:"post_commit,omitempty"`
	PostRevert  *Command `json:"post_revert,omitempty"`
}

// Command runs a program of the release. The first word of Command is a path inside the release.
type Command struct {
	Command []string `json:"command"`
	User    string   `json:"user,omitempty"`
	Timeout Duration `json:"timeout,omitempty"`
}

// EntryType is the type of a manifest entry. Nothing else may be in a release.
type EntryType string

// The entry types.
const (
	TypeFile    EntryType = "file"
	TypeDir     EntryType = "dir"
	TypeSymlink EntryType = "symlink"
)

// Manifest lists every path of one platform's tree in byte order of Path. It is the authority for bytes: at staging, before
// every activation, and for drift.
type Manifest struct {
	Schema   string   `json:"schema"`
	App      App      `json:"app"`
	Version  Version  `json:"version"`
	Platform Platform `json:"platform"`
	Entries  []Entry  `json:"entries"`
}

// Entry is one path. Mode is "0444" or "0555" for files, "0555" for directories, absent for links (the tree is read-only and
// belongs to root); Size and SHA256 are of files, Target of
// symbolic links (relative, and inside the release).
type Entry struct {
	Path   string    `json:"path"`
	Type   EntryType `json:"type"`
	Mode   string    `json:"mode,omitempty"`
	Size   int64     `json:"size,omitempty"`
	SHA256 *Digest   `json:"sha256,omitempty"`
	Target string    `json:"target,omitempty"`
}

// DeploymentState is what the signers want of a deployment.
type DeploymentState string

// The deployment states. Paused and halted start nothing new; revert asks hosts that run Release to go to Fallback.
const (
	StateActive DeploymentState = "active"
	StatePaused DeploymentState = "paused"
	StateHalted DeploymentState = "halted"
	StateRevert DeploymentState = "revert"
)

// Deployment is deployments/<env>/<app>.json: the approvers' statement that in this environment this app shall run this
// release, rolled out like this. Exactly one of Release and Absent is set.
type Deployment struct {
	Schema      string          `json:"schema"`
	App         App             `json:"app"`
	Environment Environment     `json:"environment"`
	Sequence    int64           `json:"sequence"`
	RolloutID   string          `json:"rollout_id"`
	State       DeploymentState `json:"state"`
	Release     *Reference      `json:"release,omitempty"`
	Absent      bool            `json:"absent,omitempty"`
	Fallback    *Reference      `json:"fallback,omitempty"`
	Reason      string          `json:"reason,omitempty"`
	Ticket      string          `json:"ticket,omitempty"`
	RequestedBy string          `json:"requested_by,omitempty"`
	Created     time.Time       `json:"created"`
	NotBefore   *time.Time      `json:"not_before,omitempty"`
	Expires     *time.Time      `json:"expires,omitempty"`
	// Freshness is how old the timestamp's signed `issued` may be when a host starts an activation; zero means no bound
	// beyond the timestamp's expiry.
	Freshness Duration     `json:"freshness,omitempty"`
	Health    *TrialPolicy `json:"health,omitempty"`
	// OnFirstFailure says what a failed first installation leaves: "remove" (default) or "keep" the failed release for
	// inspection with its units stopped.
	OnFirstFailure string `json:"on_first_failure,omitempty"`
	// OnRevoked says what happens to a running release whose digest is revoked: "keep" (default), "revert" or "stop".
	OnRevoked string `json:"on_revoked,omitempty"`
	Gates     *Gates `json:"gates,omitempty"`

	Population        int64         `json:"population,omitempty"`
	Waves             []Wave        `json:"waves,omitempty"`
	MaxWave           string        `json:"max_wave,omitempty"`
	Budget            *Budget       `json:"budget,omitempty"`
	Windows           []Window      `json:"windows,omitempty"`
	Freeze            []Freeze      `json:"freeze,omitempty"`
	Halt              *HaltPolicy   `json:"halt,omitempty"`
	Revert            *RevertPolicy `json:"revert,omitempty"`
	Coordinator       *Coordinator  `json:"coordinator,omitempty"`
	OnCoordinatorLoss string        `json:"on_coordinator_loss,omitempty"`
	CoordinatorGrace  Duration      `json:"coordinator_grace,omitempty"`
	Inventory         *InventoryRef `json:"inventory,omitempty"`
	Salt              string        `json:"salt,omitempty"`
}

// Reference names a release by its target path and the SHA-256 of its release.json.
type Reference struct {
	Path   string `json:"path"`
	SHA256 Digest `json:"sha256"`
}

// TrialPolicy holds the thresholds and times of a trial. A deployment can select and time checks, never supply a command.
type TrialPolicy struct {
	MinHealthyTime  Duration `json:"min_healthy_time,omitempty"`
	HealthyDeadline Duration `json:"healthy_deadline,omitempty"`
	// Boots is how many boots a trial survives before it is reverted; zero means the default of 2.
	Boots int `json:"boots,omitempty"`
	// Checks overrides the timing of the release's checks by name.
	Checks map[string]Timing `json:"checks,omitempty"`
}

// Gates selects the gates a staged release must pass. Absent members mean the host's own configuration decides.
type Gates struct {
	Provenance *GatePolicy `json:"provenance,omitempty"`
	SBOM       *GatePolicy `json:"sbom,omitempty"`
	Malware    *GatePolicy `json:"malware,omitempty"`
	Command    *GatePolicy `json:"command,omitempty"`
}

// GatePolicy demands a gate and names the policy document that parametrises it.
type GatePolicy struct {
	Required bool       `json:"required"`
	Policy   *Reference `json:"policy,omitempty"`
}

// Wave is one step of a rollout. Exactly one of PercentBP (cumulative, 1..10000 basis points), Count, Labels and Hosts
// selects its hosts. StartAfter is a floor measured from NotBefore or, without one, from Created.
type Wave struct {
	Name       string            `json:"name"`
	PercentBP  int               `json:"percent_bp,omitempty"`
	Count      int               `json:"count,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Hosts      []string          `json:"hosts,omitempty"`
	StartAfter Duration          `json:"start_after,omitempty"`
	Spread     Duration          `json:"spread,omitempty"`
	Advance    string            `json:"advance,omitempty"`
	MinHosts   int               `json:"min_hosts,omitempty"`
}

// Budget bounds how many hosts may be unavailable at once, in all or per combination of the GroupBy labels. Count or
// PercentBP is set; a percentage is of the signed population or inventory, never of "now".
type Budget struct {
	Count        int      `json:"count,omitempty"`
	PercentBP    int      `json:"percent_bp,omitempty"`
	GroupBy      []string `json:"group_by,omitempty"`
	MinAvailable int      `json:"min_available,omitempty"`
}

// Window is a weekly time in which starts are allowed. Days are "mon".."sun", Start is "HH:MM" in Zone (UTC if empty).
type Window struct {
	Days   []string `json:"days"`
	Start  string   `json:"start"`
	Length Duration `json:"length"`
	Zone   string   `json:"zone,omitempty"`
}

// Freeze is a span in which nothing starts. It is stronger than any window.
type Freeze struct {
	From   time.Time `json:"from"`
	Until  time.Time `json:"until"`
	Reason string    `json:"reason,omitempty"`
}

// HaltPolicy says when a rollout stops itself, over hosts that tried.
type HaltPolicy struct {
	MaxFailures      int      `json:"max_failures,omitempty"`
	MaxFailureBP     int      `json:"max_failure_bp,omitempty"`
	MinSample        int      `json:"min_sample,omitempty"`
	MaxLost          int      `json:"max_lost,omitempty"`
	UpdateDeadline   Duration `json:"update_deadline,omitempty"`
	ProgressDeadline Duration `json:"progress_deadline,omitempty"`
	OnHalt           string   `json:"on_halt,omitempty"`
}

// RevertPolicy is the pace of a fleet revert. Waves never apply to it.
type RevertPolicy struct {
	MaxUnavailable int      `json:"max_unavailable,omitempty"`
	Spread         Duration `json:"spread,omitempty"`
	Signed         bool     `json:"signed,omitempty"`
}

// Coordinator names who hands out slots: Kind "none", "hub" or "fleetlock".
type Coordinator struct {
	Kind        string   `json:"kind"`
	URLs        []string `json:"urls,omitempty"`
	Group       string   `json:"group,omitempty"`
	TightenOnly bool     `json:"tighten_only,omitempty"`
}

// InventoryRef pins the inventory document a rollout ranks hosts by.
type InventoryRef struct {
	SHA256 Digest `json:"sha256"`
}

// Emergency is emergency/<env>.json. It can only stop, hold and revoke; the most conservative of all rules wins.
type Emergency struct {
	Schema      string           `json:"schema"`
	Environment Environment      `json:"environment"`
	Epoch       int64            `json:"epoch"`
	Issued      time.Time        `json:"issued"`
	Entries     []EmergencyEntry `json:"entries"`
}

// EmergencyEntry is one stop: Kind "halt" (App, or all apps if absent), "freeze", "revoke" (Digest) or "minimum" (App and
// Version). Until bounds it; revocations may leave it out.
type EmergencyEntry struct {
	Kind    string     `json:"kind"`
	App     *App       `json:"app,omitempty"`
	Digest  *Digest    `json:"digest,omitempty"`
	Version *Version   `json:"version,omitempty"`
	Until   *time.Time `json:"until,omitempty"`
	Reason  string     `json:"reason"`
}

// Inventory is inventory/<env>.json: the fleet owners' list of hosts, for exact counts and interleaved sites.
type Inventory struct {
	Schema      string          `json:"schema"`
	Environment Environment     `json:"environment"`
	Issued      time.Time       `json:"issued"`
	Hosts       []InventoryHost `json:"hosts"`
}

// InventoryHost is one host and the labels its owner signed for it.
type InventoryHost struct {
	ID     string            `json:"id"`
	Labels map[string]string `json:"labels,omitempty"`
}

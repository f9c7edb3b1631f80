// Package config reads what the administrator wrote: slipway.toml, the drop-ins slipway.d/*.toml over it, and one file per app in
// apps.d/. A drop-in changes single keys; lists and arrays of tables are replaced whole; files apply in byte order of their names.
//
// Unknown keys are refused, and Load reports every problem at once, each with file, line and column. Options that weaken safety
// have unsafe_ in their name (or are allow_root); Host.Unsafe lists those in use, for the log.
package config

import (
	"time"
)

// DefaultDir is where the packages put the configuration.
const DefaultDir = "/etc/slipway"

// The supervisors. Process starts plain children and survives nothing; it is for demonstration and development.
const (
	SupervisorSystemd = "systemd"
	SupervisorProcess = "process"
)

// Host is the effective configuration of a host: validated, with defaults filled in. It is never changed after Load; an edit
// makes a new one.
type Host struct {
	// Environment is the one environment whose deployments this host obeys. It is never empty.
	Environment string
	// HostID is empty unless configured; the daemon then derives one from the machine.
	HostID     string
	Supervisor string
	Labels     map[string]string
	Repository Repository
	Paths      Paths
	Poll       Poll
	Fleet      HostFleet
	Space      Space
	Retention  Retention
	Clock      Clock
	Roles      Roles
	Metrics    Metrics
	Log        Log
	// Apps has one entry for each file in apps.d, also for those with enabled = false.
	Apps map[string]App
	// Files are the files that were read, in the order in which they apply.
	Files []string

	unsafe []string
}

// Unsafe lists the options in force that weaken safety, one sentence each with file and line. The daemon logs them at every start.
func (h *Host) Unsafe() []string { return h.unsafe }

// Repository says where metadata and files come from and what the host trusts before it has any.
type Repository struct {
	// Root is the path of the pinned root.json.
	Root string
	// Mirrors are tried in order. There is at least one.
	Mirrors []Mirror
	// Proxy is a URL, "direct" for none whatever the environment says, or empty for the environment's.
	Proxy string
	// CAFile, if set, replaces the system's certificate authorities.
	CAFile                string
	ClientCert, ClientKey string
	// AuthHeaderFile holds one line "Name: value" that is sent with every request. It is read anew for each refresh.
	AuthHeaderFile string
	// MaxBundleAge is how long ago the timestamp in a bundle may have been issued; zero means that only what is signed bounds it.
	MaxBundleAge time.Duration
}

// Mirror is one place that serves the repository, as URLs of scheme http, https or file without a trailing slash. A bundle is
// "bundle:" and its absolute path, in both.
type Mirror struct {
	Metadata, Targets string
}

// Paths are the directories Slipway owns. All are absolute.
type Paths struct {
	Install, State, Run, Units string
}

// Poll is how often the host asks for news: every Interval, later by a random share of it up to Jitter (0 to 1).
type Poll struct {
	Interval time.Duration
	Jitter   float64
}

// HostFleet is how this host reaches the coordinator that deployments name, and what it is known by there.
type HostFleet struct {
	// URLs replace those of deployments whose coordinator is a hub.
	URLs []string
	// CA, Cert and Key are paths. Empty means the identity that slipway enroll made.
	CA, Cert, Key string
	// Poll is how often the host tells how it is, later by a random share of it. A hub may wish otherwise.
	Poll time.Duration
}

// Space holds the bytes that must stay free on every filesystem Slipway writes to.
type Space struct {
	Reserve int64
}

// Retention is how many releases beyond current and fallback stay on disk, and how old a release must be to be pruned.
type Retention struct {
	Keep   int
	MinAge time.Duration
}

// Clock guards decisions that depend on the time of day. MaxStep zero means the client's own default.
type Clock struct {
	MaxStep time.Duration
	// UnsafeUnsynchronised makes the host trust a clock that nothing synchronises. Then a wrong clock can hide that metadata
	// expired.
	UnsafeUnsynchronised bool
}

// Roles says who may do what over the socket. Each role includes the ones before it; root has them all; nobody else has any by
// default.
type Roles struct {
	Viewer, Operator, Security, Admin Members
}

// Members are names or numbers of users and groups.
type Members struct {
	Users, Groups []string
}

// Metrics is the TCP listener for Prometheus; empty means only the socket serves them.
type Metrics struct {
	Listen string
}

// Log is the daemon's own log. Level is one of trace, debug, info, warn, error.
type Log struct {
	Level string
}

// App is what this host adds to an app's releases.
type App struct {
	// Enabled false keeps the app's present state and starts nothing new.
	Enabled bool
	// AllowRoot lets the app's units run as root and keep capabilities.
	AllowRoot bool
	Env       map[string]string
	// Credentials maps names to absolute paths, for LoadCredential.
	Credentials map[string]string
	// Checks overrides the endpoints of the release's checks by name.
	Checks map[string]CheckOverride
	// UnsafeRemoteChecks lets overrides name hosts other than loopback: then another machine decides whether a release stays.
	UnsafeRemoteChecks bool
}

// CheckOverride replaces the endpoint of one check. Either URL, or Address, or Port (on the endpoint's own host) is set.
type CheckOverride struct {
	URL     string
	Address string
	Port    int
}

// defaults is the only place that knows them; packaging/slipway.toml repeats them in words.
func defaults() *Host {
	return &Host{
		Supervisor: SupervisorSystemd,
		Labels:     map[string]string{},
		Repository: Repository{Root: DefaultDir + "/root.json"},
		Paths: Paths{
			Install: "/opt/slipway", State: "/var/lib/slipway", Run: "/run/slipway", Units: "/etc/systemd/system",
		},
		Poll:      Poll{Interval: 5 * time.Minute, Jitter: 0.1},
		Fleet:     HostFleet{Poll: 30 * time.Second},
		Space:     Space{Reserve: 256 << 20},
		Retention: Retention{Keep: 3, MinAge: 24 * time.Hour},
		Log:       Log{Level: "info"},
		Apps:      map[string]App{},
	}
}

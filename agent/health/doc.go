// Package health asks whether an app is well, and watches it through a trial.
//
// There are three answers. Unhealthy is evidence against the app: a refused connection, a wrong status, a main process that
// died. CannotTell is evidence against nobody: the checker itself could not ask (the service manager did not answer, the
// daemon is stopping). A trial is never lost to CannotTell alone before its deadline, and never won by it.
package health

import (
	"context"
	"time"
)

// Answer is what a probe says.
type Answer int

// The answers. The zero value claims nothing.
const (
	CannotTell Answer = iota
	Healthy
	Unhealthy
)

// String is the answer as metrics, state and wire spell it.
func (a Answer) String() string {
	switch a {
	case Healthy:
		return "healthy"
	case Unhealthy:
		return "unhealthy"
	}
	return "cannot-tell"
}

// Result is one answer and, in a few words, why.
type Result struct {
	Answer Answer
	Detail string
}

// Probe asks once. Check must honour ctx and change nothing. When ctx's deadline passes while the app owes the answer, that is
// Unhealthy; while the checker's own means owe it (the service manager, the resolver), it is CannotTell.
type Probe interface {
	Name() string
	Kind() string
	Check(ctx context.Context) Result
}

// Timing is how often a probe asks and how many answers in a row count. Zero values mean the defaults.
type Timing struct {
	Interval, Timeout, StartPeriod     time.Duration
	SuccessThreshold, FailureThreshold int
}

// The defaults of Timing. Failures within StartPeriod of the watch's begin do not count against the app.
const (
	DefaultInterval         = 2 * time.Second
	DefaultTimeout          = 5 * time.Second
	DefaultStartPeriod      = 0
	DefaultSuccessThreshold = 1
	DefaultFailureThreshold = 3
)

func (t Timing) complete() Timing {
	if t.Interval <= 0 {
		t.Interval = DefaultInterval
	}
	if t.Timeout <= 0 {
		t.Timeout = DefaultTimeout
	}
	if t.SuccessThreshold <= 0 {
		t.SuccessThreshold = DefaultSuccessThreshold
	}
	if t.FailureThreshold <= 0 {
		t.FailureThreshold = DefaultFailureThreshold
	}
	return t
}

// Timed is a probe and its timing.
type Timed struct {
	Probe  Probe
	Timing Timing
}

// CheckState is the newest counted state of one probe.
type CheckState struct {
	Name, Kind string
	Answer     Answer
	Detail     string
	Since      time.Time
}

// Snapshot is the state of all probes together. HealthyFor is how long all of them have been healthy without a break.
type Snapshot struct {
	Checks     []CheckState
	Healthy    bool
	HealthyFor time.Duration
}

// Verdict ends a watch.
type Verdict struct {
	Answer Answer
	Reason string
}

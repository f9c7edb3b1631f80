package durable

import (
	"fmt"
	"maps"
	"slices"
)

// Failpoint is a named place where a test may stop the process. Declare one per durable step as a package variable, so that
// Failpoints is complete by construction:
//
//	var fpSave = durable.NewFailpoint("state.save.before-write")
//	...
//	if err := fpSave.Hit(); err != nil { return err }
//
// In a binary built with the tag `failpoints` the environment variable
//
//	SLIPWAY_FAILPOINT=NAME=ACTION[,hit=N]
//
// arms the one called NAME at its N-th hit (the first, if not said):
//
//	kill                      SIGKILL to itself: nothing is cleaned up
//	powercut:/mnt[:/mnt2]     cuts the power of the filesystems mounted there (FS_IOC_SHUTDOWN, the journal is not
//	                          flushed), then SIGKILL
//	powercut-committed:/mnt   the same just after the journal was flushed for another file's sake: names are durable,
//	                          content that was not synced is not
//	error                     Hit returns an *InjectedError
//	pause:FILE                creates FILE.reached and waits until FILE exists
//
// SLIPWAY_FAILPOINT_TRACE=FILE appends the name of every failpoint that is passed. Every other binary ignores both.
type Failpoint struct{ name string }

var failpoints = map[string]*Failpoint{}

// NewFailpoint registers a failpoint named <package>.<operation>.<step>. It is for package variables only and panics if the
// name is taken: two steps with one name would leave one of them untested.
func NewFailpoint(name string) *Failpoint {
	if failpoints[name] != nil {
		panic("durable: failpoint " + name + " is declared twice")
	}
	failpoints[name] = &Failpoint{name}
	return failpoints[name]
}

// Failpoints lists every failpoint linked into this binary, sorted, in every build: the crash tables are made from it.
func Failpoints() []string { return slices.Sorted(maps.Keys(failpoints)) }

func (f *Failpoint) before(step func() error) error {
	if err := f.Hit(); err != nil {
		return err
	}
	return step()
}

// InjectedError is what Hit returns at a failpoint armed with "error".
type InjectedError struct{ Name string }

func (e *InjectedError) Error() string { return fmt.Sprintf("failpoint %s is armed", e.Name) }

// Kind says that no real fault is behind the error.
func (e *InjectedError) Kind() string { return "failpoint" }

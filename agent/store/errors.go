package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/slipway-deploy/slipway/agent/release"
)

// outcome is an answer rather than an accident: callers compare with errors.Is.
type outcome struct{ kind, text string }

func (o *outcome) Error() string { return o.text }

// Kind labels the outcome on the wire and in metrics.
func (o *outcome) Kind() string { return o.kind }

// ErrNone says that the link does not exist: no release is current, or there is nothing to go back to.
var ErrNone error = &outcome{"none", "no release is linked"}

// ErrInUse says that a release must not be deleted; the error around it says who uses it.
var ErrInUse error = &outcome{"in-use", "the release is in use"}

// ErrComplete says that there is nothing to stage: the release is on disk already.
var ErrComplete error = &outcome{"complete", "the release is on disk already"}

// ErrIncomplete says that a release has no valid stamp or no tree and must not be activated. Reason says which. Staging it
// again repairs it.
type ErrIncomplete struct {
	ID     release.ID
	Reason string
}

func (e ErrIncomplete) Error() string {
	return fmt.Sprintf("release %s is incomplete: %s; stage it again", e.ID, e.Reason)
}

// Kind is "incomplete".
func (e ErrIncomplete) Kind() string { return "incomplete" }

// LinkError says that a link of ours names something that is no release: somebody else has been here. Nothing is deleted
// while it lasts; the next Swap or SetFallback repairs it.
type LinkError struct{ Path, Target string }

func (e *LinkError) Error() string {
	return fmt.Sprintf("cannot use link %s: it names %q, which is no release", e.Path, e.Target)
}

// Kind is "foreign-link".
func (e *LinkError) Kind() string { return "foreign-link" }

// SpaceError says that a filesystem is too full. Need and Have exclude the reserve; What is "bytes" or "inodes".
type SpaceError struct {
	Path, What          string
	Need, Have, Reserve int64
}

func (e *SpaceError) Error() string {
	short := e.Need + e.Reserve - e.Have
	if e.What == "inodes" {
		return fmt.Sprintf("not enough inodes in %s: %d are needed, %d are free; free %d more", e.Path, e.Need, e.Have, short)
	}
	return fmt.Sprintf("not enough space in %s: %s are needed and %s kept in reserve, %s are free; free %s more",
		e.Path, mib(e.Need), mib(e.Reserve), mib(e.Have), mib(short))
}

// Kind is "no-space".
func (e *SpaceError) Kind() string { return "no-space" }

// mib rounds up: a message that says "free 0 MiB more" helps nobody.
func mib(n int64) string { return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20) }

// cause drops the path from an os error: the message around it has said it.
func cause(err error) error {
	var pathErr *fs.PathError
	var linkErr *os.LinkError
	switch {
	case errors.As(err, &pathErr):
		return pathErr.Err
	case errors.As(err, &linkErr):
		return linkErr.Err
	}
	return err
}

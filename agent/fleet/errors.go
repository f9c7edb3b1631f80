package fleet

import (
	"fmt"
	"time"
)

// RefusedError says that a coordinator answered, and that the answer is no. Reply is in its words; After is how long it asks
// to be left alone, zero if it does not say.
type RefusedError struct {
	Status int
	Reply  Error
	After  time.Duration
}

func (e *RefusedError) Error() string {
	text := e.Reply.Message
	if text == "" {
		text = fmt.Sprintf("the coordinator says no (%s)", e.Reply.Kind)
	}
	if e.Reply.Hint != "" {
		text += "; " + e.Reply.Hint
	}
	return text
}

// Kind names this error for metrics and the wire: the coordinator's own kind.
func (e *RefusedError) Kind() string { return e.Reply.Kind }

// SilentError says that nobody answered who can be believed to be the coordinator: no connection, no time, a certificate of
// somebody else, or words that are no answer.
type SilentError struct {
	URL string
	Err error
}

func (e *SilentError) Error() string { return fmt.Sprintf("%s: %v", e.URL, e.Err) }

// Unwrap returns what happened.
func (e *SilentError) Unwrap() error { return e.Err }

// Kind names this error for metrics and the wire.
func (e *SilentError) Kind() string { return "silent" }

// LocalError says that this host is not able to ask: it has no certificate, or its own files are not usable. It counts as a
// refusal, because a host that lost its identity must not go by a policy made for a lost coordinator.
type LocalError struct {
	What string
	Err  error
}

func (e *LocalError) Error() string {
	if e.Err == nil {
		return e.What
	}
	return fmt.Sprintf("%s: %v", e.What, e.Err)
}

// Unwrap returns what happened.
func (e *LocalError) Unwrap() error { return e.Err }

// Kind names this error for metrics and the wire.
func (e *LocalError) Kind() string { return "identity" }

package repository

import (
	"fmt"
	"strings"
)

// RefusedError means that a rule of the repository forbids what was asked. Remedy is the next step for a person.
type RefusedError struct{ Rule, Reason, Remedy string }

func (e *RefusedError) Error() string {
	if e.Remedy == "" {
		return e.Reason
	}
	return e.Reason + "; " + e.Remedy
}

// Kind is the class of the error for logs and metrics.
func (e *RefusedError) Kind() string { return "refused" }

// BrokenRule is the rule in a few words. Every error by which this package says no has one.
func (e *RefusedError) BrokenRule() string { return e.Rule }

func refuse(rule, reason, remedy string) error {
	return &RefusedError{Rule: rule, Reason: reason, Remedy: remedy}
}

// UnsignedError means that a change still waits for signatures.
type UnsignedError struct {
	Change  string
	Waiting []Progress
}

func (e *UnsignedError) Error() string {
	parts := make([]string, len(e.Waiting))
	for i, p := range e.Waiting {
		parts[i] = p.String()
	}
	return fmt.Sprintf("cannot publish %s: %s; have it signed with change sign, and bring the signatures back with change collect", e.Change, strings.Join(parts, "; "))
}

// BrokenRule is the rule in a few words.
func (e *UnsignedError) BrokenRule() string { return "thresholds are met" }

// Kind is the class of the error for logs and metrics.
func (e *UnsignedError) Kind() string { return "unsigned" }

// StaleError means that a change was made from a version that is no longer the published one.
type StaleError struct {
	Change, Role    string
	Base, Published int64
}

func (e *StaleError) Error() string {
	return fmt.Sprintf("cannot use change %s: it was made from version %d of %s, and version %d is published now; abandon it and make it again",
		e.Change, e.Base, e.Role, e.Published)
}

// BrokenRule is the rule in a few words.
func (e *StaleError) BrokenRule() string { return "a change is made from what is published" }

// Kind is the class of the error for logs and metrics.
func (e *StaleError) Kind() string { return "stale" }

// ConflictError means that an open change already edits a role.
type ConflictError struct{ Role, Change string }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("cannot make another change to %s: change %s is open; publish it, abandon it, or add to it with --change %s", e.Role, e.Change, e.Change)
}

// BrokenRule is the rule in a few words.
func (e *ConflictError) BrokenRule() string { return "a role is in one open change" }

// Kind is the class of the error for logs and metrics.
func (e *ConflictError) Kind() string { return "conflict" }

// UnknownRoleError means that no delegation names the role.
type UnknownRoleError struct{ Role string }

func (e *UnknownRoleError) Error() string {
	return "cannot find role " + e.Role + ": add its app and its environment first"
}

// BrokenRule is the rule in a few words.
func (e *UnknownRoleError) BrokenRule() string { return "a role is delegated before it signs" }

// Kind is the class of the error for logs and metrics.
func (e *UnknownRoleError) Kind() string { return "unknown-role" }

// NotASignerError means that a key has no role in a change.
type NotASignerError struct{ Key, Change string }

func (e *NotASignerError) Error() string {
	return fmt.Sprintf("cannot sign change %s with %s: no role in it is signed by that key; change status names those that are missing", e.Change, e.Key)
}

// BrokenRule is the rule in a few words.
func (e *NotASignerError) BrokenRule() string { return "only the keys of a role sign it" }

// Kind is the class of the error for logs and metrics.
func (e *NotASignerError) Kind() string { return "not-a-signer" }

// DamagedError means that a file of the repository or of a change is not what it must be.
type DamagedError struct {
	Path string
	Err  error
}

func (e *DamagedError) Error() string { return fmt.Sprintf("cannot use %s: %v", e.Path, e.Err) }

// Unwrap is the reason.
func (e *DamagedError) Unwrap() error { return e.Err }

// Kind is the class of the error for logs and metrics.
func (e *DamagedError) Kind() string { return "damaged" }

package systemd

import (
	"errors"
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"
)

// JobError says how a job ended that did not end well. Result is systemd's word ("failed", "timeout", "dependency",
// "canceled", …), "not-found" when the unit does not exist and "refused" when PID 1 would not even queue the job.
type JobError struct {
	Unit   string
	Verb   Verb
	Result string
	Detail string
}

func (e *JobError) Error() string {
	text := fmt.Sprintf("cannot %s %s: %s", e.Verb, e.Unit, e.Result)
	if e.Detail != "" {
		text += " (" + e.Detail + ")"
	}
	return text
}

// Kind is the error's fixed name on the wire, in metrics and in the audit log.
func (e *JobError) Kind() string { return "job-failed" }

// UnreachableError means that PID 1 itself could not be asked: nothing is known about any unit. Health checks answer
// "cannot tell" on it, never "unhealthy".
type UnreachableError struct{ Err error }

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("cannot reach systemd: %v; is PID 1 systemd, and dbus.service running?", e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// Kind is the error's fixed name on the wire, in metrics and in the audit log.
func (e *UnreachableError) Kind() string { return "systemd-unreachable" }

// The D-Bus error names that callers act on.
const (
	errNoSuchUnit    = "org.freedesktop.systemd1.NoSuchUnit"
	errUnitExists    = "org.freedesktop.systemd1.UnitExists"
	errLoadFailed    = "org.freedesktop.systemd1.LoadFailed"
	errUnknownObject = "org.freedesktop.DBus.Error.UnknownObject"
)

// lostNames are the bus's own ways to say that PID 1 is not on the bus at the moment: after a restart of dbus it takes a
// moment to come back.
var lostNames = []string{
	"org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.Disconnected", "org.freedesktop.DBus.Error.NameHasNoOwner",
	"org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NoServer", "org.freedesktop.DBus.Error.Timeout",
}

// dbusName is the D-Bus error name inside err, or "".
func dbusName(err error) string {
	if e, ok := errors.AsType[dbus.Error](err); ok {
		return e.Name
	}
	if e, ok := errors.AsType[*dbus.Error](err); ok {
		return e.Name
	}
	return ""
}

// dbusText is the message a D-Bus error carries, without godbus's framing.
func dbusText(err error) string {
	if e, ok := errors.AsType[dbus.Error](err); ok && len(e.Body) > 0 {
		if text, ok := e.Body[0].(string); ok {
			return strings.TrimSuffix(text, ".")
		}
	}
	return err.Error()
}

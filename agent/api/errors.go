package api

import (
	"errors"
	"net/http"
)

// The kinds of errors. A kind is part of the wire format, a metric label and an audit field: it never changes its meaning. Other
// parts of the daemon have kinds of their own ("no-space", "unit-refused"); they travel unchanged.
const (
	KindBadRequest  = "bad-request" // the request itself is wrong; repeating it cannot help
	KindForbidden   = "forbidden"   // the caller lacks the role
	KindNotFound    = "not-found"   // no such app, release or route on this host
	KindStale       = "stale"       // the state moved since the caller looked; nothing was done
	KindBusy        = "busy"        // something is under way that must end first
	KindRefused     = "refused"     // policy or state forbids it, now and until that changes
	KindHeld        = "held"        // an operator's hold forbids it
	KindQuarantined = "quarantined" // this digest was already unhealthy here
	KindExpired     = "expired"     // metadata is too old to start anything
	KindTooLarge    = "too-large"   // the request's body is over the limit
	KindUnavailable = "unavailable" // the daemon is starting or stopping; try again
	KindInternal    = "internal"    // a defect or a broken host; the journal has more
	KindUnreachable = "unreachable" // made by the client: nobody answers on the socket
)

// Error is the one shape of every failure on the wire. Message completes "slipway: error: …", Hint says what to do next and may
// be empty.
type Error struct {
	Code    string `json:"kind"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// NewError makes an Error; hint may be empty.
func NewError(kind, message, hint string) *Error {
	return &Error{Code: kind, Message: message, Hint: hint}
}

// Error is the message alone: kind and hint are for programs and for the hint line.
func (e *Error) Error() string { return e.Message }

// Kind is what callers branch on, never the message.
func (e *Error) Kind() string { return e.Code }

// kinder is what every typed error of this module offers, so that no package must import another for its kinds.
type kinder interface{ Kind() string }

// hinter is offered by errors that know the next step.
type hinter interface{ Hint() string }

// Wire turns any error into the one that travels. An error without a kind is internal; its text still travels, because callers
// of the socket are local and a hidden reason helps nobody.
func Wire(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return &Error{Code: e.Code, Message: err.Error(), Hint: e.Hint}
	}
	out := &Error{Code: KindInternal, Message: err.Error()}
	var k kinder
	if errors.As(err, &k) {
		out.Code = k.Kind()
	}
	var h hinter
	if errors.As(err, &h) {
		out.Hint = h.Hint()
	}
	return out
}

// statuses maps kinds to HTTP statuses. A kind that is not listed is the refusal of some part of the daemon and travels as 422.
var statuses = map[string]int{
	KindBadRequest:  http.StatusBadRequest,
	KindForbidden:   http.StatusForbidden,
	KindNotFound:    http.StatusNotFound,
	KindStale:       http.StatusConflict,
	KindBusy:        http.StatusConflict,
	KindRefused:     http.StatusUnprocessableEntity,
	KindHeld:        http.StatusUnprocessableEntity,
	KindQuarantined: http.StatusUnprocessableEntity,
	KindExpired:     http.StatusUnprocessableEntity,
	KindTooLarge:    http.StatusRequestEntityTooLarge,
	KindUnavailable: http.StatusServiceUnavailable,
	KindInternal:    http.StatusInternalServerError,
}

// HTTPStatus is the status an error of this kind travels with.
func HTTPStatus(kind string) int {
	if s, ok := statuses[kind]; ok {
		return s
	}
	return http.StatusUnprocessableEntity
}

// refusals are the kinds that mean "the host said no", as opposed to "it was tried and did not work".
var refusals = map[string]bool{
	KindForbidden: true, KindStale: true, KindBusy: true, KindRefused: true, KindHeld: true, KindQuarantined: true, KindExpired: true,
	"threshold": true, "rollback": true, "unit-refused": true, "denied": true, "frozen": true, "revoked": true, "locked": true,
}

// Refused tells whether a kind is a refusal by policy or state (exit code 3) rather than a failure (exit code 1).
func Refused(kind string) bool { return refusals[kind] }

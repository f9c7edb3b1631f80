package serve

import (
	"context"
	"errors"
	"net/http"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
)

// kinder and hinter are what typed errors of this module offer.
type kinder interface{ Kind() string }

type hinter interface{ Hint() string }

// wire turns any error into the one that travels.
func wire(err error) *fleet.Error {
	var e *fleet.Error
	if errors.As(err, &e) {
		return e
	}
	out := &fleet.Error{Kind: fleet.KindInternal, Message: err.Error()}
	var k kinder
	switch {
	case errors.As(err, &k):
		out.Kind = k.Kind()
	case errors.Is(err, hub.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		out.Kind, out.Hint = fleet.KindUnavailable, "ask again; if it stays, look at the hub's store"
	}
	var h hinter
	if errors.As(err, &h) {
		out.Hint = h.Hint()
	}
	return out
}

var statuses = map[string]int{
	fleet.KindBadRequest:  http.StatusBadRequest,
	fleet.KindForbidden:   http.StatusForbidden,
	fleet.KindRevoked:     http.StatusForbidden,
	fleet.KindToken:       http.StatusForbidden,
	fleet.KindNotFound:    http.StatusNotFound,
	fleet.KindUnknown:     http.StatusNotFound,
	fleet.KindStale:       http.StatusConflict,
	fleet.KindEnrolled:    http.StatusConflict,
	fleet.KindBusy:        http.StatusTooManyRequests,
	fleet.KindTooLarge:    http.StatusRequestEntityTooLarge,
	fleet.KindUnavailable: http.StatusServiceUnavailable,
	fleet.KindInternal:    http.StatusInternalServerError,
}

// httpStatus is 422 for the refusals that have no status of their own.
func httpStatus(kind string) int {
	if s, ok := statuses[kind]; ok {
		return s
	}
	return http.StatusUnprocessableEntity
}

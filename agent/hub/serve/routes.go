package serve

import (
	"net/http"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// The routes that are not part of agent/fleet: health for load balancers, metrics for Prometheus, and what only the hub's own
// machine may ask for.
const (
	PathHealth   = "/v1/health"
	PathMetrics  = "/metrics"
	PathTokens   = "/v1/local/tokens"
	PathMembers  = "/v1/local/members"
	PathRevoke   = "/v1/local/revoke"
	PathSnapshot = "/v1/local/snapshot"
)

// route is one line of the table. audit is the type of the log line that says who asked and how it ended; every route that an
// operator changes something by has one. What hosts do is in the store itself.
type route struct {
	method string
	path   string
	who    who
	audit  string
	handle handler
}

// routes is everything a hub offers. Whatever is not here does not exist.
var routes = []route{
	{http.MethodGet, PathHealth, anyone, "", handleHealth},
	{http.MethodPost, fleet.PathEnroll, anyone, "enroll", handleEnroll},

	{http.MethodPost, fleet.PathRenew, host, "", handleRenew},
	{http.MethodPost, fleet.PathTurn, host, "", handleTurn},
	{http.MethodPost, fleet.PathCheck, host, "", handleCheck},
	{http.MethodPost, fleet.PathFinish, host, "", handleFinish},

	{http.MethodGet, fleet.PathStatus, viewer, "", handleStatus},
	{http.MethodGet, fleet.PathHosts, viewer, "", handleHosts},
	{http.MethodGet, fleet.PathSlots, viewer, "", handleSlots},
	{http.MethodGet, fleet.PathAudit, viewer, "", handleAudit},
	{http.MethodGet, PathMetrics, viewer, "", handleMetrics},

	// Stopping takes less than starting again: whoever is on call at night may stop everything and undo nothing.
	{http.MethodPost, fleet.PathActs + fleet.ActHalt, operator, fleet.ActHalt, handleAct},
	{http.MethodPost, fleet.PathActs + fleet.ActPause, operator, fleet.ActPause, handleAct},
	{http.MethodPost, fleet.PathActs + fleet.ActRevert, operator, fleet.ActRevert, handleAct},
	{http.MethodPost, fleet.PathActs + fleet.ActResume, maintainer, fleet.ActResume, handleAct},
	{http.MethodPost, fleet.PathActs + fleet.ActPromote, maintainer, fleet.ActPromote, handleAct},
	{http.MethodPost, fleet.PathActs + fleet.ActForget, maintainer, fleet.ActForget, handleAct},
	{http.MethodPost, fleet.PathActs + fleet.ActReconcile, maintainer, fleet.ActReconcile, handleAct},

	// Who belongs to the fleet is decided on the hub's own machine only: no certificate can make another one.
	{http.MethodGet, PathTokens, local, "", handleTokens},
	{http.MethodPost, PathTokens, local, "token", handleCreateToken},
	{http.MethodDelete, PathTokens, local, "token-drop", handleDropToken},
	{http.MethodGet, PathMembers, local, "", handleMembers},
	{http.MethodPost, PathRevoke, local, "revoke", handleRevoke},
	{http.MethodGet, PathSnapshot, local, "snapshot", handleSnapshot},
}

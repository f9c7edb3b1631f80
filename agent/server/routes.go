package server

import (
	"net/http"
)

// route is one line of the table. audit is the type of the audit record; every route that can change something has one, and
// those are exactly the POST routes.
type route struct {
	method string
	path   string
	role   Role
	audit  string
	handle handler
}

// routes is everything the sockets offer. Whatever is not here does not exist.
var routes = []route{
	{"GET", "/v1/status", RoleAnyone, "", handleStatus},
	{"GET", "/v1/apps/{app}", RoleAnyone, "", handleApp},
	{"GET", "/v1/apps/{app}/history", RoleViewer, "", handleHistory},
	{"GET", "/v1/apps/{app}/verify", RoleViewer, "", handleVerify},
	{"GET", "/v1/events", RoleViewer, "", handleEvents},
	{"GET", "/v1/doctor", RoleViewer, "", handleDoctor},
	{"GET", "/metrics", RoleViewer, "", handleMetrics},
	{"POST", "/v1/refresh", RoleOperator, "refresh", handleRefresh},
	{"POST", "/v1/hold", RoleOperator, "hold", handleHold},
	{"POST", "/v1/resume", RoleOperator, "resume", handleResume},
	{"POST", "/v1/apps/{app}/apply", RoleOperator, "apply", handleApply},
	{"POST", "/v1/apps/{app}/revert", RoleOperator, "revert", handleRevert},
	{"POST", "/v1/apps/{app}/hold", RoleOperator, "hold", handleHold},
	{"POST", "/v1/apps/{app}/resume", RoleOperator, "resume", handleResume},
	{"POST", "/v1/apps/{app}/retry", RoleOperator, "retry", handleRetry},
	// Removing stops a service for good, so it takes more than day-to-day rights.
	{"POST", "/v1/apps/{app}/remove", RoleAdmin, "remove", handleRemove},
}

// served tells whether a socket offers a route at all: the read-only one has neither changes nor routes above viewers.
func (r route) served(a Access) bool {
	return a == Control || r.method == http.MethodGet && r.role <= RoleViewer
}

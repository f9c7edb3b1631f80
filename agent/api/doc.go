// Package api is the contract between slipwayd and everything that talks to it on its host: the wire types, the interface the
// daemon implements, and the client. It imports the standard library only, so that a program can link it without the daemon.
//
// The transport is HTTP/1.1 with JSON over a Unix socket. Callers are known by the kernel's peer credentials, never by anything
// they send. Two sockets exist: the control socket serves every route to callers with the route's role, the read-only socket
// serves reading routes only. Every answer carries the header Slipway-Version.
//
// Requests that change something carry the revision of the state they were decided on (expect_revision). If the state has moved
// since, nothing happens and the answer is an Error of kind "stale": a late or replayed command does nothing, loudly. Hold is the
// exception, because stopping must always work.
package api

// VersionHeader carries the daemon's version in every answer. The client compares it with its own, because a package upgrade
// replaces the command line at once but the daemon only at its restart.
const VersionHeader = "Slipway-Version"

// SocketHost is the Host a request over the sockets must name ("localhost" is accepted as well, for curl). A browser that is
// tricked into reaching the socket cannot choose it.
const SocketHost = "slipway"

// DefaultControlSocket and DefaultReadOnlySocket are where the shipped units listen.
const (
	DefaultControlSocket  = "/run/slipway/slipway.sock"
	DefaultReadOnlySocket = "/run/slipway/slipway-ro.sock"
)

package fleet

// The kinds of a hub's errors. They never change their meaning: programs branch on them, and they label metrics.
const (
	KindBadRequest  = "bad-request" // the request itself is wrong; repeating it cannot help
	KindForbidden   = "forbidden"   // no certificate, or one that may not do this
	KindNotFound    = "not-found"   // no such route or token
	KindUnknown     = "unknown"     // no such rollout, wave or host in this fleet
	KindStale       = "stale"       // the rollout moved since the operator looked; nothing was done
	KindRefused     = "refused"     // a rule forbids it now
	KindBusy        = "busy"        // too much at once: ask again after what Retry-After says
	KindTooLarge    = "too-large"   // the request's body is over the limit
	KindUnavailable = "unavailable" // the hub is starting or its store does not answer: ask again
	KindInternal    = "internal"    // a defect; the hub's journal has more
	KindToken       = "token"       // unknown, used or expired; which one only the hub's own log tells
	KindEnrolled    = "enrolled"    // another machine has this identity: replacing it takes a token that says so
	KindRevoked     = "revoked"     // the certificate was revoked, or replaced by a later enrolment
	KindUnreachable = "unreachable" // made by clients: no hub answers
)

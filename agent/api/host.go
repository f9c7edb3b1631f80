package api

import "context"

// Host is the daemon as the socket sees it. Every method may be called from many goroutines at once, honours its context, and
// returns errors that have a kind (an *Error or anything with Kind() string). app is always a well-formed name, but not always
// one this host has: then the error's kind is KindNotFound. CallerFrom(ctx) says who asked.
type Host interface {
	Reader
	Inspector
	Operator
}

// Reader answers from memory and small files; it never blocks on the network, on a unit job or on an app's lock.
type Reader interface {
	// Status must work in every state of the daemon, also while it recovers or cannot reach anything.
	Status(ctx context.Context) (Status, error)
	// App is one element of Status.
	App(ctx context.Context, app string) (AppStatus, error)
	// History returns at most limit attempts, newest first; limit is between 1 and 1000.
	History(ctx context.Context, app string, limit int) ([]HistoryEntry, error)
	// Events calls emit for every event since q.Since in order and, with q.Follow, for each new one until ctx ends (which is
	// then not an error). It returns as soon as emit returns an error. A slow emit must not slow the daemon: drop the
	// stream with KindUnavailable rather than wait.
	Events(ctx context.Context, q EventQuery, emit func(Event) error) error
}

// Inspector may take long; the server lets one verification per app run at a time.
type Inspector interface {
	// Verify compares with the manifest and changes nothing. Differences are in the report, not an error.
	Verify(ctx context.Context, app string, q VerifyQuery) (VerifyReport, error)
	// Doctor adds what only the daemon can see (expiry, state files, units' wiring) to what the command line checks itself.
	Doctor(ctx context.Context) (DoctorReport, error)
}

// Operator changes things. Every method with an ExpectRevision compares it with the state's revision while it holds the app's
// lock and, if they differ, changes nothing and returns KindStale with both numbers in the message. A method returns when the
// wish is durable and visible in Status (Busy is true, or Why says why nothing will happen), not when it is carried out; ending
// ctx after that does not undo it.
type Operator interface {
	// Refresh fetches metadata now and waits for the result.
	Refresh(ctx context.Context) (RefreshReport, error)
	// Apply refreshes and looks now: it waits neither for the next poll nor for the pause after a failed staging. Every rule
	// still holds. A dry run changes nothing and needs no lock.
	Apply(ctx context.Context, app string, r ApplyRequest) (ApplyReport, error)
	// Revert must not depend on network, expiry, disk space or audit; a hold does not stop it. KindRefused if there is nothing
	// to go back to.
	Revert(ctx context.Context, app string, r RevertRequest) (Accepted, error)
	// Hold stops new activations of app or, if app is empty, of every app on the host and of those that appear later. It is
	// idempotent; a trial under way is finished, not frozen.
	Hold(ctx context.Context, app string, r HoldRequest) (Accepted, error)
	// Resume ends the hold of app or, if app is empty, every hold on the host; no hold is KindRefused. An app resumed by name
	// stays out of a hold over the host.
	Resume(ctx context.Context, app string, r ResumeRequest) (Accepted, error)
	// Retry clears quarantine; nothing quarantined is KindRefused.
	Retry(ctx context.Context, app string, r RetryRequest) (Accepted, error)
	// Remove stops and removes the app's units and links, and does not manage the app again before its file left apps.d and
	// came back; an attempt under way is KindBusy. The caller deletes that file after this returned. App data and releases stay.
	Remove(ctx context.Context, app string, r RemoveRequest) (Accepted, error)
}

// Caller is who the kernel says asked. User is the uid's name, or the number as text if it has none.
type Caller struct {
	UID  uint32 `json:"uid"`
	PID  int32  `json:"pid"`
	User string `json:"user"`
	Role string `json:"role"`
}

type callerKey struct{}

// WithCaller is for the server and for tests.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom is the caller of the request that ctx belongs to; false for work the daemon does by itself.
func CallerFrom(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}

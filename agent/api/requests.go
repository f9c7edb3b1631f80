package api

import "time"

// ApplyRequest asks to start now what the deployment asks for: without waiting for the next poll or for the pause after a failed
// staging. With DryRun nothing changes and the answer says what would happen.
type ApplyRequest struct {
	ExpectRevision int64 `json:"expect_revision"`
	DryRun         bool  `json:"dry_run,omitempty"`
}

// ApplyReport is the answer to an ApplyRequest. For a dry run WouldAct says whether anything would start now, and Plan holds the
// steps or the reasons, one a line.
type ApplyReport struct {
	Accepted
	WouldAct bool     `json:"would_act,omitempty"`
	Plan     []string `json:"plan,omitempty"`
}

// RevertRequest asks to go back to the fallback and to quarantine what runs.
type RevertRequest struct {
	ExpectRevision int64  `json:"expect_revision"`
	Reason         string `json:"reason"`
}

// HoldRequest stops new activations. It needs no revision: stopping must always work, and holding twice is harmless.
type HoldRequest struct {
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason,omitempty"`
}

// ResumeRequest ends a hold.
type ResumeRequest struct {
	ExpectRevision int64 `json:"expect_revision"`
}

// RetryRequest clears the quarantine of Digest, or of everything if it is empty.
type RetryRequest struct {
	ExpectRevision int64  `json:"expect_revision"`
	Digest         string `json:"digest,omitempty"`
}

// RemoveRequest takes an app off this host.
type RemoveRequest struct {
	ExpectRevision int64 `json:"expect_revision"`
}

// RefreshRequest asks for a refresh of the metadata now. It changes no app by itself, so it needs no revision.
type RefreshRequest struct{}

// RefreshReport says what the refresh brought.
type RefreshReport struct {
	Changed    bool       `json:"changed"`
	Repository Repository `json:"repository"`
	Message    string     `json:"message"`
}

// Accepted is the answer to a request that was taken durably; what follows shows in status and events. Revision is the state's
// revision after it was taken.
type Accepted struct {
	Revision int64  `json:"revision"`
	Message  string `json:"message"`
}

// VerifyQuery selects the depth: Quick compares sizes and the content of executables only.
type VerifyQuery struct{ Quick bool }

// EventQuery selects events. Without Follow the stream ends with the newest recorded event.
type EventQuery struct {
	App    string
	Since  time.Time
	Follow bool
}

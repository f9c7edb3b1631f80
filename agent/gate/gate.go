// Package gate owns the checks on a staged release before it may be activated. Nothing else is called a gate.
package gate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// Subject is what a gate looks at: a staged, verified, inert release and the deployment that selects it.
type Subject struct {
	App     release.App
	ID      release.ID
	Digest  release.Digest
	Tree    string // the staged directory, read-only
	Release *release.Release
	// Manifest reads the manifest, which may have tens of thousands of entries, anew at every call: a release that waits for
	// its turn is looked at often, and only gates that compare files need it.
	Manifest   func() (*release.Manifest, error)
	Deployment *release.Deployment
}

// Gate is one check. Check returns nil to pass, *Denied to refuse this digest for good, *Deferred to be asked again, and
// any other error when the check itself could not be made (asked again, with back-off). It must be idempotent, honour ctx
// and change nothing.
type Gate interface {
	Name() string
	Check(ctx context.Context, s Subject) error
}

// Denied is a final refusal of a digest.
type Denied struct{ Gate, Reason string }

func (e *Denied) Error() string {
	return fmt.Sprintf("gate %s refuses the release: %s", e.Gate, e.Reason)
}

// Kind names this error for metrics and the wire.
func (e *Denied) Kind() string { return "gate-denied" }

// Deferred is "not yet".
type Deferred struct {
	Gate, Reason string
	Until        time.Time
}

func (e *Deferred) Error() string {
	return fmt.Sprintf("gate %s is not ready: %s", e.Gate, e.Reason)
}

// Kind names this error for metrics and the wire.
func (e *Deferred) Kind() string { return "gate-deferred" }

// All asks every gate, in order, and returns the most conservative answer: a refusal before an error before a deferral. It
// asks the rest after a refusal too, so that one run names everything that is wrong.
func All(ctx context.Context, gates []Gate, s Subject) error {
	var denied, failed, deferred []error
	for _, g := range gates {
		err := g.Check(ctx, s)
		switch {
		case err == nil:
		case errors.As(err, new(*Denied)):
			denied = append(denied, err)
		case errors.As(err, new(*Deferred)):
			deferred = append(deferred, err)
		default:
			failed = append(failed, fmt.Errorf("cannot ask gate %s: %w", g.Name(), err))
		}
	}
	for _, group := range [][]error{denied, failed, deferred} {
		if len(group) > 0 {
			return errors.Join(group...)
		}
	}
	return nil
}

package fleet

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
)

// FleetLock speaks FleetLock v1 (https://coreos.github.io/zincati/development/fleetlock/protocol/): a semaphore with two
// requests that are recursive by the client's id. It has no fences, waves, reports or orders, and a lock is held until it is
// given back. All a server can do is make this host wait.
type FleetLock struct {
	link   *link
	params fleetLockParams
}

var _ Transport = (*FleetLock)(nil)

type fleetLockParams struct {
	ID    string `json:"id"`
	Group string `json:"group"`
}

var fleetLockGroup = regexp.MustCompile(`^[a-zA-Z0-9.-]+$`)

// DefaultGroup is the group of clients that name none.
const DefaultGroup = "default"

// fleetLockFence stands for the one lock a client can hold: the protocol numbers nothing.
const fleetLockFence = 1

// NewFleetLock makes a client that locks as id in group (DefaultGroup if empty). URLs may be plain http: the protocol leaves
// that to the site. A client certificate and CA of the options serve a server that asks for them.
func NewFleetLock(o Options, id, group string) (*FleetLock, error) {
	l, err := newLink(o, tls.VersionTLS12, "https", "http")
	if err != nil {
		return nil, err
	}
	if group == "" {
		group = DefaultGroup
	}
	if id == "" || !fleetLockGroup.MatchString(group) {
		return nil, &LocalError{What: fmt.Sprintf("FleetLock does not allow id %q in group %q: a group is letters, digits, dots and dashes", id, group)}
	}
	return &FleetLock{link: l, params: fleetLockParams{id, group}}, nil
}

// Turn implements Transport. Wanting nothing asks nothing: the protocol has no such request.
func (f *FleetLock) Turn(ctx context.Context, t Turn) (TurnAnswer, error) {
	if t.Want == Nowhere {
		return TurnAnswer{Answer: Wait}, nil
	}
	if err := f.post(ctx, "/v1/pre-reboot"); err != nil {
		return f.wait(err)
	}
	return TurnAnswer{Answer: Granted, Fence: fleetLockFence}, nil
}

// wait keeps a refusal's words. FleetLock tells a full semaphore by an error like any other.
func (f *FleetLock) wait(err error) (TurnAnswer, error) {
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Reply.Kind == KindIdentity {
		return TurnAnswer{}, err
	}
	return TurnAnswer{Answer: Wait, Rule: RuleBudget, Reason: refused.Error()}, nil
}

// Check implements Transport: locking once more succeeds only if the lock is still this client's, or free.
func (f *FleetLock) Check(ctx context.Context, _ Check) (CheckAnswer, error) {
	if err := f.post(ctx, "/v1/pre-reboot"); err != nil {
		return CheckAnswer{}, err
	}
	return CheckAnswer{OK: true, Within: int(longestCheck.Seconds())}, nil
}

// Finish implements Transport. A host whose app does not serve is unavailable: it keeps the lock and unlocks once it serves.
func (f *FleetLock) Finish(ctx context.Context, r Finish) (FinishAnswer, error) {
	if !r.Serving {
		return FinishAnswer{Accepted: true}, nil
	}
	if err := f.post(ctx, "/v1/steady-state"); err != nil {
		return FinishAnswer{}, err
	}
	return FinishAnswer{Accepted: true}, nil
}

func (f *FleetLock) post(ctx context.Context, path string) error {
	header := http.Header{"Fleet-Lock-Protocol": {"true"}}
	body := struct {
		Params fleetLockParams `json:"client_params"`
	}{f.params}
	return f.link.post(ctx, path, header, body, MaxBody, fleetLockSaid)
}

// fleetLockSaid reads an answer: 200 is yes, everything else no. An error object says why; without one, a code of a server or
// proxy in trouble is no word of the semaphore at all.
func fleetLockSaid(r reply) error {
	if r.status == http.StatusOK {
		return nil
	}
	var e struct {
		Kind  string `json:"kind"`
		Value string `json:"value"`
	}
	if err := json.Unmarshal(r.body, &e); err == nil && e.Kind != "" && r.status >= 400 {
		return &RefusedError{Status: r.status, Reply: Error{Kind: e.Kind, Message: strings.TrimSpace(e.Value)}, After: retryAfter(r.header)}
	}
	if r.status >= 500 || r.status < 400 {
		return notAnAnswer{fmt.Errorf("status %d and no error of the protocol", r.status)}
	}
	return &RefusedError{Status: r.status, Reply: Error{Kind: fmt.Sprintf("http-%d", r.status), Message: fmt.Sprintf("the lock server answers with status %d", r.status)}}
}

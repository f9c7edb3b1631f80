package repository

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// RoleStatus is one row of the expiry table. Version is 0 and Expires zero for a role that has signed nothing yet.
type RoleStatus struct {
	Role      string    `json:"role"`
	Version   int64     `json:"version"`
	Expires   time.Time `json:"expires,omitzero"`
	Threshold int       `json:"threshold"`
	Keys      []string  `json:"keys"`
}

// Left is how long the role still holds at now; negative once it has expired.
func (s RoleStatus) Left(now time.Time) time.Duration { return s.Expires.Sub(now) }

// ChangeStatus is an open change and how far it is.
type ChangeStatus struct {
	ID       string     `json:"id"`
	Summary  string     `json:"summary"`
	Created  time.Time  `json:"created"`
	Progress []Progress `json:"progress,omitempty"`
	// Empty says that nothing was added to it yet.
	Empty bool `json:"empty,omitempty"`
	// Problem is why the change cannot be published as it is, such as a base that has moved.
	Problem string `json:"problem,omitempty"`
}

// Status is what the repository publishes and what waits.
type Status struct {
	Roles     []RoleStatus     `json:"roles"`
	Issued    time.Time        `json:"issued,omitzero"`
	Due       time.Time        `json:"refresh_due,omitzero"`
	Freshness release.Duration `json:"freshness,omitempty"`
	Changes   []ChangeStatus   `json:"changes"`
	// Destinations are those that were asked for; Begun names the one whose publish was interrupted.
	Destinations []DestinationStatus `json:"destinations,omitempty"`
	Begun        string              `json:"begun,omitempty"`
}

// DestinationStatus is how far a destination is.
type DestinationStatus struct {
	Destination string `json:"destination"`
	// Timestamp is the version there, 0 if nothing is.
	Timestamp int64 `json:"timestamp"`
	Current   bool  `json:"current"`
	// Problem is why it could not be asked, or is not current.
	Problem string `json:"problem,omitempty"`
}

// Status reads the whole repository, and the timestamp of each destination; it changes nothing and needs no key.
func (r *Repository) Status(ctx context.Context, to ...Destination) (*Status, error) {
	s, err := load(r.metadataDir())
	if err != nil {
		return nil, err
	}
	out := &Status{Roles: []RoleStatus{}, Changes: []ChangeStatus{}}
	if s.published() {
		if err := r.publishedStatus(s, out); err != nil {
			return nil, err
		}
	}
	begun, err := r.pending()
	if err != nil {
		return nil, err
	}
	if begun != nil {
		out.Begun = begun.Destination
	}
	for _, d := range to {
		out.Destinations = append(out.Destinations, destinationStatus(ctx, s, d))
	}
	open, err := r.Changes()
	if err != nil {
		return nil, err
	}
	for _, c := range open {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		cs := ChangeStatus{ID: c.ID, Summary: c.Summary, Created: c.Created, Empty: c.Empty()}
		if err := r.fresh(s, c); err != nil {
			cs.Problem = err.Error()
		} else if cs.Progress, err = r.progress(s, open, c); err != nil {
			cs.Problem = err.Error()
		}
		out.Changes = append(out.Changes, cs)
	}
	return out, nil
}

func destinationStatus(ctx context.Context, s *state, d Destination) DestinationStatus {
	row := DestinationStatus{Destination: d.String()}
	data, err := readTimestamp(ctx, d)
	if err == nil {
		row.Timestamp, err = timestampVersion(data)
	}
	if err != nil {
		row.Problem = err.Error()
		return row
	}
	ours, err := s.timestampBytes()
	row.Current = err == nil && bytes.Equal(ours, data)
	switch v := s.version(classTimestamp); {
	case row.Current:
	case row.Timestamp < v:
		row.Problem = fmt.Sprintf("it lags behind: timestamp %d is published here; run refresh", v)
	default:
		row.Problem = (&ConcurrentError{Destination: row.Destination, Theirs: row.Timestamp, Ours: v}).Error()
	}
	return row
}

func (r *Repository) publishedStatus(s *state, out *Status) error {
	for _, role := range []string{classRoot, classTargets, classSnapshot, classTimestamp} {
		by, err := rootSigners(s.root, role)
		if err != nil {
			return err
		}
		row, err := roleRow(s, by)
		if err != nil {
			return err
		}
		out.Roles = append(out.Roles, row)
	}
	targets, err := s.role(classTargets)
	if err != nil {
		return err
	}
	if targets != nil && targets.Delegations != nil {
		for _, d := range targets.Delegations.Roles {
			by, err := delegatedSigners(targets, d.Name)
			if err != nil {
				return err
			}
			row, err := roleRow(s, by)
			if err != nil {
				return err
			}
			out.Roles = append(out.Roles, row)
		}
	}
	slices.SortStableFunc(out.Roles[4:], func(a, b RoleStatus) int { return strings.Compare(a.Role, b.Role) })
	if out.Issued, err = issued(s.timestamp); err != nil {
		return err
	}
	if out.Freshness, err = r.strictestFreshness(s); err != nil {
		return err
	}
	out.Due = dueTimestamp(out.Issued, s.timestamp.Expires, out.Freshness)
	return nil
}

func roleRow(s *state, by signers) (RoleStatus, error) {
	row := RoleStatus{Role: by.role, Version: s.version(by.role), Threshold: by.threshold}
	for _, k := range by.keys {
		row.Keys = append(row.Keys, k.String())
	}
	switch by.role {
	case classRoot:
		row.Expires = s.root.Expires
	case classSnapshot:
		row.Expires = s.snapshot.Expires
	case classTimestamp:
		row.Expires = s.timestamp.Expires
	default:
		t, err := s.role(by.role)
		if err != nil {
			return row, err
		}
		if t != nil {
			row.Expires = t.Expires
		}
	}
	return row, nil
}

package repository

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/slipway-deploy/slipway/agent/durable"
)

var (
	fpPending = durable.NewFailpoint("repository.push.before-pending")
	fpForget  = durable.NewFailpoint("repository.push.before-forget")
)

const pendingSchema = "slipway.pending/v1"

// pending is an edition on its way to the destination that decides, kept in .pending.json: whether it was published is known
// only there. An interrupted publish is taken up again with the very same bytes, and committed here once they are there.
type pending struct {
	Schema      string   `json:"schema"`
	Destination string   `json:"destination"`
	Changes     []string `json:"changes"`
	edition
}

func (r *Repository) pendingPath() string { return filepath.Join(r.dir, ".pending.json") }

// pending reads what was begun, nil if nothing was.
func (r *Repository) pending() (*pending, error) {
	data, err := readBounded(r.pendingPath(), 1<<30)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read what was begun: %w", err)
	}
	var p pending
	if err := json.Unmarshal(data, &p); err != nil || p.Schema != pendingSchema || len(p.Files) == 0 {
		return nil, &DamagedError{Path: r.pendingPath(), Err: fmt.Errorf("it is not %s: %v", pendingSchema, err)}
	}
	return &p, nil
}

// publishTo carries an edition over s to the first outlet, which decides, then commits it here, then brings it to the others.
// Their failures come after everything is done: a later run repeats them.
func (r *Repository) publishTo(ctx context.Context, s *state, all []*outlet, e *edition, changes []string) ([]Pushed, error) {
	if len(all) == 0 {
		return nil, e.commit(s.dir)
	}
	if err := fpPending.Hit(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(pending{Schema: pendingSchema, Destination: all[0].String(), Changes: changes, edition: *e})
	if err != nil {
		return nil, fmt.Errorf("cannot encode what is begun: %w", err)
	}
	if err := durable.WriteFile(r.pendingPath(), data, 0o644); err != nil {
		return nil, err
	}
	first, err := r.carry(ctx, s, all[0], e)
	if err != nil {
		return nil, err
	}
	out := []Pushed{*first}
	var failed []error
	for _, o := range all[1:] {
		done, err := r.push(ctx, s, o, e)
		if err != nil {
			failed = append(failed, &LaggingError{Err: err})
			continue
		}
		out = append(out, *done)
	}
	return out, errors.Join(failed...)
}

// carry finishes what is pending: there, here, and then the note of it.
func (r *Repository) carry(ctx context.Context, s *state, o *outlet, e *edition) (*Pushed, error) {
	done, err := r.push(ctx, s, o, e)
	var lost *ConcurrentError
	var differs *DiffersError
	var refused *ClientError
	if errors.As(err, &lost) || errors.As(err, &differs) || errors.As(err, &refused) {
		// Somebody else's state stays; nothing of ours was ever visible.
		return nil, errors.Join(err, durable.Remove(r.pendingPath()))
	}
	if err != nil {
		return nil, fmt.Errorf("%w (the publish is begun: run it again to finish it)", err)
	}
	if err := e.commit(s.dir); err != nil {
		return nil, err
	}
	if err := fpForget.Hit(); err != nil {
		return nil, err
	}
	return done, durable.Remove(r.pendingPath())
}

// settle finishes an interrupted publish before anything else is published.
func (r *Repository) settle(ctx context.Context, all []Destination) error {
	p, err := r.pending()
	if p == nil || err != nil {
		return err
	}
	s, err := load(r.metadataDir())
	if err != nil {
		return err
	}
	version, err := timestampVersion(p.timestamp())
	if err != nil {
		return &DamagedError{Path: r.pendingPath(), Err: err}
	}
	if s.version(classTimestamp) > version {
		return durable.Remove(r.pendingPath()) // this directory was brought up to date since
	}
	i := slices.IndexFunc(all, func(d Destination) bool { return d.String() == p.Destination })
	if i < 0 {
		return refuse("what is begun is finished", "cannot publish: a publish to "+p.Destination+" was interrupted, and whether it got through is known only there",
			"run publish --to "+p.Destination+" again")
	}
	o := &outlet{Destination: all[i]}
	if o.timestamp, err = readTimestamp(ctx, o.Destination); err != nil {
		return err
	}
	ours, err := s.timestampBytes()
	if err != nil {
		return err
	}
	o.current = bytes.Equal(o.timestamp, ours)
	if !o.current && !bytes.Equal(o.timestamp, p.timestamp()) {
		if theirs, err := timestampVersion(o.timestamp); err != nil || theirs >= s.version(classTimestamp) && theirs > 0 {
			return errors.Join(err, &ConcurrentError{Destination: o.String(), Theirs: theirs, Ours: s.version(classTimestamp)}, durable.Remove(r.pendingPath()))
		}
	}
	_, err = r.carry(ctx, s, o, &p.edition)
	return err
}

// LaggingError means that everything is published, and one destination did not get it. The next publish or refresh tries again.
type LaggingError struct{ Err error }

func (e *LaggingError) Error() string {
	return fmt.Sprintf("published, but not everywhere: %v; the next publish or refresh tries again", e.Err)
}

// Unwrap is the reason.
func (e *LaggingError) Unwrap() error { return e.Err }

// Kind is the class of the error for logs and metrics.
func (e *LaggingError) Kind() string { return "lagging" }

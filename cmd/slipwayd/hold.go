package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/audit"
	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
)

// hostHold is the hold over the whole host. Each app's own state is what stops its machine; this file is why an app that appears
// later is held too, and what `resume --all` is compared with.
//
// The order makes every crash conservative: holding saves this file before any app's state, resuming saves it after them.
type hostHold struct {
	path string
	// use gives up the reserve of the state directory on a full disk: stopping must always work.
	use func(func() error) error

	mu    sync.Mutex
	saved heldHost
}

// heldHost is the file. Revision counts every hold and resume on this host, of all apps or of one.
type heldHost struct {
	Schema   string      `json:"schema"`
	Revision int64       `json:"revision"`
	Hold     *state.Hold `json:"hold,omitempty"`
	// Resumed are the apps an operator let go on by name since.
	Resumed []release.App `json:"resumed,omitempty"`
}

const (
	holdSchema = "slipway.hold/v1"
	holdMax    = 1 << 20
)

// openHold reads the file. One that is there and cannot be understood holds the host, because it may have said so; the error is
// for the log.
func openHold(path string, use func(func() error) error, now time.Time) (*hostHold, error) {
	h := &hostHold{path: path, use: use}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		h.saved = heldHost{Schema: holdSchema}
		return h, nil
	}
	if err == nil {
		h.saved, err = parseHold(data)
	}
	if err != nil {
		err = fmt.Errorf("cannot read %s, so the host counts as held: %w", path, err)
		h.saved = heldHost{Schema: holdSchema, Revision: now.Unix(), Hold: &state.Hold{At: now.UTC(), By: "slipwayd", Reason: path + " is damaged; slipway resume --all ends this"}}
	}
	return h, err
}

func parseHold(data []byte) (heldHost, error) {
	var out heldHost
	if len(data) > holdMax {
		return out, fmt.Errorf("%d bytes are more than %d", len(data), holdMax)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&out); err != nil {
		return heldHost{}, err
	}
	if out.Schema != holdSchema {
		return heldHost{}, fmt.Errorf("schema %q is not %q", out.Schema, holdSchema)
	}
	return out, nil
}

// get returns the hold in force at now, if any, and the revision.
func (h *hostHold) get(now time.Time) (*state.Hold, int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.saved.Hold.Active(now) {
		return nil, h.saved.Revision
	}
	hold := *h.saved.Hold
	return &hold, h.saved.Revision
}

// covers returns the host's hold unless app was resumed by name since.
func (h *hostHold) covers(app release.App, now time.Time) *state.Hold {
	hold, _ := h.get(now)
	h.mu.Lock()
	defer h.mu.Unlock()
	if slices.Contains(h.saved.Resumed, app) {
		return nil
	}
	return hold
}

// change saves what f makes of the file. expect below zero compares nothing.
func (h *hostHold) change(expect int64, f func(*heldHost)) (int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if expect >= 0 && expect != h.saved.Revision {
		return 0, &agent.StaleError{Expected: expect, Is: h.saved.Revision}
	}
	next := h.saved
	next.Resumed = slices.Clone(next.Resumed)
	f(&next)
	next.Revision++
	data, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return 0, err
	}
	if err := h.use(func() error { return durable.WriteFile(h.path, append(data, '\n'), 0o644) }); err != nil {
		return 0, fmt.Errorf("cannot save the hold of the host: %w", err)
	}
	h.saved = next
	return next.Revision, nil
}

const anyRevision = -1

// holdNew gives the host's hold to apps that appear now, before their machines look at anything. An app with a hold of its own,
// or that was resumed by name, is left alone.
func (d *wired) holdNew(ctx context.Context, apps []release.App) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, app := range apps {
		h := d.hold.covers(app, d.clock.Now())
		if h == nil {
			continue
		}
		if err := d.holdOne(ctx, app, *h); err != nil {
			d.log.Error("an app is not held with the whole host", "app", app, "error", err)
		}
	}
}

func (d *wired) holdOne(ctx context.Context, app release.App, h state.Hold) error {
	tx, err := d.state.Lock(ctx, app)
	if err != nil {
		return err
	}
	defer tx.Unlock()
	if tx.Damaged != nil {
		return tx.Damaged // its machine must see the damage first: a trial may be under way
	}
	if tx.State.Hold.Active(d.clock.Now()) {
		return nil
	}
	tx.State.Hold = &h
	if err := tx.Save(); err != nil {
		return err
	}
	d.tell(audit.Event{Type: "command", App: app.String(), Cause: "hold", Message: fmt.Sprintf("%s is held with the whole host (%s): %s", app, h.By, orNothing(h.Reason))})
	return nil
}

// tell records an event that belongs to no machine. A log that cannot be written is no reason not to stop or to go on.
func (d *wired) tell(e audit.Event) {
	e.Time = d.clock.Now().UTC()
	if err := d.deps.Sink.Append(e); err != nil {
		d.log.Error("an event could not be recorded", "error", err)
	}
	d.log.Info(e.Message)
	d.deps.Observe(e)
}

func orNothing(s string) string {
	if s == "" {
		return "no reason given"
	}
	return s
}

// Hold implements api.Operator.
func (c *control) Hold(ctx context.Context, app string, r api.HoldRequest) (api.Accepted, error) {
	if app == "" {
		return c.holdAll(ctx, r)
	}
	until, message := r.Until, "held"
	m, err := c.machine(app)
	if err != nil {
		return api.Accepted{}, err
	}
	if h, _ := c.d.hold.get(c.d.clock.Now()); h != nil && !until.IsZero() && (h.Until.IsZero() || h.Until.After(until)) {
		until, message = h.Until, "held for as long as the whole host"
	}
	out, err := c.do(ctx, app, 0, r.Reason, message, func(m *agent.Machine, cmd agent.Command) (int64, error) {
		return m.Hold(ctx, cmd, until)
	})
	if err == nil {
		c.count(func(h *heldHost) { h.Resumed = without(h.Resumed, m.App()) })
	}
	return out, err
}

func (c *control) holdAll(ctx context.Context, r api.HoldRequest) (api.Accepted, error) {
	by := caller(ctx)
	revision, err := c.d.hold.change(anyRevision, func(h *heldHost) {
		h.Hold = &state.Hold{Until: r.Until, Reason: r.Reason, By: by, At: c.d.clock.Now().UTC()}
		h.Resumed = nil
	})
	if err != nil {
		return api.Accepted{}, err
	}
	c.d.tell(audit.Event{Type: "command", Cause: "hold", Message: fmt.Sprintf("hold of the whole host by %s: %s", by, orNothing(r.Reason)), Fields: map[string]string{"by": by}})
	var errs []error
	for _, m := range c.d.host.Machines() {
		if _, err := m.Hold(ctx, agent.Command{By: by, Reason: r.Reason}, r.Until); err != nil {
			errs = append(errs, err)
		}
	}
	return api.Accepted{Revision: revision, Message: "the whole host is held: every app, and every app added later"}, errors.Join(errs...)
}

// Resume implements api.Operator.
func (c *control) Resume(ctx context.Context, app string, r api.ResumeRequest) (api.Accepted, error) {
	if app == "" {
		return c.resumeAll(ctx, r)
	}
	m, err := c.machine(app)
	if err != nil {
		return api.Accepted{}, err
	}
	out, err := c.do(ctx, app, r.ExpectRevision, "", "resumed", func(m *agent.Machine, cmd agent.Command) (int64, error) {
		return m.Resume(ctx, cmd)
	})
	if err == nil {
		c.count(func(h *heldHost) { h.Resumed = append(without(h.Resumed, m.App()), m.App()) })
	}
	return out, err
}

func (c *control) resumeAll(ctx context.Context, r api.ResumeRequest) (api.Accepted, error) {
	host, revision := c.d.hold.get(c.d.clock.Now())
	if r.ExpectRevision != revision {
		return api.Accepted{}, &agent.StaleError{Expected: r.ExpectRevision, Is: revision}
	}
	by, ended := caller(ctx), 0
	var errs []error
	for _, m := range c.d.host.Machines() {
		did, err := c.resumeOne(ctx, m, by)
		if did {
			ended++
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return api.Accepted{}, errors.Join(errs...)
	}
	if host == nil && ended == 0 {
		return api.Accepted{}, api.NewError(api.KindRefused, "nothing on this host is held", "slipway status shows holds")
	}
	revision, err := c.d.hold.change(r.ExpectRevision, func(h *heldHost) { h.Hold, h.Resumed = nil, nil })
	if err != nil {
		return api.Accepted{}, err
	}
	c.d.tell(audit.Event{Type: "command", Cause: "resume", Message: fmt.Sprintf("resume of the whole host by %s", by), Fields: map[string]string{"by": by}})
	return api.Accepted{Revision: revision, Message: fmt.Sprintf("every hold on this host is ended (%d apps)", ended)}, nil
}

// resumeOne ends an app's hold. The app's machine may save for reasons of its own between reading and resuming: that is looked at
// again, because it is the host's revision that the operator decided on.
func (c *control) resumeOne(ctx context.Context, m *agent.Machine, by string) (bool, error) {
	for try := 0; ; try++ {
		st, err := c.d.state.Read(m.App())
		if err != nil || st.Hold == nil {
			return false, err
		}
		_, err = m.Resume(ctx, agent.Command{By: by, Expect: st.Revision})
		if stale := new(agent.StaleError); errors.As(err, &stale) && try < 5 {
			continue
		}
		return err == nil, err
	}
}

// count notes a hold or resume of one app, so that a late `resume --all` is told from a fresh one.
func (c *control) count(f func(*heldHost)) {
	if _, err := c.d.hold.change(anyRevision, f); err != nil {
		c.d.log.Error("a hold or resume is in force but was not counted", "error", err)
	}
}

func without(apps []release.App, app release.App) []release.App {
	return slices.DeleteFunc(slices.Clone(apps), func(a release.App) bool { return a == app })
}

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
	"github.com/slipway-deploy/slipway/agent/store"
)

var _ api.Host = (*control)(nil)

// control answers the socket: it turns the machine's values into the wire's and back.
type control struct {
	d *wired
}

func (c *control) machine(app string) (*agent.Machine, error) {
	name, err := release.ParseApp(app)
	if err != nil {
		return nil, api.NewError(api.KindBadRequest, err.Error(), "")
	}
	m, ok := c.d.host.Machine(name)
	if !ok {
		return nil, api.NewError(api.KindNotFound, fmt.Sprintf("this host does not run %s", app), "slipway add "+app+" adds it; slipway status lists what runs here")
	}
	return m, nil
}

// Status implements api.Reader.
func (c *control) Status(ctx context.Context) (api.Status, error) {
	cfg := c.d.config()
	out := api.Status{
		Host: c.d.hostID, Environment: cfg.Environment, Version: version, Supervisor: c.d.manager.Describe(),
		Repository: c.repository(), Warnings: c.d.warnings(), Apps: []api.AppStatus{},
	}
	hold, revision := c.d.hold.get(c.d.clock.Now())
	if out.Revision = revision; hold != nil {
		out.Hold = &api.Hold{Since: hold.At, Until: hold.Until, Reason: hold.Reason, By: hold.By}
	}
	for _, m := range c.d.host.Machines() {
		out.Apps = append(out.Apps, c.app(ctx, m))
	}
	return out, nil
}

func (c *control) repository() api.Repository {
	s := c.d.host.RefreshState()
	now := c.d.clock.Now()
	r := api.Repository{
		State: api.RepositoryOK, LastRefresh: s.Metadata.Verified, NextRefresh: s.Next, Issued: s.Metadata.Issued, Expires: s.Metadata.Expires,
	}
	if s.Err != nil {
		r.State, r.Error = stateOf(s.Err), s.Err.Error()
	} else if !s.Succeeded {
		r.State = api.RepositoryNever
	}
	for _, at := range s.Metadata.Expires {
		if now.After(at) {
			r.State = api.RepositoryExpired
		}
	}
	return r
}

func stateOf(err error) api.RepositoryState {
	switch kind(err) {
	case "expired", "metadata-expired", "too-old":
		return api.RepositoryExpired
	case "network", "stalled", "mirrors", "error", "absent", "incomplete":
		return api.RepositoryUnreachable
	}
	return api.RepositoryRefused
}

func kind(err error) string {
	var k interface{ Kind() string }
	if errors.As(err, &k) {
		return k.Kind()
	}
	return "error"
}

// App implements api.Reader.
func (c *control) App(ctx context.Context, app string) (api.AppStatus, error) {
	m, err := c.machine(app)
	if err != nil {
		return api.AppStatus{}, err
	}
	return c.app(ctx, m), nil
}

func (c *control) app(ctx context.Context, m *agent.Machine) api.AppStatus {
	v := m.View()
	out := api.AppStatus{App: m.App().String(), Enabled: !m.Disabled(), Why: v.Why, Busy: v.Busy, Candidate: idText(v.Candidate)}
	tree := c.d.store.App(m.App())
	if id, err := tree.Current(); err == nil {
		out.Current, out.Version = id.String(), id.Version().String()
		out.Units = c.units(ctx, tree, id)
	}
	if id, err := tree.Fallback(); err == nil {
		out.Fallback = id.String()
	}
	if out.Candidate == out.Current {
		out.Candidate = ""
	}
	if d := v.Deployment; d != nil {
		out.Deployment = deployment(d)
	}
	if t := v.Turn; t != nil {
		out.Turn = &api.Turn{
			Act: t.Act, Verb: string(t.Verb), Rule: t.Rule, Because: t.Because, Position: t.Position, Wave: t.Wave, Earliest: t.Earliest, Until: t.Until,
		}
	}
	if p := v.Progress; p != nil && p.Total > 0 {
		out.Progress = &api.Progress{Step: p.Step, Bytes: p.Done, Total: p.Total, Percent: float64(p.Done) / float64(p.Total) * 100, Rate: p.Rate}
	}
	st, err := c.d.state.Read(m.App())
	if err != nil {
		out.Phase, out.Why = "damaged", err.Error()
		return out
	}
	c.saved(&out, st, v)
	return out
}

// unitPatience bounds what a status waits for a service manager that does not answer; the units' names are known without it.
const unitPatience = 500 * time.Millisecond

func (c *control) units(ctx context.Context, tree *store.App, id release.ID) []api.Unit {
	rel, _, err := tree.Release(id)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, unitPatience)
	defer cancel()
	var out []api.Unit
	for _, u := range rel.Units {
		name := u.Name.String()
		if strings.Contains(name, "@.") {
			continue // a template runs only as instances, which the release does not name
		}
		one := api.Unit{Name: name, Active: "unknown"}
		if st, err := c.d.manager.Unit(ctx, name); err == nil {
			one.Active, one.Sub = st.Active, st.Sub
		}
		out = append(out, one)
	}
	return out
}

func (c *control) saved(out *api.AppStatus, st *state.App, v agent.View) {
	out.Phase, out.Revision = string(st.Phase), st.Revision
	switch st.Phase {
	case state.Idle, state.Waiting, state.Stuck:
		out.Busy = false
	default:
		out.Busy = true
	}
	if h := st.Hold; h.Active(c.d.clock.Now()) {
		out.Hold = &api.Hold{Since: h.At, Until: h.Until, Reason: h.Reason, By: h.By}
	}
	for _, q := range st.Quarantine {
		out.Quarantine = append(out.Quarantine, api.Quarantine{
			Release: q.ID.String(), Version: q.ID.Version().String(), Digest: q.Digest.String(), Sequence: q.Sequence,
			Cause: string(q.Cause), Reason: q.Reason, At: q.At, RetryAt: q.RetryAt,
		})
	}
	if o := st.Last; o != nil {
		out.LastOutcome = &api.Outcome{Attempt: o.Attempt, Result: o.Result, Release: idText(o.Tried), Version: versionText(o.Tried), At: o.At, Message: o.Reason}
	}
	if a := st.Attempt; a != nil && st.Phase == state.Trial {
		out.Trial = c.trial(a, v)
	}
}

func (c *control) trial(a *state.Attempt, v agent.View) *api.Trial {
	now, boot := c.d.clock.Now(), c.d.clock.Boot()
	t := &api.Trial{Attempt: a.ID, Started: a.Started, Deadline: now.Add(a.Deadline - boot), MinHealthy: api.Duration(a.MinHealthy)}
	if a.HealthySince > 0 {
		t.HealthyFor = api.Duration((boot - a.HealthySince).Round(time.Second))
	}
	for _, s := range v.Checks {
		t.Checks = append(t.Checks, api.Check{Name: s.Name, Kind: s.Kind, Answer: s.Answer.String(), Detail: s.Detail, Since: s.Since})
	}
	return t
}

func deployment(d *release.Deployment) *api.Deployment {
	out := &api.Deployment{Sequence: d.Sequence, RolloutID: d.RolloutID, State: string(d.State), Absent: d.Absent, Reason: d.Reason, Ticket: d.Ticket}
	if d.Release != nil {
		if _, v, err := release.ParseReleasePath(d.Release.Path); err == nil {
			out.Version, out.Release = v.String(), release.NewID(v, d.Release.SHA256).String()
		}
	}
	if d.Expires != nil {
		out.Expires = *d.Expires
	}
	return out
}

func idText(id release.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

func versionText(id release.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.Version().String()
}

// History implements api.Reader.
func (c *control) History(_ context.Context, app string, limit int) ([]api.HistoryEntry, error) {
	m, err := c.machine(app)
	if err != nil {
		return nil, err
	}
	st, err := c.d.state.Read(m.App())
	if err != nil {
		return nil, err
	}
	out := []api.HistoryEntry{}
	for i := len(st.History) - 1; i >= 0 && len(out) < limit; i-- {
		o := st.History[i]
		out = append(out, api.HistoryEntry{
			Attempt: o.Attempt, Started: o.At, Ended: o.At, From: idText(o.From), To: idText(o.To), Tried: idText(o.Tried), Sequence: o.Sequence,
			Result: o.Result, Cause: string(o.Cause), Message: o.Reason,
		})
	}
	return out, nil
}

// Events implements api.Reader.
func (c *control) Events(ctx context.Context, q api.EventQuery, emit func(api.Event) error) error {
	return c.d.events.stream(ctx, q, emit)
}

// Verify implements api.Inspector.
func (c *control) Verify(ctx context.Context, app string, q api.VerifyQuery) (api.VerifyReport, error) {
	m, err := c.machine(app)
	if err != nil {
		return api.VerifyReport{}, err
	}
	start := time.Now()
	id, diffs, err := m.Verify(ctx, q.Quick)
	if errors.Is(err, store.ErrNone) {
		return api.VerifyReport{}, api.NewError(api.KindNotFound, app+" has no current release", "")
	}
	if err != nil {
		return api.VerifyReport{}, err
	}
	out := api.VerifyReport{App: app, Release: id.String(), OK: len(diffs) == 0, Quick: q.Quick, Took: api.Duration(time.Since(start).Round(time.Millisecond))}
	if _, manifest, _, err := c.d.store.App(m.App()).Load(id); err == nil {
		for _, e := range manifest.Entries {
			if e.Type == release.TypeFile {
				out.Files, out.Bytes = out.Files+1, out.Bytes+e.Size
			}
		}
	}
	for _, d := range diffs {
		out.Differences = append(out.Differences, api.Difference{Path: d.Path, What: d.What, Want: d.Want, Got: d.Got})
	}
	return out, nil
}

// Refresh implements api.Operator.
func (c *control) Refresh(ctx context.Context) (api.RefreshReport, error) {
	err := c.d.host.Refresh(ctx)
	s := c.d.host.RefreshState()
	out := api.RefreshReport{Changed: s.Metadata.Changed, Repository: c.repository(), Message: "metadata is up to date"}
	if err != nil {
		return out, err
	}
	return out, nil
}

// Apply implements api.Operator.
func (c *control) Apply(ctx context.Context, app string, r api.ApplyRequest) (api.ApplyReport, error) {
	m, err := c.machine(app)
	if err != nil {
		return api.ApplyReport{}, err
	}
	st, err := c.d.state.Read(m.App())
	if err != nil {
		return api.ApplyReport{}, err
	}
	out := api.ApplyReport{Accepted: api.Accepted{Revision: st.Revision}}
	if r.DryRun {
		out.WouldAct, out.Plan, err = m.Plan(ctx)
		out.Message = "nothing was changed"
		return out, err
	}
	if st.Revision != r.ExpectRevision {
		return out, &agent.StaleError{Expected: r.ExpectRevision, Is: st.Revision}
	}
	if err := c.d.host.Refresh(ctx); err != nil {
		out.Message = "metadata could not be refreshed (" + err.Error() + "); going by what is trusted"
	}
	m.Nudge()
	if out.Message == "" {
		out.Message = "looking now"
	}
	return out, nil
}

// Revert implements api.Operator.
func (c *control) Revert(ctx context.Context, app string, r api.RevertRequest) (api.Accepted, error) {
	return c.do(ctx, app, r.ExpectRevision, r.Reason, "reverting", func(m *agent.Machine, cmd agent.Command) (int64, error) {
		return m.Revert(ctx, cmd)
	})
}

// Retry implements api.Operator.
func (c *control) Retry(ctx context.Context, app string, r api.RetryRequest) (api.Accepted, error) {
	var digest release.Digest
	if r.Digest != "" {
		var err error
		if digest, err = release.ParseDigest(r.Digest); err != nil {
			return api.Accepted{}, api.NewError(api.KindBadRequest, err.Error(), "")
		}
	}
	return c.do(ctx, app, r.ExpectRevision, "", "quarantine is cleared", func(m *agent.Machine, cmd agent.Command) (int64, error) {
		return m.Retry(ctx, cmd, digest)
	})
}

// Remove implements api.Operator.
func (c *control) Remove(ctx context.Context, app string, r api.RemoveRequest) (api.Accepted, error) {
	return c.do(ctx, app, r.ExpectRevision, "", "removing", func(m *agent.Machine, cmd agent.Command) (int64, error) {
		return m.Remove(ctx, cmd)
	})
}

func (c *control) do(ctx context.Context, app string, expect int64, reason, done string, f func(*agent.Machine, agent.Command) (int64, error)) (api.Accepted, error) {
	m, err := c.machine(app)
	if err != nil {
		return api.Accepted{}, err
	}
	revision, err := f(m, agent.Command{Expect: expect, By: caller(ctx), Reason: reason})
	if refused := new(agent.RefusedError); errors.As(err, &refused) {
		return api.Accepted{}, api.NewError(api.KindRefused, refused.Reason, "")
	}
	return api.Accepted{Revision: revision, Message: app + ": " + done}, err
}

func caller(ctx context.Context) string {
	if who, ok := api.CallerFrom(ctx); ok {
		return who.User
	}
	return "slipwayd"
}

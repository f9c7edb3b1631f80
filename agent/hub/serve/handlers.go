package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/hub/roster"
	"github.com/slipway-deploy/slipway/agent/release"
)

// from reads a host's body. Fields it does not know are left alone: hosts and hubs are not upgraded at one moment.
func from[T interface{ Check() error }](c *call) (v T, err error) {
	if err := decode(c.body, &v, false); err != nil {
		return v, err
	}
	if err := v.Check(); err != nil {
		return v, &fleet.Error{Kind: fleet.KindBadRequest, Message: "the request's body: " + err.Error()}
	}
	return v, nil
}

// decode reads one JSON value. strict refuses unknown fields: what a person asks for must not lose a misspelt half.
func decode(data []byte, into any, strict bool) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if strict {
		d.DisallowUnknownFields()
	}
	err := d.Decode(into)
	if err == nil {
		if _, end := d.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("it goes on after the JSON object")
		}
	}
	if err != nil {
		return &fleet.Error{Kind: fleet.KindBadRequest, Message: "cannot read the request's body: " + strings.TrimPrefix(err.Error(), "json: ")}
	}
	return nil
}

func (c *call) hubCaller() hub.Caller {
	return hub.Caller{Environment: c.caller.id.Environment, Host: c.caller.id.Host}
}

func handleTurn(c *call) (any, error) {
	t, err := from[fleet.Turn](c)
	if err != nil {
		return nil, err
	}
	if labels := c.cfg.Roster.Labels(c.caller.id.Environment, c.caller.id.Host); labels != nil {
		t.Labels = labels // given at enrolment: they count instead of what the host says of itself
	}
	a, err := c.cfg.Engine.Turn(c.r.Context(), c.hubCaller(), t)
	if err != nil {
		return nil, err
	}
	c.count.turn(a)
	return a, nil
}

func handleCheck(c *call) (any, error) {
	q, err := from[fleet.Check](c)
	if err != nil {
		return nil, err
	}
	a, err := c.cfg.Engine.Check(c.r.Context(), c.hubCaller(), q)
	if err != nil {
		return nil, err
	}
	c.count.check(a)
	return a, nil
}

func handleFinish(c *call) (any, error) {
	f, err := from[fleet.Finish](c)
	if err != nil {
		return nil, err
	}
	a, err := c.cfg.Engine.Finish(c.r.Context(), c.hubCaller(), f)
	if err != nil {
		return nil, err
	}
	c.count.finish(f, a)
	return a, nil
}

func handleEnroll(c *call) (any, error) {
	var q fleet.Enroll
	if err := decode(c.body, &q, false); err != nil {
		return nil, err
	}
	return c.cfg.Roster.Enroll(c.r.Context(), q, remote(c.r))
}

// handleRenew serves hosts with a certificate of the fleet's own authority. One of an existing PKI is renewed there: a second one,
// from here, would outlive its being taken back.
func handleRenew(c *call) (any, error) {
	if !c.cfg.Trust.own(c.r.TLS.VerifiedChains) {
		return nil, &fleet.Error{Kind: fleet.KindRefused, Message: "the certificate of " + c.caller.name + " is of another authority than the fleet's own", Hint: "renew it there"}
	}
	var q fleet.Renew
	if err := decode(c.body, &q, false); err != nil {
		return nil, err
	}
	return c.cfg.Roster.Renew(c.r.Context(), c.caller.id, q)
}

func handleAct(c *call) (any, error) {
	var a fleet.Act
	if err := decode(c.body, &a, true); err != nil {
		return nil, err
	}
	if err := a.Check(); err != nil {
		return nil, &fleet.Error{Kind: fleet.KindBadRequest, Message: err.Error()}
	}
	return c.cfg.Engine.Act(c.r.Context(), c.caller.name, strings.TrimPrefix(c.route.path, fleet.PathActs), a)
}

func handleStatus(c *call) (any, error) { return c.cfg.Engine.Status(c.r.Context()) }

// handleHosts answers for one app of one environment; both are required, because a fleet has many hosts.
func handleHosts(c *call) (any, error) {
	q := c.r.URL.Query()
	env, err := release.ParseEnvironment(q.Get("environment"))
	if err != nil {
		return nil, &fleet.Error{Kind: fleet.KindBadRequest, Message: err.Error()}
	}
	app, err := release.ParseApp(q.Get("app"))
	if err != nil {
		return nil, &fleet.Error{Kind: fleet.KindBadRequest, Message: err.Error()}
	}
	return c.cfg.Engine.Hosts(c.r.Context(), env, app)
}

// handleSlots is the part of the status that incidents are about.
func handleSlots(c *call) (any, error) {
	s, err := c.cfg.Engine.Status(c.r.Context())
	if err != nil {
		return nil, err
	}
	out := []fleet.SlotStatus{}
	for _, r := range s.Rollouts {
		out = append(out, r.Slots...)
	}
	return out, nil
}

func handleAudit(c *call) (any, error) {
	since := int64(0)
	if text := c.r.URL.Query().Get("since"); text != "" {
		var err error
		if since, err = strconv.ParseInt(text, 10, 64); err != nil || since < 0 {
			return nil, &fleet.Error{Kind: fleet.KindBadRequest, Message: fmt.Sprintf("since: %.40q is no number of an entry", text)}
		}
	}
	list, err := c.cfg.Engine.AuditSince(c.r.Context(), since, fleet.AuditPage)
	if list == nil {
		list = []fleet.AuditEntry{}
	}
	return list, err
}

// Health is the answer of the health route. It holds nothing that a stranger may not know.
type Health struct {
	OK      bool   `json:"ok"`
	Version string `json:"version"`
	Why     string `json:"why,omitempty"`
}

// handleHealth is 503 while the hub cannot decide anything, so that a load balancer sends hosts to another one.
func handleHealth(c *call) (any, error) {
	ctx, cancel := context.WithTimeout(c.r.Context(), 2*time.Second)
	defer cancel()
	h := Health{OK: true, Version: c.cfg.Version}
	status := http.StatusOK
	err := c.cfg.Ready(ctx)
	if c.drained.Load() {
		err = errors.New("the hub is stopping")
	}
	if err != nil {
		h.OK, h.Why, status = false, "the store does not answer, or the hub is starting or stopping", http.StatusServiceUnavailable
		if c.caller.role >= viewer {
			h.Why = err.Error()
		}
	}
	c.answer(c.w, status, h)
	return nil, nil
}

func handleMetrics(c *call) (any, error) {
	if c.cfg.Metrics == nil {
		return nil, &fleet.Error{Kind: fleet.KindNotFound, Message: "this hub has no metrics"}
	}
	c.cfg.Metrics.ServeHTTP(c.w, c.r)
	return nil, nil
}

func handleTokens(c *call) (any, error) { return c.cfg.Roster.Tokens(c.r.Context()) }

func handleCreateToken(c *call) (any, error) {
	var ask roster.Ask
	if err := decode(c.body, &ask, true); err != nil {
		return nil, err
	}
	return c.cfg.Roster.CreateToken(c.r.Context(), c.caller.name, ask)
}

// Done says what an administrator's request changed.
type Done struct {
	Done string `json:"done"`
}

// Drop names a token by its ID.
type Drop struct {
	ID string `json:"id"`
}

func handleDropToken(c *call) (any, error) {
	var d Drop
	if err := decode(c.body, &d, true); err != nil {
		return nil, err
	}
	return done(c.cfg.Roster.DropToken(c.r.Context(), c.caller.name, d.ID))
}

func handleMembers(c *call) (any, error) { return c.cfg.Roster.Members(c.r.Context()) }

func handleRevoke(c *call) (any, error) {
	var v roster.Revocation
	if err := decode(c.body, &v, true); err != nil {
		return nil, err
	}
	return done(c.cfg.Roster.Revoke(c.r.Context(), c.caller.name, v))
}

func done(words string, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return Done{Done: words}, nil
}

// handleSnapshot may take longer than any other answer.
func handleSnapshot(c *call) (any, error) {
	if c.cfg.Snapshot == nil {
		return nil, &fleet.Error{Kind: fleet.KindNotFound, Message: "this hub takes no snapshots"}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.r.Context()), snapshotTimeout)
	defer cancel()
	_ = http.NewResponseController(c.w).SetWriteDeadline(time.Now().Add(snapshotTimeout))
	data, size, err := c.cfg.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	c.w.Header().Set("Content-Type", "application/octet-stream")
	c.w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	if _, err := io.Copy(c.w, data); err != nil {
		c.cfg.Log.Warn("a snapshot was not delivered whole", "error", err)
	}
	return nil, nil
}

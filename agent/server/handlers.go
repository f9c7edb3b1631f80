package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
)

func handleStatus(c *call) (any, error) { return c.cfg.Host.Status(c.r.Context()) }

func handleApp(c *call) (any, error) { return c.cfg.Host.App(c.r.Context(), c.app) }

func handleDoctor(c *call) (any, error) { return c.cfg.Host.Doctor(c.r.Context()) }

func handleHistory(c *call) (any, error) {
	q, err := query(c.r, "limit")
	if err != nil {
		return nil, err
	}
	limit := 20
	if s := q.Get("limit"); s != "" {
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 || limit > 1000 {
			return nil, api.NewError(api.KindBadRequest, fmt.Sprintf("limit: %q is not between 1 and 1000", s), "")
		}
	}
	list, err := c.cfg.Host.History(c.r.Context(), c.app, limit)
	if list == nil {
		list = []api.HistoryEntry{}
	}
	return list, err
}

func handleVerify(c *call) (any, error) {
	q, err := query(c.r, "quick")
	if err != nil {
		return nil, err
	}
	quick, err := flag(q, "quick")
	if err != nil {
		return nil, err
	}
	end, ok := c.busy.begin("verify " + c.app)
	if !ok {
		return nil, api.NewError(api.KindBusy, c.app+" is being verified already", "wait for that to end")
	}
	defer end()
	return c.cfg.Host.Verify(c.r.Context(), c.app, api.VerifyQuery{Quick: quick})
}

func handleMetrics(c *call) (any, error) {
	c.writeMetrics(c.w)
	return nil, nil
}

func handleRefresh(c *call) (any, error) {
	var r api.RefreshRequest
	if err := decode(c.body, &r); err != nil {
		return nil, err
	}
	return c.cfg.Host.Refresh(c.r.Context())
}

func handleApply(c *call) (any, error) {
	var r api.ApplyRequest
	if err := decode(c.body, &r, "expect_revision"); err != nil {
		return nil, err
	}
	return c.cfg.Host.Apply(c.change(), c.app, r)
}

func handleRevert(c *call) (any, error) {
	var r api.RevertRequest
	if err := decode(c.body, &r, "expect_revision", "reason"); err != nil {
		return nil, err
	}
	if err := checkReason(r.Reason); err != nil {
		return nil, err
	}
	return c.cfg.Host.Revert(c.change(), c.app, r)
}

func handleHold(c *call) (any, error) {
	var r api.HoldRequest
	if err := decode(c.body, &r); err != nil {
		return nil, err
	}
	if err := checkReason(r.Reason); err != nil {
		return nil, err
	}
	if !r.Until.IsZero() && !r.Until.After(c.cfg.Now()) {
		return nil, api.NewError(api.KindBadRequest, "until: "+r.Until.Format(time.RFC3339)+" is not in the future", "")
	}
	return c.cfg.Host.Hold(c.change(), c.app, r)
}

func handleResume(c *call) (any, error) {
	var r api.ResumeRequest
	if err := decode(c.body, &r, "expect_revision"); err != nil {
		return nil, err
	}
	return c.cfg.Host.Resume(c.change(), c.app, r)
}

func handleRetry(c *call) (any, error) {
	var r api.RetryRequest
	if err := decode(c.body, &r, "expect_revision"); err != nil {
		return nil, err
	}
	return c.cfg.Host.Retry(c.change(), c.app, r)
}

func handleRemove(c *call) (any, error) {
	var r api.RemoveRequest
	if err := decode(c.body, &r, "expect_revision"); err != nil {
		return nil, err
	}
	return c.cfg.Host.Remove(c.change(), c.app, r)
}

// change is the context for the Host's changing methods: an operator who presses ^C after asking must not leave a change half
// made, so it does not end with the connection.
func (c *call) change() context.Context { return context.WithoutCancel(c.r.Context()) }

func handleEvents(c *call) (any, error) {
	v, err := query(c.r, "app", "since", "follow")
	if err != nil {
		return nil, err
	}
	q := api.EventQuery{App: v.Get("app")}
	if q.App != "" && !appName.MatchString(q.App) {
		return nil, api.NewError(api.KindBadRequest, fmt.Sprintf("app: %q is no app name", q.App), "")
	}
	if q.Follow, err = flag(v, "follow"); err != nil {
		return nil, err
	}
	if s := v.Get("since"); s != "" {
		if q.Since, err = time.Parse(time.RFC3339Nano, s); err != nil {
			return nil, api.NewError(api.KindBadRequest, fmt.Sprintf("since: %q is no time such as 2026-01-02T15:04:05Z", s), "")
		}
	}
	select {
	case c.streams <- struct{}{}:
		defer func() { <-c.streams }()
	default:
		return nil, api.NewError(api.KindUnavailable, fmt.Sprintf("%d event streams are open already", maxStreams), "close one, or try again later")
	}
	return nil, c.stream(q)
}

// stream writes one event a line and flushes each. Once the first byte is out an error can only travel as a last line.
func (c *call) stream(q api.EventQuery) error {
	c.w.Header().Set("Content-Type", "application/x-ndjson")
	flush := http.NewResponseController(c.w)
	write := func(v any) error {
		c.deadline(c.w)
		if err := json.NewEncoder(c.w).Encode(v); err != nil {
			return err
		}
		return flush.Flush()
	}
	c.w.WriteHeader(http.StatusOK)
	if err := flush.Flush(); err != nil {
		return nil
	}
	err := c.cfg.Host.Events(c.r.Context(), q, func(e api.Event) error { return write(e) })
	if err != nil && c.r.Context().Err() == nil {
		_ = write(map[string]*api.Error{"error": api.Wire(err)}) // the peer may be what failed
	}
	return nil
}

// query refuses parameters nobody reads: a misspelt one would silently mean its default.
func query(r *http.Request, known ...string) (url.Values, error) {
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, api.NewError(api.KindBadRequest, "the query cannot be read: "+err.Error(), "")
	}
	allowed := map[string]bool{}
	for _, k := range known {
		allowed[k] = true
	}
	for k, values := range v {
		if !allowed[k] {
			return nil, api.NewError(api.KindBadRequest, fmt.Sprintf("there is no parameter %q", k), "")
		}
		if len(values) > 1 {
			return nil, api.NewError(api.KindBadRequest, fmt.Sprintf("the parameter %s is given twice", k), "")
		}
	}
	return v, nil
}

func flag(v url.Values, name string) (bool, error) {
	switch s := v.Get(name); s {
	case "", "false", "0":
		return false, nil
	case "true", "1":
		return true, nil
	default:
		return false, api.NewError(api.KindBadRequest, fmt.Sprintf("%s: %q is neither true nor false", name, s), "")
	}
}

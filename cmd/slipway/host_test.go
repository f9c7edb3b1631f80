package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/slipway-deploy/slipway/agent/api"
)

// scriptHost is a host whose state a script wrote down. After a change it is Busy for one look, then takes on the state of after.
type scriptHost struct {
	mu     sync.Mutex
	status api.Status
	after  api.Status
	busy   int
	calls  []string
	extra  struct {
		History []api.HistoryEntry `json:"history"`
		Events  []api.Event        `json:"events"`
		Verify  api.VerifyReport   `json:"verify"`
		Doctor  api.DoctorReport   `json:"doctor"`
		Plan    []string           `json:"plan"`
		Error   *api.Error         `json:"error"`
	}
}

func (h *scriptHost) lastCall() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.calls) == 0 {
		return ""
	}
	return h.calls[len(h.calls)-1]
}

func (h *scriptHost) Status(context.Context) (api.Status, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.status, nil
}

func (h *scriptHost) App(_ context.Context, app string) (api.AppStatus, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy > 0 {
		if h.busy--; h.busy == 0 {
			h.status = h.after
		}
	}
	for _, a := range h.status.Apps {
		if a.App == app {
			return a, nil
		}
	}
	return api.AppStatus{}, api.NewError(api.KindNotFound, "there is no app "+app+" on this host", "slipway add "+app)
}

func (h *scriptHost) change(app string, expect int64, what string) (api.Accepted, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, what)
	if h.extra.Error != nil {
		return api.Accepted{}, h.extra.Error
	}
	for i, a := range h.status.Apps {
		if a.App == app {
			if expect >= 0 && expect != a.Revision {
				return api.Accepted{}, api.NewError(api.KindStale, fmt.Sprintf("%s is at revision %d, not %d", app, a.Revision, expect), "")
			}
			if h.after.Host != "" {
				h.busy = 3
				h.status.Apps[i].Busy = true
				h.status.Apps[i].Phase = "staging"
				h.status.Apps[i].Progress = &api.Progress{Step: "downloading", Percent: 42.2, Bytes: 42e6, Total: 100e6, Rate: 6e6}
			}
		}
	}
	return api.Accepted{Revision: expect + 1, Message: "taken"}, nil
}

func (h *scriptHost) History(context.Context, string, int) ([]api.HistoryEntry, error) {
	return h.extra.History, nil
}

func (h *scriptHost) Events(_ context.Context, q api.EventQuery, emit func(api.Event) error) error {
	for _, e := range h.extra.Events {
		if q.App == "" || q.App == e.App {
			if err := emit(e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *scriptHost) Verify(context.Context, string, api.VerifyQuery) (api.VerifyReport, error) {
	return h.extra.Verify, nil
}

func (h *scriptHost) Doctor(context.Context) (api.DoctorReport, error) { return h.extra.Doctor, nil }

func (h *scriptHost) Refresh(context.Context) (api.RefreshReport, error) {
	if h.extra.Error != nil {
		return api.RefreshReport{}, h.extra.Error
	}
	return api.RefreshReport{Message: "nothing new since 2 min"}, nil
}

func (h *scriptHost) Apply(_ context.Context, app string, r api.ApplyRequest) (api.ApplyReport, error) {
	if r.DryRun {
		return api.ApplyReport{Accepted: api.Accepted{Message: "would start " + app + " 2.4.1 now"}, WouldAct: true, Plan: h.extra.Plan}, nil
	}
	a, err := h.change(app, r.ExpectRevision, fmt.Sprintf("apply %s %d", app, r.ExpectRevision))
	return api.ApplyReport{Accepted: a, WouldAct: true}, err
}

func (h *scriptHost) Revert(_ context.Context, app string, r api.RevertRequest) (api.Accepted, error) {
	return h.change(app, r.ExpectRevision, fmt.Sprintf("revert %s %d %s", app, r.ExpectRevision, r.Reason))
}

func (h *scriptHost) Hold(_ context.Context, app string, r api.HoldRequest) (api.Accepted, error) {
	until := "-"
	if !r.Until.IsZero() {
		until = r.Until.UTC().Format("2006-01-02T15:04:05")
	}
	return h.change(app, -1, fmt.Sprintf("hold %q %s %s", app, until, r.Reason))
}

func (h *scriptHost) Resume(_ context.Context, app string, r api.ResumeRequest) (api.Accepted, error) {
	return h.change(app, r.ExpectRevision, fmt.Sprintf("resume %q %d", app, r.ExpectRevision))
}

func (h *scriptHost) Retry(_ context.Context, app string, r api.RetryRequest) (api.Accepted, error) {
	return h.change(app, r.ExpectRevision, fmt.Sprintf("retry %s %d %s", app, r.ExpectRevision, r.Digest))
}

func (h *scriptHost) Remove(_ context.Context, app string, r api.RemoveRequest) (api.Accepted, error) {
	return h.change(app, r.ExpectRevision, fmt.Sprintf("remove %s %d", app, r.ExpectRevision))
}

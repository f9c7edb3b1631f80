package server_test

import (
	"context"
	"fmt"
	"sync"

	"github.com/slipway-deploy/slipway/agent/api"
)

// fakeHost has one app, "web", whose revision every change moves on.
type fakeHost struct {
	mu       sync.Mutex
	revision int64
	calls    []string
	callers  []api.Caller
	events   []api.Event
	verify   chan struct{}
	panics   bool
}

func (h *fakeHost) note(ctx context.Context, what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, _ := api.CallerFrom(ctx)
	h.calls, h.callers = append(h.calls, what), append(h.callers, c)
}

func (h *fakeHost) seen() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.calls...)
}

func (h *fakeHost) change(ctx context.Context, what, app string, expect int64) (api.Accepted, error) {
	h.note(ctx, what+" "+app)
	h.mu.Lock()
	defer h.mu.Unlock()
	if expect != h.revision {
		return api.Accepted{}, api.NewError(api.KindStale, fmt.Sprintf("the state is at %d, not %d", h.revision, expect), "look again")
	}
	h.revision++
	return api.Accepted{Revision: h.revision, Message: what + " taken"}, nil
}

func (h *fakeHost) Status(ctx context.Context) (api.Status, error) {
	h.note(ctx, "status")
	if h.panics {
		panic("a defect")
	}
	a, err := h.App(ctx, "web")
	return api.Status{Host: "h1", Environment: "staging", Version: "1.2.3", Apps: []api.AppStatus{a}}, err
}

func (h *fakeHost) App(_ context.Context, app string) (api.AppStatus, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if app != "web" {
		return api.AppStatus{}, api.NewError(api.KindNotFound, "there is no app "+app, "")
	}
	return api.AppStatus{App: "web", Enabled: true, Phase: "idle", Why: "nothing to do", Revision: h.revision}, nil
}

func (h *fakeHost) History(ctx context.Context, app string, limit int) ([]api.HistoryEntry, error) {
	h.note(ctx, fmt.Sprintf("history %s %d", app, limit))
	return nil, nil
}

func (h *fakeHost) Events(ctx context.Context, q api.EventQuery, emit func(api.Event) error) error {
	h.note(ctx, "events "+q.App)
	for _, e := range h.events {
		if err := emit(e); err != nil {
			return err
		}
	}
	if q.Follow {
		<-ctx.Done()
		return nil
	}
	if q.App == "broken" {
		return api.NewError(api.KindUnavailable, "you are too slow", "")
	}
	return nil
}

func (h *fakeHost) Verify(ctx context.Context, app string, q api.VerifyQuery) (api.VerifyReport, error) {
	h.note(ctx, fmt.Sprintf("verify %s %v", app, q.Quick))
	if h.verify != nil {
		<-h.verify
	}
	return api.VerifyReport{App: app, OK: true}, nil
}

func (h *fakeHost) Doctor(context.Context) (api.DoctorReport, error) { return api.DoctorReport{}, nil }

func (h *fakeHost) Refresh(ctx context.Context) (api.RefreshReport, error) {
	h.note(ctx, "refresh")
	return api.RefreshReport{}, kinded{}
}

// kinded is an error of another package: it has a kind and no hint, and this package cannot know it.
type kinded struct{}

func (kinded) Error() string { return "the timestamp expired" }
func (kinded) Kind() string  { return "expired" }

func (h *fakeHost) Apply(ctx context.Context, app string, r api.ApplyRequest) (api.ApplyReport, error) {
	a, err := h.change(ctx, "apply", app, r.ExpectRevision)
	return api.ApplyReport{Accepted: a}, err
}

func (h *fakeHost) Revert(ctx context.Context, app string, r api.RevertRequest) (api.Accepted, error) {
	return h.change(ctx, "revert", app, r.ExpectRevision)
}

func (h *fakeHost) Hold(ctx context.Context, app string, _ api.HoldRequest) (api.Accepted, error) {
	return h.change(ctx, "hold", app, h.revision)
}

func (h *fakeHost) Resume(ctx context.Context, app string, r api.ResumeRequest) (api.Accepted, error) {
	return h.change(ctx, "resume", app, r.ExpectRevision)
}

func (h *fakeHost) Retry(ctx context.Context, app string, r api.RetryRequest) (api.Accepted, error) {
	return h.change(ctx, "retry", app, r.ExpectRevision)
}

func (h *fakeHost) Remove(ctx context.Context, app string, r api.RemoveRequest) (api.Accepted, error) {
	return h.change(ctx, "remove", app, r.ExpectRevision)
}

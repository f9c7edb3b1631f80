package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// stallGuard ends a request that delivers less than a least rate over a window. Only time spent waiting for the server
// counts, so a slow disk on our side is never blamed on it.
type stallGuard struct {
	ctx    context.Context
	url    string
	limits Stall
	cancel context.CancelCauseFunc
	total  *time.Timer // nil without an overall deadline

	mu      sync.Mutex
	timer   *time.Timer
	waiting time.Time // when the current wait began
	waited  time.Duration
	got     int64
}

func newStallGuard(ctx context.Context, url string, limits Stall, timeout time.Duration) (*stallGuard, context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	g := &stallGuard{ctx: ctx, url: url, limits: limits, cancel: cancel, waiting: time.Now()}
	g.timer = time.AfterFunc(limits.Window, g.expire)
	if timeout > 0 {
		g.total = time.AfterFunc(timeout, func() { cancel(&ErrStalled{URL: url, Got: g.bytes(), Window: timeout}) })
	}
	context.AfterFunc(ctx, g.stop)
	return g, ctx
}

func (g *stallGuard) bytes() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.got
}

func (g *stallGuard) expire() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting.IsZero() {
		return
	}
	if waited := g.waited + time.Since(g.waiting); waited < g.limits.Window { // a read ended this window just now
		g.timer.Reset(g.limits.Window - waited)
		return
	}
	g.judge(g.limits.Window)
	g.waiting = time.Now()
	g.timer.Reset(g.limits.Window)
}

// judge closes one window.
func (g *stallGuard) judge(window time.Duration) {
	if need := int64(float64(g.limits.Rate) * window.Seconds()); g.got < max(need, 1) {
		g.cancel(&ErrStalled{URL: g.url, Got: g.got, Window: window})
	}
	g.got, g.waited = 0, 0
}

func (g *stallGuard) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting.IsZero() {
		g.waiting = time.Now()
		g.timer.Reset(g.limits.Window - g.waited)
	}
}

func (g *stallGuard) end(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.timer.Stop()
	g.got += int64(n)
	if !g.waiting.IsZero() {
		g.waited += time.Since(g.waiting)
		g.waiting = time.Time{}
	}
	if g.waited >= g.limits.Window {
		g.judge(g.waited)
	}
}

func (g *stallGuard) stop() {
	g.timer.Stop()
	if g.total != nil {
		g.total.Stop()
	}
	g.cancel(context.Canceled)
}

// cause prefers the reason why the request was ended to how the transport noticed.
func (g *stallGuard) cause(err error) error {
	if reason := context.Cause(g.ctx); reason != nil {
		return reason
	}
	return err
}

// guardedBody counts what a server sends.
type guardedBody struct {
	io.ReadCloser
	g *stallGuard
}

func (g *stallGuard) body(b io.ReadCloser) io.ReadCloser { return &guardedBody{ReadCloser: b, g: g} }

func (b *guardedBody) Read(p []byte) (int, error) {
	b.g.begin()
	n, err := b.ReadCloser.Read(p)
	b.g.end(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.g.cause(err)
	}
	return n, err
}

func (b *guardedBody) Close() error {
	b.g.stop()
	return b.ReadCloser.Close()
}

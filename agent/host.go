package agent

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/slipway-deploy/slipway/agent/audit"
	"github.com/slipway-deploy/slipway/agent/release"
)

// Host runs the machines of one host and refreshes the metadata they share. One app's trouble never touches another: a
// machine has its own goroutine, lock and state.
type Host struct {
	deps  Deps
	pulse pulse

	mu       sync.Mutex
	interval time.Duration
	jitter   float64
	running  map[release.App]*runner
	refresh  RefreshState
	polled   bool                          // a refresh has ended, well or not
	leaving  map[release.App]chan struct{} // closed once the machine of an app that left has stopped
	poke     chan chan error
	ctx      context.Context
	hintedAt time.Duration // on the boot clock: when the last hint of a coordinator was, or will be, followed
	hinted   bool
}

// RefreshState is how the last refresh ended and when the next is due.
type RefreshState struct {
	Metadata  Metadata
	Err       error
	Next      time.Time
	Succeeded bool
}

type runner struct {
	machine *Machine
	after   chan struct{} // an earlier machine of the same app, until it has stopped
	cancel  context.CancelFunc
	done    chan struct{}
}

// NewHost makes a host without apps. Configure adds them; Run works.
func NewHost(d Deps) *Host {
	return &Host{deps: d, interval: 5 * time.Minute, running: map[release.App]*runner{}, leaving: map[release.App]chan struct{}{}, poke: make(chan chan error, 8)}
}

// Configure replaces the wishes of the configuration: new apps get a machine, apps that are gone lose theirs (what they run
// goes on), the others learn their new settings.
func (h *Host) Configure(apps map[release.App]Settings, interval time.Duration, jitter float64) {
	h.mu.Lock()
	h.interval, h.jitter = interval, jitter
	for app, r := range h.running {
		if _, ok := apps[app]; !ok {
			delete(h.running, app)
			h.leave(app, r)
		}
	}
	for app, s := range apps {
		if r, ok := h.running[app]; ok {
			r.machine.SetSettings(s)
			continue
		}
		r := &runner{machine: NewMachine(app, h.deps, s), after: h.leaving[app], done: make(chan struct{})}
		r.machine.refreshed(h.polled)
		r.machine.hint = h.hint
		h.running[app] = r
		if h.ctx != nil {
			h.start(r)
		}
	}
	h.mu.Unlock()
}

// leave ends the machine of an app that left the configuration, in its own time: what it is in the middle of must not hold the
// other apps up. Should the app come back meanwhile, its next machine waits for this one.
func (h *Host) leave(app release.App, r *runner) {
	left, cancel := make(chan struct{}), r.cancel
	h.leaving[app] = left
	go func() {
		defer close(left)
		if cancel != nil {
			cancel()
			<-r.done
		} else if r.after != nil {
			<-r.after
		}
		h.forgetRemoved(r.machine)
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.leaving[app] == left {
			delete(h.leaving, app)
		}
	}()
}

func (h *Host) start(r *runner) {
	ctx, cancel := context.WithCancel(h.ctx)
	r.cancel = cancel
	go func() {
		defer close(r.done)
		if r.after != nil {
			<-r.after
		}
		r.machine.Run(ctx)
	}()
}

func (r *runner) stop() {
	if r.cancel != nil {
		r.cancel()
		<-r.done
	}
}

// forgetRemoved drops the state of an app that an operator removed and that has now left the configuration, so that adding
// it again starts anew. The state of any other app stays.
func (h *Host) forgetRemoved(m *Machine) {
	tx, err := m.State.Lock(context.Background(), m.app)
	if err != nil {
		return
	}
	defer tx.Unlock()
	if tx.Damaged == nil && tx.State.Removed {
		if err := tx.Forget(); err != nil {
			m.Log.Warn("the state of a removed app could not be dropped", "app", m.app, "error", err)
		}
	}
}

// Machines returns the machines in order of app name.
func (h *Host) Machines() []*Machine {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]*Machine, 0, len(h.running))
	for _, r := range h.running {
		out = append(out, r.machine)
	}
	slices.SortFunc(out, func(a, b *Machine) int {
		if a.app.String() < b.app.String() {
			return -1
		}
		return 1
	})
	return out
}

// Machine returns the machine of an app this host runs.
func (h *Host) Machine(app release.App) (*Machine, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r, ok := h.running[app]
	if !ok {
		return nil, false
	}
	return r.machine, true
}

// RefreshState returns how the last refresh ended.
func (h *Host) RefreshState() RefreshState {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.refresh
}

// Refresh refreshes now and returns how it went, when it has ended and the machines have been woken.
func (h *Host) Refresh(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case h.poke <- answer:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Poke refreshes soon, without anybody waiting: a local repository changed.
func (h *Host) Poke() {
	select {
	case h.poke <- nil:
	default:
	}
}

// A coordinator's hint that there is news is followed once in 30 seconds, and a random while later: whoever owns a coordinator
// must not be able to make a fleet storm the repository.
const (
	hintEvery  = 30 * time.Second
	hintSpread = 5 * time.Second
)

// hint refreshes soon because a coordinator says that there is news.
func (h *Host) hint() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.deps.Clock.Boot()
	if h.hinted && h.hintedAt > now {
		return // one is on its way
	}
	at := now + rand.N(hintSpread)
	if h.hinted {
		at = max(at, h.hintedAt+hintEvery+rand.N(hintSpread))
	}
	h.hintedAt, h.hinted = at, true
	time.AfterFunc(at-now, h.Poke)
}

// Run starts the machines and polls until ctx ends; it returns when every machine has stopped.
func (h *Host) Run(ctx context.Context) {
	h.mu.Lock()
	h.ctx = ctx
	for _, r := range h.running {
		h.start(r)
	}
	h.mu.Unlock()
	wait := time.Duration(0)
	for ctx.Err() == nil {
		timer := time.NewTimer(wait)
		var answer chan error
		h.pulse.rest()
		select {
		case <-ctx.Done():
			timer.Stop()
			continue
		case <-timer.C:
		case answer = <-h.poke:
		}
		timer.Stop()
		err := h.poll(ctx)
		if answer != nil {
			answer <- err
		}
		wait = h.nextPoll(err)
	}
	h.pulse.rest()
	h.mu.Lock()
	all := make([]*runner, 0, len(h.running))
	for _, r := range h.running {
		all = append(all, r)
	}
	leaving := slices.Collect(maps.Values(h.leaving))
	h.mu.Unlock()
	for _, r := range all {
		r.stop()
	}
	for _, left := range leaving {
		<-left
	}
}

func (h *Host) poll(ctx context.Context) error {
	defer h.pulse.busy(refreshPatience, "a refresh")()
	bounded, cancel := context.WithTimeout(ctx, refreshPatience)
	defer cancel()
	meta, err := h.deps.Source.Refresh(bounded)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	h.mu.Lock()
	was := h.refresh
	h.refresh.Metadata, h.refresh.Err = meta, err
	h.refresh.Succeeded = h.refresh.Succeeded || err == nil
	h.polled = true
	h.mu.Unlock()
	h.tell(was, meta, err)
	for _, m := range h.Machines() {
		m.refreshed(true)
		m.Wake()
	}
	return err
}

// tell reports a refresh that brought something or that ended differently from the one before.
func (h *Host) tell(was RefreshState, meta Metadata, err error) {
	e := audit.Event{Time: h.deps.Clock.Now().UTC(), Type: "refresh"}
	switch {
	case err != nil && (was.Err == nil || was.Err.Error() != err.Error()):
		e.Cause, e.Message = kindOf(err), "metadata could not be refreshed: "+err.Error()
		h.deps.Log.Warn(e.Message)
	case err == nil && (meta.Changed || was.Err != nil):
		e.Message = sentence("metadata is up to date: timestamp %d, issued %s", meta.Versions["timestamp"], meta.Issued.UTC().Format(time.RFC3339))
		h.deps.Log.Info(e.Message)
	default:
		return
	}
	if serr := h.deps.Sink.Append(e); serr != nil {
		h.deps.Log.Error("an event could not be recorded", "error", serr)
	}
	if h.deps.Observe != nil {
		h.deps.Observe(e)
	}
}

// nextPoll adds jitter, so that a fleet does not ask in step, and comes back sooner after a failure.
func (h *Host) nextPoll(err error) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	wait := h.interval
	if err != nil {
		wait = min(wait, 30*time.Second)
	}
	if h.jitter > 0 {
		wait += time.Duration(rand.Float64() * h.jitter * float64(wait))
	}
	h.refresh.Next = h.deps.Clock.Now().Add(wait)
	return wait
}

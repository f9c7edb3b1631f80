package hub_test

import (
	"context"
	"fmt"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/release"
)

// simHub is one hub process: the engine's core, driven as Engine drives it, but by the world's clock and accidents.
type simHub struct {
	w       *world
	id      string
	core    *hub.Core
	direct  hub.Store // to the store without accidents
	alive   bool
	life    int // grows with every start
	noStore bool
	offset  time.Duration // of its clock
	plan    *hub.Plan     // what its TUF client has verified
	highest int64         // what its witness remembers
	watched int64
	news    *promise[bool] // something changed in the store
	inbox   []letter
	tasks   []*task
	serving bool
}

// letter is a request that reached the hub.
type letter struct {
	req   hub.Request
	reply func(hub.Answer)
}

// Now implements hub.Clock.
func (h *simHub) Now() time.Time { return h.w.wall().Add(h.offset) }

// Plan implements hub.Plans.
func (h *simHub) Plan(_ context.Context, env release.Environment, app release.App) (*hub.Plan, error) {
	if h.plan == nil || env != production || app != billing {
		return nil, hub.ErrNoPlan
	}
	fresh := *h.w.sabotage.planned(h.plan)
	fresh.Issued = h.Now().Add(-time.Minute)
	return &fresh, nil
}

// Groups implements hub.Plans.
func (h *simHub) Groups(context.Context) ([]hub.Group, error) { return []hub.Group{group}, nil }

// Highest and Saw implement hub.Witness.
func (h *simHub) Highest() int64     { return h.highest }
func (h *simHub) Saw(revision int64) { h.highest = revision }

func (w *world) newHub(n int) *simHub {
	h := &simHub{w: w, id: fmt.Sprint("hub-", n), offset: w.between(-2*time.Second, 2*time.Second), plan: w.published}
	h.direct = w.store.client(h.id)
	h.start()
	return h
}

// start begins a process.
func (h *simHub) start() {
	h.alive, h.inbox, h.serving, h.tasks = true, nil, false, nil
	h.life++
	h.core = hub.NewCore(hub.Config{Fleet: h.w.fleet, ID: h.id, Store: &simStore{h.w, h}, Plans: h, Clock: h, Witness: h})
	h.do(h.follow)
	h.do(h.tend)
}

// do runs a line of work that dies with the process.
func (h *simHub) do(f func()) {
	live := h.tasks[:0]
	for _, t := range h.tasks {
		if !t.done {
			live = append(live, t)
		}
	}
	h.tasks = live
	h.tasks = append(h.tasks, h.w.spawn(f))
}

// crash ends the process wherever each of its lines of work is.
func (h *simHub) crash() {
	h.w.logf("%s crashes", h.id)
	h.alive, h.inbox = false, nil
	for _, t := range h.tasks {
		h.w.kill(t)
	}
	life := h.life
	h.w.after(15*time.Second, func() {
		if !h.alive || h.life > life {
			h.w.store.expire(h.id)
			h.w.check.advance()
		}
	})
}

// follow is the watch: changes come late, in order, and none is left out; a past that is gone is read anew.
func (h *simHub) follow() {
	ctx := context.Background()
	for {
		rev, err := h.core.Load(ctx)
		if err != nil {
			h.w.sleep(time.Second)
			continue
		}
		h.watched = rev
		for {
			h.news = &promise[bool]{}
			await(h.w, h.news, time.Minute)
			if h.w.storeDown || h.noStore {
				h.w.sleep(h.w.between(time.Second, 3*time.Second))
			}
			if h.w.storeDown || h.noStore {
				continue
			}
			changes, kept := h.w.store.since(h.watched)
			if !kept || !h.core.Ready() {
				break
			}
			for _, ch := range changes {
				h.core.Observe(ch)
				h.watched = ch.Revision
			}
		}
	}
}

// changed tells every hub's watch, late, that there is something to tell.
func (w *world) changed() {
	for _, h := range w.hubs {
		if p := h.news; p != nil && !p.kept && h.alive {
			h.news = nil
			w.after(w.between(time.Millisecond, w.lag), func() { p.keep(true) })
		}
	}
}

// tend is what Engine does every ten seconds.
func (h *simHub) tend() {
	ctx := context.Background()
	for {
		h.w.sleep(h.w.between(8*time.Second, 12*time.Second))
		if sweeper, err := h.core.Attend(ctx, h.Now()); err == nil && (sweeper || h.w.chance(0.05)) {
			_ = h.core.Sweep(ctx)
		}
	}
}

// receive takes a request in; one line of work answers all that are waiting, several now and then to be nastier.
func (h *simHub) receive(l letter) {
	if h.inbox = append(h.inbox, l); h.serving && !h.w.chance(0.1) {
		return
	}
	h.serving = true
	h.do(func() {
		for len(h.inbox) > 0 {
			letters := h.inbox
			h.inbox = nil
			reqs := make([]hub.Request, len(letters))
			for i, l := range letters {
				reqs[i] = h.w.sabotage.asked(h.w, l.req)
			}
			for i, a := range h.core.Serve(context.Background(), group, reqs) {
				letters[i].reply(h.w.sabotage.answered(a))
			}
		}
		h.serving = false
	})
}

// line is a host's way to the hubs: any of them, over a network that loses, delays, repeats and reorders.
type line struct{ h *simHost }

// patience of a host's client, as the real one's default.
const clientPatience = 5 * time.Second

func (l line) ask(req hub.Request) (hub.Answer, error) {
	w := l.h.w
	req.Caller = caller(l.h.id)
	to := w.hubs[w.rng.IntN(len(w.hubs))]
	p := &promise[hub.Answer]{}
	send := func(delay time.Duration, reply func(hub.Answer)) {
		w.after(delay, func() {
			if to.alive && !l.h.cut {
				to.receive(letter{req, reply})
			}
		})
	}
	if !w.chance(w.loss) {
		delay := w.between(time.Millisecond, 50*time.Millisecond)
		if w.chance(w.loss) {
			delay = w.between(time.Second, time.Minute)
		}
		send(delay, func(a hub.Answer) {
			if !w.chance(w.loss) && !l.h.cut {
				w.after(w.between(time.Millisecond, 50*time.Millisecond), func() { p.keep(a) })
			}
		})
	}
	if w.chance(w.loss) {
		send(w.between(time.Millisecond, 3*time.Minute), func(hub.Answer) {})
	}
	a, ok := await(w, p, clientPatience)
	switch {
	case !ok:
		return a, &fleet.SilentError{URL: to.id, Err: context.DeadlineExceeded}
	case a.Err != nil:
		return a, &fleet.SilentError{URL: to.id, Err: a.Err}
	}
	return a, nil
}

// Turn implements fleet.Transport.
func (l line) Turn(_ context.Context, t fleet.Turn) (fleet.TurnAnswer, error) {
	a, err := l.ask(hub.Request{Turn: &t})
	return a.Turn, err
}

// Check implements fleet.Transport.
func (l line) Check(_ context.Context, c fleet.Check) (fleet.CheckAnswer, error) {
	a, err := l.ask(hub.Request{Check: &c})
	return a.Check, err
}

// Finish implements fleet.Transport.
func (l line) Finish(_ context.Context, f fleet.Finish) (fleet.FinishAnswer, error) {
	if l.h.w.check != nil {
		l.h.w.check.reported(l.h.id, f)
	}
	a, err := l.ask(hub.Request{Finish: &f})
	return a.Finish, err
}

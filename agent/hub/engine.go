package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
)

// How often the engine does what nobody asks it for, and how long it waits after the store failed.
const (
	sweepEvery = 10 * time.Second
	retryAfter = time.Second
	// batch is how many requests one pass takes: more than a transaction holds.
	batch = 256
)

// Engine is one hub of a fleet. All methods may be called from many goroutines; requests of one group that arrive while a
// transaction is under way share the next one.
type Engine struct {
	core  *core
	since time.Time

	queues sync.Mutex
	queue  map[Group]*queue
}

// queue holds a group's requests while one of their goroutines works for all of them.
type queue struct {
	waiting []*waiter
	busy    bool
}

type waiter struct {
	job  job
	done chan struct{}
}

// New makes an engine. It answers once Run has read the store.
func New(cfg Config) *Engine {
	return &Engine{core: newCore(cfg), queue: map[Group]*queue{}}
}

// Run keeps what the engine knows fed by the store, shows that this hub is there and sweeps, until ctx ends. A store that
// fails is tried again for ever.
func (e *Engine) Run(ctx context.Context) error {
	e.since = e.core.now()
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { e.repeat(ctx, "sweep", e.tick) })
	for ctx.Err() == nil {
		if err := e.follow(ctx); err != nil && ctx.Err() == nil {
			e.core.Log.Warn("cannot follow the store, trying again", "error", err)
			sleep(ctx, retryAfter)
		}
	}
	return ctx.Err()
}

// follow reads everything and watches from there.
func (e *Engine) follow(ctx context.Context) error {
	revision, err := e.core.Load(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return e.core.Store.Watch(ctx, e.core.keys.prefix, revision, func(ch Change) {
		e.core.Observe(ch)
		if !e.core.ready() {
			cancel() // the store has gone back: read it anew
		}
	})
}

func (c *core) ready() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.loaded
}

func (e *Engine) repeat(ctx context.Context, what string, f func(context.Context) error) {
	for {
		wait := sweepEvery
		if err := f(ctx); err != nil && ctx.Err() == nil {
			e.core.Log.Warn("cannot "+what+", trying again", "error", err)
			wait = retryAfter
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// tick shows presence and sweeps if no other hub does.
func (e *Engine) tick(ctx context.Context) error {
	if !e.core.ready() {
		return fmt.Errorf("%w: still reading it", ErrUnavailable)
	}
	sweeper, err := e.core.Attend(ctx, e.since)
	if err != nil || !sweeper {
		return err
	}
	return e.core.Sweep(ctx)
}

// Attend renews what shows that this hub is there and reports whether it is the one that sweeps.
func (c *core) Attend(ctx context.Context, since time.Time) (sweeper bool, err error) {
	items, _, err := c.get(ctx, c.keys.hub(c.ID), c.keys.sweeper())
	if err != nil {
		return false, err
	}
	if items[0].Mod == 0 {
		if err := c.temporary(ctx, c.keys.hub(c.ID), hubRecord{Since: since}); err != nil {
			return false, err
		}
	}
	if items[1].Mod == 0 {
		if err := c.temporary(ctx, c.keys.sweeper(), sweeperRecord{ID: c.ID}); err != nil {
			return false, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cache.sweeper.val != nil && c.cache.sweeper.val.ID == c.ID, nil
}

// temporary puts a key that goes away with this process, unless it is there.
func (c *core) temporary(ctx context.Context, key string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	res, err := c.commit(ctx, Txn{If: []Cond{{Key: key}}, Then: []Op{{Key: key, Value: text, Temporary: true}}})
	if err == nil && !res.Held {
		_, _, err = c.get(ctx, key)
	}
	return err
}

// Turn answers a host's question.
func (e *Engine) Turn(ctx context.Context, c Caller, t fleet.Turn) (fleet.TurnAnswer, error) {
	a, err := e.ask(ctx, Group{c.Environment, t.App}, Request{Caller: c, Turn: &t})
	return a.Turn, errors.Join(err, a.Err)
}

// Check answers just before a swap.
func (e *Engine) Check(ctx context.Context, c Caller, k fleet.Check) (fleet.CheckAnswer, error) {
	a, err := e.ask(ctx, Group{c.Environment, k.App}, Request{Caller: c, Check: &k})
	return a.Check, errors.Join(err, a.Err)
}

// Finish takes a report.
func (e *Engine) Finish(ctx context.Context, c Caller, f fleet.Finish) (fleet.FinishAnswer, error) {
	a, err := e.ask(ctx, Group{c.Environment, f.App}, Request{Caller: c, Finish: &f})
	return a.Finish, errors.Join(err, a.Err)
}

// Act does what an operator asks. Its errors are *RefusedError or the store's.
func (e *Engine) Act(ctx context.Context, by, name string, a fleet.Act) (fleet.ActAnswer, error) {
	return e.core.Act(ctx, by, name, a)
}

// ask queues a request and waits for its answer.
func (e *Engine) ask(ctx context.Context, g Group, r Request) (Answer, error) {
	if r.Caller.Host == "" || g.App.IsZero() || g.Environment.IsZero() {
		return Answer{}, errors.New("cannot answer: environment, host and app must be named")
	}
	w := &waiter{job: job{Request: r}, done: make(chan struct{})}
	e.queues.Lock()
	q := e.queue[g]
	if q == nil {
		q = &queue{}
		e.queue[g] = q
	}
	q.waiting = append(q.waiting, w)
	first := !q.busy
	q.busy = true
	e.queues.Unlock()
	if first {
		go e.work(context.WithoutCancel(ctx), g, q)
	}
	select {
	case <-w.done:
		return w.job.answer, nil
	case <-ctx.Done():
		return Answer{}, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
}

// patience bounds one pass over the store.
const patience = 10 * time.Second

// work answers requests until none is waiting.
func (e *Engine) work(ctx context.Context, g Group, q *queue) {
	for {
		e.queues.Lock()
		n := min(batch, len(q.waiting))
		some := q.waiting[:n:n]
		q.waiting = q.waiting[n:]
		if n == 0 {
			q.busy, q.waiting = false, nil
			e.queues.Unlock()
			return
		}
		e.queues.Unlock()
		jobs := make([]*job, n)
		for i, w := range some {
			jobs[i] = &w.job
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		e.core.serve(ctx, g, jobs)
		cancel()
		for _, w := range some {
			close(w.done)
		}
	}
}

// Status is the whole fleet as this hub knows it, which lags the store by no more than the watch does.
func (e *Engine) Status(ctx context.Context) (fleet.Status, error) { return e.core.Status(ctx) }

// Note writes an entry into the operators' log that is about no rollout: who was let into the fleet, or revoked.
func (e *Engine) Note(ctx context.Context, by, act, on, why, done string) error {
	return e.core.Note(ctx, by, act, on, why, done)
}

// AuditSince returns at most limit entries of the operators' log after entry n, oldest first. VerifyAudit checks them.
func (e *Engine) AuditSince(ctx context.Context, n int64, limit int) ([]AuditEntry, error) {
	return e.core.AuditSince(ctx, n, limit)
}

// Hosts lists what the hosts last told. Zero names stand for all.
func (e *Engine) Hosts(ctx context.Context, env release.Environment, app release.App) ([]fleet.HostStatus, error) {
	return e.core.Hosts(ctx, env, app)
}

// Stats is what the engine did so far.
func (e *Engine) Stats() Stats { return e.core.Stats() }

package hub

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// Clock tells the time of day.
type Clock interface{ Now() time.Time }

// Witness remembers across restarts of this process the highest revision of the store that it has seen. It is how a hub that
// was down while the store was put back from a backup still notices. Saw may be lazy by seconds.
type Witness interface {
	Highest() int64
	Saw(revision int64)
}

// Config is what an engine needs.
type Config struct {
	// Fleet names the part of the store that is ours; ID this hub, the same after a restart.
	Fleet, ID string
	Store     Store
	Plans     Plans
	Clock     Clock
	Log       hclog.Logger
	Witness   Witness // nil: a restart forgets
}

// core is the engine without goroutines: every method does its work and returns, and may be called from many goroutines. It
// never holds its lock while it waits for the store.
type core struct {
	Config
	keys keys

	mu      sync.Mutex
	cache   *cache
	loaded  bool
	highest int64
	stats   Stats
}

// Stats counts what the engine asked of its store.
type Stats struct {
	Commits, Conflicts, Reads, Grants, Finishes, Unavailable int64
}

// Stats is what the engine did so far.
func (c *core) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

func newCore(cfg Config) *core {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	c := &core{Config: cfg, keys: newKeys(cfg.Fleet)}
	c.cache = newCache(c.keys, c.now, func(key string, err error) { c.Log.Error("cannot read what the store holds", "key", key, "error", err) })
	if cfg.Witness != nil {
		c.highest = cfg.Witness.Highest()
	}
	return c
}

// now is wall time as it is written down.
func (c *core) now() time.Time { return c.Clock.Now().UTC().Round(0) }

// Load reads everything anew and returns the revision to watch from.
func (c *core) Load(ctx context.Context) (int64, error) {
	before := c.seen()
	items, revision, err := c.Store.Range(ctx, c.keys.prefix)
	if err != nil {
		return 0, err
	}
	c.saw(before, revision)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.compareWithPast(items)
	c.cache.load(items, revision)
	c.heedPast()
	c.loaded = true
	return revision, nil
}

// Observe takes in one change of the watch.
func (c *core) Observe(ch Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.loaded || ch.Revision <= c.cache.watched {
		return
	}
	c.compareWithPast(ch.Items)
	c.cache.observe(ch)
	c.highest = max(c.highest, ch.Revision)
	c.heedPast()
}

func (c *core) seen() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.highest
}

// saw compares the revision of an answer with the highest known before the question: a store never goes back by itself.
func (c *core) saw(before, revision int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if revision < before {
		c.suspectAll(before)
		c.highest, c.loaded = revision, false
		c.Log.Error("the store has gone back: it must have been restored from an old copy", "was", before, "is", revision)
		return
	}
	c.highest = max(c.highest, revision)
	if c.Witness != nil && c.cache.suspect == 0 {
		c.Witness.Saw(c.highest)
	}
}

func (c *core) get(ctx context.Context, names ...string) ([]Item, int64, error) {
	before := c.seen()
	items, revision, err := c.Store.Get(ctx, names...)
	if err != nil {
		return nil, 0, err
	}
	c.saw(before, revision)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Reads++
	c.compareWithPast(items)
	c.cache.learn(items, revision)
	c.heedPast()
	return items, revision, nil
}

// commit applies a transaction and, if it held, what it did to the cache.
func (c *core) commit(ctx context.Context, t Txn) (Result, error) {
	before := c.seen()
	res, err := c.Store.Commit(ctx, t)
	c.mu.Lock()
	c.stats.Commits++
	if err != nil {
		c.stats.Unavailable++
	} else if !res.Held {
		c.stats.Conflicts++
	}
	c.mu.Unlock()
	if err != nil {
		return res, err
	}
	if len(t.Then) > 0 && res.Held {
		before++ // a write is later than all that was there before it
	}
	c.saw(before, res.Revision)
	if !res.Held {
		return res, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cache.learn(c.written(t, res.Revision), res.Revision)
	return res, nil
}

// written is what a transaction left behind. An item that existed keeps the revision that made it.
func (c *core) written(t Txn, revision int64) []Item {
	items := make([]Item, 0, len(t.Then))
	for _, op := range t.Then {
		it := Item{Key: op.Key, Value: op.Value, Created: revision, Mod: revision}
		if op.Value == nil {
			it = Item{Key: op.Key}
		} else if made := c.cache.created(op.Key); made != 0 {
			it.Created = made
		}
		items = append(items, it)
	}
	return items
}

// refresh reads what a failed transaction had compared.
func (c *core) refresh(ctx context.Context, t Txn) error {
	names := make([]string, len(t.If))
	for i, cond := range t.If {
		names[i] = cond.Key
	}
	_, _, err := c.get(ctx, names...)
	return err
}

// whole makes sure that no slot or hold from before the rollout's record is missing in the cache.
func (c *core) whole(ctx context.Context, g *group) error {
	slots, _, err := c.Store.Range(ctx, c.keys.slots(g.name))
	if err != nil {
		return err
	}
	holds, revision, err := c.Store.Range(ctx, c.keys.holds(g.name))
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cache.learn(append(slots, holds...), revision)
	g = c.cache.group(g.name)
	g.whole = max(g.whole, revision)
	return nil
}

// plan brings the group's signed plan up to date.
func (c *core) plan(ctx context.Context, name Group) (*group, error) {
	p, err := c.Plans.Plan(ctx, name.Environment, name.App)
	if err != nil && !errors.Is(err, ErrNoPlan) {
		return nil, err
	}
	c.mu.Lock()
	g := c.cache.group(name)
	old := g.signed
	c.mu.Unlock()
	var s *signed
	switch {
	case p == nil || p.Deployment == nil:
	case old.same(p):
		next := *old
		next.Plan = p
		s = &next
	default:
		s = newSigned(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	g = c.cache.group(name)
	g.signed = s
	return g, nil
}

// Request is one host's question: exactly one of the three.
type Request struct {
	Caller Caller
	Turn   *fleet.Turn
	Check  *fleet.Check
	Finish *fleet.Finish
}

// Answer is the answer to the question that was asked.
type Answer struct {
	Turn   fleet.TurnAnswer
	Check  fleet.CheckAnswer
	Finish fleet.FinishAnswer
	Err    error
}

// job is a request on its way to an answer.
type job struct {
	Request
	answer Answer
	done   bool
	// read says that what the store holds about this host has been read since the request came.
	read bool
}

// maxTries bounds how often a batch is tried against other hubs that are faster.
const maxTries = 8

// Serve answers requests of one group, as many as possible in one transaction.
func (c *core) Serve(ctx context.Context, name Group, reqs []Request) []Answer {
	jobs := make([]*job, len(reqs))
	for i, r := range reqs {
		jobs[i] = &job{Request: r}
	}
	c.serve(ctx, name, jobs)
	answers := make([]Answer, len(reqs))
	for i, j := range jobs {
		answers[i] = j.answer
	}
	return answers
}

func (c *core) serve(ctx context.Context, name Group, jobs []*job) {
	pending := jobs
	for range maxTries + len(jobs) {
		if len(pending) == 0 {
			return
		}
		if err := c.round(ctx, name, pending); err != nil {
			giveUp(pending, err)
			return
		}
		pending = unfinished(pending)
	}
	giveUp(pending, fmt.Errorf("%w: too many hubs at once", ErrUnavailable))
}

func unfinished(jobs []*job) []*job {
	var left []*job
	for _, j := range jobs {
		if !j.done {
			left = append(left, j)
		}
	}
	return left
}

// giveUp answers what the store did not: the host asks again, and nothing that may have happened happens twice.
func giveUp(jobs []*job, err error) {
	for _, j := range jobs {
		if j.done {
			continue
		}
		switch {
		case !errors.Is(err, ErrUnavailable):
			j.answer.Err = err
		case j.Turn != nil:
			j.answer.Turn = fleet.TurnAnswer{Answer: fleet.Wait, Rule: fleet.RuleBusy, Reason: err.Error()}
		case j.Check != nil:
			j.answer.Check = fleet.CheckAnswer{Rule: fleet.RuleBusy, Reason: err.Error()}
		default:
			j.answer.Finish = fleet.FinishAnswer{Reason: err.Error()}
		}
	}
}

// round does one pass: what needs reading is read, what can be answered is, and the rest goes into one transaction.
func (c *core) round(ctx context.Context, name Group, jobs []*job) error {
	g, err := c.plan(ctx, name)
	if err != nil {
		return err
	}
	d, err := c.compose(g, jobs)
	switch {
	case err != nil:
		return err
	case d.incomplete:
		return c.whole(ctx, g)
	case len(d.read) > 0:
		_, _, err := c.get(ctx, d.read...)
		for _, j := range d.readers {
			j.read = err == nil
		}
		return err
	}
	t := d.final
	if len(t.Then) == 0 {
		return nil
	}
	res, err := c.commit(ctx, t)
	if err != nil {
		return err
	}
	if !res.Held {
		return c.refresh(ctx, t)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d.committed(res.Revision)
	return nil
}

// compose drafts a transaction for as many jobs as fit. Reports come first: they may stop the rollout.
func (c *core) compose(g *group, jobs []*job) (*draft, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.loaded {
		return nil, fmt.Errorf("%w: this hub is still reading it", ErrUnavailable)
	}
	d := c.draft(g)
	defer d.seal()
	if d.settle() {
		return d, nil
	}
	for _, first := range []bool{true, false} {
		for _, j := range jobs {
			if j.done || (j.Finish != nil) != first {
				continue
			}
			d.take(j)
		}
	}
	return d, nil
}

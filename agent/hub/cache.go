package hub

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// row is one key as it was at revision asOf. A deleted key leaves a row without mod until the watch has passed its deletion:
// an older event must not bring it back.
type row[T any] struct {
	val                *T
	created, mod, asOf int64
}

func (r row[T]) exists() bool { return r.mod != 0 }

// group is all that a hub knows of one group. It is a cache: transactions compare what it says with the store.
type group struct {
	name    Group
	signed  *signed
	rollout row[rolloutRecord]
	// slots are the occupied numbers of each cell; any occupied key counts, readable or not.
	slots map[string]map[int]row[slotRecord]
	// freed is when this hub saw a number become free.
	freed   map[string]map[int]time.Time
	holds   map[string]row[holdRecord]
	hosts   map[string]row[hostRecord]
	tallies map[string]map[string]row[tallyRecord] // by rollout and hub
	// whole is a revision as of which no slot or hold is missing here.
	whole int64
	// suspect is a revision that this hub saw and the store has lost; zero once that is written into the rollout's record.
	suspect int64
	// shut is when this hub last saw the signed calendar closed.
	shut time.Time
	// line are hosts that asked this hub to go back and wait for a slot.
	line line
}

func newGroup(name Group) *group {
	return &group{name: name, slots: map[string]map[int]row[slotRecord]{}, freed: map[string]map[int]time.Time{}, holds: map[string]row[holdRecord]{},
		hosts: map[string]row[hostRecord]{}, tallies: map[string]map[string]row[tallyRecord]{}}
}

// cache is the store's content under one prefix, fed by a watch and by what the hub itself reads and writes.
type cache struct {
	keys    keys
	groups  map[Group]*group
	halt    row[haltRecord]
	head    row[auditEntry]
	hubs    map[string]row[hubRecord]
	sweeper row[sweeperRecord]
	// watched is the revision up to which every change is in; zero before the first load.
	watched int64
	// watching is true while a change of the watch is taken in: nothing older follows it.
	watching bool
	graves   []grave
	// suspect is for groups not met yet: a revision that the store has lost.
	suspect int64
	// wentBack is not zero if a key was seen older than it had been, because the store was put back from an old copy: then it is
	// a revision above all that can have been lost. newest is the latest change seen, before that at the begin of a reading.
	wentBack, newest, before int64
	damaged                  func(key string, err error)
	now                      func() time.Time
}

// grave is a deleted key's row, to be forgotten once the watch is past revision at.
type grave struct {
	item Item
	at   int64
}

func newCache(k keys, now func() time.Time, damaged func(string, error)) *cache {
	return &cache{keys: k, groups: map[Group]*group{}, hubs: map[string]row[hubRecord]{}, now: now, damaged: damaged}
}

// group returns the group's part, made if it is new.
func (c *cache) group(name Group) *group {
	g := c.groups[name]
	if g == nil {
		g = newGroup(name)
		g.suspect = c.suspect
		c.groups[name] = g
	}
	return g
}

// observe takes in one change of the watch. Changes come in order, and none is left out.
func (c *cache) observe(ch Change) {
	c.watching, c.before = true, c.newest
	for _, it := range ch.Items {
		c.set(it, ch.Revision)
	}
	c.watched = max(c.watched, ch.Revision)
	for len(c.graves) > 0 && c.graves[0].at <= c.watched {
		c.set(c.graves[0].item, c.graves[0].at)
		c.graves = c.graves[1:]
	}
	c.watching = false
}

// learn takes in what a read or a commit of this hub showed at a revision. The watch may have told something newer already.
func (c *cache) learn(items []Item, revision int64) {
	if revision < c.watched {
		return
	}
	c.before = c.newest
	for _, it := range items {
		c.set(it, revision)
		if it.Created == 0 && revision > c.watched {
			c.graves = append(c.graves, grave{it, revision})
		}
	}
}

// set routes an item to its table.
func (c *cache) set(it Item, revision int64) {
	kind, name, rest, ok := c.keys.parse(it.Key)
	if !ok {
		return
	}
	c.newest = max(c.newest, it.Mod)
	switch {
	case kind == "halt":
		place(c, &c.halt, it, revision)
	case kind == "audit-head":
		place(c, &c.head, it, revision)
	case kind == "sweeper":
		place(c, &c.sweeper, it, revision)
	case kind == "hub" && len(rest) == 1:
		put(c, c.hubs, rest[0], it, revision)
	case kind == "rollout":
		place(c, &c.group(name).rollout, it, revision)
	case kind == "hold" && len(rest) == 1:
		put(c, c.group(name).holds, rest[0], it, revision)
	case kind == "host" && len(rest) == 1:
		put(c, c.group(name).hosts, rest[0], it, revision)
	case kind == "slot" && len(rest) == 2:
		if n, err := strconv.Atoi(rest[1]); err == nil {
			c.slot(c.group(name), rest[0], n, it, revision)
		}
	case kind == "tally" && len(rest) == 2:
		put(c, sub(c.group(name).tallies, rest[0]), rest[1], it, revision)
	}
}

func (c *cache) slot(g *group, cell string, n int, it Item, revision int64) {
	used := sub(g.slots, cell)
	was := used[n].exists()
	put(c, used, n, it, revision)
	if was && !used[n].exists() {
		sub(g.freed, cell)[n] = c.now()
	}
}

func sub[K comparable, V any](m map[string]map[K]V, name string) map[K]V {
	if m[name] == nil {
		m[name] = map[K]V{}
	}
	return m[name]
}

// put sets a row of a table, or removes it once nothing older can arrive.
func put[K comparable, T any](c *cache, t map[K]row[T], name K, it Item, revision int64) {
	r := t[name]
	place(c, &r, it, revision)
	if c.watching && !r.exists() && r.asOf <= revision {
		delete(t, name)
		return
	}
	t[name] = r
}

// lasting says that a key of this kind is never deleted.
func lasting(k keys, key string) bool {
	kind, _, _, _ := k.parse(key)
	return kind == "rollout" || kind == "host" || kind == "tally"
}

// place updates one row unless it is known to be newer.
func place[T any](c *cache, r *row[T], it Item, revision int64) {
	switch {
	case r.asOf > revision:
	case it.Mod < r.mod && (it.Created != 0 || lasting(c.keys, it.Key)):
		c.wentBack = max(c.wentBack, c.before)
	case it.Created == 0:
		*r = row[T]{asOf: revision}
	case r.mod == it.Mod && r.asOf != 0:
		r.asOf = revision
	default:
		next := row[T]{created: it.Created, mod: it.Mod, asOf: revision, val: new(T)}
		if err := json.Unmarshal(it.Value, next.val); err != nil {
			next.val = nil
			c.damaged(it.Key, err)
		}
		*r = next
	}
}

// load replaces everything by what a read of the whole prefix showed. Groups stay, with what this process knows of them.
func (c *cache) load(items []Item, revision int64) {
	old := c.groups
	c.before, c.newest = c.newest, 0
	c.groups, c.graves = map[Group]*group{}, nil
	c.halt, c.head, c.sweeper, c.hubs = row[haltRecord]{}, row[auditEntry]{}, row[sweeperRecord]{}, map[string]row[hubRecord]{}
	for name, g := range old {
		n := c.group(name)
		n.signed, n.suspect, n.shut, n.line = g.signed, g.suspect, g.shut, g.line
	}
	c.watched = revision
	for _, it := range items {
		c.set(it, revision)
	}
	// A restore that follows the manual moves the revision ahead by Bump: nobody else leaves such a gap.
	if c.newest > 0 && revision-c.newest > Bump/2 {
		c.wentBack = max(c.wentBack, c.newest+Bump/2)
	}
	for name, g := range c.groups {
		g.whole = revision
		if was := old[name]; was != nil && g.olderThan(was) {
			c.wentBack = max(c.wentBack, c.before)
		}
	}
}

// olderThan compares what is never deleted with what the group was.
func (g *group) olderThan(was *group) bool {
	older := g.rollout.mod < was.rollout.mod
	for host, r := range was.hosts {
		older = older || g.hosts[host].mod < r.mod
	}
	if was.rollout.val != nil {
		for id, r := range was.tallies[was.rollout.val.ID] {
			older = older || g.tallies[was.rollout.val.ID][id].mod < r.mod
		}
	}
	return older
}

// created is the revision that made a hold, zero if it does not exist. Of other keys nobody asks.
func (c *cache) created(key string) int64 {
	kind, name, rest, ok := c.keys.parse(key)
	if !ok || kind != "hold" || len(rest) != 1 {
		return 0
	}
	return c.group(name).holds[rest[0]].created
}

// fenceOf is what the host's grant is called: the revision that made it, unless it says otherwise.
func fenceOf(r row[holdRecord]) int64 {
	if r.val != nil && r.val.Fence != 0 {
		return r.val.Fence
	}
	return r.created
}

// tallied adds up the tallies of all hubs for one rollout.
func (g *group) tallied(rollout string) (waves map[string]fleet.Counts, all fleet.Counts, last time.Time) {
	waves = map[string]fleet.Counts{}
	for _, t := range g.tallies[rollout] {
		if t.val == nil {
			continue
		}
		for wave, c := range t.val.Waves {
			waves[wave] = plus(waves[wave], c)
			all = plus(all, c)
		}
		if t.val.Last.After(last) {
			last = t.val.Last
		}
	}
	return waves, all, last
}

// occupied counts the slots in use in a cell, and with them the hosts with older slots that belong to it by the plan in
// force without holding a slot there: they are as unavailable as any.
func (g *group) occupied(cell string) int {
	n := 0
	for _, r := range g.slots[cell] {
		if r.exists() {
			n++
		}
	}
	if cell == cellBack || g.rollout.val == nil || g.signed == nil {
		return n
	}
	l := g.rollout.val.Limits
	for host, h := range g.holds {
		if h.val == nil || h.val.in(cell) || h.val.Rollout == g.rollout.val.ID && h.val.Direction == fleet.Back {
			continue
		}
		for _, c := range l.cells(g.signed.labels(host, g.told(host)), fleet.Forward) {
			if c == cell {
				n++
			}
		}
	}
	return n
}

func (h *holdRecord) in(cell string) bool {
	for _, s := range h.Slots {
		if s.Cell == cell {
			return true
		}
	}
	return false
}

// told are the labels a host gave for itself.
func (g *group) told(host string) map[string]string {
	if h := g.hosts[host].val; h != nil {
		return h.Labels
	}
	return nil
}

// Package storetest is the contract of hub.Store as tests, and a model in memory that keeps it and can fail on purpose.
package storetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/slipway-deploy/slipway/agent/hub"
)

// Model is a store in memory: strictly serialisable because there is one lock. Its content can be copied and put back, as a
// backup would, and single operations can be made to fail.
type Model struct {
	mu      sync.Mutex
	changed *sync.Cond
	at      Snapshot
	log     []hub.Change
	first   int64 // the oldest revision a watch may ask for
	// Fault is asked before and after every operation of a client: an operation that fails after it was done is the case that
	// protocols forget.
	Fault func(client, op string, after bool) bool
}

// Snapshot is a model's content at one revision. It is never changed.
type Snapshot struct {
	Revision int64
	items    map[string]hub.Item
	owner    map[string]string // of temporary keys
}

// NewModel makes an empty store.
func NewModel() *Model {
	m := &Model{at: Snapshot{items: map[string]hub.Item{}, owner: map[string]string{}}}
	m.changed = sync.NewCond(&m.mu)
	return m
}

// Client is a connection; temporary keys live as long as it does.
func (m *Model) Client(name string) hub.Store { return &client{m, name} }

// Expire deletes the temporary keys of a client that has been silent for too long.
func (m *Model) Expire(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ops []hub.Op
	for key, owner := range m.at.owner {
		if owner == name {
			ops = append(ops, hub.Op{Key: key})
		}
	}
	if len(ops) > 0 {
		slices.SortFunc(ops, func(a, b hub.Op) int { return strings.Compare(a.Key, b.Key) })
		m.apply(name, ops)
	}
}

// Snapshot copies the content.
func (m *Model) Snapshot() Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Snapshot{m.at.Revision, maps.Clone(m.at.items), maps.Clone(m.at.owner)}
}

// Restore puts a copy back, with its revision moved ahead by bump. Watches are told that their past is gone.
func (m *Model) Restore(s Snapshot, bump int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Revision += bump
	m.at = Snapshot{s.Revision, maps.Clone(s.items), maps.Clone(s.owner)}
	m.log, m.first = nil, s.Revision
	m.changed.Broadcast()
}

// Since returns the changes after a revision, and false if they are not kept.
func (m *Model) Since(prefix string, from int64) ([]hub.Change, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.since(prefix, from)
}

func (m *Model) since(prefix string, from int64) ([]hub.Change, bool) {
	if from < m.first || from > m.at.Revision {
		return nil, false
	}
	i, _ := slices.BinarySearchFunc(m.log, from+1, func(c hub.Change, rev int64) int { return int(c.Revision - rev) })
	var list []hub.Change
	for _, c := range m.log[i:] {
		var items []hub.Item
		for _, it := range c.Items {
			if strings.HasPrefix(it.Key, prefix) {
				items = append(items, it)
			}
		}
		if items != nil {
			list = append(list, hub.Change{Revision: c.Revision, Items: items})
		}
	}
	return list, true
}

// Items is the content under a prefix, in the order of the keys.
func (s Snapshot) Items(prefix string) []hub.Item {
	var items []hub.Item
	for key, it := range s.items {
		if strings.HasPrefix(key, prefix) {
			items = append(items, it)
		}
	}
	slices.SortFunc(items, func(a, b hub.Item) int { return strings.Compare(a.Key, b.Key) })
	return items
}

// apply does the operations as the next revision. The caller holds the lock.
func (m *Model) apply(owner string, ops []hub.Op) {
	m.at.Revision++
	change := hub.Change{Revision: m.at.Revision}
	for _, op := range ops {
		old, existed := m.at.items[op.Key]
		delete(m.at.owner, op.Key)
		if op.Value == nil {
			if existed {
				delete(m.at.items, op.Key)
				change.Items = append(change.Items, hub.Item{Key: op.Key})
			}
			continue
		}
		it := hub.Item{Key: op.Key, Value: slices.Clone(op.Value), Created: m.at.Revision, Mod: m.at.Revision}
		if existed {
			it.Created = old.Created
		}
		m.at.items[op.Key] = it
		if op.Temporary {
			m.at.owner[op.Key] = owner
		}
		change.Items = append(change.Items, it)
	}
	m.log = append(m.log, change)
	m.changed.Broadcast()
}

type client struct {
	m    *Model
	name string
}

func (c *client) fault(op string, after bool) error {
	if f := c.m.Fault; f != nil && f(c.name, op, after) {
		return fmt.Errorf("%w: on purpose", hub.ErrUnavailable)
	}
	return nil
}

// Get implements hub.Store.
func (c *client) Get(ctx context.Context, keys ...string) ([]hub.Item, int64, error) {
	if err := c.ready(ctx, "get"); err != nil {
		return nil, 0, err
	}
	if len(keys) > hub.MaxOps {
		return nil, 0, fmt.Errorf("cannot read %d keys at once, %d is the most", len(keys), hub.MaxOps)
	}
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	items := make([]hub.Item, len(keys))
	for i, k := range keys {
		items[i] = hub.Item{Key: k}
		if it, ok := c.m.at.items[k]; ok {
			items[i] = it
		}
	}
	return items, c.m.at.Revision, c.fault("get", true)
}

func (c *client) ready(ctx context.Context, op string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", hub.ErrUnavailable, err)
	}
	return c.fault(op, false)
}

// Range implements hub.Store.
func (c *client) Range(ctx context.Context, prefix string) ([]hub.Item, int64, error) {
	if err := c.ready(ctx, "range"); err != nil {
		return nil, 0, err
	}
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return c.m.at.Items(prefix), c.m.at.Revision, c.fault("range", true)
}

// Commit implements hub.Store.
func (c *client) Commit(ctx context.Context, t hub.Txn) (hub.Result, error) {
	if err := c.ready(ctx, "commit"); err != nil {
		return hub.Result{}, err
	}
	if err := lawful(t); err != nil {
		return hub.Result{}, err
	}
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	held := true
	for _, cond := range t.If {
		held = held && c.m.at.items[cond.Key].Mod == cond.Mod
	}
	if held && len(t.Then) > 0 {
		c.m.apply(c.name, t.Then)
	}
	return hub.Result{Held: held, Revision: c.m.at.Revision}, c.fault("commit", true)
}

// lawful refuses what etcd would.
func lawful(t hub.Txn) error {
	if len(t.If) > hub.MaxOps || len(t.Then) > hub.MaxOps {
		return fmt.Errorf("cannot commit %d conditions and %d operations, %d is the most", len(t.If), len(t.Then), hub.MaxOps)
	}
	seen := map[string]bool{}
	for _, op := range t.Then {
		if seen[op.Key] {
			return fmt.Errorf("cannot commit: key %s is in the transaction twice", op.Key)
		}
		seen[op.Key] = true
	}
	return nil
}

// Watch implements hub.Store.
func (c *client) Watch(ctx context.Context, prefix string, from int64, f func(hub.Change)) error {
	stop := context.AfterFunc(ctx, func() {
		c.m.mu.Lock()
		defer c.m.mu.Unlock()
		c.m.changed.Broadcast()
	})
	defer stop()
	for {
		c.m.mu.Lock()
		for ctx.Err() == nil && c.m.at.Revision == from && from >= c.m.first {
			c.m.changed.Wait()
		}
		changes, kept := c.m.since(prefix, from)
		next := c.m.at.Revision
		c.m.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !kept:
			return hub.ErrCompacted
		}
		if err := c.fault("watch", false); err != nil {
			return err
		}
		for _, ch := range changes {
			f(ch)
		}
		from = next
	}
}

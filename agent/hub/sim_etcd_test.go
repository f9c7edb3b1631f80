package hub_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/hub/etcd"
	"github.com/slipway-deploy/slipway/agent/hub/storetest"
)

// backend is the store of a world: the model, or a real etcd.
type backend interface {
	client(name string) hub.Store
	// since returns what changed in the world's fleet after a revision, and false if that past is gone.
	since(from int64) ([]hub.Change, bool)
	// expire deletes the temporary keys of a hub that has been silent too long.
	expire(name string)
}

type modelBackend struct {
	*storetest.Model
	prefix string
}

func (m modelBackend) client(name string) hub.Store       { return m.Client(name) }
func (m modelBackend) since(n int64) ([]hub.Change, bool) { return m.Since(m.prefix, n) }
func (m modelBackend) expire(name string)                 { m.Expire(name) }

// etcdBackend is one fleet's part of a real etcd. A watch of its own tells the checker of every change before the world goes on.
type etcdBackend struct {
	store  hub.Store
	prefix string

	mu      sync.Mutex
	told    *sync.Cond
	changes []hub.Change
	written int64 // the last revision that a hub of this world wrote
}

func newEtcdBackend(t *testing.T, s hub.Store, fleet string) *etcdBackend {
	b := &etcdBackend{store: s, prefix: hub.Prefix(fleet)}
	b.told = sync.NewCond(&b.mu)
	_, now, err := s.Get(t.Context(), b.prefix)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait() })
	all.Go(func() {
		for from := now; ctx.Err() == nil; {
			_ = s.Watch(ctx, b.prefix, from, func(c hub.Change) {
				b.mu.Lock()
				defer b.mu.Unlock()
				from = c.Revision
				b.changes = append(b.changes, c)
				b.told.Broadcast()
			})
		}
	})
	return b
}

func (b *etcdBackend) client(string) hub.Store { return &etcdClient{b.store, b} }

func (b *etcdBackend) since(from int64) ([]hub.Change, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for n := len(b.changes); b.written > 0 && (n == 0 || b.changes[n-1].Revision < b.written); n = len(b.changes) {
		b.told.Wait()
	}
	for i, c := range b.changes {
		if c.Revision > from {
			return b.changes[i:], true
		}
	}
	return nil, true
}

func (b *etcdBackend) expire(name string) {
	ctx := context.Background()
	keys := []string{b.prefix + "hub/" + name, b.prefix + "sweeper"}
	items, _, err := b.store.Get(ctx, keys...)
	for i, it := range items {
		if err == nil && it.Created != 0 && (i == 0 || strings.Contains(string(it.Value), name)) {
			_, err = b.client("").Commit(ctx, hub.Txn{If: []hub.Cond{{Key: it.Key, Mod: it.Mod}}, Then: []hub.Op{{Key: it.Key}}})
		}
	}
}

// etcdClient notes what is written, so that the checker can wait for its watch.
type etcdClient struct {
	hub.Store
	b *etcdBackend
}

func (c *etcdClient) Commit(ctx context.Context, t hub.Txn) (hub.Result, error) {
	r, err := c.Store.Commit(ctx, t)
	if err == nil && r.Held && len(t.Then) > 0 {
		c.b.mu.Lock()
		defer c.b.mu.Unlock()
		c.b.written = max(c.b.written, r.Revision)
	}
	return r, err
}

func TestSimulatedFleetsOnARealEtcd(t *testing.T) {
	m, err := etcd.StartMember(t.Context(), t.TempDir(), hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	first, many := rand.Uint64()>>16, 60
	if raced {
		many = 2
	}
	if *seedFlag != 0 {
		first, many = *seedFlag, 1
	}
	began := time.Now()
	for i := range many {
		seed := first + uint64(i)
		fleet := fmt.Sprint("sim-", seed)
		if failure := simulate(seed, nil, nil, func() (backend, string) { return newEtcdBackend(t, m, fleet), fleet }); failure != "" {
			t.Errorf("seed %d: %s", seed, failure)
		}
	}
	t.Logf("%d histories in %v", many, time.Since(began))
}

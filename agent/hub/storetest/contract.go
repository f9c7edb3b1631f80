package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/hub"
)

// Open opens one more client of one and the same store. Kill ends it as a crash of its process would.
type Open func(t *testing.T) (store hub.Store, kill func())

// patience is how long a store may take for what it does by itself.
const patience = 60 * time.Second

// Run checks everything that the engine relies on. The store may hold other keys; those of the tests lie under /storetest/.
func Run(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Open, string)
	}{
		{"a missing key has no revisions", missing},
		{"a transaction whose condition fails does nothing", atomic},
		{"created stays and mod moves", revisions},
		{"a range is ordered and holds nothing else", ranged},
		{"a transaction may be as large as allowed", large},
		{"a write is visible to every client once it returned", linearizable},
		{"a read of several keys is one snapshot", snapshots},
		{"of many that want one slot exactly one gets it", oneWinner},
		{"no increment is lost", counter},
		{"a watch tells everything in order", watched},
		{"a watch of a revision to come is silent until then", watchAhead},
		{"a watch ends with its context", watchEnds},
		{"a temporary key goes with its process", temporary},
		{"a context that is over is an error", cancelled},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open, "/storetest/"+strconv.FormatInt(time.Now().UnixNano(), 36)+"/") })
	}
}

func put(key, value string) hub.Op { return hub.Op{Key: key, Value: []byte(value)} }

func commit(t *testing.T, s hub.Store, txn hub.Txn) hub.Result {
	t.Helper()
	r, err := s.Commit(t.Context(), txn)
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	return r
}

func get(t *testing.T, s hub.Store, keys ...string) ([]hub.Item, int64) {
	t.Helper()
	items, rev, err := s.Get(t.Context(), keys...)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	if len(items) != len(keys) {
		t.Fatalf("got %d items for %d keys", len(items), len(keys))
	}
	return items, rev
}

func missing(t *testing.T, open Open, p string) {
	s, _ := open(t)
	r := commit(t, s, hub.Txn{Then: []hub.Op{put(p+"b", "2")}})
	items, rev := get(t, s, p+"a", p+"b", p+"c")
	if items[0].Mod != 0 || items[0].Created != 0 || items[2].Mod != 0 || items[0].Key != p+"a" || items[2].Key != p+"c" {
		t.Errorf("missing keys are %+v and %+v", items[0], items[2])
	}
	if string(items[1].Value) != "2" || items[1].Mod != r.Revision || items[1].Created != r.Revision || rev < r.Revision {
		t.Errorf("the key that exists is %+v at %d, committed at %d", items[1], rev, r.Revision)
	}
}

func atomic(t *testing.T, open Open, p string) {
	s, _ := open(t)
	first := commit(t, s, hub.Txn{If: []hub.Cond{{Key: p + "a"}}, Then: []hub.Op{put(p+"a", "1"), put(p+"b", "1")}})
	if !first.Held {
		t.Fatal("the first did not hold")
	}
	second := commit(t, s, hub.Txn{If: []hub.Cond{{Key: p + "c"}, {Key: p + "a"}}, Then: []hub.Op{put(p+"b", "2"), put(p+"c", "2")}})
	if second.Held || second.Revision < first.Revision {
		t.Errorf("the second: %+v after %+v", second, first)
	}
	items, _ := get(t, s, p+"a", p+"b", p+"c")
	if string(items[1].Value) != "1" || items[2].Mod != 0 {
		t.Errorf("it left %+v", items)
	}
	if r := commit(t, s, hub.Txn{If: []hub.Cond{{Key: p + "a", Mod: first.Revision}}}); !r.Held || r.Revision < second.Revision {
		t.Errorf("a transaction that only compares: %+v", r)
	}
}

func revisions(t *testing.T, open Open, p string) {
	s, _ := open(t)
	one := commit(t, s, hub.Txn{Then: []hub.Op{put(p+"a", "1")}})
	two := commit(t, s, hub.Txn{If: []hub.Cond{{Key: p + "a", Mod: one.Revision}}, Then: []hub.Op{put(p+"a", "2")}})
	items, _ := get(t, s, p+"a")
	if !two.Held || two.Revision <= one.Revision || items[0].Created != one.Revision || items[0].Mod != two.Revision {
		t.Errorf("after %+v and %+v it is %+v", one, two, items[0])
	}
	gone := commit(t, s, hub.Txn{If: []hub.Cond{{Key: p + "a", Mod: two.Revision}}, Then: []hub.Op{{Key: p + "a"}}})
	again := commit(t, s, hub.Txn{If: []hub.Cond{{Key: p + "a"}}, Then: []hub.Op{put(p+"a", "3")}})
	if items, _ = get(t, s, p+"a"); !gone.Held || !again.Held || items[0].Created != again.Revision {
		t.Errorf("made anew it is %+v, at %+v", items[0], again)
	}
}

func ranged(t *testing.T, open Open, p string) {
	s, _ := open(t)
	commit(t, s, hub.Txn{Then: []hub.Op{put(p+"in/b", "b"), put(p+"in/a", "a"), put(p+"in", "x"), put(p+"in0", "y"), put(p+"in/c", "c")}})
	commit(t, s, hub.Txn{Then: []hub.Op{{Key: p + "in/b"}}})
	items, rev, err := s.Range(t.Context(), p+"in/")
	if err != nil || len(items) != 2 || items[0].Key != p+"in/a" || items[1].Key != p+"in/c" || rev < items[1].Mod {
		t.Errorf("range: %+v at %d, %v", items, rev, err)
	}
	for i := range 12 {
		var ops []hub.Op
		for k := range 100 {
			ops = append(ops, put(fmt.Sprintf("%smany/%04d", p, 100*i+k), "x"))
		}
		commit(t, s, hub.Txn{Then: ops})
	}
	if items, _, err = s.Range(t.Context(), p+"many/"); err != nil || len(items) != 1200 {
		t.Fatalf("a long range: %d, %v", len(items), err)
	}
	for i, it := range items {
		if it.Key != fmt.Sprintf("%smany/%04d", p, i) {
			t.Fatalf("item %d of a long range is %s", i, it.Key)
		}
	}
}

func large(t *testing.T, open Open, p string) {
	s, _ := open(t)
	var txn hub.Txn
	var keys []string
	for i := range hub.MaxOps {
		key := fmt.Sprintf("%s%03d", p, i)
		keys = append(keys, key)
		txn.If = append(txn.If, hub.Cond{Key: key})
		txn.Then = append(txn.Then, put(key, "x"))
	}
	r := commit(t, s, txn)
	items, _ := get(t, s, keys...)
	for _, it := range items {
		if it.Mod != r.Revision {
			t.Fatalf("%+v is not of revision %d", it, r.Revision)
		}
	}
}

func linearizable(t *testing.T, open Open, p string) {
	a, _ := open(t)
	b, _ := open(t)
	for i := range 50 {
		r := commit(t, a, hub.Txn{Then: []hub.Op{put(p+"x", strconv.Itoa(i))}})
		items, rev := get(t, b, p+"x")
		if string(items[0].Value) != strconv.Itoa(i) || rev < r.Revision {
			t.Fatalf("after write %d the other client reads %s at %d", i, items[0].Value, rev)
		}
		a, b = b, a
	}
}

// snapshots moves a token between two keys while others read both.
func snapshots(t *testing.T, open Open, p string) {
	s, _ := open(t)
	commit(t, s, hub.Txn{Then: []hub.Op{put(p+"a", "here")}})
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			from, to := p+"a", p+"b"
			if i%2 == 1 {
				from, to = to, from
			}
			_, _ = s.Commit(ctx, hub.Txn{Then: []hub.Op{{Key: from}, put(to, "here")}})
		}
	})
	defer all.Wait()
	defer stop()
	reader, _ := open(t)
	for range 100 {
		items, _ := get(t, reader, p+"a", p+"b")
		list, _, err := reader.Range(t.Context(), p)
		if err != nil || (items[0].Mod == 0) == (items[1].Mod == 0) || len(list) != 1 {
			t.Fatalf("the token is at %v and %v, in the range %d times, %v", items[0].Mod, items[1].Mod, len(list), err)
		}
	}
}

func oneWinner(t *testing.T, open Open, p string) {
	const many = 8
	var mu sync.Mutex
	var all sync.WaitGroup
	won := map[string]int{}
	for i := range many {
		s, _ := open(t)
		all.Go(func() {
			for n := range 20 {
				key := fmt.Sprintf("%s%d", p, n)
				r, err := s.Commit(t.Context(), hub.Txn{If: []hub.Cond{{Key: key}}, Then: []hub.Op{put(key, strconv.Itoa(i))}})
				if err != nil {
					t.Errorf("commit: %v", err)
				}
				if r.Held {
					mu.Lock()
					won[key]++
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	for key, n := range won {
		if n != 1 {
			t.Errorf("%d got %s", n, key)
		}
	}
	if len(won) != 20 {
		t.Errorf("%d keys were taken, not 20", len(won))
	}
}

func counter(t *testing.T, open Open, p string) {
	const clients, each = 4, 25
	var all sync.WaitGroup
	for range clients {
		s, _ := open(t)
		all.Go(func() {
			for done := 0; done < each; {
				items, _, err := s.Get(t.Context(), p+"n")
				if err != nil {
					t.Errorf("get: %v", err)
					return
				}
				n, _ := strconv.Atoi(string(items[0].Value))
				r, err := s.Commit(t.Context(), hub.Txn{If: []hub.Cond{{Key: p + "n", Mod: items[0].Mod}}, Then: []hub.Op{put(p+"n", strconv.Itoa(n+1))}})
				if err != nil {
					t.Errorf("commit: %v", err)
					return
				}
				if r.Held {
					done++
				}
			}
		})
	}
	all.Wait()
	s, _ := open(t)
	if items, _ := get(t, s, p+"n"); string(items[0].Value) != strconv.Itoa(clients*each) {
		t.Errorf("%s of %d increments are left", items[0].Value, clients*each)
	}
}

// follow collects a watch until it has so many changes.
func follow(t *testing.T, s hub.Store, prefix string, from int64, want int) []hub.Change {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var got []hub.Change
	err := s.Watch(ctx, prefix, from, func(c hub.Change) {
		if got = append(got, c); len(got) == want {
			cancel()
		}
	})
	if len(got) != want {
		t.Fatalf("a watch of %d changes told %d: %v", want, len(got), err)
	}
	return got
}

func watched(t *testing.T, open Open, p string) {
	s, _ := open(t)
	start := commit(t, s, hub.Txn{Then: []hub.Op{put(p+"w/old", "0")}}).Revision
	var at []int64
	for i := range 10 {
		commit(t, s, hub.Txn{Then: []hub.Op{put(p+"elsewhere", "x")}})
		r := commit(t, s, hub.Txn{Then: []hub.Op{put(p+"w/a", strconv.Itoa(i)), put(p+"w/b", strconv.Itoa(i)), put(p+"else", "y")}})
		at = append(at, r.Revision)
	}
	at = append(at, commit(t, s, hub.Txn{Then: []hub.Op{{Key: p + "w/a"}}}).Revision)
	other, _ := open(t)
	got := follow(t, other, p+"w/", start, 11)
	for i, c := range got[:10] {
		if c.Revision != at[i] || len(c.Items) != 2 || string(c.Items[0].Value) != strconv.Itoa(i) || c.Items[0].Mod != at[i] || c.Items[0].Created != at[0] {
			t.Errorf("change %d, of revision %d, is %+v", i, at[i], c)
		}
	}
	if c := got[10]; c.Revision != at[10] || len(c.Items) != 1 || c.Items[0].Key != p+"w/a" || c.Items[0].Created != 0 || len(c.Items[0].Value) != 0 {
		t.Errorf("the deletion, at %d, is %+v", at[10], c)
	}
}

func watchAhead(t *testing.T, open Open, p string) {
	s, _ := open(t)
	_, now := get(t, s, p+"x")
	var r hub.Result
	var all sync.WaitGroup
	all.Go(func() {
		commit(t, s, hub.Txn{Then: []hub.Op{put(p+"not", "x")}})
		r = commit(t, s, hub.Txn{Then: []hub.Op{put(p+"x/y", "x")}})
	})
	got := follow(t, s, p+"x/", now, 1)
	all.Wait()
	if got[0].Revision != r.Revision {
		t.Errorf("told %+v, committed %+v", got, r)
	}
}

func watchEnds(t *testing.T, open Open, p string) {
	s, _ := open(t)
	_, now := get(t, s, p+"x")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Watch(ctx, p, now, func(hub.Change) {}) }()
	cancel()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a watch that was cancelled ended without an error")
		}
	case <-time.After(patience):
		t.Error("it did not end")
	}
}

func temporary(t *testing.T, open Open, p string) {
	s, _ := open(t)
	dying, kill := open(t)
	start := commit(t, dying, hub.Txn{Then: []hub.Op{{Key: p + "t", Value: []byte("x"), Temporary: true}, put(p+"stays", "x")}}).Revision
	if items, _ := get(t, s, p+"t"); items[0].Mod == 0 {
		t.Fatal("it is not there while its process lives")
	}
	kill()
	got := follow(t, s, p+"t", start, 1)
	if got[0].Items[0].Created != 0 {
		t.Errorf("the watch told %+v", got)
	}
	if items, _ := get(t, s, p+"t", p+"stays"); items[0].Mod != 0 || items[1].Mod == 0 {
		t.Errorf("after its process ended there are %+v", items)
	}
}

func cancelled(t *testing.T, open Open, p string) {
	s, _ := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := s.Get(ctx, p+"x"); err == nil {
		t.Error("get answered")
	}
	if _, err := s.Commit(ctx, hub.Txn{Then: []hub.Op{put(p+"x", "x")}}); !errors.Is(err, hub.ErrUnavailable) {
		t.Errorf("commit said %v: nobody knows whether it happened", err)
	}
}

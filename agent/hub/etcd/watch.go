package etcd

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/slipway-deploy/slipway/agent/hub"
)

// Watch implements hub.Store. It ends with ErrUnavailable when the member it hangs on has lost its leader: a silent watch would
// look like a fleet in which nothing happens.
func (s *Store) Watch(ctx context.Context, prefix string, from int64, f func(hub.Change)) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	answers := s.c.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(from+1))
	for {
		var answer clientv3.WatchResponse
		var open bool
		select {
		case <-ctx.Done(): // an embedded member does not always close the channel then
			return ctx.Err()
		case answer, open = <-answers:
		}
		if !open {
			break
		}
		if answer.CompactRevision > 0 {
			return fmt.Errorf("cannot watch %s from revision %d: %w: %d is the oldest", prefix, from, hub.ErrCompacted, answer.CompactRevision)
		}
		if err := answer.Err(); err != nil {
			return fmt.Errorf("cannot watch %s: %w", prefix, unavailable(err))
		}
		for _, change := range changes(answer.Events) {
			f(change)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("cannot watch %s: %w: the watch ended", prefix, hub.ErrUnavailable)
}

// changes groups events by revision. etcd never splits a revision over two answers unless it is asked to fragment them.
func changes(events []*clientv3.Event) []hub.Change {
	var out []hub.Change
	for _, e := range events {
		if n := len(out); n == 0 || out[n-1].Revision != e.Kv.ModRevision {
			out = append(out, hub.Change{Revision: e.Kv.ModRevision})
		}
		item := hub.Item{Key: string(e.Kv.Key), Mod: e.Kv.ModRevision}
		if e.Type != clientv3.EventTypeDelete {
			item.Value, item.Created = e.Kv.Value, e.Kv.CreateRevision
		}
		last := &out[len(out)-1]
		last.Items = append(last.Items, item)
	}
	return out
}

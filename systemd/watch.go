package systemd

import (
	"context"
	"time"

	"github.com/godbus/dbus/v5"
)

// Watch sends the state of each named unit once, and again after every change, until ctx ends; then the channel closes. Fast
// changes may be merged: the last state always arrives. After a lost connection all states are sent again.
func (c *Control) Watch(ctx context.Context, names ...string) <-chan UnitStatus {
	out := make(chan UnitStatus, len(names))
	go func() {
		defer close(out)
		for ctx.Err() == nil {
			c.watchOnce(ctx, names, out)
			select {
			case <-ctx.Done():
			case <-time.After(reconnectEvery):
			}
		}
	}()
	return out
}

// watchOnce serves one connection's life.
func (c *Control) watchOnce(ctx context.Context, names []string, out chan<- UnitStatus) {
	l, err := c.link(ctx)
	if err != nil {
		return
	}
	w := &unitWatch{paths: make(map[dbus.ObjectPath]string, len(names)), wake: make(chan struct{}, 1), dirty: map[string]bool{}}
	for _, name := range names {
		w.paths[unitPath(name)] = name
	}
	defer l.unwatch(w)
	if err := l.watch(ctx, w); err != nil {
		return
	}
	for _, name := range names {
		w.mark(name)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.dead:
			return
		case <-w.wake:
			for _, name := range w.take() {
				if !c.sendStatus(ctx, name, out) {
					return
				}
			}
		}
	}
}

func (c *Control) sendStatus(ctx context.Context, name string, out chan<- UnitStatus) bool {
	s, err := c.Unit(ctx, name)
	if err != nil {
		return false
	}
	select {
	case out <- s:
		return true
	case <-ctx.Done():
		return false
	}
}

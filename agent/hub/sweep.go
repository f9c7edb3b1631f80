package hub

import (
	"context"
	"errors"
	"sort"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// Sweep does for every group what no host's request does: it puts new plans in force, counts silent hosts as lost, lets go of
// hosts that the signed inventory no longer lists, opens waves and sees that nothing moves any more. One hub does this for
// all; that two do so for a moment costs conflicts and nothing else.
func (c *core) Sweep(ctx context.Context) error {
	groups, err := c.Plans.Groups(ctx)
	if err != nil {
		return err
	}
	for _, name := range c.known(groups) {
		err = errors.Join(err, c.sweep(ctx, name))
	}
	return err
}

// known adds the groups that the store knows to those that are signed, in a fixed order.
func (c *core) known(groups []Group) []Group {
	c.mu.Lock()
	defer c.mu.Unlock()
	set := map[Group]bool{}
	for _, g := range groups {
		set[g] = true
	}
	for name, g := range c.cache.groups {
		if g.rollout.exists() {
			set[name] = true
		}
	}
	list := make([]Group, 0, len(set))
	for g := range set {
		list = append(list, g)
	}
	sort.Slice(list, func(i, k int) bool { return list[i].String() < list[k].String() })
	return list
}

// sweep repeats its round until there is nothing left to do in the group.
func (c *core) sweep(ctx context.Context, name Group) error {
	for range maxTries {
		g, err := c.plan(ctx, name)
		if err != nil {
			return err
		}
		d, err := c.tend(g)
		if err != nil {
			return err
		}
		if d.incomplete {
			if err := c.whole(ctx, g); err != nil {
				return err
			}
			continue
		}
		if len(d.final.Then) == 0 {
			return nil
		}
		if err := c.settleTxn(ctx, d, d.final); err != nil {
			return err
		}
	}
	return nil
}

// settleTxn commits a transaction of the hub's own, or reads again what it stood on.
func (c *core) settleTxn(ctx context.Context, d *draft, t Txn) error {
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

// tend drafts one round of the sweep.
func (c *core) tend(g *group) (*draft, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.loaded {
		return nil, ErrUnavailable
	}
	d := c.draft(g)
	defer d.seal()
	if d.settle() || d.roll == nil {
		return d, nil
	}
	d.lose()
	if d.s == nil || d.roll.State == fleet.StateRestored || d.s.Deployment.Sequence != d.roll.Sequence {
		return d, nil
	}
	d.dropGone()
	d.limit("")
	d.stalled()
	d.promote()
	return d, nil
}

// lose counts the hosts that are silent past their deadline. They keep their slots: a silent host is an unavailable one.
func (d *draft) lose() {
	for _, host := range sorted(d.g.holds) {
		hold := d.g.holds[host]
		if hold.val == nil || hold.val.State != holdHeld || !d.now.After(hold.val.Deadline) || !d.room(2, 2) {
			continue
		}
		rec := d.g.hosts[host]
		next := rec.val.clone()
		out := &outcome{Rollout: hold.val.Rollout, Fence: 0, Result: fleet.Lost, Wave: hold.val.Wave, At: d.now,
			Cause: "silent", Reason: sentence("host %s was not heard of until its deadline", host)}
		d.score(next, hold.val, out)
		d.writeHost(host, rec, next)
		h := *hold.val
		h.State, h.Reason = holdLost, out.Reason
		key := d.c.keys.hold(d.g.name, host)
		d.need(key, hold.mod)
		d.put(key, h)
	}
}

func sorted[V any](m map[string]V) []string {
	list := make([]string, 0, len(m))
	for k := range m {
		list = append(list, k)
	}
	sort.Strings(list)
	return list
}

// dropGone frees the slots of lost hosts that the owners took out of the signed inventory.
func (d *draft) dropGone() {
	if d.s.hosts == nil {
		return
	}
	for _, host := range sorted(d.g.holds) {
		hold := d.g.holds[host]
		if contains(d.s.hosts, host) || hold.val == nil || hold.val.State == holdHeld || d.hosts[host] || len(d.audit) > 2 ||
			!d.room(2, 2+len(hold.val.Slots)) || d.anySpoken(hold.val.Slots) {
			continue
		}
		d.forget(host, hold)
		d.note(byHub, fleet.ActForget, "the signed inventory no longer lists it", "the slot of "+host+" is free")
	}
}

// forget lets go of a host. Its fence stays known as ended, and another installation may take its place.
func (d *draft) forget(host string, hold row[holdRecord]) {
	rec := d.g.hosts[host]
	next := rec.val.clone()
	next.Install, next.Clone, next.Claim, next.ClaimFor = "", "", 0, ""
	if hold.exists() {
		next.Ended = max(next.Ended, fenceOf(hold))
		d.release(host, hold)
	}
	d.writeHost(host, rec, next)
}

package hub

import (
	"cmp"
	"slices"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// grant gives the host a slot if everything allows it: true once that is in the transaction. Otherwise the answer says what
// is in the way, unless the draft asks to read something first.
func (d *draft) grant(j *job) (fleet.TurnAnswer, bool) {
	host, t := j.Caller.Host, j.Turn
	hold := d.g.holds[host]
	if hold.exists() {
		return d.again(j, hold)
	}
	if rule, reason := d.mayGo(host, t); rule != "" {
		return wait(rule, reason), false
	}
	if t.Want == fleet.Nowhere {
		return wait("", ""), false
	}
	labels := d.s.labels(host, t.Labels)
	cells := d.roll.Limits.cells(labels, t.Want)
	slots, full := d.free(cells)
	if t.Want == fleet.Back {
		full = cmp.Or(d.before(host, labels), full)
	}
	if full != "" {
		return wait(fleet.RuleBudget, full), false
	}
	if !d.room(3+len(slots), 2+len(slots)) {
		return fleet.TurnAnswer{}, true
	}
	d.occupy(host, slots)
	d.hold(j, hold, &holdRecord{Slots: slots}, 0)
	return fleet.TurnAnswer{}, true
}

// mayGo asks the state of the group, the signed plan and the waves about a host that wants to go. A host that wants nothing
// is only told what stops the group.
func (d *draft) mayGo(host string, t *fleet.Turn) (rule, reason string) {
	if rule, reason = d.objection(t); rule != "" {
		return rule, reason
	}
	reverting := d.state() == fleet.StateReverting
	switch {
	case t.Want == fleet.Nowhere:
		return "", ""
	case t.Want == fleet.Back && !reverting:
		return fleet.RuleSigned, "the rollout is not being taken back"
	case t.Want == fleet.Back:
		return d.mayGoBack(host, t.Labels, t.Runs)
	case reverting:
		return fleet.RuleReverted, because("the rollout is being taken back", d.roll.Stop)
	}
	decision := d.s.decide(host, t.Labels, t.Runs, fleet.Forward, d.now)
	if !decision.Act {
		return ruleOf(decision, d.s.Deployment.State), decision.Because
	}
	wave := d.s.wave(host, t.Labels)
	if open := d.s.waveIndex(d.roll.Wave); wave > open {
		return fleet.RuleWave, sentence("wave %s is not open yet, only those up to %s", d.s.waveName(wave), d.s.waveName(open))
	}
	return "", ""
}

// mayGoBack asks the signed plan about a host that is to be taken back.
func (d *draft) mayGoBack(host string, told map[string]string, runs *fleet.Runs) (rule, reason string) {
	if runs == nil || runs.Digest != d.roll.Digest {
		return fleet.RuleSigned, "this host does not run the release that is taken back"
	}
	if decision := d.s.decide(host, told, runs, fleet.Back, d.now); !decision.Act {
		return fleet.RuleSigned, decision.Because
	}
	return "", ""
}

func contains[V any](m map[string]V, k string) bool { _, ok := m[k]; return ok }

// again answers a host that holds a slot already: the same grant for the same question, its own slots again for a host that
// has been unavailable under them, and otherwise the grant to end first.
func (d *draft) again(j *job, hold row[holdRecord]) (fleet.TurnAnswer, bool) {
	t, h := j.Turn, hold.val
	if h == nil {
		return wait(fleet.RuleBusy, "the record of this host's slot cannot be read"), false
	}
	fence := fenceOf(hold)
	same := h.Rollout == t.Rollout && h.Direction == t.Want
	switch {
	case t.Want == fleet.Nowhere && t.Fence == fence:
		rule, reason := d.objection(t)
		return wait(rule, reason), false
	case same && h.State == holdHeld:
		return fleet.TurnAnswer{Answer: fleet.Granted, Fence: fence, Deadline: h.Deadline}, false
	case t.Want == fleet.Nowhere, !same && h.State != holdUnhealthy:
		return holding(h, fence), false
	}
	if rule, reason := d.mayGo(j.Caller.Host, t); rule != "" {
		if t.Fence != fence || h.State == holdLost {
			return holding(h, fence), false
		}
		return wait(rule, reason), false
	}
	if !d.room(4, 2) {
		return fleet.TurnAnswer{}, true
	}
	if h.State == holdLost {
		fence = h.Fence // the same grant goes on
	} else {
		fence++ // a new one over the same slots: no revision in between was this host's
	}
	d.hold(j, hold, &holdRecord{Slots: h.Slots}, fence)
	return fleet.TurnAnswer{}, true
}

// holding tells a host of the grant it has to end first, or to give back if it never heard of it.
func holding(h *holdRecord, fence int64) fleet.TurnAnswer {
	a := wait(fleet.RuleHeld, sentence("this host still holds slot %d of rollout %s", fence, h.Rollout))
	a.Fence, a.Rollout = fence, h.Rollout
	return a
}

// hold writes the host's grant and answers it once it is committed.
func (d *draft) hold(j *job, old row[holdRecord], h *holdRecord, fence int64) {
	host, t := j.Caller.Host, j.Turn
	delete(d.g.line, host)
	h.Install, h.Rollout, h.Direction, h.Boot = t.Install, t.Rollout, t.Want, t.Boot
	h.Wave, h.State, h.Since, h.Fence = d.s.waveName(d.s.wave(host, t.Labels)), holdHeld, d.now, fence
	h.Deadline = d.now.Add(deadline(d.s.Deployment))
	d.need(d.c.keys.halt(), d.c.cache.halt.mod)
	d.need(d.c.keys.rollout(d.g.name), d.g.rollout.mod)
	key := d.c.keys.hold(d.g.name, host)
	d.need(key, old.mod)
	d.put(key, h)
	rec := d.g.hosts[host]
	next := rec.val.clone()
	if next.hear(t, d.now); rec.val == nil || d.worth(host, rec.val, next) {
		d.writeHost(host, rec, next)
	} else {
		d.need(d.c.keys.host(d.g.name, host), rec.mod)
	}
	d.hosts[host] = true
	d.grants++
	d.ownTally().Grants++
	answer := fleet.TurnAnswer{Answer: fleet.Granted, Fence: fence, Deadline: h.Deadline}
	d.staged = append(d.staged, func(revision int64) {
		if answer.Fence == 0 && old.exists() {
			answer.Fence = old.created
		} else if answer.Fence == 0 {
			answer.Fence = revision
		}
		j.end(Answer{Turn: d.finished(answer, t)})
	})
}

// free finds a slot in every cell, or says which cell is full.
func (d *draft) free(cells []string) (slots []slotName, full string) {
	for _, cell := range cells {
		limit := d.roll.Limits.of(cell)
		if _, counted := d.used[cell]; !counted {
			d.used[cell] = d.g.occupied(cell)
		}
		if limit != unlimited && d.used[cell] >= limit {
			return nil, sentence("%d of %d slots of %s are in use", d.used[cell], limit, cell)
		}
		n := d.pick(cell, d.span(cell, limit))
		if n < 0 {
			return nil, sentence("all slots of %s are in use", cell)
		}
		slots = append(slots, slotName{cell, n})
	}
	return slots, ""
}

// span is how many of a cell's numbers may be given. While slots above a lowered limit drain, or hosts of other rollouts count
// without a slot here, only so many of the lowest that they and the rest fit: that no number is given twice then bounds the
// sum, whatever this hub has not heard yet.
func (d *draft) span(cell string, limit int) int {
	above := d.g.occupied(cell)
	for n, r := range d.g.slots[cell] {
		if r.exists() && n < limit {
			above--
		}
	}
	k := limit
	for above > 0 && k > 0 && k+above > limit {
		if k--; d.g.slots[cell][k].exists() {
			above++
		}
	}
	return k
}

// ripe is how long a slot must have been free before a hub takes it that it does not belong to.
const ripe = 2 * time.Second

// pick finds a free number below the limit. Each number belongs to one of the hubs, so that two seldom want the same one; a hub
// whose own are taken goes on to those of others. When there are many, it leaves alone what has just become free: its own hub
// is about to take it, and the loser of that race loses a whole transaction.
func (d *draft) pick(cell string, limit int) int {
	index, hubs := d.c.place()
	for offset := range hubs {
		for n := (index + offset) % hubs; n < limit; n += hubs {
			if d.g.slots[cell][n].exists() || d.taken[cell][n] {
				continue
			}
			if offset == 0 || limit < 16*hubs || d.now.Sub(d.g.freed[cell][n]) >= ripe {
				return n
			}
		}
	}
	return -1
}

// place is this hub's place among those that are there.
func (c *core) place() (index, hubs int) {
	var ids []string
	for id, r := range c.cache.hubs {
		if r.exists() && id != c.ID {
			ids = append(ids, id)
		}
	}
	ids = append(ids, c.ID)
	slices.Sort(ids)
	return slices.Index(ids, c.ID), len(ids)
}

// spoken keeps a slot's number from being picked in this transaction.
func (d *draft) spoken(s slotName) {
	if d.taken[s.Cell] == nil {
		d.taken[s.Cell] = map[int]bool{}
	}
	d.taken[s.Cell][s.N] = true
}

// anySpoken says that this transaction already writes one of the slots: of two holds that name one slot, one is old news.
func (d *draft) anySpoken(slots []slotName) bool {
	return slices.ContainsFunc(slots, func(s slotName) bool { return d.taken[s.Cell][s.N] })
}

// occupy takes slots for a host.
func (d *draft) occupy(host string, slots []slotName) {
	for _, s := range slots {
		d.spoken(s)
		d.used[s.Cell]++
		key := d.c.keys.slot(d.g.name, s.Cell, s.N)
		d.need(key, 0)
		d.put(key, slotRecord{Host: host})
	}
}

package hub

import (
	"maps"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// take answers one request now, or puts it into the transaction, or leaves it for the next one.
func (d *draft) take(j *job) {
	switch host := j.Caller.Host; {
	case d.hosts[host]:
	case j.Finish != nil:
		d.finish(j)
	case j.Check != nil:
		d.check(j)
	default:
		d.turn(j)
	}
}

// answer ends a job without a transaction.
func (j *job) end(a Answer) { j.answer, j.done = a, true }

func wait(rule, reason string) fleet.TurnAnswer {
	return fleet.TurnAnswer{Answer: fleet.Wait, Rule: rule, Reason: reason}
}

// turn answers a host that asks, or that only tells how it is.
func (d *draft) turn(j *job) {
	host, t := j.Caller.Host, j.Turn
	rec := d.g.hosts[host]
	if d.clone(j, rec) {
		return
	}
	if d.unknownFence(j, t.Fence) {
		return
	}
	if a, ok := d.grant(j); !ok {
		if len(d.read) > 0 || d.hosts[host] {
			return // another round, or in the transaction
		}
		d.tell(host, t, rec)
		j.end(Answer{Turn: d.finished(a, t)})
	}
}

// finished adds what every answer carries.
func (d *draft) finished(a fleet.TurnAnswer, t *fleet.Turn) fleet.TurnAnswer {
	if d.roll == nil {
		return a
	}
	a.Hint = 2*d.roll.News + int64(b2i(d.g.haltedFleet(d.c)))
	if d.state() == fleet.StateReverting && t.Rollout == d.roll.ID && t.Runs != nil && t.Runs.Digest == d.roll.Digest {
		a.Order = fleet.Back
	}
	return a
}

func (g *group) haltedFleet(c *core) bool { return c.cache.halt.exists() }

// clone refuses a second machine with the same host id, and writes it down once.
func (d *draft) clone(j *job, rec row[hostRecord]) bool {
	install := j.Turn.Install
	if rec.val == nil || rec.val.Install == "" || rec.val.Install == install {
		return false
	}
	if rec.val.Clone != install && d.room(1, 1) {
		next := rec.val.clone()
		next.Clone = install
		d.writeHost(j.Caller.Host, rec, next)
	}
	j.end(Answer{Turn: wait(fleet.RuleClone, "another machine uses this host id; if this one replaces it, forget the old one: slipway fleet forget "+j.Caller.Host)})
	return true
}

func (d *draft) writeHost(host string, rec row[hostRecord], next *hostRecord) {
	key := d.c.keys.host(d.g.name, host)
	d.need(key, rec.mod)
	d.put(key, next)
	d.hosts[host] = true
}

// How often a host that says nothing new is written down, and one of which only words have changed. A host that was not
// written down for reachable is not waited for.
const (
	coarse    = 15 * time.Minute
	wording   = time.Minute
	reachable = 3 * coarse
)

// tell writes down what a host says about itself, if it is new.
func (d *draft) tell(host string, t *fleet.Turn, rec row[hostRecord]) {
	next := rec.val.clone()
	next.hear(t, d.now)
	if rec.val != nil && !d.worth(host, rec.val, next) || !d.room(1, 1) {
		return
	}
	d.writeHost(host, rec, next)
}

func (h *hostRecord) hear(t *fleet.Turn, now time.Time) {
	h.Install, h.Labels, h.Runs, h.Phase, h.Why, h.Wave = t.Install, t.Labels, t.Runs, t.Phase, t.Why, t.Wave
	h.Rollout, h.Sequence, h.Seen = t.Rollout, t.Sequence, now
}

// worth says whether a record has to be written again. Coarse times are spread over the fleet by the host's name.
func (d *draft) worth(host string, old, next *hostRecord) bool {
	if old.Install != next.Install || !sameRuns(old.Runs, next.Runs) || !maps.Equal(old.Labels, next.Labels) ||
		old.Claim != next.Claim {
		return true
	}
	age := next.Seen.Sub(old.Seen)
	if old.Phase != next.Phase || old.Why != next.Why || old.Wave != next.Wave || old.Sequence != next.Sequence {
		return age >= wording
	}
	return age >= coarse-time.Duration(len(host)*7+int(host[len(host)-1]))%60*time.Second
}

func sameRuns(a, b *fleet.Runs) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// objection is what lets nobody, or not this plan's hosts, go forward: the first thing in the way, in the order in which an
// operator would look.
func (d *draft) objection(t *fleet.Turn) (rule, reason string) {
	switch {
	case d.s == nil || d.roll == nil:
		return fleet.RulePlan, "this hub knows no deployment of " + d.g.name.App.String() + " in " + d.g.name.Environment.String() + " that names it"
	case d.roll.State == fleet.StateRestored || d.g.suspect > d.roll.Known:
		return fleet.RuleRestored, "the store came back from an old copy; an operator has to reconcile first"
	case d.g.haltedFleet(d.c):
		return fleet.RuleHalted, stopped("the whole fleet is halted", d.c.cache.halt.val)
	case d.s.Deployment.Sequence < d.roll.Sequence || d.s.Document != d.roll.Document || d.s.epoch() < d.roll.Epoch:
		return fleet.RulePlan, sentence("this hub has not fetched deployment %d and emergency document %d yet", d.roll.Sequence, d.roll.Epoch)
	case t != nil && (t.Document != d.roll.Document || t.Rollout != d.roll.ID):
		return fleet.RulePlan, sentence("deployment %d is in force and this host has read %d", d.roll.Sequence, t.Sequence)
	case t != nil && t.Epoch != d.roll.Epoch:
		return fleet.RulePlan, sentence("emergency document %d is in force and this host has read %d", d.roll.Epoch, t.Epoch)
	}
	return d.stateObjection()
}

func (d *draft) stateObjection() (rule, reason string) {
	switch d.state() {
	case fleet.StateHalted:
		return fleet.RuleHalted, because("the rollout is halted", d.roll.Stop)
	case fleet.StatePaused:
		return fleet.RulePaused, because("the rollout is paused", d.roll.Stop)
	}
	return "", ""
}

func stopped(text string, h *haltRecord) string {
	if h == nil {
		return text
	}
	return because(text, &h.Stop)
}

func because(text string, s *fleet.Stop) string {
	if s == nil {
		return text
	}
	return text + " by " + s.By + ": " + s.Reason
}

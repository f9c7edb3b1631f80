package hub

import (
	"encoding/json"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// A store that was put back from an old copy has forgotten grants that hosts act on. Four things show it: a revision that
// jumps by Bump or is below one this process has seen, a key that became older, this hub's own tally that a grant compares,
// and a host with a fence above all that ended for it that no hold knows, because every fence leaves a trace. From then on the group is "restored" and grants
// nothing until an operator reconciles, which rebuilds the missing grants from what the hosts say they hold.

// unknownFence deals with a fence the host believes in. It reports true once that has answered the job.
func (d *draft) unknownFence(j *job, fence int64) bool {
	host := j.Caller.Host
	hold, rec := d.g.holds[host], d.g.hosts[host]
	switch {
	case fence == 0 || hold.exists() && fenceOf(hold) >= fence:
		return false
	case rec.val != nil && rec.val.Ended >= fence, d.roll != nil && d.roll.Known >= fence && d.roll.State != fleet.StateRestored:
		return false
	case !j.read:
		d.look(j, d.c.keys.hold(d.g.name, host), d.c.keys.host(d.g.name, host), d.c.keys.rollout(d.g.name))
		return true
	case d.roll == nil || !d.room(1, 1):
		j.end(restoredAnswer(j))
		return true
	}
	d.markLost(sentence("host %s holds fence %d, which the store has forgotten", host, fence), fence)
	if rec.val == nil || rec.val.Claim != fence {
		next := rec.val.clone()
		next.Claim, next.Seen = fence, d.now
		switch {
		case j.Turn != nil:
			next.hear(j.Turn, d.now)
			next.ClaimFor = j.Turn.Rollout
		case j.Check != nil:
			next.Install, next.ClaimFor = j.Check.Install, j.Check.Rollout
		default:
			next.Install, next.ClaimFor = j.Finish.Install, j.Finish.Rollout
		}
		d.writeHost(host, rec, next)
	}
	j.end(restoredAnswer(j))
	return true
}

func restoredAnswer(j *job) Answer {
	const why = "the store came back from an old copy; an operator has to reconcile first"
	return Answer{
		Turn:   wait(fleet.RuleRestored, why),
		Check:  fleet.CheckAnswer{Rule: fleet.RuleRestored, Reason: why},
		Finish: fleet.FinishAnswer{Reason: why},
	}
}

// markLost stops the group because the store has forgotten something up to a fence.
func (d *draft) markLost(why string, fence int64) {
	if d.roll.State == fleet.StateRestored {
		if fence > d.roll.Known {
			d.roll.Known, d.rollDirty = fence, true
		}
		return
	}
	d.roll.Was, d.roll.Known = d.roll.State, max(d.roll.Known, fence)
	if d.roll.Was == fleet.StatePaused || d.roll.Was == fleet.StateHalted {
		d.roll.Was = fleet.StatePaused
	}
	d.roll.State, d.roll.Stop, d.rollDirty = fleet.StateRestored, &fleet.Stop{By: byHub, Reason: why, At: d.now}, true
	d.roll.News++
	d.note(byHub, "restored", why, "the rollout waits for reconcile")
}

// markRestored writes down what this hub itself knows of a loss.
func (d *draft) markRestored() bool {
	if d.roll == nil || d.g.suspect <= d.roll.Known {
		return false
	}
	d.markLost(sentence("the store went back behind revision %d", d.g.suspect), d.g.suspect)
	return d.rollDirty
}

// suspectAll remembers a loss for every group. The caller holds the lock.
func (c *core) suspectAll(revision int64) {
	c.cache.suspect = max(c.cache.suspect, revision)
	for _, g := range c.cache.groups {
		g.suspect = max(g.suspect, revision)
	}
}

// forgetSuspicion ends it once every group's record knows. The caller holds the lock.
func (c *core) forgetSuspicion() {
	for _, g := range c.cache.groups {
		if g.suspect != 0 {
			return
		}
	}
	c.cache.suspect = 0
}

// heedPast suspects every group if a key was seen to go back, and reads the store anew. The caller holds the lock.
func (c *core) heedPast() {
	if lost := c.cache.wentBack; lost != 0 {
		c.cache.wentBack, c.loaded = 0, false
		c.suspectAll(lost)
		c.Log.Error("the store holds older data than before: it must have been restored from an old copy", "lost", lost)
	}
}

// compareWithPast looks for a rollout's record that became older, which only a restored store does. The caller holds the lock.
func (c *core) compareWithPast(items []Item) {
	for _, it := range items {
		kind, name, _, ok := c.keys.parse(it.Key)
		g := c.cache.groups[name]
		if !ok || kind != "rollout" || g == nil || g.rollout.val == nil || it.Mod <= g.rollout.mod {
			continue
		}
		var next rolloutRecord
		old := g.rollout.val
		if err := json.Unmarshal(it.Value, &next); err == nil && (next.Sequence < old.Sequence || next.Epoch < old.Epoch || next.News < old.News) {
			c.cache.wentBack = max(c.cache.wentBack, c.cache.newest)
		}
	}
}

package hub

import (
	"slices"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// finish takes a host's report. Only the fence of the host's grant lets anything go; the same report again changes nothing.
func (d *draft) finish(j *job) {
	host, f := j.Caller.Host, j.Finish
	hold, rec := d.g.holds[host], d.g.hosts[host]
	fence := fenceOf(hold)
	switch {
	case hold.exists() && hold.val == nil:
		j.end(Answer{Finish: fleet.FinishAnswer{Reason: "the record of this host's slot cannot be read"}})
	case f.Result == fleet.Lost || !validResult(f.Result):
		j.end(Answer{Finish: fleet.FinishAnswer{Stale: true, Reason: sentence("%q is no result a host can report", f.Result)}})
	case rec.val != nil && (fence != f.Fence || !hold.exists()) && rec.val.reported(f.Fence):
		j.end(Answer{Finish: fleet.FinishAnswer{Accepted: true}})
	case hold.exists() && fence == f.Fence && hold.val.Install != f.Install:
		j.end(Answer{Finish: fleet.FinishAnswer{Stale: true, Reason: "another machine with this host id holds that slot"}})
	case hold.exists() && fence == f.Fence:
		d.report(j, hold, rec)
	case d.unknownFence(j, f.Fence):
	default:
		j.end(Answer{Finish: fleet.FinishAnswer{Stale: true, Reason: sentence("slot %d is not held by this host any more", f.Fence)}})
	}
}

func validResult(r fleet.Result) bool {
	switch r {
	case fleet.Committed, fleet.Reverted, fleet.FailedBefore, fleet.Stuck, fleet.Skipped:
		return true
	}
	return false
}

// reported says that a report under this fence was taken.
func (h *hostRecord) reported(fence int64) bool {
	return h.Last != nil && h.Last.Fence == fence || h.Back != nil && h.Back.Fence == fence
}

// report counts an ending and frees the slots, unless the app does not serve: then the host goes on using its budget, also
// after an update that was given up. It is unavailable, whatever made it so.
func (d *draft) report(j *job, hold row[holdRecord], rec row[hostRecord]) {
	host, f, h := j.Caller.Host, j.Finish, hold.val
	out := &outcome{Rollout: h.Rollout, Fence: f.Fence, Result: f.Result, Serving: f.Serving, Wave: h.Wave, Cause: f.Cause,
		Reason: f.Reason, Took: f.Took, At: d.now}
	keeps := !f.Serving
	if out.Result == fleet.Committed && !f.Serving {
		out.Result = fleet.Stuck
	}
	if keeps && h.State == holdUnhealthy && rec.val != nil && rec.val.reported(f.Fence) {
		j.end(Answer{Finish: fleet.FinishAnswer{Accepted: true}})
		return
	}
	if !d.room(2, 2+len(h.Slots)) || !keeps && d.anySpoken(h.Slots) {
		return
	}
	next := rec.val.clone()
	next.Install, next.Seen, next.Claim, next.ClaimFor = h.Install, d.now, 0, ""
	if f.Runs != nil {
		next.Runs = f.Runs
	}
	d.score(next, h, out)
	if keeps {
		d.keep(host, hold, f)
	} else {
		next.Ended = max(next.Ended, f.Fence)
		d.release(host, hold)
	}
	d.writeHost(host, rec, next)
	d.finishes++
	d.staged = append(d.staged, func(int64) { j.end(Answer{Finish: fleet.FinishAnswer{Accepted: true}}) })
}

// score writes an outcome into the host's record and counts it. What a host did before in the same rollout is replaced, so
// the tally stays the sum of the records; an update given up before the swap replaces nothing but another such.
func (d *draft) score(next *hostRecord, h *holdRecord, out *outcome) {
	if h.Direction == fleet.Back {
		next.Back = out
		if d.roll != nil && d.roll.ID == h.Rollout && (!out.Serving && out.Result != fleet.Skipped || out.Result == fleet.Lost) {
			d.failedBack(out)
		}
		return
	}
	var before fleet.Result
	var wave string
	if next.Last != nil && next.Last.Rollout == h.Rollout {
		before, wave = next.Last.Result, next.Last.Wave
	}
	if out.Result == fleet.Skipped && before != "" && before != fleet.Skipped && before != fleet.Lost {
		kept := *next.Last
		kept.Fence = out.Fence
		next.Last = &kept
		return
	}
	next.Last = out
	if d.roll == nil || d.roll.ID != h.Rollout {
		// A rollout that was replaced drains without being judged, if it really was.
		d.need(d.c.keys.rollout(d.g.name), d.g.rollout.mod)
		return
	}
	d.count(out.Wave, before, wave, out.Result)
	d.limit(out.Reason)
}

// limit stops the rollout in the transaction that reaches a signed limit.
func (d *draft) limit(reason string) {
	watched := d.roll.State == fleet.StateOpen || d.roll.State == fleet.StatePaused && !d.takenBack()
	if d.s == nil || !watched || d.roll.Failed <= d.roll.Excused {
		return
	}
	why := exceeded(d.s.Deployment, d.roll.Failed, d.roll.Lost, d.all.Tried())
	if why == "" {
		return
	}
	if reason != "" {
		why += "; the last one: " + reason
	}
	d.stopBy(byHub, why)
}

// stopBy halts the rollout, or begins to take it back if that is what was signed and can be done.
func (d *draft) stopBy(by, why string) {
	stop := &fleet.Stop{By: by, Reason: why, At: d.now}
	if d.s.Deployment.Halt != nil && d.s.Deployment.Halt.OnHalt == "revert" && d.mayTakeBack() == "" {
		d.takeBack(stop, why)
		return
	}
	d.enter(fleet.StateHalted, stop, by, fleet.ActHalt, why, "the rollout is halted")
}

// failedBack pauses the taking back of a rollout: another round would not make it better, a person may.
func (d *draft) failedBack(out *outcome) {
	if d.state() != fleet.StateReverting {
		return
	}
	why := "a host failed while it was taken back"
	if out.Reason != "" {
		why += ": " + out.Reason
	}
	d.enter(fleet.StatePaused, &fleet.Stop{By: byHub, Reason: why, At: d.now}, byHub, fleet.ActPause, why, "the rollout is paused")
}

// takenBack says that this rollout is being taken back, or was: it never goes forward again.
func (d *draft) takenBack() bool { return slices.Contains(d.roll.Taken, d.roll.ID) }

// mayTakeBack says what forbids to take the release back, or nothing.
func (d *draft) mayTakeBack() string {
	dep := d.s.Deployment
	switch {
	case dep.Fallback == nil:
		return "no fallback is signed"
	case d.s.fallback(d.now) == nil:
		return "the signed fallback is revoked or below a minimum version"
	case dep.Coordinator != nil && dep.Coordinator.TightenOnly:
		return "the deployment lets its coordinator only delay (coordinator.tighten_only): sign state revert"
	}
	if d.takenBack() {
		return "this rollout was taken back before; sign a new one"
	}
	return ""
}

// maxTaken bounds the memory of rollouts that were taken back.
const maxTaken = 16

func (d *draft) takeBack(stop *fleet.Stop, why string) {
	d.roll.Taken = append(d.roll.Taken, d.roll.ID)
	d.roll.Taken = d.roll.Taken[max(0, len(d.roll.Taken)-maxTaken):]
	d.enter(fleet.StateReverting, stop, stop.By, fleet.ActRevert, why, "the rollout is being taken back to "+d.s.Deployment.Fallback.Path)
}

// release deletes a grant with its slots. Nobody takes them in the same transaction: this hub may know of the hold and not yet
// of its slots.
func (d *draft) release(host string, hold row[holdRecord]) {
	key := d.c.keys.hold(d.g.name, host)
	d.need(key, hold.mod)
	d.delete(key)
	for _, s := range hold.val.Slots {
		d.spoken(s)
		d.delete(d.c.keys.slot(d.g.name, s.Cell, s.N))
	}
}

// keep leaves a grant in place for a host whose app does not serve.
func (d *draft) keep(host string, hold row[holdRecord], f *fleet.Finish) {
	next := *hold.val
	next.State, next.Reason = holdUnhealthy, f.Reason
	key := d.c.keys.hold(d.g.name, host)
	d.need(key, hold.mod)
	d.put(key, next)
}

package hub

import (
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// verdict is what a hub finds about a wave.
type verdict struct {
	// passes says that the next wave may open.
	passes bool
	// hosts is how many the wave has, -1 if nobody can know; open how many of them are still to go, away how many of those have
	// not been heard of for long, and good how many run the release in good health.
	hosts, open, away, good int
	why                     string
}

// progress is where one host stands in a rollout.
type progress int

const (
	notYet progress = iota
	inSlot          // holds a slot
	good            // committed, or runs the release anyway, and healthy
	wrong           // tried, and speaks against the release
	tried           // tried, and speaks for nothing
	unwell          // committed, and unhealthy now
)

// stands says where a host is.
func (d *draft) stands(host string, h *hostRecord) progress {
	hold := d.g.holds[host]
	if hold.exists() && (hold.val == nil || hold.val.State == holdHeld) {
		return inSlot
	}
	if h == nil {
		return notYet
	}
	runsIt := h.Runs != nil && h.Runs.Digest == d.roll.Digest
	var last fleet.Result
	if h.Last != nil && h.Last.Rollout == d.roll.ID {
		last = h.Last.Result
	}
	switch {
	case runsIt && !h.Runs.Healthy && last == fleet.Committed:
		return unwell
	case failed(last):
		return wrong
	case runsIt && h.Runs.Healthy && last != fleet.FailedBefore:
		return good // a host that committed and runs something else by now, or was replaced, proves nothing
	case last == fleet.FailedBefore:
		return tried
	}
	return notYet
}

// judge looks at a wave: it passes once each of its hosts that can be reached has tried, enough of them run the release in
// good health, no signed limit is broken and the last one has been watched for the soak time. A wave in which nobody went
// proves nothing and never passes. Hosts that are held back or skipped are waited for: an operator may promote without them.
func (d *draft) judge(wave int) verdict {
	v := verdict{hosts: -1}
	bad, ill := 0, 0
	d.eachIn(wave, func(host string, h *hostRecord) {
		switch d.stands(host, h) {
		case good:
			v.good++
		case wrong:
			bad++
		case unwell:
			ill++
		case tried:
		case inSlot:
			v.open++
		default:
			v.open++
			if h == nil || d.now.Sub(h.Seen) > reachable {
				v.away++
			}
		}
	})
	if d.s.hosts != nil {
		v.hosts = d.s.sizes[wave]
	}
	d.conclude(&v, wave, bad, ill)
	return v
}

// eachIn calls f for every host of a wave: all of the pinned inventory, or those that ever came.
func (d *draft) eachIn(wave int, f func(string, *hostRecord)) {
	if d.s.hosts != nil {
		for host, m := range d.s.hosts {
			if m.wave == wave {
				f(host, d.g.hosts[host].val)
			}
		}
		return
	}
	for host, r := range d.g.hosts {
		if r.val != nil && r.val.Install != "" && d.s.wave(host, r.val.Labels) == wave {
			f(host, r.val)
		}
	}
}

func (d *draft) conclude(v *verdict, wave, bad, ill int) {
	name := d.s.waveName(wave)
	least := 1
	if len(d.s.Deployment.Waves) > 0 {
		least = max(1, d.s.Deployment.Waves[wave].MinHosts)
	}
	_, _, last := d.g.tallied(d.roll.ID)
	ready := latest(last, d.roll.Since).Add(soak(d.s.Deployment))
	switch limit := exceeded(d.s.Deployment, d.roll.Failed, d.roll.Lost, d.all.Tried()); {
	case limit != "":
		v.why = limit
	case ill > 0:
		v.why = sentence("%d hosts of wave %s committed and are not healthy now", ill, name)
	case v.open > v.away:
		v.why = sentence("%d hosts of wave %s are still to go", v.open-v.away, name)
	case v.good < least:
		v.why = sentence("%d hosts of wave %s run the release in good health, at least %d have to", v.good, name, least)
	case bad > 0 && v.good < bad:
		v.why = sentence("more hosts of wave %s failed than run the release in good health", name)
	case d.now.Before(ready):
		v.why = sentence("the last host of wave %s is watched until %s", name, ready.Format(time.TimeOnly))
	default:
		v.passes = true
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// promote opens the next wave if the signed plan lets a hub do so and the one before it passes. It never goes past what is
// signed, and never before the signed floor.
func (d *draft) promote() {
	if d.roll.State != fleet.StateOpen || d.s.reverting() || len(d.s.Deployment.Waves) == 0 {
		return
	}
	open := d.s.waveIndex(d.roll.Wave)
	next := open + 1
	if next >= len(d.s.Deployment.Waves) || !d.s.judged(next) {
		return
	}
	if _, signed := d.s.schedule.Signed(next); !signed {
		return
	}
	if floor, _ := d.s.schedule.Floor(next); d.now.Before(floor) {
		return
	}
	if v := d.judge(open); v.passes {
		for _, id := range sorted(d.g.tallies[d.roll.ID]) {
			d.need(d.c.keys.tally(d.g.name, d.roll.ID, id), d.g.tallies[d.roll.ID][id].mod)
		}
		d.open(next, byHub, fleet.ActPromote, sentence("%d hosts of wave %s run the release in good health", v.good, d.s.waveName(open)))
	}
}

// open opens a wave and those after it that nobody has to judge.
func (d *draft) open(wave int, by, act, why string) {
	wave = d.s.unjudged(wave)
	d.roll.Wave, d.roll.Since, d.rollDirty = d.s.waveName(wave), d.now, true
	d.roll.News++
	d.note(by, act, why, "wave "+d.roll.Wave+" is open")
}

// stalled halts a rollout in which nothing has ended for the signed progress deadline although somebody could go. Time in
// which the calendar is closed does not count.
func (d *draft) stalled() {
	h := d.s.Deployment.Halt
	if !d.s.schedule.Open(d.now) {
		d.g.shut = d.now
	}
	if h == nil || h.ProgressDeadline == 0 || d.roll.State != fleet.StateOpen || d.s.reverting() {
		return
	}
	wave := d.s.waveIndex(d.roll.Wave)
	_, full := d.s.schedule.Floor(wave)
	_, _, last := d.g.tallied(d.roll.ID)
	since := latest(latest(d.roll.Since, d.g.shut), latest(full, last))
	if d.now.Sub(since) < h.ProgressDeadline.Std() {
		return
	}
	left := 0
	for w := 0; w <= wave; w++ {
		v := d.judge(w)
		left += v.open - v.away
	}
	if rule, _ := d.s.stopped(d.now); left == 0 || rule != "" {
		return
	}
	d.stopBy(byHub, sentence("nothing ended for %s and %d hosts are still to go", h.ProgressDeadline, left))
}

// estimate is when the rollout will be over at the pace so far; zero if nobody can tell.
func (d *draft) estimate(hosts int) time.Time {
	tried := d.all.Tried()
	if tried == 0 || hosts <= tried || d.roll.State != fleet.StateOpen {
		return time.Time{}
	}
	perHost := d.now.Sub(d.roll.Started) / time.Duration(tried)
	return d.now.Add(perHost * time.Duration(hosts-tried))
}

package hub

import (
	"time"

	"github.com/slipway-deploy/slipway/agent/rollout"
)

// line are the hosts that wait to be taken back, as far as this hub was asked: the last ones forward are the first ones back.
// It is a preference in memory and no more: the slots bound how many go, and a host that stops asking is passed over.
type line map[string]waiting

type waiting struct {
	place uint64 // in the order back
	asked time.Time
}

// A line remembers the first few hosts, each for some polls.
const (
	lineLength = 64
	lineMemory = 90 * time.Second
)

// join puts a host into the line and counts who stands before it.
func (l line) join(host string, place uint64, now time.Time) (before int) {
	last := host
	l[host] = waiting{place, now}
	for other, w := range l {
		switch {
		case now.Sub(w.asked) > lineMemory:
			delete(l, other)
			continue
		case w.place < place:
			before++
		}
		if w.place > l[last].place {
			last = other
		}
	}
	if len(l) > lineLength {
		delete(l, last)
	}
	return before
}

// before says that hosts which are to go back sooner want all the slots that are free, or nothing.
func (d *draft) before(host string, labels map[string]string) string {
	if d.g.line == nil {
		d.g.line = line{}
	}
	h := rollout.Host{ID: host, Environment: d.g.name.Environment, Labels: labels}
	n := d.g.line.join(host, d.s.schedule.Reverse(h), d.now)
	if free := d.roll.Limits.Back - d.used[cellBack]; n >= free && free > 0 {
		return sentence("%d hosts go back before this one, the last forward first", n)
	}
	return ""
}

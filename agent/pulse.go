package agent

import (
	"fmt"
	"sync"
	"time"

	"github.com/slipway-deploy/slipway/agent/health"
	"github.com/slipway-deploy/slipway/agent/release"
)

// pulse is one loop's sign of life. A loop that waits is not hung: before every wait it says how long that may take, and only
// a loop that is still in it afterwards is. Time is the process's own, which stands still while the host sleeps.
type pulse struct {
	mu    sync.Mutex
	beat  time.Time
	due   time.Time // zero: it waits where it can be woken, for as long as it takes
	doing string
}

const (
	// stepPatience is how long a step may be silent that says nothing of itself.
	stepPatience = 10 * time.Minute
	// refreshPatience bounds one refresh; a slower one is given up and goes on where it was at the next poll.
	refreshPatience = 15 * time.Minute
	// documentsPatience bounds reading what is signed, which may have to wait for a refresh.
	documentsPatience = refreshPatience + 5*time.Minute
	// sweepPatience is for deleting trees, which is done slowly on purpose.
	sweepPatience = time.Hour
	// slowestDisk is the least number of bytes a second at which a tree is read or written.
	slowestDisk = 4 << 20
)

// within says that the next sign of life comes within d.
func (p *pulse) within(d time.Duration, doing string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beat = time.Now()
	p.due, p.doing = p.beat.Add(d), doing
}

// busy is within(d) until the returned function is called, and the ordinary patience of a step after it.
func (p *pulse) busy(d time.Duration, doing string) (done func()) {
	p.within(d+stepPatience, doing)
	return func() { p.within(stepPatience, "what follows "+doing) }
}

// rest says that the loop waits in a select that its context ends.
func (p *pulse) rest() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beat, p.due = time.Now(), time.Time{}
}

func (p *pulse) hung(loop string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.due.IsZero() || !time.Now().After(p.due) {
		return nil
	}
	return &HungError{Loop: loop, Doing: p.doing, Silent: time.Since(p.beat), Allowed: p.due.Sub(p.beat)}
}

// HungError says that a loop of this process gives no sign of life.
type HungError struct {
	Loop, Doing     string
	Silent, Allowed time.Duration
}

func (e *HungError) Error() string {
	return fmt.Sprintf("%s hangs in %s: silent for %s, at most %s are allowed", e.Loop, e.Doing, e.Silent.Round(time.Second), e.Allowed.Round(time.Second))
}

// Kind names this error for metrics and the wire.
func (e *HungError) Kind() string { return "hung" }

// Hung returns an error while the host's loop or that of an app has been silent for longer than what it does may take. Ask it
// before each sign of life to the service manager's watchdog: a daemon whose loops hang is better started anew.
func (h *Host) Hung() error {
	if err := h.pulse.hung("the host's loop"); err != nil {
		return err
	}
	for _, m := range h.Machines() {
		if err := m.pulse.hung("the loop of " + m.app.String()); err != nil {
			return err
		}
	}
	return nil
}

// treePatience is how long it may take to read or write a release once.
func treePatience(rel *release.Release) time.Duration {
	var most int64
	for _, art := range rel.Platforms {
		most = max(most, art.Unpacked)
	}
	return time.Duration(most/slowestDisk) * time.Second
}

// baselinePatience is how long one round of the checks may take; what a release leaves to the defaults is far below the
// patience that every step has.
func baselinePatience(probes []health.Timed) time.Duration {
	var longest time.Duration
	for _, p := range probes {
		longest = max(longest, (p.Timing.Timeout+time.Second)*time.Duration(max(1, p.Timing.FailureThreshold)))
	}
	return min(longest, longestTrial)
}

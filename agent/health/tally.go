package health

import (
	"fmt"
	"strings"
	"time"
)

// tally is the pure core of a watch: results in, state and verdict out. It knows time only as what it is handed.
type tally struct {
	begin      time.Time
	minHealthy time.Duration
	deadline   time.Time
	length     time.Duration
	probes     []*counted
	healthyAt  time.Time // zero while not every probe is healthy
	carried    time.Duration
}

type counted struct {
	timing     Timing
	state      CheckState
	good, bad  int
	blind      int    // answers in a row that were CannotTell
	known      Answer // the last answer that was not
	everSpoken bool
}

func newTally(w *Watch, now time.Time) *tally {
	t := &tally{begin: now, minHealthy: w.MinHealthy, deadline: now.Add(w.Deadline), length: w.Length, carried: w.HealthyFor}
	for _, p := range w.Probes {
		t.probes = append(t.probes, &counted{
			timing: p.Timing.complete(), state: CheckState{Name: p.Probe.Name(), Kind: p.Probe.Kind(), Since: now},
		})
	}
	return t
}

// add counts one answer of probe i and reports whether anything a person sees has changed.
func (t *tally) add(i int, r Result, now time.Time) (changed bool) {
	c := t.probes[i]
	c.blind++
	if r.Answer != CannotTell {
		c.blind, c.known = 0, r.Answer
	}
	switch r.Answer {
	case Healthy:
		c.good, c.bad, c.everSpoken = c.good+1, 0, true
	case Unhealthy:
		c.good, c.bad, c.everSpoken = 0, c.bad+1, true
		if now.Sub(t.begin) < c.timing.StartPeriod {
			c.bad = 0
		}
	}
	next := c.state.Answer
	switch {
	case c.blind >= c.timing.FailureThreshold:
		c.good, next = 0, CannotTell
	case c.good >= c.timing.SuccessThreshold:
		next = Healthy
	case c.bad >= c.timing.FailureThreshold:
		next = Unhealthy
	case r.Answer == Unhealthy && c.state.Answer != Unhealthy:
		next = CannotTell // healthy no more, not yet given up
	}
	changed = next != c.state.Answer || r.Detail != c.state.Detail
	if next != c.state.Answer {
		c.state.Answer, c.state.Since = next, now
	}
	c.state.Detail = r.Detail
	t.streak(now)
	return changed
}

// streak keeps the time since which every probe is healthy. A probe that cannot tell interrupts it when it was not healthy
// before, or was silent for its failure threshold: a checker that has gone blind must not win the trial.
func (t *tally) streak(now time.Time) {
	for _, c := range t.probes {
		if c.state.Answer != Healthy {
			if c.everSpoken {
				t.carried = 0
			}
			t.healthyAt = time.Time{}
			return
		}
	}
	if t.healthyAt.IsZero() {
		t.healthyAt = now.Add(-t.carried)
	}
}

func (t *tally) snapshot(now time.Time) Snapshot {
	s := Snapshot{Healthy: !t.healthyAt.IsZero()}
	if s.Healthy {
		s.HealthyFor = now.Sub(t.healthyAt)
	}
	for _, c := range t.probes {
		s.Checks = append(s.Checks, c.state)
	}
	return s
}

// verdict returns the end of the watch if it has come.
func (t *tally) verdict(now time.Time) (Verdict, bool) {
	for _, c := range t.probes {
		if c.state.Answer == Unhealthy {
			return Verdict{Answer: Unhealthy, Reason: fmt.Sprintf("check %s is unhealthy: %s", c.state.Name, c.state.Detail)}, true
		}
	}
	if !t.healthyAt.IsZero() && t.sighted() && now.Sub(t.healthyAt) >= t.minHealthy {
		return Verdict{Answer: Healthy, Reason: fmt.Sprintf("healthy for %s", t.minHealthy)}, true
	}
	if now.Before(t.deadline) {
		return Verdict{}, false
	}
	if t.onlyBlind() {
		return Verdict{Answer: CannotTell, Reason: "it could not be checked until the deadline: " + t.missing()}, true
	}
	return Verdict{Answer: Unhealthy, Reason: fmt.Sprintf("not healthy for %s within %s: %s", t.minHealthy, t.length, t.missing())}, true
}

// sighted reports that the newest answer of every probe is one: a win needs that.
func (t *tally) sighted() bool {
	for _, c := range t.probes {
		if c.blind > 0 {
			return false
		}
	}
	return true
}

// onlyBlind reports that nothing but silence of the checker stands against the app.
func (t *tally) onlyBlind() bool {
	blind := false
	for _, c := range t.probes {
		if c.known == Unhealthy {
			return false
		}
		blind = blind || c.known == CannotTell || c.blind > 0
	}
	return blind
}

func (t *tally) missing() string {
	var parts []string
	for _, c := range t.probes {
		if c.state.Answer != Healthy {
			parts = append(parts, fmt.Sprintf("check %s: %s", c.state.Name, orElse(c.state.Detail, "no answer yet")))
		}
	}
	if len(parts) == 0 {
		return "it became healthy too late"
	}
	return strings.Join(parts, "; ")
}

// next is when the verdict may change without another answer.
func (t *tally) next(now time.Time) time.Duration {
	at := t.deadline
	if !t.healthyAt.IsZero() && t.sighted() && t.healthyAt.Add(t.minHealthy).Before(at) {
		at = t.healthyAt.Add(t.minHealthy)
	}
	return max(0, at.Sub(now))
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

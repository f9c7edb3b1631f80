package rollout

import (
	"fmt"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// maxSkew is how far the repository's signed issue time may lie ahead of this host before its clock counts as behind.
const maxSkew = 5 * time.Minute

// start decides about an activation or a removal.
func (c *decider) start() Decision {
	answer := Decision{Verb: VerbActivate, Target: c.d.Release}
	if c.d.Absent {
		answer = Decision{Verb: VerbRemove}
	}
	waits := c.stops()
	turn, placed := c.s.turn(c.in.Host)
	answer.Wave = turn.name
	waits = append(waits, c.turnWaits(turn, placed)...)

	ready := c.in.Now
	for _, w := range waits {
		ready = latest(ready, w.until)
	}
	opens, closed := c.s.calendar.next(ready)
	if closed != nil {
		waits = append(waits, *closed)
	}
	if placed && !c.outlived(opens) {
		answer.Earliest = opens
	}
	if len(waits) == 0 {
		answer.Earliest = turn.start
		return c.slot(answer, turn)
	}
	w := strictest(waits)
	answer.Rule, answer.Because = w.rule, w.because
	if !w.until.IsZero() && !c.outlived(opens) {
		answer.Until = opens
	}
	return answer
}

// slot asks the coordinator last and lets the host go if it does not object.
func (c *decider) slot(answer Decision, t turn) Decision {
	w := c.coordinatorWait()
	if w == nil {
		answer.Act, answer.Rule, answer.Because = true, RuleOpen, c.opened(t)
		return answer
	}
	answer.Rule, answer.Because = w.rule, w.because
	if !w.until.IsZero() {
		if opens, _ := c.s.calendar.next(w.until); !c.outlived(opens) {
			answer.Until = opens
		}
	}
	return answer
}

func (c *decider) outlived(t time.Time) bool { return c.d.Expires != nil && !t.Before(*c.d.Expires) }

func (c *decider) opened(t turn) string {
	what := "removal"
	if !c.d.Absent {
		what = versionOf(c.d.Release).String()
	}
	if t.name == "" {
		return fmt.Sprintf("%s is open to every host of %s", what, c.d.Environment)
	}
	return fmt.Sprintf("%s is open to this host since %s in wave %s (%s)", what, clock(t.start), t.name, t.place())
}

// stops are the objections that need no fleet.
func (c *decider) stops() (waits []wait) {
	add := func(rule Rule, until time.Time, because string) { waits = append(waits, wait{rule, until, because}) }
	none := time.Time{}
	if c.d.State != release.StateActive {
		add(RuleState, none, why(fmt.Sprintf("deployment %d is %s", c.d.Sequence, c.d.State), c.d.Reason))
	}
	if e := c.in.MetadataExpired; e != nil {
		add(RuleMetadata, none, fmt.Sprintf("metadata of %s expired %s; what runs keeps running", e.Role, clock(e.At)))
	}
	if c.in.EmergencyExpired {
		add(RuleEmergency, none, fmt.Sprintf("the emergency document of %s has expired; nothing starts until it is signed again", c.d.Environment))
	}
	waits = append(waits, c.clockWaits()...)
	waits = append(waits, c.stopped()...)
	if r := c.d.Release; r != nil {
		waits = append(waits, c.banned(r.SHA256, versionOf(r))...)
		if q := c.in.Quarantined; q != nil {
			add(RuleQuarantined, none, fmt.Sprintf("release %s is quarantined here: %s", versionOf(r), *q))
		}
	}
	if h := c.in.Hold; h != nil && (h.Until.IsZero() || c.in.Now.Before(h.Until)) {
		add(RuleHold, h.Until, h.sentence())
	}
	return waits
}

func (h *Hold) sentence() string {
	text := "held here"
	if h.By != "" {
		text += " by " + h.By
	}
	if h.Until.IsZero() {
		text += " until resumed"
	} else {
		text += " until " + clock(h.Until)
	}
	return why(text, h.Reason)
}

// clockWaits are the objections about the clock and the times signed into the deployment and the timestamp.
func (c *decider) clockWaits() (waits []wait) {
	add := func(rule Rule, until time.Time, because string) { waits = append(waits, wait{rule, until, because}) }
	now, none := c.in.Now, time.Time{}
	switch {
	case !c.in.ClockTrusted:
		add(RuleClock, none, "this host's clock is not synchronised")
	case c.in.Issued.Sub(now) > maxSkew:
		add(RuleClock, none, fmt.Sprintf("this host's clock (%s) is behind the repository's (%s)", clock(now), clock(c.in.Issued)))
	}
	if nb := c.d.NotBefore; nb != nil && now.Before(*nb) {
		add(RuleNotBefore, *nb, "the deployment is signed for "+clock(*nb))
	}
	if c.outlived(now) {
		add(RuleExpires, none, "the deployment expired "+clock(*c.d.Expires))
	}
	if bound := c.d.Freshness.Std(); bound > 0 {
		switch age := now.Sub(c.in.Issued); {
		case c.in.Issued.IsZero():
			add(RuleFreshness, none, fmt.Sprintf("a start needs a timestamp issued less than %s ago and none is known", c.d.Freshness))
		case age >= bound:
			add(RuleFreshness, none, fmt.Sprintf("the newest timestamp was issued %s ago, a start needs less than %s",
				age.Truncate(time.Second), c.d.Freshness))
		}
	}
	if bound := c.in.MaxBundleAge; bound > 0 && c.in.Bundle != "" && now.Sub(c.in.Issued) > bound {
		add(RuleFreshness, none, fmt.Sprintf("what this host knows came in bundle %s, issued %s, and repository.max_bundle_age is %s; bring a newer bundle",
			c.in.Bundle, clock(c.in.Issued), release.Duration(bound)))
	}
	return waits
}

// turnWaits are the objections of the host's place in the waves.
func (c *decider) turnWaits(t turn, placed bool) []wait {
	if !placed {
		return []wait{t.missing}
	}
	var waits []wait
	if because, open := c.s.advanced(t.index); !open {
		waits = append(waits, wait{RuleAdvance, time.Time{}, because})
	}
	if c.in.Now.Before(t.start) {
		text := "the deployment opens " + clock(t.start)
		if t.name != "" {
			text = fmt.Sprintf("wave %s (%s) opens %s", t.name, t.place(), clock(t.start))
		}
		waits = append(waits, wait{RuleWave, t.start, text})
	}
	return waits
}

func (c *decider) coordinated() bool { return coordinated(c.d) }

// coordinatorWait asks for the slot. Without a signed coordinator only an explicit "wait" counts.
func (c *decider) coordinatorWait() *wait {
	slot, needed := c.in.Slot, c.coordinated()
	hold := func(until time.Time, text string) *wait {
		return &wait{RuleCoordinator, until, why(text, slot.Reason)}
	}
	switch {
	case slot.Answer == AnswerGranted && !slot.Back:
		return nil
	case slot.Answer == AnswerWait:
		return hold(time.Time{}, "the coordinator has no slot for this host yet")
	case !needed:
		return nil
	case slot.Answer != AnswerLost:
		return hold(time.Time{}, "everything else is open; this host asks the coordinator for a slot")
	case c.d.OnCoordinatorLoss != "signed-schedule" || slot.Since.IsZero():
		return hold(time.Time{}, "the coordinator cannot be reached and the signed policy is to hold")
	}
	if until := slot.Since.Add(c.d.CoordinatorGrace.Std()); c.in.Now.Before(until) {
		return hold(until, "the coordinator cannot be reached; the signed schedule takes over "+clock(until))
	}
	return nil
}

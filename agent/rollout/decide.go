package rollout

import (
	"fmt"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// decider holds one call's input and what was derived from it.
type decider struct {
	in Input
	d  *release.Deployment
	s  *Schedule
}

// Decide says what the host should do now. It is a pure function: equal inputs give equal answers on every host and
// architecture. It never panics on documents that passed their parsers, and reads those that did not as stops.
func Decide(in Input) Decision {
	d := in.Deployment
	if d == nil {
		return idle(RuleDeployment, "no deployment of this app is known here")
	}
	if d.Environment != in.Host.Environment {
		return idle(RuleEnvironment, fmt.Sprintf("the deployment is for %s, this host belongs to %s", d.Environment, in.Host.Environment))
	}
	c := &decider{in: in, d: d, s: in.Schedule}
	if !c.s.isFor(d) {
		c.s = NewSchedule(d, in.Inventory, in.InventoryDigest)
	}
	answer := c.decide()
	answer.Position = Position(seed(d), in.Host.ID)
	return answer
}

func idle(rule Rule, because string) Decision {
	return Decision{Verb: VerbNone, Rule: rule, Because: because}
}

func (c *decider) decide() Decision {
	if answer, settled := c.revoked(); settled {
		return answer
	}
	if c.d.State == release.StateRevert {
		return c.revert()
	}
	if c.ordered() {
		return c.orderedBack()
	}
	if because, ok := c.upToDate(); ok {
		return idle(RuleUpToDate, because)
	}
	return c.start()
}

// revoked applies the signed on_revoked to a running release. Anything but revert and stop keeps it running.
func (c *decider) revoked() (Decision, bool) {
	reason, revoked := c.revocation()
	if !revoked {
		return Decision{}, false
	}
	text := why(fmt.Sprintf("running release %s is revoked", c.in.Current.Version), reason)
	switch {
	case c.in.Current.Stopped:
	case c.d.OnRevoked == "stop", c.d.OnRevoked == "revert" && c.d.Absent:
		return Decision{Act: true, Verb: VerbStop, Rule: RuleRevoked, Because: text}, true
	case c.d.OnRevoked == "revert":
		return Decision{Act: true, Verb: VerbRevert, Target: c.fallback(), Rule: RuleRevoked, Because: text}, true
	}
	wanted := c.d.Release != nil && c.d.Release.SHA256 == c.in.Current.Digest
	if !wanted || c.d.State == release.StateRevert {
		return Decision{}, false
	}
	if c.in.Current.Stopped {
		return idle(RuleRevoked, text+"; it is stopped and no other release is deployed"), true
	}
	return idle(RuleRevoked, text+"; the signed policy keeps it running"), true
}

func (c *decider) upToDate() (string, bool) {
	switch cur := c.in.Current; {
	case c.d.Absent && cur == nil:
		return fmt.Sprintf("%s shall be absent from %s and is", c.d.App, c.d.Environment), true
	case c.d.Release == nil && !c.d.Absent:
		return "the deployment names no release", true
	case c.d.Release != nil && cur != nil && cur.Digest == c.d.Release.SHA256 && !cur.Stopped:
		return fmt.Sprintf("%s runs %s and so does this host", c.d.Environment, cur.Version), true
	}
	return "", false
}

// revert takes a host that runs the release to the fallback. Only the document's own start and, for a host that still
// serves, the signed pace of the revert hold it back.
func (c *decider) revert() Decision {
	cur := c.in.Current
	switch {
	case cur == nil:
		return idle(RuleRevert, "the deployment is being reverted and nothing is installed here")
	case c.d.Release == nil || cur.Digest != c.d.Release.SHA256:
		return idle(RuleRevert, fmt.Sprintf("the deployment is being reverted and this host runs %s", cur.Version))
	}
	answer := Decision{Verb: VerbRevert, Target: c.fallback(), Rule: RuleRevert}
	waits, start := c.revertWaits()
	answer.Earliest = start
	if len(waits) > 0 {
		w := strictest(waits)
		answer.Rule, answer.Because, answer.Until = w.rule, w.because, w.until
		return answer
	}
	answer.Act = true
	answer.Because = why(fmt.Sprintf("deployment %d reverts %s", c.d.Sequence, cur.Version), c.d.Reason)
	return answer
}

func (c *decider) revertWaits() (waits []wait, start time.Time) {
	if nb := c.d.NotBefore; nb != nil && c.in.Now.Before(*nb) {
		waits = append(waits, wait{RuleNotBefore, *nb, "the revert is signed for " + clock(*nb)})
	}
	base := latest(c.d.Created, c.s.base)
	start = base
	p := c.d.Revert
	if p == nil || !c.in.Current.Healthy {
		return waits, start
	}
	start = start.Add(part(p.Spread.Std(), c.s.revertShare(c.in.Host)))
	if c.in.Now.Before(start) {
		return append(waits, wait{RuleRevert, start, "this host's turn to revert is " + clock(start)}), start
	}
	// A slot paces the revert of hosts that still serve, but nobody may block it for good.
	last := base.Add(p.Spread.Std() + c.d.CoordinatorGrace.Std())
	if p.MaxUnavailable == 0 || !c.coordinated() || !c.in.Now.Before(last) {
		return waits, start
	}
	if !c.grantedBack() && c.in.Slot.Answer != AnswerLost {
		text := "the revert waits for a slot, until " + clock(last) + " at the latest"
		waits = append(waits, wait{RuleCoordinator, last, why(text, c.in.Slot.Reason)})
	}
	return waits, start
}

func (c *decider) grantedBack() bool { return c.in.Slot.Answer == AnswerGranted && c.in.Slot.Back }

// ordered reports whether the coordinator's order to go back counts. It can only ever take a host that runs the deployment's
// release to the signed fallback, once in a rollout, and only if the signers let a hub do so: because a halt shall revert, or
// because they did not keep reverts to signatures.
func (c *decider) ordered() bool {
	d, cur := c.d, c.in.Current
	allowed := d.Halt != nil && d.Halt.OnHalt == "revert" || d.Revert == nil || !d.Revert.Signed
	runs := cur != nil && !cur.Stopped && d.Release != nil && cur.Digest == d.Release.SHA256
	return c.in.Slot.Order && c.s.hasHub() && !d.Coordinator.TightenOnly && allowed && runs && !c.in.WentBack && c.fallback() != nil
}

// orderedBack goes back with a slot for it. A host that does not serve is unavailable already and waits for none.
func (c *decider) orderedBack() Decision {
	answer := Decision{Verb: VerbRevert, Target: c.fallback(), Rule: RuleOrder}
	if c.in.Current.Healthy && !c.grantedBack() {
		answer.Rule = RuleCoordinator
		answer.Because = why("the hub takes this rollout back; this host waits for a slot to go to the fallback", c.in.Slot.Reason)
		return answer
	}
	answer.Act, answer.Because = true, fmt.Sprintf("the hub takes rollout %s back to the signed fallback, as the signers allow", c.d.RolloutID)
	return answer
}

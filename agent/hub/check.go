package hub

import (
	"slices"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// swapGrace is how long the answer to a check is good for, in seconds.
const swapGrace = 30

// look asks for keys to be read before the job is tried again.
func (d *draft) look(j *job, keys ...string) {
	for _, k := range keys {
		if !slices.Contains(d.read, k) {
			if len(d.read) >= MaxOps {
				return
			}
			d.read = append(d.read, k)
		}
	}
	d.readers = append(d.readers, j)
}

// check answers just before the swap, always by what the store holds now.
func (d *draft) check(j *job) {
	host := j.Caller.Host
	if !j.read {
		d.look(j, d.c.keys.halt(), d.c.keys.rollout(d.g.name), d.c.keys.hold(d.g.name, host), d.c.keys.host(d.g.name, host))
		return
	}
	if rule, reason := d.mayNotSwap(host, j.Check); rule != "" {
		j.end(Answer{Check: fleet.CheckAnswer{Rule: rule, Reason: reason}})
		return
	}
	j.end(Answer{Check: fleet.CheckAnswer{OK: true, Within: swapGrace}})
}

func (d *draft) mayNotSwap(host string, k *fleet.Check) (rule, reason string) {
	hold := d.g.holds[host]
	h := hold.val
	switch {
	case h == nil || h.Install != k.Install || fenceOf(hold) != k.Fence:
		return fleet.RuleHeld, sentence("slot %d is not this host's", k.Fence)
	case h.State != holdHeld:
		return fleet.RuleHeld, sentence("slot %d is %s since its deadline or report", k.Fence, h.State)
	}
	if rule, reason := d.objection(nil); rule != "" {
		return rule, reason
	}
	reverting := d.state() == fleet.StateReverting
	switch {
	case h.Rollout != d.roll.ID:
		return fleet.RulePlan, "rollout " + h.Rollout + " was replaced by " + d.roll.ID
	case h.Direction == fleet.Back && !reverting:
		return fleet.RuleSigned, "the rollout is not being taken back"
	case h.Direction != fleet.Back && reverting:
		return fleet.RuleReverted, because("the rollout is being taken back", d.roll.Stop)
	}
	var runs *fleet.Runs
	if rec := d.g.hosts[host].val; rec != nil {
		runs = rec.Runs
	}
	if h.Direction == fleet.Back {
		return d.mayGoBack(host, d.g.told(host), runs)
	}
	if decision := d.s.decide(host, d.g.told(host), runs, fleet.Forward, d.now); !decision.Act {
		return ruleOf(decision, d.s.Deployment.State), decision.Because
	}
	return "", ""
}

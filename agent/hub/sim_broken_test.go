package hub_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/release"
)

// sabotage makes hubs that break one rule: by what their transactions compare and write, by what they believe of a request,
// of the plan, or by what they answer. The engine itself has no switches for it. A nil one leaves everything as it is.
type sabotage struct {
	rule string
	// caught are the invariants of which at least one must notice.
	caught  []string
	txn     func(*hub.Txn)
	request func(*world, *hub.Request)
	answer  func(*hub.Answer)
	plan    func(*release.Deployment)
	plans   map[*release.Deployment]*release.Deployment
}

func (s *sabotage) committed(t hub.Txn) hub.Txn {
	if s == nil || s.txn == nil {
		return t
	}
	t.If, t.Then = slices.Clone(t.If), slices.Clone(t.Then)
	s.txn(&t)
	return t
}

func (s *sabotage) asked(w *world, r hub.Request) hub.Request {
	if s == nil || s.request == nil {
		return r
	}
	switch {
	case r.Turn != nil:
		r.Turn = ptr(*r.Turn)
	case r.Check != nil:
		r.Check = ptr(*r.Check)
	default:
		r.Finish = ptr(*r.Finish)
	}
	s.request(w, &r)
	return r
}

func (s *sabotage) answered(a hub.Answer) hub.Answer {
	if s != nil && s.answer != nil {
		s.answer(&a)
	}
	return a
}

func (s *sabotage) planned(p *hub.Plan) *hub.Plan {
	if s == nil || s.plan == nil {
		return p
	}
	d := s.plans[p.Deployment]
	if d == nil {
		d = ptr(*p.Deployment)
		s.plan(d)
		if s.plans == nil {
			s.plans = map[*release.Deployment]*release.Deployment{}
		}
		s.plans[p.Deployment] = d
	}
	p = ptr(*p)
	p.Deployment = d
	return p
}

func kindOf(key string) string {
	kind, _, _, _ := hub.ParseKey("sim", key)
	return kind
}

// grants says whether a transaction gives a host a slot.
func grants(t *hub.Txn) bool {
	return slices.ContainsFunc(t.Then, func(op hub.Op) bool { return kindOf(op.Key) == "slot" && op.Value != nil })
}

// withoutComparing makes grants that do not compare keys of a kind.
func withoutComparing(kind string) func(*hub.Txn) {
	return func(t *hub.Txn) {
		if grants(t) {
			t.If = slices.DeleteFunc(t.If, func(c hub.Cond) bool { return kindOf(c.Key) == kind })
		}
	}
}

// freeLost frees the slots of a host that is silent.
func freeLost(t *hub.Txn) {
	for i, op := range t.Then {
		var h hub.HoldRecord
		if kindOf(op.Key) != "hold" || op.Value == nil || json.Unmarshal(op.Value, &h) != nil || h.State != "lost" {
			continue
		}
		t.Then[i].Value = nil
		for _, s := range h.Slots {
			key := fmt.Sprintf("%sslot/%s/%s/%06d", hub.Prefix("sim"), group, s.Cell, s.N)
			t.Then = append(t.Then, hub.Op{Key: key})
		}
	}
}

func withoutAudit(t *hub.Txn) {
	t.If = slices.DeleteFunc(t.If, func(c hub.Cond) bool { return strings.HasPrefix(kindOf(c.Key), "audit") })
	t.Then = slices.DeleteFunc(t.Then, func(op hub.Op) bool { return strings.HasPrefix(kindOf(op.Key), "audit") })
}

// anyFence takes whatever fence a host names for the one it holds.
func anyFence(w *world, r *hub.Request) {
	h, ok := w.check.holds[r.Caller.Host]
	switch {
	case !ok:
	case r.Finish != nil:
		r.Finish.Fence = h.fence
	case r.Check != nil:
		r.Check.Fence = h.fence
	}
}

// anyInstall takes every machine with a host's name for that host.
func anyInstall(w *world, r *hub.Request) {
	known := w.check.hosts[r.Caller.Host]
	switch {
	case known == nil || known.Install == "":
	case r.Turn != nil:
		r.Turn.Install = known.Install
	case r.Check != nil:
		r.Check.Install = known.Install
	default:
		r.Finish.Install = known.Install
	}
}

func alwaysServing(_ *world, r *hub.Request) {
	if r.Finish != nil {
		r.Finish.Serving = true
	}
}

// countTwice adds a committed host to every tally that is written.
func countTwice(t *hub.Txn) {
	for i, op := range t.Then {
		var tally hub.TallyRecord
		if kindOf(op.Key) != "tally" || json.Unmarshal(op.Value, &tally) != nil {
			continue
		}
		for wave, c := range tally.Waves {
			c.Committed += c.Committed
			tally.Waves[wave] = c
		}
		t.Then[i].Value = must(json.Marshal(tally))
	}
}

// closeWave forgets the open wave whenever the rollout's record is written.
func closeWave(t *hub.Txn) {
	for i, op := range t.Then {
		var r hub.RolloutRecord
		if kindOf(op.Key) == "rollout" && json.Unmarshal(op.Value, &r) == nil && r.Wave == "rest" && r.Failed > 0 {
			r.Wave = "canary"
			t.Then[i].Value = must(json.Marshal(r))
		}
	}
}

// ignoreRestored lets a rollout that waits for reconcile go on by itself.
func ignoreRestored(t *hub.Txn) {
	for i, op := range t.Then {
		var r hub.RolloutRecord
		if kindOf(op.Key) == "rollout" && json.Unmarshal(op.Value, &r) == nil && r.State == fleet.StateRestored {
			r.State = fleet.StateOpen
			t.Then[i].Value = must(json.Marshal(r))
		}
	}
}

var sabotages = []*sabotage{
	{rule: "a grant compares the fleet's halt", caught: []string{"4", "21"}, txn: withoutComparing("halt")},
	{rule: "a grant compares the rollout", caught: []string{"4", "1", "10"}, txn: withoutComparing("rollout")},
	{rule: "a grant compares its slot", caught: []string{"3"}, txn: withoutComparing("slot")},
	{rule: "a grant compares the host's hold", caught: []string{"3"}, txn: withoutComparing("hold")},
	{rule: "a report compares the fence", caught: []string{"2", "3", "16"}, request: anyFence},
	{rule: "a report compares the installation", caught: []string{"2", "3", "16", "14"}, request: anyInstall},
	{rule: "time frees no slot", caught: []string{"2", "16"}, txn: freeLost},
	{rule: "a host that does not serve keeps its slot", caught: []string{"2", "16"}, request: alwaysServing},
	{rule: "a check asks for stops", caught: []string{"21", "2"}, answer: func(a *hub.Answer) { a.Check.OK, a.Check.Within = true, 30 }},
	{rule: "the failure that reaches the limit halts", caught: []string{"5"}, plan: func(d *release.Deployment) { d.Halt = &release.HaltPolicy{UpdateDeadline: d.Halt.UpdateDeadline} }},
	{rule: "a hub judges the waves", caught: []string{"6", "7"}, plan: func(d *release.Deployment) {
		d.Waves = slices.Clone(d.Waves)
		for i := range d.Waves {
			d.Waves[i].Advance = ""
		}
	}},
	{rule: "an open wave stays open", caught: []string{"10"}, txn: closeWave},
	{rule: "tallies are the sum of reports", caught: []string{"17"}, txn: countTwice},
	{rule: "every act is in the audit log", caught: []string{"18"}, txn: withoutAudit},
	{rule: "a restored store waits for reconcile", caught: []string{"19"}, txn: ignoreRestored},
}

func TestTheSimulatorNoticesHubsThatBreakOneRule(t *testing.T) {
	most := uint64(3000)
	if raced {
		most = 3
	}
	for _, s := range sabotages {
		t.Run(s.rule, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= most; seed++ {
				failure := simulate(seed, nil, s)
				if failure == "" {
					continue
				}
				_, what, _ := strings.Cut(failure, ": ")
				if number, _, _ := strings.Cut(what, ":"); !slices.Contains(s.caught, number) {
					continue
				}
				t.Logf("after %d histories: %s", seed, failure)
				return
			}
			if !raced {
				t.Errorf("nobody noticed in %d histories", most)
			}
		})
	}
}

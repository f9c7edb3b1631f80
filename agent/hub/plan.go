package hub

import (
	"context"
	"errors"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
)

// Plan is everything signed that is about one group, as this hub's own TUF client verified it.
type Plan struct {
	Deployment *release.Deployment
	Document   release.Digest // of the deployment's exact bytes
	// Inventory is the environment's, with the digest of its exact bytes; nil if none is published.
	Inventory        *release.Inventory
	InventoryDigest  release.Digest
	Emergency        *release.Emergency
	EmergencyExpired bool
	MetadataExpired  *rollout.Expired
	Issued           time.Time // of the newest verified timestamp
}

// Plans reads what is signed. Both methods are asked for every request: they answer from memory, and return documents that
// nobody changes any more.
type Plans interface {
	// Plan returns ErrNoPlan if nothing is signed for the group.
	Plan(ctx context.Context, env release.Environment, app release.App) (*Plan, error)
	// Groups are those whose deployments name a hub as coordinator.
	Groups(ctx context.Context) ([]Group, error)
}

// ErrNoPlan says that no deployment is signed for a group, or that it names no hub.
var ErrNoPlan = errors.New("no deployment that names a hub is signed for this group")

// signed is a plan made ready for many questions. It is read-only.
type signed struct {
	*Plan
	schedule *rollout.Schedule
	limits   limits
	// hosts are the pinned inventory's, by id; nil if the deployment pins none.
	hosts map[string]member
	// sizes are hosts per wave by the pinned inventory.
	sizes []int
}

// member is one host of the pinned inventory.
type member struct {
	labels map[string]string
	wave   int // -1: no wave selects it
}

func newSigned(p *Plan) *signed {
	d := p.Deployment
	s := &signed{Plan: p, schedule: rollout.NewSchedule(d, p.Inventory, p.InventoryDigest), sizes: make([]int, max(1, len(d.Waves)))}
	if d.Inventory != nil && p.Inventory != nil && p.InventoryDigest == d.Inventory.SHA256 {
		s.hosts = make(map[string]member, len(p.Inventory.Hosts))
		for _, h := range p.Inventory.Hosts {
			m := member{labels: h.Labels}
			m.wave, _ = s.schedule.Wave(rollout.Host{ID: h.ID, Environment: d.Environment, Labels: h.Labels})
			if m.wave >= 0 {
				s.sizes[m.wave]++
			}
			s.hosts[h.ID] = m
		}
	}
	s.limits = newLimits(s)
	return s
}

// same says that two plans differ in nothing that signed keeps.
func (s *signed) same(p *Plan) bool {
	return s != nil && s.Deployment == p.Deployment && s.Inventory == p.Inventory && s.InventoryDigest == p.InventoryDigest
}

// labels are the host's: the owners' if an inventory is pinned, otherwise the host's own word.
func (s *signed) labels(host string, told map[string]string) map[string]string {
	if s.hosts != nil {
		return s.hosts[host].labels
	}
	return told
}

// wave is the host's wave by its index, -1 if it has none.
func (s *signed) wave(host string, told map[string]string) int {
	if s.hosts != nil {
		m, ok := s.hosts[host]
		if !ok {
			return -1
		}
		return m.wave
	}
	index, _ := s.schedule.Wave(rollout.Host{ID: host, Environment: s.Deployment.Environment, Labels: told})
	return index
}

// waveName is the name of a wave, "" for the only one of a deployment without waves.
func (s *signed) waveName(index int) string {
	if index < 0 || index >= len(s.Deployment.Waves) {
		return ""
	}
	return s.Deployment.Waves[index].Name
}

// waveIndex finds a wave by name; the first one if the name is not there any more.
func (s *signed) waveIndex(name string) int {
	for i, w := range s.Deployment.Waves {
		if w.Name == name {
			return i
		}
	}
	return 0
}

// digest is the release's, zero for a removal.
func (s *signed) digest() release.Digest {
	if s.Deployment.Release == nil {
		return release.Digest{}
	}
	return s.Deployment.Release.SHA256
}

func (s *signed) version() release.Version {
	if s.Deployment.Release == nil {
		return release.Version{}
	}
	_, v, _ := release.ParseReleasePath(s.Deployment.Release.Path)
	return v
}

func (s *signed) epoch() int64 {
	if s.Emergency == nil {
		return 0
	}
	return s.Emergency.Epoch
}

// judged says that the wave opens only after a hub found the waves before it good: it, or one before it, advances
// automatically.
func (s *signed) judged(wave int) bool {
	for _, w := range s.Deployment.Waves[:min(wave+1, len(s.Deployment.Waves))] {
		if w.Advance == "auto" {
			return true
		}
	}
	return false
}

// unjudged is the last wave that signatures alone open, going on from a wave that is open.
func (s *signed) unjudged(from int) int {
	for next := from + 1; next < len(s.Deployment.Waves); next++ {
		if _, open := s.schedule.Signed(next); !open || s.judged(next) {
			break
		}
		from = next
	}
	return from
}

// decide asks the real rules about a host as if it had its slot for a direction. A slot to go back comes with the order.
func (s *signed) decide(host string, told map[string]string, runs *fleet.Runs, dir fleet.Direction, now time.Time) rollout.Decision {
	in := s.input(now)
	in.Host = rollout.Host{ID: host, Environment: s.Deployment.Environment, Labels: told}
	back := dir == fleet.Back
	in.Slot = rollout.Slot{Answer: rollout.AnswerGranted, Back: back, Order: back}
	if runs != nil {
		in.Current = &rollout.Running{Version: runs.Version, Digest: runs.Digest, Healthy: runs.Healthy}
	}
	return rollout.Decide(in)
}

func (s *signed) input(now time.Time) rollout.Input {
	return rollout.Input{Deployment: s.Deployment, Emergency: s.Emergency, EmergencyExpired: s.EmergencyExpired, Inventory: s.Inventory,
		InventoryDigest: s.InventoryDigest, Schedule: s.schedule, Now: now, ClockTrusted: true, Issued: s.Issued, MetadataExpired: s.MetadataExpired}
}

// ruleOf maps a rule of the signed plan to the wire's.
func ruleOf(d rollout.Decision, state release.DeploymentState) string {
	switch d.Rule {
	case rollout.RuleState:
		if state == release.StatePaused {
			return fleet.RulePaused
		}
		return fleet.RuleHalted
	case rollout.RuleEmergency, rollout.RuleRevoked, rollout.RuleMinimum:
		return fleet.RuleHalted
	case rollout.RuleRevert:
		return fleet.RuleReverted
	case rollout.RuleInventory:
		return fleet.RuleUnknown
	case rollout.RuleWave, rollout.RuleAdvance:
		return fleet.RuleWave
	}
	return fleet.RuleSigned
}

// stopped says whether what is signed lets nobody start at all, and why. It asks about a host that exists in no fleet, so
// that nothing but the group's own state answers.
func (s *signed) stopped(now time.Time) (rule, reason string) {
	in := s.input(now)
	in.Host = rollout.Host{Environment: s.Deployment.Environment}
	in.Slot = rollout.Slot{Answer: rollout.AnswerGranted}
	d := rollout.Decide(in)
	switch rule := ruleOf(d, s.Deployment.State); rule {
	case fleet.RulePaused, fleet.RuleHalted:
		return rule, d.Because
	}
	return "", ""
}

// reverting says that the signers take the release back.
func (s *signed) reverting() bool { return s.Deployment.State == release.StateRevert }

// fallback is the signed fallback if hosts may go there now.
func (s *signed) fallback(now time.Time) *release.Reference { return rollout.FallbackOf(s.input(now)) }

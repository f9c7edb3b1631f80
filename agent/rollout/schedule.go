package rollout

import (
	"fmt"
	"slices"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// Schedule is a deployment's waves and calendar made ready for many questions: the inventory ranked, the zones loaded. It
// is read-only once made. One that lacks the pinned inventory is valid and lets nobody start.
type Schedule struct {
	d         *release.Deployment
	base      time.Time
	seed      string
	calendar  calendar
	maxWave   int
	roster    *roster
	inventory string // why the pinned inventory is not usable; empty if it is, or none is pinned
}

// NewSchedule prepares a deployment. The inventory is used only if the deployment pins exactly that digest: an inventory
// that the signers did not choose must not change anybody's turn.
func NewSchedule(d *release.Deployment, inv *release.Inventory, digest release.Digest) *Schedule {
	s := &Schedule{d: d, base: d.Created, seed: seed(d), calendar: newCalendar(d.Windows, d.Freeze)}
	if d.NotBefore != nil {
		s.base = *d.NotBefore
	}
	s.maxWave = slices.IndexFunc(d.Waves, func(w release.Wave) bool { return w.Name == d.MaxWave })
	if d.Inventory == nil {
		return s
	}
	switch {
	case inv == nil:
		s.inventory = "the deployment pins an inventory that is not here yet"
	case digest != d.Inventory.SHA256:
		s.inventory = fmt.Sprintf("the deployment pins inventory %s, the published one is %s", d.Inventory.SHA256.Short(), digest.Short())
	case inv.Environment != d.Environment:
		s.inventory = fmt.Sprintf("the pinned inventory is of %s, not of %s", inv.Environment, d.Environment)
	default:
		s.roster = rank(d, inv)
	}
	return s
}

// For keeps what one host's decisions need and lets go of the rest of the inventory. Every other host is unlisted in it.
func (s *Schedule) For(hostID string) *Schedule {
	if s.roster == nil {
		return s
	}
	one := *s
	one.roster = &roster{seats: map[string]seat{}, total: s.roster.total, sizes: s.roster.sizes}
	if seat, listed := s.roster.seats[hostID]; listed {
		one.roster.seats[hostID] = seat
	}
	return &one
}

// isFor says whether the schedule may answer for d: made from this very document, and not made before its inventory came.
func (s *Schedule) isFor(d *release.Deployment) bool {
	return s != nil && s.d == d && s.inventory == ""
}

// turn is a host's place: its wave and when it may go there at the earliest. Of is zero where places are shares, not ranks.
type turn struct {
	index    int
	name     string
	position float64
	rank, of int
	start    time.Time
	missing  wait // why there is no place, if there is none
}

// place tells people where in the order the host stands.
func (t turn) place() string {
	if t.of > 0 {
		return fmt.Sprintf("host %d of %d", t.rank+1, t.of)
	}
	return fmt.Sprintf("position %.4g", t.position)
}

// turn finds the first wave that selects the host. Waves are cumulative: a host selected by an early wave is never looked
// for in a later one.
func (s *Schedule) turn(h Host) (turn, bool) {
	p := place(s.seed, h.ID)
	t := turn{position: fraction(p), start: s.base}
	if s.inventory != "" {
		t.missing = wait{rule: RuleInventory, because: s.inventory}
		return t, false
	}
	if s.roster != nil {
		return s.rankedTurn(t, h)
	}
	if len(s.d.Waves) == 0 {
		return t, true
	}
	first := 0
	for i, w := range s.d.Waves {
		if w.Count > 0 {
			t.missing = wait{rule: RuleInventory, because: fmt.Sprintf(
				"wave %s takes %d hosts by rank and the deployment pins no inventory", w.Name, w.Count)}
			return t, false
		}
		if share, ok := selects(w, h, p, first); ok {
			return s.in(t, i, share), true
		}
		first = max(first, w.PercentBP)
	}
	t.missing = wait{rule: RuleWave, because: "no wave of the deployment selects this host (" + t.place() + ")"}
	return t, false
}

// selects reports whether a wave without ranks takes the host, and which share of the wave goes before it.
func selects(w release.Wave, h Host, p uint64, first int) (share uint64, ok bool) {
	switch {
	case w.PercentBP > 0:
		if bp, _ := bucket(p); bp >= uint64(w.PercentBP) {
			return 0, false
		}
		return shareWithin(p, first, w.PercentBP), true
	case len(w.Hosts) > 0:
		return p, slices.Contains(w.Hosts, h.ID)
	case len(w.Labels) > 0:
		return p, matches(w.Labels, h.Labels)
	}
	return 0, false
}

func matches(want, have map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func (s *Schedule) in(t turn, wave int, share uint64) turn {
	t.index, t.name = wave, s.d.Waves[wave].Name
	t.start = s.floor(wave).Add(part(s.d.Waves[wave].Spread.Std(), share))
	return t
}

// floor is when a wave opens at the earliest: never before an earlier wave, whatever its own start_after says.
func (s *Schedule) floor(wave int) time.Time {
	var after time.Duration
	for _, w := range s.d.Waves[:wave+1] {
		after = max(after, w.StartAfter.Std())
	}
	return s.base.Add(after)
}

// advanced reports whether the signatures so far let a wave open. The first wave is always open. A later one needs max_wave
// to reach it if it or any wave before it advances by signature, or automatically without a hub that could judge the waves
// before it: time alone must not stand in for a judgement the signers asked for. A max_wave is a ceiling in any case.
func (s *Schedule) advanced(wave int) (because string, open bool) {
	if wave == 0 || wave <= s.maxWave {
		return "", true
	}
	name := s.d.Waves[wave].Name
	if s.d.MaxWave != "" {
		return fmt.Sprintf("wave %s is beyond the signed max_wave %s", name, s.d.MaxWave), false
	}
	for _, w := range s.d.Waves[:wave+1] {
		switch {
		case w.Advance == "" || w.Advance == "none":
		case w.Advance == "auto" && s.hubJudges():
		case w.Advance == "auto":
			return fmt.Sprintf("wave %s needs a signed max_wave: wave %s advances automatically and no hub may judge it", name, w.Name), false
		default:
			return fmt.Sprintf("wave %s needs a signed max_wave: wave %s advances by signature", name, w.Name), false
		}
	}
	return "", true
}

func (s *Schedule) hasHub() bool { return s.d.Coordinator != nil && s.d.Coordinator.Kind == "hub" }

// hubJudges says whether a hub may open waves. One that may only tighten may not: opening is what the signatures are for then.
func (s *Schedule) hubJudges() bool { return s.hasHub() && !s.d.Coordinator.TightenOnly }

// revertShare is the share of the fleet that reverts before the host: the reverse of the order in which it went forward.
func (s *Schedule) revertShare(h Host) uint64 {
	if s.roster != nil {
		if seat, ok := s.roster.seats[h.ID]; ok {
			n := s.roster.total
			return rankShare(n-1-seat.overall, n)
		}
	}
	return ^place(s.seed, h.ID)
}

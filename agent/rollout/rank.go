package rollout

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"

	"github.com/slipway-deploy/slipway/agent/release"
)

// roster is the ranked inventory: every host's seat.
type roster struct {
	seats map[string]seat
	total int
	sizes []int  // hosts per wave
	hosts []Host // in the order of the ranks
}

// seat is a host's place: overall in the order, and its rank in its wave (-1 if no wave takes it).
type seat struct {
	overall, wave, rank int
}

// ranked is one inventory host while the order is made.
type ranked struct {
	id     string
	labels map[string]string
	place  uint64
	key    uint64 // place after interleaving sites
}

// rank gives every host of the inventory its seat.
func rank(d *release.Deployment, inv *release.Inventory) *roster {
	order := ordered(d, inv)
	r := &roster{seats: make(map[string]seat, len(order)), total: len(order), sizes: make([]int, len(d.Waves))}
	taken := make([]bool, len(order))
	for i, h := range order {
		r.seats[h.id] = seat{overall: i, wave: -1}
		r.hosts = append(r.hosts, Host{ID: h.id, Environment: d.Environment, Labels: h.labels})
	}
	total := 0
	for w, wave := range d.Waves {
		limit, picks := quota(wave, total, len(order)), picker(wave)
		for i, h := range order {
			if r.sizes[w] == limit {
				break
			}
			if !taken[i] && picks(h) {
				taken[i] = true
				r.seats[h.id] = seat{overall: i, wave: w, rank: r.sizes[w]}
				r.sizes[w]++
			}
		}
		total += r.sizes[w]
	}
	return r
}

// quota is how many hosts a wave may take. A percentage is cumulative and rounds up: after the wave that share of the fleet
// is in it or in a wave before it, and a first percent wave of a fleet is never empty.
func quota(w release.Wave, taken, fleet int) int {
	switch {
	case w.Count > 0:
		return w.Count
	case w.PercentBP > 0:
		upTo := (min(w.PercentBP, fullBP)*fleet + fullBP - 1) / fullBP
		return max(0, upTo-taken)
	}
	return fleet
}

// picker is the wave's own condition, asked in order until its quota is full.
func picker(w release.Wave) func(ranked) bool {
	if w.Count > 0 || w.PercentBP > 0 {
		return func(ranked) bool { return true }
	}
	if len(w.Hosts) == 0 {
		return func(h ranked) bool { return len(w.Labels) > 0 && matches(w.Labels, h.labels) }
	}
	named := make(map[string]bool, len(w.Hosts))
	for _, id := range w.Hosts {
		named[id] = true
	}
	return func(h ranked) bool { return named[h.id] }
}

// ordered sorts hosts by position and interleaves sites in proportion: the i-th of a site's n hosts stands at (i+phase)/n,
// with a phase hashed from the site so that no site is always first.
func ordered(d *release.Deployment, inv *release.Inventory) []ranked {
	order := make([]ranked, 0, len(inv.Hosts))
	seen := make(map[string]bool, len(inv.Hosts))
	for _, h := range inv.Hosts {
		if !seen[h.ID] {
			seen[h.ID] = true
			order = append(order, ranked{id: h.ID, labels: h.Labels, place: place(seed(d), h.ID)})
		}
	}
	slices.SortFunc(order, func(a, b ranked) int { return cmp.Or(cmp.Compare(a.place, b.place), strings.Compare(a.id, b.id)) })
	if d.Budget != nil && len(d.Budget.GroupBy) > 0 {
		interleave(seed(d), d.Budget.GroupBy, order)
	}
	return order
}

func interleave(seed string, by []string, order []ranked) {
	size, next := map[string]int{}, map[string]int{}
	for _, h := range order {
		size[siteOf(by, h.labels)]++
	}
	for i, h := range order {
		site := siteOf(by, h.labels)
		order[i].key, _ = bits.Div64(uint64(next[site]), place(seed, "site\x00"+site), uint64(size[site]))
		next[site]++
	}
	slices.SortStableFunc(order, func(a, b ranked) int { return cmp.Compare(a.key, b.key) })
}

// siteOf joins the values of the group_by labels; hosts without a label share the site with the empty value.
func siteOf(by []string, labels map[string]string) string {
	values := make([]string, len(by))
	for i, k := range by {
		values[i] = labels[k]
	}
	return strings.Join(values, "\x00")
}

// rankedTurn finds the host's seat. A host that the owners did not list has none: the counts would no longer be exact.
func (s *Schedule) rankedTurn(t turn, h Host) (turn, bool) {
	seat, listed := s.roster.seats[h.ID]
	switch {
	case !listed:
		t.missing = wait{rule: RuleInventory, because: "this host (" + h.ID + ") is not in the pinned inventory; add it and sign a new deployment"}
		return t, false
	case len(s.d.Waves) == 0:
		return t, true
	case seat.wave < 0:
		t.missing = wait{rule: RuleWave, because: "no wave of the deployment selects this host"}
		return t, false
	}
	t.rank, t.of = seat.rank, s.roster.sizes[seat.wave]
	return s.in(t, seat.wave, rankShare(t.rank, t.of)), true
}

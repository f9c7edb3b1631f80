package rollout

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/slipway-deploy/slipway/agent/release"
)

// flaws finds what cannot work although every single field is allowed. Only a deployment that starts something is judged: a
// stop or a revert must never wait for a better plan.
func (f *Forecast) flaws(s *Schedule) {
	if s.d.State != release.StateActive {
		return
	}
	if s.inventory != "" {
		f.refuse("inventory.sha256", "nobody could start: %s", s.inventory)
	}
	f.timeFlaws(s)
	for i := range s.d.Waves {
		f.waveFlaws(s, i)
	}
	f.budgetFlaws(s)
	f.haltFlaws(s.d)
	if s.d.OnCoordinatorLoss != "" && !coordinated(s.d) {
		f.refuse("on_coordinator_loss", "no coordinator is named that could be lost")
	}
}

func (f *Forecast) refuse(field, format string, args ...any) {
	f.Problems = append(f.Problems, release.Problem{Field: field, Reason: fmt.Sprintf(format, args...)})
}

// timeFlaws finds times at which nobody can start. Without waves everybody's time is the first.
func (f *Forecast) timeFlaws(s *Schedule) {
	if len(s.d.Waves) == 0 {
		if s.possible(s.base).IsZero() {
			f.refuse("expires", "no host could ever start: from %s until it expires %s no window is open and free of freezes", clock(s.base), clock(*s.d.Expires))
		}
		return
	}
	for i, w := range f.Waves {
		if !w.Opens.IsZero() {
			continue
		}
		if s.calendar.broken != "" || s.d.Expires == nil {
			f.refuse("windows", "wave %s never opens: no window of the deployment ever does", w.Name)
			continue
		}
		f.refuse(fmt.Sprintf("waves[%d]", i), "wave %s never opens: its earliest start is %s, and until the deployment expires %s no window is open and free of freezes",
			w.Name, clock(w.Floor), clock(*s.d.Expires))
	}
}

// waveFlaws finds a wave that has no hosts, or can never have those it asks for.
func (f *Forecast) waveFlaws(s *Schedule, i int) {
	w, got, at := s.d.Waves[i], f.Waves[i], fmt.Sprintf("waves[%d]", i)
	switch {
	case f.Exact && got.Hosts == 0:
		f.refuse(at, "wave %s is empty: no host of the inventory is left for it, and an empty wave proves nothing about a release", w.Name)
		return
	case f.Exact:
	default:
		if by := takenBefore(s.d.Waves, i); by != "" {
			f.refuse(at, "wave %s is empty: wave %s before it takes all its hosts", w.Name, by)
			return
		}
	}
	if (f.Exact || len(w.Hosts) > 0) && float64(w.MinHosts) > got.Hosts {
		f.refuse(at+".min_hosts", "wave %s could never pass: it asks for %d hosts and has %.0f", w.Name, w.MinHosts, got.Hosts)
	}
}

// takenBefore names the earlier wave that leaves nothing for wave i, as far as that can be said without an inventory.
func takenBefore(waves []release.Wave, i int) string {
	w := waves[i]
	named := map[string]bool{}
	for _, before := range waves[:i] {
		for _, h := range before.Hosts {
			named[h] = true
		}
		switch {
		case before.PercentBP == fullBP:
			return before.Name
		case len(w.Labels) > 0 && len(before.Labels) > 0 && matches(before.Labels, w.Labels):
			return before.Name
		case len(w.Hosts) > 0 && !slices.ContainsFunc(w.Hosts, func(h string) bool { return !named[h] }):
			return before.Name
		}
	}
	return ""
}

func coordinated(d *release.Deployment) bool {
	return d.Coordinator != nil && d.Coordinator.Kind != "" && d.Coordinator.Kind != "none"
}

func (f *Forecast) budgetFlaws(s *Schedule) {
	b := s.d.Budget
	if b == nil {
		if s.hasHub() {
			f.refuse("coordinator", "a hub needs a [budget]: how many hosts may be unavailable at once?")
		}
		return
	}
	if b.MinAvailable == 0 {
		return
	}
	if s.roster == nil {
		switch {
		case len(b.GroupBy) > 0:
			f.refuse("budget.min_available", "no host could ever start: only an inventory says how many hosts share %s", strings.Join(b.GroupBy, ", "))
		case s.d.Population == 0:
			f.refuse("budget.min_available", "no host could ever start: neither population nor inventory says how many there are")
		case Limit(b, int(s.d.Population)) == 0:
			f.refuse("budget.min_available", "no host may ever be unavailable: %d of %d must be available", b.MinAvailable, s.d.Population)
		}
		return
	}
	sizes := cells(b, s.roster.hosts)
	for _, cell := range slices.Sorted(maps.Keys(sizes)) {
		if Limit(b, sizes[cell]) == 0 {
			f.refuse("budget.min_available", "no host %smay ever be unavailable: %d of %d must be available", ofCell(b, cell), b.MinAvailable, sizes[cell])
			return
		}
	}
}

func ofCell(b *release.Budget, cell string) string {
	if len(b.GroupBy) == 0 {
		return ""
	}
	return fmt.Sprintf("of %s %q ", strings.Join(b.GroupBy, ", "), strings.ReplaceAll(cell, "\x00", ", "))
}

func (f *Forecast) haltFlaws(d *release.Deployment) {
	h := d.Halt
	switch {
	case h == nil:
	case h.MaxFailures == 0 && h.MaxFailureBP == 0 && h.MaxLost == 0 && h.ProgressDeadline == 0:
		f.refuse("halt", "it names no limit (max_failures, max_failure_bp, max_lost, progress_deadline): nothing would ever halt")
	case h.MaxFailureBP > 0 && h.MinSample == 0:
		f.refuse("halt.max_failure_bp", "a share needs min_sample: without one the very first host that fails is a share of 100 %%")
	case h.MaxFailureBP > 0 && h.MaxFailures == 0 && f.Hosts > 0 && int64(h.MinSample) > f.Hosts:
		f.refuse("halt.min_sample", "the share would never be judged: it wants %d hosts that tried, and the fleet has %d", h.MinSample, f.Hosts)
	}
}

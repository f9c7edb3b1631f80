package rollout

import (
	"fmt"
	"math"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// Forecast is who would go when if the deployment were signed as it is. Exact is true if a pinned inventory ranks the
// hosts; otherwise counts are expectations over the population.
// Problems are why it cannot work at all, with the field that is to blame: a publisher refuses it before anybody signs.
type Forecast struct {
	Exact    bool
	Hosts    int64
	Waves    []WaveForecast
	Warnings []Warning
	Problems []release.Problem
}

// WaveForecast is one wave's outlook. Hosts is -1 if nobody can know it (labels without an inventory). Opens and Last are
// the first and the last start with windows and freezes counted in; zero means never. Empty is the chance that the wave
// has no host at all. Floor is the earliest start the waves alone allow. NeedsSignature says that it stays closed until
// max_wave is raised to it.
type WaveForecast struct {
	Name           string
	Floor          time.Time
	Hosts          float64
	Empty          float64
	Opens, Last    time.Time
	NeedsSignature bool
}

// Warning is something a signer should know first. Kind is one of a small fixed set.
type Warning struct {
	Kind, Wave, Message string
}

// The kinds of warnings.
const (
	WarnEmptyWave    = "empty-wave"
	WarnUnplaced     = "unplaced"
	WarnNeverOpens   = "never-opens"
	WarnMinHosts     = "min-hosts"
	WarnAdvance      = "advance"
	WarnBunched      = "bunched"
	WarnFreshness    = "freshness"
	WarnNoPopulation = "no-population"
	WarnNobodyCounts = "nobody-counts"
	WarnUnknownHost  = "unknown-host"
	WarnShortWave    = "short-wave"
	WarnNoHalt       = "no-halt"
)

const (
	// emptyLimit is the chance of an empty wave above which a signer is warned.
	emptyLimit = 0.01
	// bunchLimit is the share of a wave that may start at the same instant before its spread counts as lost.
	bunchLimit = 0.2
)

// Plan forecasts a deployment. The population counts hosts if no inventory is pinned; zero takes the deployment's own.
func Plan(d *release.Deployment, inv *release.Inventory, digest release.Digest, population int64) Forecast {
	s := NewSchedule(d, inv, digest)
	f := Forecast{Hosts: population}
	if population == 0 {
		f.Hosts = d.Population
	}
	if s.roster != nil {
		f.Exact, f.Hosts = true, int64(s.roster.total)
	}
	first := 0
	for i, w := range d.Waves {
		f.Waves = append(f.Waves, s.forecast(i, first, f.Hosts))
		f.judge(s, i)
		first = max(first, w.PercentBP)
	}
	if len(d.Waves) > 0 {
		f.judgeAll(s, first)
	}
	f.judgePolicies(s)
	f.flaws(s)
	return f
}

// judgePolicies warns about limits that nobody is there to keep.
func (f *Forecast) judgePolicies(s *Schedule) {
	d := s.d
	if d.Freshness == 0 {
		f.warn(WarnFreshness, "", "freshness is not set: a mirror that withholds new metadata delays a halt until the timestamp expires")
	}
	switch {
	case s.hasHub() && d.Halt == nil:
		f.warn(WarnNoHalt, "", "no halt limits are set: the hub counts failures and stops nothing")
	case !coordinated(d) && d.Budget != nil && len(d.Budget.GroupBy) == 0:
		f.warn(WarnNobodyCounts, "", "the budget bounds nothing: without a coordinator nobody counts the hosts that are unavailable")
	case !s.hasHub() && d.Halt != nil:
		f.warn(WarnNobodyCounts, "", "the halt limits stop nothing: without a hub nobody counts failures; a person halts")
	}
}

func (f *Forecast) warn(kind, wave, format string, args ...any) {
	f.Warnings = append(f.Warnings, Warning{kind, wave, fmt.Sprintf(format, args...)})
}

func (s *Schedule) forecast(i, first int, fleet int64) WaveForecast {
	w := s.d.Waves[i]
	f := WaveForecast{Name: w.Name, Floor: s.floor(i), Hosts: -1}
	_, open := s.advanced(i)
	f.NeedsSignature = !open
	f.Opens = s.possible(s.floor(i))
	f.Last = s.possible(s.floor(i).Add(part(w.Spread.Std(), math.MaxUint64)))
	switch {
	case s.roster != nil:
		f.Hosts = float64(s.roster.sizes[i])
		if f.Hosts == 0 {
			f.Empty = 1
		}
	case w.PercentBP > 0:
		p := float64(w.PercentBP-first) / fullBP
		f.Hosts, f.Empty = p*float64(fleet), math.Pow(1-p, float64(fleet))
	case len(w.Hosts) > 0:
		f.Hosts = float64(len(w.Hosts))
	}
	return f
}

// possible is when a start that is due at t may really happen; zero if it never may.
func (s *Schedule) possible(t time.Time) time.Time {
	at, objection := s.calendar.next(t)
	if objection != nil && objection.until.IsZero() || s.d.Expires != nil && !at.Before(*s.d.Expires) {
		return time.Time{}
	}
	return at
}

// judge warns about one wave.
func (f *Forecast) judge(s *Schedule, i int) {
	w, got := s.d.Waves[i], f.Waves[i]
	known := f.Exact || f.Hosts > 0
	switch {
	case f.Exact:
	case known && got.Empty > emptyLimit:
		f.warn(WarnEmptyWave, w.Name, "in a fleet of %d wave %s has no host at all with a chance of %.0f %%: name hosts, use labels, or pin an inventory",
			f.Hosts, w.Name, got.Empty*100)
	case known && w.PercentBP > 0 && got.Hosts < float64(w.MinHosts):
		f.warn(WarnMinHosts, w.Name, "wave %s asks for %d hosts before it may pass and has about %.3g", w.Name, w.MinHosts, got.Hosts)
	}
	if f.Exact {
		f.judgeExact(s, i)
	}
	if got.Opens.IsZero() {
		return // a problem, told as one
	}
	if got.Last.IsZero() {
		f.warn(WarnNeverOpens, w.Name, "not every host of wave %s can start: windows, freezes and expires leave no time", w.Name)
	} else if at, share := s.bunched(i); share > bunchLimit {
		f.warn(WarnBunched, w.Name, "%.0f %% of wave %s start at the same instant, %s, because the calendar is closed during its spread",
			share*100, w.Name, clock(at))
	}
	if _, open := s.advanced(i); !open && w.Advance == "auto" && !s.hubJudges() {
		f.warn(WarnAdvance, w.Name, "wave %s advances automatically but there is no hub that may judge the waves before it: it needs a signed max_wave", w.Name)
	}
}

// judgeExact warns about hosts that a wave asks for and the inventory does not have.
func (f *Forecast) judgeExact(s *Schedule, i int) {
	w := s.d.Waves[i]
	if got := s.roster.sizes[i]; got < w.Count {
		f.warn(WarnShortWave, w.Name, "wave %s asks for %d hosts and only %d are left", w.Name, w.Count, got)
	}
	for _, h := range w.Hosts {
		if _, listed := s.roster.seats[h]; !listed {
			f.warn(WarnUnknownHost, w.Name, "wave %s names host %s, which is not in the inventory: it never goes", w.Name, h)
		}
	}
}

// judgeAll warns about what all waves together leave out.
func (f *Forecast) judgeAll(s *Schedule, percent int) {
	left := int64(0)
	if f.Exact {
		left = f.Hosts
		for _, n := range s.roster.sizes {
			left -= int64(n)
		}
	}
	switch {
	case left > 0:
		f.warn(WarnUnplaced, "", "%d of %d hosts are in no wave and never go", left, f.Hosts)
	case !f.Exact && percent < fullBP:
		f.warn(WarnUnplaced, "", "the percent waves end at %.4g %%: other hosts go only if labels or names select them", float64(percent)/100)
	}
	if !f.Exact && f.Hosts == 0 {
		f.warn(WarnNoPopulation, "", "neither population nor inventory says how many hosts there are: the chance of an empty wave is not known")
	}
}

// bunched finds the instant at which the largest share of a spread wave starts, because the calendar holds starts back.
func (s *Schedule) bunched(i int) (worst time.Time, share float64) {
	const samples = 200
	spread := s.d.Waves[i].Spread.Std()
	if spread <= 0 {
		return time.Time{}, 0
	}
	at := map[time.Time]int{}
	for n := range samples {
		due := s.floor(i).Add(part(spread, rankShare(n, samples)))
		starts, objection := s.calendar.next(due)
		if objection == nil {
			continue
		}
		at[starts]++
		if got := float64(at[starts]) / samples; got > share {
			worst, share = starts, got
		}
	}
	return worst, share
}

// Start is when one host may start at the earliest; a zero At is never, and Because says why.
type Start struct {
	Host, Wave string
	Position   float64
	At         time.Time
	Because    string
}

// Hosts are those of the pinned inventory in their order; nil if none is pinned, or it is not here.
func (s *Schedule) Hosts() []Host {
	if s.roster == nil {
		return nil
	}
	return s.roster.hosts
}

// Starts lists the hosts' starts in the order given, as if every signature for a later wave came in time.
func (s *Schedule) Starts(hosts []Host) []Start {
	list := make([]Start, 0, len(hosts))
	for _, h := range hosts {
		t, placed := s.turn(h)
		start := Start{Host: h.ID, Wave: t.name, Position: t.position, Because: t.missing.because}
		if placed {
			if start.At = s.possible(t.start); start.At.IsZero() {
				start.Because = "windows, freezes and expires leave no time"
			}
		}
		list = append(list, start)
	}
	return list
}

package rollout

import (
	"cmp"
	"container/heap"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// Trial is what a simulation assumes of every host: how likely the release fails there, how long a host is busy with it, and
// how often it looks for news. The same seed gives the same outcome.
type Trial struct {
	FailureRate float64
	Took        time.Duration
	Seed        uint64
	// Poll and Jitter are the hosts' poll.interval and poll.jitter. A host knows what was published only when it has polled;
	// zero means at once.
	Poll   time.Duration
	Jitter float64
	// React is how long after the failure that reaches the halt limits (one failure, where none are signed) a person publishes a
	// halt, where no hub does so in the same instant. Zero means that nobody does.
	React time.Duration
}

// Outcome is what happened. Started hosts were touched, Untouched ones never started. HaltedAt is zero if nothing stopped the
// rollout; without a hub it is when the halt was published, and hosts hear of it when they poll.
type Outcome struct {
	Started, Failed, Untouched int
	PeakInFlight               int
	Finished                   time.Time
	HaltedAt                   time.Time
	HaltedIn                   string
	// HeldIn is the wave that a hub did not let pass although no limit was reached: too few of its hosts are well.
	HeldIn string
}

// simulation is one run; busy holds the hosts in flight in the order in which they finish.
type simulation struct {
	s     *Schedule
	trial Trial
	busy  []inFlight
	last  time.Time // the latest end of a host that started
	all   int       // hosts that may be in flight in all, where each label group has a limit of its own; 0 is no bound
	tried int
	well  map[string]int // by wave
	ill   map[string]int
	out   Outcome
}

type inFlight struct {
	wave   string
	ends   time.Time
	failed bool
}

// candidate is a host that may start, with what chance has drawn for it.
type candidate struct {
	Start
	cell   string
	failed bool
	hears  time.Duration // from the publication of a halt until this host has polled
}

// lane is the hosts that share one limit, in the order in which they go.
type lane struct {
	queue []candidate
	ends  []time.Time
	limit int
	after time.Time // when the whole fleet's limit lets it look again
	next  time.Time
}

// Simulate plays the rollout over hosts. Only a hub keeps the budget, judges waves that advance automatically and halts by
// itself; without one every host starts at its own time whatever the others report, until a halt that a person publishes
// reaches it. Signatures for later waves are assumed to come in time.
func (s *Schedule) Simulate(hosts []Host, trial Trial) Outcome {
	m := &simulation{s: s, trial: trial, well: map[string]int{}, ill: map[string]int{}}
	sizes := cells(s.d.Budget, hosts)
	if b := s.d.Budget; b != nil && len(b.GroupBy) > 0 && b.PercentBP > 0 {
		m.all = Limit(b, len(hosts)) // the ones that many small groups are left add up
	}
	for _, wave := range m.waves(m.candidates(hosts)) {
		if m.run(wave, sizes); !m.passes(wave) {
			break
		}
	}
	m.settle(time.Time{})
	m.out.Untouched = len(hosts) - m.out.Started
	return m.out
}

// candidates draws everything that is left to chance, in the order of hosts, so that no other setting changes the draw.
func (m *simulation) candidates(hosts []Host) []candidate {
	chance := rand.New(rand.NewPCG(m.trial.Seed, 2))
	heard := func() time.Duration {
		period := float64(m.trial.Poll) * (1 + m.trial.Jitter*chance.Float64())
		return time.Duration(chance.Float64() * period)
	}
	list := make([]candidate, 0, len(hosts))
	for i, start := range m.s.Starts(hosts) {
		c := candidate{Start: start, cell: cellOf(m.s.d.Budget, hosts[i]), failed: chance.Float64() < m.trial.FailureRate}
		knows := m.s.d.Created.Add(heard())
		if c.hears = heard(); m.s.hasHub() {
			c.hears = 0
		}
		if !start.At.IsZero() && knows.After(start.At) {
			c.At = m.s.possible(knows)
		}
		if !c.At.IsZero() {
			list = append(list, c)
		}
	}
	slices.SortStableFunc(list, func(a, b candidate) int { return a.At.Compare(b.At) })
	return list
}

// waves splits the candidates where a hub judges the waves before.
func (m *simulation) waves(list []candidate) [][]candidate {
	part, of := 0, map[string]int{}
	for i, w := range m.s.d.Waves {
		if i > 0 && m.s.hasHub() && w.Advance == "auto" {
			part++
		}
		of[w.Name] = part
	}
	split := make([][]candidate, part+1)
	for _, c := range list {
		split[of[c.Wave]] = append(split[of[c.Wave]], c)
	}
	return split
}

// passes judges the waves that ran as a hub does before it opens the next: enough hosts are well, and not more failed.
func (m *simulation) passes(ran []candidate) bool {
	if !m.s.hasHub() || !m.out.HaltedAt.IsZero() {
		return true
	}
	m.settle(m.last)
	judged := map[string]bool{}
	for _, c := range ran {
		judged[c.Wave] = true
	}
	for _, w := range m.s.d.Waves {
		if well := m.well[w.Name]; judged[w.Name] && (well < max(1, w.MinHosts) || well < m.ill[w.Name]) {
			m.out.HeldIn = w.Name
			return false
		}
	}
	return true
}

// run lets the hosts of a wave start, none before the wave before it is done and was watched.
func (m *simulation) run(wave []candidate, sizes map[string]int) {
	open := m.last
	if h := m.s.d.Health; h != nil && !open.IsZero() {
		open = open.Add(h.MinHealthyTime.Std())
	}
	by := map[string]*lane{}
	for _, c := range wave {
		l := by[c.cell]
		if l == nil {
			l = &lane{limit: len(wave)}
			if m.s.hasHub() {
				l.limit = Limit(m.s.d.Budget, sizes[c.cell])
			}
			by[c.cell] = l
		}
		c.At = latest(c.At, open)
		l.queue = append(l.queue, c)
	}
	var order lanes
	for _, cell := range slices.Sorted(maps.Keys(by)) {
		if m.ready(by[cell]) {
			order = append(order, by[cell])
		}
	}
	heap.Init(&order)
	for len(order) > 0 {
		l := order[0]
		m.consider(l)
		if m.ready(l) {
			heap.Fix(&order, 0)
		} else {
			heap.Pop(&order)
		}
	}
}

// ready finds the first instant at which the budget and the calendar let the lane's next host start.
func (m *simulation) ready(l *lane) bool {
	if len(l.queue) == 0 || l.limit == 0 {
		return false
	}
	at := l.queue[0].At
	if len(l.ends) >= l.limit {
		at = latest(at, l.ends[len(l.ends)-l.limit])
	}
	l.next = m.s.possible(latest(at, l.after))
	return !l.next.IsZero()
}

// consider starts the lane's next host unless it has heard of a halt, or the whole fleet is at its limit.
func (m *simulation) consider(l *lane) {
	c, now := l.queue[0], l.next
	m.settle(now)
	if m.all > 0 && len(m.busy) >= m.all {
		l.after = m.busy[len(m.busy)-m.all].ends
		return
	}
	l.queue = l.queue[1:]
	if halt := m.out.HaltedAt; !halt.IsZero() && !now.Before(halt.Add(c.hears)) {
		return
	}
	ends := now.Add(m.trial.Took)
	l.ends, m.last = append(l.ends, ends), ends
	m.busy = append(m.busy, inFlight{c.Wave, ends, c.failed})
	m.out.Started++
	m.out.PeakInFlight = max(m.out.PeakInFlight, len(m.busy))
}

// settle counts the hosts that are done by t; a zero t is the end of time.
func (m *simulation) settle(t time.Time) {
	for len(m.busy) > 0 && (t.IsZero() || !m.busy[0].ends.After(t)) {
		done := m.busy[0]
		m.busy = m.busy[1:]
		m.tried++
		m.out.Finished = done.ends
		if done.failed {
			m.out.Failed++
			m.ill[done.wave]++
		} else {
			m.well[done.wave]++
		}
		m.judge(done)
	}
}

// judge halts, in the transaction of the failure by a hub, later by a person.
func (m *simulation) judge(done inFlight) {
	if !m.out.HaltedAt.IsZero() {
		return
	}
	limits := m.s.d.Halt
	switch {
	case m.s.hasHub():
	case m.trial.React <= 0:
		return
	case limits == nil:
		limits = &release.HaltPolicy{MaxFailures: 1}
	}
	if !tooMany(limits, m.out.Failed, m.tried) {
		return
	}
	m.out.HaltedAt, m.out.HaltedIn = done.ends, done.wave
	if !m.s.hasHub() {
		m.out.HaltedAt = done.ends.Add(m.trial.React)
	}
}

// tooMany applies the signed halt limits to hosts that tried.
func tooMany(p *release.HaltPolicy, failed, tried int) bool {
	if p == nil || failed == 0 {
		return false
	}
	byCount := p.MaxFailures > 0 && failed >= p.MaxFailures
	byShare := p.MaxFailureBP > 0 && tried >= p.MinSample && failed*fullBP >= p.MaxFailureBP*tried
	return byCount || byShare
}

// lanes is a heap by the time of the next start.
type lanes []*lane

func (l lanes) Len() int           { return len(l) }
func (l lanes) Less(a, b int) bool { return l[a].next.Before(l[b].next) }
func (l lanes) Swap(a, b int)      { l[a], l[b] = l[b], l[a] }
func (l *lanes) Push(x any)        { *l = append(*l, x.(*lane)) }
func (l *lanes) Pop() any {
	last := (*l)[len(*l)-1]
	*l = (*l)[:len(*l)-1]
	return last
}

// Spread is how a figure lies over many runs.
type Spread[T cmp.Ordered] struct{ Least, Median, P90, Most T }

func spreadOf[T cmp.Ordered](values []T) (s Spread[T]) {
	if len(values) == 0 {
		return s
	}
	slices.Sort(values)
	n := len(values)
	return Spread[T]{values[0], values[n/2], values[n*9/10], values[n-1]}
}

// Odds sums up runs whose seeds count up from Seed. Took is from the deployment's own start to the end of the last host; Halt,
// over the runs that were halted, to the halt.
type Odds struct {
	Runs, Halted, Held, Hosts int
	Seed                      uint64
	Started, Failed, InFlight Spread[int]
	Took, Halt                Spread[time.Duration]
}

// Odds plays the rollout runs times. fleet gives the hosts of a seed.
func (s *Schedule) Odds(trial Trial, runs int, fleet func(seed uint64) []Host) Odds {
	o := Odds{Runs: runs, Seed: trial.Seed}
	var started, failed, peak []int
	var took, halt []time.Duration
	for i := range runs {
		trial.Seed = o.Seed + uint64(i)
		hosts := fleet(trial.Seed)
		got := s.Simulate(hosts, trial)
		o.Hosts = len(hosts)
		started, failed, peak = append(started, got.Started), append(failed, got.Failed), append(peak, got.PeakInFlight)
		if !got.Finished.IsZero() {
			took = append(took, got.Finished.Sub(s.base))
		}
		if got.HeldIn != "" {
			o.Held++
		}
		if !got.HaltedAt.IsZero() {
			o.Halted++
			halt = append(halt, got.HaltedAt.Sub(s.base))
		}
	}
	o.Started, o.Failed, o.InFlight = spreadOf(started), spreadOf(failed), spreadOf(peak)
	o.Took, o.Halt = spreadOf(took), spreadOf(halt)
	return o
}

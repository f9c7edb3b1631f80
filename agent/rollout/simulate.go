package rollout

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// Trial is what a simulation assumes of every host: how likely the release fails there, and how long a host is busy with
// it. The same seed gives the same outcome.
type Trial struct {
	FailureRate float64
	Took        time.Duration
	Seed        uint64
}

// Outcome is what happened. HaltedAt is zero if nothing stopped the rollout; Untouched hosts never started.
type Outcome struct {
	Started, Failed, Untouched int
	PeakInFlight               int
	Finished                   time.Time
	HaltedAt                   time.Time
	HaltedIn                   string
}

// simulation is one run; busy holds the hosts in flight in the order in which they finish.
type simulation struct {
	s      *Schedule
	trial  Trial
	chance *rand.Rand
	limit  int
	busy   []inFlight
	tried  int
	out    Outcome
}

type inFlight struct {
	wave   string
	ends   time.Time
	failed bool
}

// Simulate plays the rollout over hosts. Only a hub keeps the budget, judges waves that advance automatically and halts;
// without one every host starts at its own time whatever the others report, and the outcome shows that. Signatures for
// later waves are assumed to come in time.
func (s *Schedule) Simulate(hosts []Host, trial Trial) Outcome {
	m := &simulation{s: s, trial: trial, chance: rand.New(rand.NewPCG(trial.Seed, 2)), limit: len(hosts)}
	queue, judged := m.queue(hosts)
	if s.hasHub() && s.d.Budget != nil {
		m.limit = max(1, s.d.Budget.Count+s.d.Budget.PercentBP*len(hosts)/fullBP)
	}
	var now time.Time
	wave := ""
	for _, start := range queue {
		if judged && start.Wave != wave && len(m.busy) > 0 {
			now = latest(now, m.busy[len(m.busy)-1].ends)
		}
		wave = start.Wave
		var ok bool
		if now, ok = m.slot(latest(now, start.At)); !ok {
			break
		}
		m.start(now, wave)
	}
	m.settle(time.Time{})
	m.out.Untouched = len(hosts) - m.out.Started
	return m.out
}

// queue orders the hosts that may start; judged says that a hub opens one wave after the other.
func (m *simulation) queue(hosts []Host) (queue []Start, judged bool) {
	order := map[string]int{}
	for i, w := range m.s.d.Waves {
		order[w.Name] = i
		judged = judged || m.s.hasHub() && w.Advance == "auto"
	}
	queue = slices.DeleteFunc(m.s.Starts(hosts), func(s Start) bool { return s.At.IsZero() })
	slices.SortStableFunc(queue, func(a, b Start) int {
		if judged {
			return cmp.Or(cmp.Compare(order[a.Wave], order[b.Wave]), a.At.Compare(b.At))
		}
		return a.At.Compare(b.At)
	})
	return queue, judged
}

// slot is the first instant from t on at which the budget and the calendar let one more host start.
func (m *simulation) slot(t time.Time) (time.Time, bool) {
	for {
		if m.settle(t); !m.out.HaltedAt.IsZero() {
			return t, false
		}
		at := m.s.possible(t)
		if len(m.busy) >= m.limit {
			at = m.busy[len(m.busy)-m.limit].ends
		}
		if at.IsZero() {
			return t, false
		}
		if !at.After(t) {
			return t, true
		}
		t = at
	}
}

func (m *simulation) start(now time.Time, wave string) {
	m.busy = append(m.busy, inFlight{wave, now.Add(m.trial.Took), m.chance.Float64() < m.trial.FailureRate})
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
		}
		if m.s.hasHub() && m.out.HaltedAt.IsZero() && tooMany(m.s.d.Halt, m.out.Failed, m.tried) {
			m.out.HaltedAt, m.out.HaltedIn = done.ends, done.wave
		}
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

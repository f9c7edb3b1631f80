package serve

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// counters count what this package answers. Labels come from closed sets: routes, rules, results, kinds; never hosts or apps'
// versions.
type counters struct {
	requests *prometheus.HistogramVec
	turns    *prometheus.CounterVec
	checks   *prometheus.CounterVec
	finished *prometheus.CounterVec
}

func newCounters() *counters {
	return &counters{
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "slipway_hub_request_seconds",
			Help: "Time to answer a request, by route and outcome (done, or the kind of the error).", Buckets: latencies}, []string{"route", "outcome"}),
		turns: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "slipway_hub_turns_total",
			Help: "Answers to hosts that asked for their turn, by answer and, for waits, the rule."}, []string{"answer", "rule"}),
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "slipway_hub_checks_total",
			Help: "Answers to the last check before a swap, by answer (ok or no) and rule."}, []string{"answer", "rule"}),
		finished: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "slipway_hub_finished_total",
			Help: "Reports of hosts about how an update ended, by result and whether the report counted."}, []string{"result", "accepted"}),
	}
}

// latencies are the buckets of every duration here, in seconds.
var latencies = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

func (c *counters) request(r route, outcome string, took time.Duration) {
	c.requests.WithLabelValues(r.path, outcome).Observe(took.Seconds())
}

func (c *counters) turn(a fleet.TurnAnswer) { c.turns.WithLabelValues(a.Answer, a.Rule).Inc() }

func (c *counters) check(a fleet.CheckAnswer) {
	answer := "no"
	if a.OK {
		answer = "ok"
	}
	c.checks.WithLabelValues(answer, a.Rule).Inc()
}

func (c *counters) finish(f fleet.Finish, a fleet.FinishAnswer) {
	accepted := "yes"
	if !a.Accepted {
		accepted = "no"
	}
	c.finished.WithLabelValues(string(f.Result), accepted).Inc()
}

// Describe implements prometheus.Collector: what Collect sends depends on what rollouts there are.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	s.count.requests.Describe(ch)
	s.count.turns.Describe(ch)
	s.count.checks.Describe(ch)
	s.count.finished.Describe(ch)
	for _, d := range []*prometheus.Desc{slotsDesc, limitDesc, hostsDesc, stateDesc, waveDesc} {
		ch <- d
	}
}

var (
	group     = []string{"environment", "app"}
	slotsDesc = prometheus.NewDesc("slipway_hub_slots", "Slots in use, by budget cell and state (held or lost).", append(group[:2:2], "cell", "state"), nil)
	limitDesc = prometheus.NewDesc("slipway_hub_slots_limit", "Slots that the signed budget allows, by budget cell.", append(group[:2:2], "cell"), nil)
	hostsDesc = prometheus.NewDesc("slipway_hub_rollout_hosts", "Hosts of the rollout in force, by how they ended.", append(group[:2:2], "result"), nil)
	stateDesc = prometheus.NewDesc("slipway_hub_rollout_state", "1 for the state that the rollout in force is in.", append(group[:2:2], "state"), nil)
	waveDesc  = prometheus.NewDesc("slipway_hub_rollout_waves_open", "Waves that are open.", group, nil)
)

// Collect implements prometheus.Collector.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	s.count.requests.Collect(ch)
	s.count.turns.Collect(ch)
	s.count.checks.Collect(ch)
	s.count.finished.Collect(ch)
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	st, err := s.cfg.Engine.Status(ctx)
	if err != nil {
		return // the requests' outcomes already tell that the store is away
	}
	for _, r := range st.Rollouts {
		collectRollout(ch, r)
	}
}

func collectRollout(ch chan<- prometheus.Metric, r fleet.RolloutStatus) {
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), append([]string{r.Environment.String(), r.App.String()}, labels...)...)
	}
	for _, c := range r.Cells {
		gauge(limitDesc, c.Limit, c.Cell)
		gauge(slotsDesc, c.Held, c.Cell, "held")
		gauge(slotsDesc, c.Lost, c.Cell, "lost")
	}
	for _, one := range []struct {
		result string
		n      int
	}{{string(fleet.Committed), r.Counts.Committed}, {string(fleet.Reverted), r.Counts.Reverted}, {string(fleet.Stuck), r.Counts.Stuck},
		{"lost", r.Counts.Lost}, {string(fleet.FailedBefore), r.Counts.FailedBefore}, {string(fleet.Skipped), r.Counts.Skipped}} {
		gauge(hostsDesc, one.n, one.result)
	}
	for _, state := range []string{fleet.StateOpen, fleet.StatePaused, fleet.StateHalted, fleet.StateReverting, fleet.StateDone, fleet.StateRestored} {
		n := 0
		if r.State == state {
			n = 1
		}
		gauge(stateDesc, n, state)
	}
	open := 0
	for _, w := range r.Waves {
		if w.Open {
			open++
		}
	}
	gauge(waveDesc, open)
}

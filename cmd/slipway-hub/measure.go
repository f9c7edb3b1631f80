package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipway-deploy/slipway/agent/hub"
)

// measured is a store that counts. Conflicts are transactions whose conditions did not hold: work done for nothing, because two
// changed the same thing at the same time.
type measured struct {
	hub.Store
	seconds   *prometheus.HistogramVec
	conflicts prometheus.Counter
}

func measure(s hub.Store, r prometheus.Registerer) hub.Store {
	m := &measured{Store: s,
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "slipway_hub_store_seconds",
			Help:    "Time the store takes, by operation and outcome.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}}, []string{"operation", "outcome"}),
		conflicts: prometheus.NewCounter(prometheus.CounterOpts{Name: "slipway_hub_store_conflicts_total",
			Help: "Transactions that found something changed in between."}),
	}
	r.MustRegister(m.seconds, m.conflicts)
	return m
}

func (m *measured) observe(operation string, start time.Time, err error) {
	outcome := "done"
	if err != nil {
		outcome = "failed"
	}
	m.seconds.WithLabelValues(operation, outcome).Observe(time.Since(start).Seconds())
}

// Get implements hub.Store.
func (m *measured) Get(ctx context.Context, keys ...string) (items []hub.Item, revision int64, err error) {
	defer func(start time.Time) { m.observe("get", start, err) }(time.Now())
	return m.Store.Get(ctx, keys...)
}

// Range implements hub.Store.
func (m *measured) Range(ctx context.Context, prefix string) (items []hub.Item, revision int64, err error) {
	defer func(start time.Time) { m.observe("range", start, err) }(time.Now())
	return m.Store.Range(ctx, prefix)
}

// Commit implements hub.Store.
func (m *measured) Commit(ctx context.Context, t hub.Txn) (result hub.Result, err error) {
	defer func(start time.Time) { m.observe("commit", start, err) }(time.Now())
	result, err = m.Store.Commit(ctx, t)
	if err == nil && !result.Held {
		m.conflicts.Inc()
	}
	return result, err
}

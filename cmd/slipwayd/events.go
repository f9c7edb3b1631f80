package main

import (
	"context"
	"sync"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/audit"
)

// events keeps the newest events for the event stream and counts them for metrics. It is fed by Observe and never blocks the
// machine: a follower that does not keep up loses its stream, not the daemon its time.
type events struct {
	mu        sync.Mutex
	ring      []audit.Event
	followers map[chan audit.Event]bool
	counts    map[[3]string]int64
	status    func(string)
}

const (
	ringSize     = 1000
	followerSize = 256
)

func newEvents(status func(string)) *events {
	return &events{followers: map[chan audit.Event]bool{}, counts: map[[3]string]int64{}, status: status}
}

func (s *events) observe(e audit.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ring = append(s.ring, e)
	if len(s.ring) > ringSize {
		s.ring = append([]audit.Event(nil), s.ring[len(s.ring)-ringSize:]...)
	}
	outcome := e.Phase
	if r := e.Fields["result"]; r != "" {
		outcome = r
	}
	s.counts[[3]string{e.App, e.Type, outcome}]++
	if e.Type == "phase" {
		s.status(e.Message)
	}
	for f := range s.followers {
		select {
		case f <- e:
		default:
			delete(s.followers, f)
			close(f)
		}
	}
}

// stream emits what is kept since q.Since, and with q.Follow every new event until ctx ends.
func (s *events) stream(ctx context.Context, q api.EventQuery, emit func(api.Event) error) error {
	s.mu.Lock()
	kept := append([]audit.Event(nil), s.ring...)
	live := make(chan audit.Event, followerSize)
	if q.Follow {
		s.followers[live] = true
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.followers, live)
		s.mu.Unlock()
	}()
	for _, e := range kept {
		if err := emitMatching(q, e, emit); err != nil {
			return err
		}
	}
	for q.Follow {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-live:
			if !ok {
				return api.NewError(api.KindUnavailable, "the event stream fell behind and was ended", "start it again with --since")
			}
			if err := emitMatching(q, e, emit); err != nil {
				return err
			}
		}
	}
	return nil
}

func emitMatching(q api.EventQuery, e audit.Event, emit func(api.Event) error) error {
	if q.App != "" && q.App != e.App || e.Time.Before(q.Since) {
		return nil
	}
	return emit(api.Event{
		Time: e.Time, App: e.App, Kind: e.Type, Phase: e.Phase, Attempt: e.Attempt, From: e.From, To: e.To, Cause: e.Cause,
		Message: e.Message, Fields: e.Fields,
	})
}

func (s *events) counters() map[[3]string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[[3]string]int64, len(s.counts))
	for k, v := range s.counts {
		out[k] = v
	}
	return out
}

func since(t time.Time, now time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return now.Sub(t)
}

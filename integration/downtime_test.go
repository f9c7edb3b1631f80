package integration

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"
)

// BenchmarkAddedDowntime compares how long one client goes without an answer when an activation restarts a service on a real
// host and when a bare `systemctl restart` of the same unit does, by turns.
func BenchmarkAddedDowntime(b *testing.B) {
	s := openStage(b)
	h := s.harborHost("web1", hostSpec{})
	version := 0
	for b.Loop() {
		var bare, activation, added []float64
		for range 5 {
			version++
			now, next := fmt.Sprintf("1.%d.0", version-1), fmt.Sprintf("1.%d.0", version)
			one := h.silence(b, func() {
				h.Run(b, "systemctl", "restart", "harbor.service")
				h.harborAnswers(now)
			})
			other := h.silence(b, func() {
				s.ship("harbor", next, s.harborTree(next, "ok"), deployment{})
				h.waitCommitted("harbor", next)
			})
			bare, activation, added = append(bare, one), append(activation, other), append(added, other-one)
		}
		b.ReportMetric(median(bare), "bare-ms")
		b.ReportMetric(median(activation), "activation-ms")
		b.ReportMetric(median(added), "added-ms")
		b.ReportMetric(slices.Max(added), "added-max-ms")
	}
	b.ReportMetric(0, "ns/op")
}

func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

// silence is the longest time in milliseconds between two answers of harbor to a client that asks every millisecond, each time
// with a new connection, while act runs.
func (h *fleetHost) silence(b *testing.B, act func()) float64 {
	ctx, cancel := context.WithCancel(b.Context())
	longest := make(chan time.Duration)
	url := fmt.Sprintf("http://%s:%d/version", h.Address, harborPort)
	client := &http.Client{Transport: &http.Transport{DialContext: h.s.lab.DialContext, DisableKeepAlives: true}, Timeout: time.Second}
	go func() {
		var last time.Time
		var most time.Duration
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if get(ctx, client, url) == nil {
				now := time.Now()
				if !last.IsZero() {
					most = max(most, now.Sub(last))
				}
				last = now
			}
			<-tick.C
		}
		longest <- most
	}()
	act()
	cancel()
	return float64((<-longest).Microseconds()) / 1000
}

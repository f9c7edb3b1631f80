package main

import (
	"context"
	"net"

	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/agent/server"
	"github.com/slipway-deploy/slipway/agent/state"
)

// metrics gathers from memory and the small state files; a scrape never waits for an app.
type metrics struct{ d *wired }

// Gather implements server.Metrics.
func (g metrics) Gather() []server.Family {
	return append(append(g.repository(), g.apps()...), g.fleet()...)
}

func (g metrics) repository() []server.Family {
	s := g.d.host.RefreshState()
	now := g.d.clock.Now()
	expiry := server.Family{Name: "slipway_metadata_expiry_seconds", Help: "Seconds until a role's metadata expires.", Type: server.Gauge}
	for role, at := range s.Metadata.Expires {
		expiry.Samples = append(expiry.Samples, server.Sample{Labels: map[string]string{"role": role}, Value: at.Sub(now).Seconds()})
	}
	ok := 0.0
	if s.Err == nil && s.Succeeded {
		ok = 1
	}
	return []server.Family{
		expiry,
		{Name: "slipway_refresh_ok", Help: "1 if the last refresh of metadata succeeded.", Type: server.Gauge, Samples: []server.Sample{{Value: ok}}},
		{Name: "slipway_metadata_age_seconds", Help: "Seconds since the timestamp was issued.", Type: server.Gauge,
			Samples: []server.Sample{{Value: since(s.Metadata.Issued, now).Seconds()}}},
		{Name: "slipway_build_info", Help: "Always 1; the version is a label.", Type: server.Gauge,
			Samples: []server.Sample{{Labels: map[string]string{"version": version}, Value: 1}}},
	}
}

func (g metrics) apps() []server.Family {
	phase := server.Family{Name: "slipway_app_phase", Help: "1 for the phase an app is in.", Type: server.Gauge}
	info := server.Family{Name: "slipway_app_info", Help: "Always 1; what runs is a label.", Type: server.Gauge}
	quarantine := server.Family{Name: "slipway_app_quarantined", Help: "Releases an app's host does not try again.", Type: server.Gauge}
	for _, m := range g.d.host.Machines() {
		app := m.App().String()
		st, err := g.d.state.Read(m.App())
		if err != nil {
			phase.Samples = append(phase.Samples, server.Sample{Labels: map[string]string{"app": app, "phase": "damaged"}, Value: 1})
			continue
		}
		for p := range state.Next {
			v := 0.0
			if p == st.Phase {
				v = 1
			}
			phase.Samples = append(phase.Samples, server.Sample{Labels: map[string]string{"app": app, "phase": string(p)}, Value: v})
		}
		if id, err := g.d.store.App(m.App()).Current(); err == nil {
			info.Samples = append(info.Samples, server.Sample{Labels: map[string]string{"app": app, "release": id.String(), "version": id.Version().String()}, Value: 1})
		}
		quarantine.Samples = append(quarantine.Samples, server.Sample{Labels: map[string]string{"app": app}, Value: float64(len(st.Quarantine))})
	}
	return []server.Family{phase, info, quarantine, g.events()}
}

// fleet tells of slots. The families of a host without a coordinator are empty.
func (g metrics) fleet() []server.Family {
	answer := server.Family{Name: "slipway_slot_answer", Help: "1 for the coordinator's last answer about an app.", Type: server.Gauge}
	held := server.Family{Name: "slipway_slot_held", Help: "1 while the host holds a slot for an app.", Type: server.Gauge}
	silent := server.Family{Name: "slipway_coordinator_silent_seconds", Help: "Seconds since no coordinator answers; 0 while one does.", Type: server.Gauge}
	for _, m := range g.d.host.Machines() {
		app := m.App().String()
		if s := m.View().Slot; s != nil {
			answer.Samples = append(answer.Samples, server.Sample{Labels: map[string]string{"app": app, "answer": string(s.Answer), "rule": s.Rule}, Value: 1})
			quiet := 0.0
			if s.Answer == rollout.AnswerLost {
				quiet = since(s.Since, g.d.clock.Now()).Seconds()
			}
			silent.Samples = append(silent.Samples, server.Sample{Labels: map[string]string{"app": app}, Value: quiet})
		}
		if h, err := g.d.coordinator.Held(m.App()); err == nil && (h.Fence != 0 || m.View().Slot != nil) {
			held.Samples = append(held.Samples, server.Sample{Labels: map[string]string{"app": app}, Value: float64(min(1, h.Fence))})
		}
	}
	expiry := server.Family{Name: "slipway_fleet_certificate_expiry_seconds", Help: "Seconds until the host's certificate for the hub expires.", Type: server.Gauge}
	if leaf, err := g.d.identity.leaf(g.d.config()); err == nil {
		expiry.Samples = append(expiry.Samples, server.Sample{Value: leaf.NotAfter.Sub(g.d.clock.Now()).Seconds()})
	}
	return []server.Family{answer, held, silent, expiry}
}

func (g metrics) events() server.Family {
	f := server.Family{Name: "slipway_events_total", Help: "Events by app, type and result.", Type: server.Counter}
	for k, v := range g.d.events.counters() {
		f.Samples = append(f.Samples, server.Sample{Labels: map[string]string{"app": k[0], "type": k[1], "result": k[2]}, Value: float64(v)})
	}
	return f
}

func (d *wired) serveMetrics(ctx context.Context, srv *server.Server, addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		d.log.Error("metrics are not served over TCP", "address", addr, "error", err)
		return
	}
	if err := srv.ServeMetrics(ctx, l); err != nil && ctx.Err() == nil {
		d.log.Error("metrics are no longer served over TCP", "error", err)
	}
}

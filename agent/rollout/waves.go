package rollout

import (
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// Wave is the first wave that selects the host, by its index in the deployment; -1 and why if none does. A deployment
// without waves has one place for everybody: index 0.
func (s *Schedule) Wave(h Host) (index int, because string) {
	t, placed := s.turn(h)
	if !placed {
		return -1, t.missing.because
	}
	return t.index, ""
}

// Floor is the signed time before which nobody of the wave starts, and Full when its spread is over.
func (s *Schedule) Floor(wave int) (floor, full time.Time) {
	if len(s.d.Waves) == 0 {
		return s.base, s.base
	}
	floor = s.floor(wave)
	return floor, floor.Add(s.d.Waves[wave].Spread.Std())
}

// Signed reports whether the signatures so far let a wave open, whatever a coordinator thinks of the waves before it.
func (s *Schedule) Signed(wave int) (because string, open bool) { return s.advanced(wave) }

// Open reports whether the signed calendar allows starts at t.
func (s *Schedule) Open(t time.Time) bool {
	_, objection := s.calendar.next(t)
	return objection == nil
}

// Reverse is where the host stands in the order in which a fleet is taken back, as a share of 2^64: the last forward is the
// first back.
func (s *Schedule) Reverse(h Host) uint64 { return s.revertShare(h) }

// FallbackOf is the signed fallback if a revert may go there at in.Now: it is not revoked, nor below a minimum.
func FallbackOf(in Input) *release.Reference {
	c := &decider{in: in, d: in.Deployment}
	return c.fallback()
}

// TooMany applies the signed limits on failures to hosts that tried. Without a policy nothing is too many.
func TooMany(p *release.HaltPolicy, failed, tried int) bool { return tooMany(p, failed, tried) }

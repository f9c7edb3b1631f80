package rollout

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

const positionDomain = "slipway/v1"

// fullBP is all hosts in basis points.
const fullBP = 10000

// Position is the place of a host in a rollout's order, in [0, 1): the first eight bytes, big-endian, of
// SHA-256("slipway/v1" 0x00 seed 0x00 host-id), over 2^64. The seed is the deployment's salt or, without one, its rollout
// id. The fraction is cut to 53 bits so that it can never round up to 1; decisions use the full integer.
func Position(seed, hostID string) float64 { return fraction(place(seed, hostID)) }

func fraction(p uint64) float64 { return float64(p>>11) / (1 << 53) }

func place(seed, hostID string) uint64 {
	h := sha256.New()
	for _, s := range []string{positionDomain, "\x00", seed, "\x00", hostID} {
		h.Write([]byte(s))
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

func seed(d *release.Deployment) string {
	if d.Salt != "" {
		return d.Salt
	}
	return d.RolloutID
}

// bucket is the basis point a place lies in, and how far into it in 2^-64.
func bucket(p uint64) (bp, rest uint64) { return bits.Mul64(p, fullBP) }

// shareWithin maps a place inside [first, last) basis points to the fraction of that span that lies before it, in 2^-64.
// The offset counts from the span's own start: with the absolute place, late waves would bunch up at their ends.
func shareWithin(p uint64, first, last int) uint64 {
	bp, rest := bucket(p)
	share, _ := bits.Div64(bp-uint64(first), rest, uint64(last-first))
	return share
}

// rankShare is rank/of in 2^-64; rank < of.
func rankShare(rank, of int) uint64 {
	share, _ := bits.Div64(uint64(rank), 0, uint64(of))
	return share
}

// part is share of d, rounded down: always less than d.
func part(d time.Duration, share uint64) time.Duration {
	if d <= 0 {
		return 0
	}
	hi, _ := bits.Mul64(uint64(d), share)
	return time.Duration(hi)
}

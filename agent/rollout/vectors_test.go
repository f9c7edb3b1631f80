package rollout

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

type vectors struct {
	Positions []struct {
		Seed, Host, Place string
		BasisPoint        uint64 `json:"basis_point"`
		Position          float64
	}
	Threshold struct {
		Seed   string
		Spread int64          `json:"spread_ns"`
		Waves  []release.Wave `json:"waves"`
		Hosts  []struct {
			Host, Wave string
			Offset     int64 `json:"offset_ns"`
		}
	}
	Ranked struct {
		Seed    string
		GroupBy string `json:"group_by"`
		Hosts   []struct{ ID, Site string }
		Order   []string
	}
}

func published(t *testing.T) (v vectors) {
	t.Helper()
	data, err := os.ReadFile("../../docs/schemas/fleet-order.vectors.json")
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if err != nil || len(v.Positions) == 0 || len(v.Threshold.Hosts) == 0 || len(v.Ranked.Order) == 0 {
		t.Fatalf("cannot read the vectors: %v", err)
	}
	return v
}

func TestPositionsMatchThePublishedVectors(t *testing.T) {
	for _, c := range published(t).Positions {
		bp, _ := bucket(place(c.Seed, c.Host))
		if got := fmt.Sprintf("%016x", place(c.Seed, c.Host)); got != c.Place || bp != c.BasisPoint || Position(c.Seed, c.Host) != c.Position {
			t.Errorf("%s %s: got %s, %d, %v, want %+v", c.Seed, c.Host, got, bp, Position(c.Seed, c.Host), c)
		}
	}
}

func TestWaveStartsMatchThePublishedVectors(t *testing.T) {
	v := published(t).Threshold
	d := deployment()
	d.RolloutID, d.Waves = v.Seed, v.Waves
	for i := range d.Waves {
		d.Waves[i].Spread = release.Duration(v.Spread)
	}
	s := NewSchedule(d, nil, release.Digest{})
	for _, c := range v.Hosts {
		got, ok := s.turn(Host{ID: c.Host})
		if !ok || got.name != c.Wave || got.start.Sub(noon) != time.Duration(c.Offset) {
			t.Errorf("%s: got %s +%d, want %s +%d", c.Host, got.name, got.start.Sub(noon), c.Wave, c.Offset)
		}
	}
}

func TestRanksMatchThePublishedVectors(t *testing.T) {
	v := published(t).Ranked
	d := deployment()
	d.RolloutID, d.Budget = v.Seed, &release.Budget{Count: 1, GroupBy: []string{v.GroupBy}}
	inv := &release.Inventory{Environment: production}
	for _, h := range v.Hosts {
		inv.Hosts = append(inv.Hosts, release.InventoryHost{ID: h.ID, Labels: map[string]string{v.GroupBy: h.Site}})
	}
	var got []string
	for _, h := range ordered(d, inv) {
		got = append(got, h.id)
	}
	if !slices.Equal(got, v.Order) {
		t.Errorf("got  %v\nwant %v", got, v.Order)
	}
}

func TestASaltKeepsTheOrderOverRollouts(t *testing.T) {
	a, b := deployment(), deployment()
	a.RolloutID, b.RolloutID, a.Salt, b.Salt = "r-1", "r-2", "stable", "stable"
	if seed(a) != seed(b) || Position(seed(a), "x") == Position("r-1", "x") {
		t.Error("the salt does not replace the rollout id")
	}
}

func TestAPositionNeverReachesOne(t *testing.T) {
	if f := fraction(math.MaxUint64); f >= 1 {
		t.Errorf("the last place is %v", f)
	}
	if part(time.Hour, math.MaxUint64) >= time.Hour {
		t.Error("the last host starts at the wave's end")
	}
	if part(-time.Hour, 1<<63) != 0 {
		t.Error("a negative spread moves starts")
	}
}

const many = 1 << 16

// tooUneven compares counts with an even spread: beyond six standard deviations of chi-squared.
func tooUneven(counts []int) bool {
	var n, chi float64
	for _, c := range counts {
		n += float64(c)
	}
	mean, free := n/float64(len(counts)), float64(len(counts)-1)
	for _, c := range counts {
		chi += (float64(c) - mean) * (float64(c) - mean) / mean
	}
	return math.Abs(chi-free) > 6*math.Sqrt(2*free)
}

func TestPositionsAreUniformOverSixtyFiveThousandHosts(t *testing.T) {
	for _, naming := range []string{"host-%d", "%08x.example.net", "web%d"} {
		counts := make([]int, 256)
		for i := range many {
			counts[int(Position("r-7", fmt.Sprintf(naming, i))*256)]++
		}
		if tooUneven(counts) {
			t.Errorf("%s: positions are not uniform: %v", naming, counts)
		}
	}
}

func TestTheOrdersOfTwoRolloutsAreIndependent(t *testing.T) {
	joint := make([]int, 16*16)
	var sum float64
	for i := range many {
		id := fmt.Sprintf("host-%d", i)
		x, y := Position("r-7", id), Position("r-8", id)
		sum += (x - 0.5) * (y - 0.5)
		joint[int(x*16)*16+int(y*16)]++
	}
	if rho := 12 * sum / many; math.Abs(rho) > 6/math.Sqrt(many) {
		t.Errorf("the orders of two rollouts correlate by %.4f", rho)
	}
	if tooUneven(joint) {
		t.Error("pairs of positions are not uniform")
	}
}

func TestStartsAreEvenInsideEveryWaveAndNonePassesItsEnd(t *testing.T) {
	d := deployment()
	for i, bp := range []int{100, 500, 1500, 4000, 6000, 9000, 10000} {
		d.Waves = append(d.Waves, release.Wave{Name: fmt.Sprint("w", i), PercentBP: bp, StartAfter: hours(float64(24 * i)), Spread: hours(24)})
	}
	s := NewSchedule(d, nil, release.Digest{})
	counts := make([][]int, len(d.Waves))
	for i := range counts {
		counts[i] = make([]int, 24)
	}
	for i := range many {
		turn, ok := s.turn(Host{ID: fmt.Sprint("host-", i)})
		in := turn.start.Sub(s.floor(turn.index))
		if !ok || in < 0 || in >= 24*time.Hour {
			t.Fatalf("host-%d starts %s into wave %s", i, in, turn.name)
		}
		counts[turn.index][int(in/time.Hour)]++
	}
	for i, c := range counts {
		if tooUneven(c) {
			t.Errorf("starts of wave %d are not even: %v", i, c)
		}
	}
}

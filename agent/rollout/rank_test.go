package rollout

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

func ranked3(hosts []release.InventoryHost, waves ...release.Wave) *Schedule {
	in := open()
	in.Deployment.Waves = waves
	in.Deployment.Budget = &release.Budget{Count: 1, GroupBy: []string{"site"}}
	pin(&in, hosts...)
	return NewSchedule(in.Deployment, in.Inventory, in.InventoryDigest)
}

func TestRankedWavesHaveExactlyTheirCounts(t *testing.T) {
	site := func(i int) map[string]string { return map[string]string{"site": fmt.Sprint("s", i%4)} }
	for _, n := range []int{1, 2, 3, 19, 20, 100, 101, 1000} {
		s := ranked3(fleet(n, site), release.Wave{Name: "pinned", Hosts: []string{"host-0", "absent"}},
			release.Wave{Name: "canary", Count: 2}, release.Wave{Name: "tenth", PercentBP: 1000},
			release.Wave{Name: "site", Labels: site(1)}, release.Wave{Name: "rest", PercentBP: 10000})
		counts := map[string]int{}
		for i := range n {
			turn, ok := s.turn(Host{ID: fmt.Sprint("host-", i)})
			if !ok || turn.of != s.roster.sizes[turn.index] || turn.rank >= turn.of {
				t.Fatalf("%d hosts: host-%d: %+v", n, i, turn)
			}
			counts[turn.name]++
		}
		pinned, canary := 1, min(2, n-1)
		tenth := max(0, (n+9)/10-pinned-canary)
		if counts["pinned"] != pinned || counts["canary"] != canary || counts["tenth"] != tenth {
			t.Errorf("%d hosts: %v", n, counts)
		}
	}
}

func TestAPercentCanaryOfARankedFleetIsNeverEmpty(t *testing.T) {
	for n := 1; n < 200; n++ {
		s := ranked3(fleet(n, nil), release.Wave{Name: "canary", PercentBP: 1}, release.Wave{Name: "rest", PercentBP: 10000})
		if s.roster.sizes[0] != 1 || s.roster.sizes[1] != n-1 {
			t.Fatalf("%d hosts: %v", n, s.roster.sizes)
		}
	}
}

func TestSitesAreInterleavedInProportionEverywhereInTheOrder(t *testing.T) {
	r := random(t)
	for range 50 {
		sites := 2 + r.IntN(4)
		hosts := fleet(20+r.IntN(300), func(int) map[string]string {
			return map[string]string{"site": fmt.Sprint("s", r.IntN(sites*sites)%sites)}
		})
		s := ranked3(hosts)
		order := make([]string, len(hosts))
		size := map[string]int{}
		for _, h := range hosts {
			order[s.roster.seats[h.ID].overall] = h.Labels["site"]
			size[h.Labels["site"]]++
		}
		so := map[string]int{}
		for i, site := range order {
			so[site]++
			for name, n := range size {
				share := float64(n) / float64(len(hosts))
				if off := math.Abs(float64(so[name]) - share*float64(i+1)); off > 1+share*float64(len(size)) {
					t.Fatalf("after %d of %d hosts site %s has %d of %d", i+1, len(hosts), name, so[name], n)
				}
			}
		}
	}
}

func TestRankedStartsAreEvenlySpacedInsideTheWave(t *testing.T) {
	s := ranked3(fleet(10, nil), release.Wave{Name: "all", PercentBP: 10000, StartAfter: hours(1), Spread: hours(10)})
	seen := map[time.Duration]bool{}
	for i := range 10 {
		turn, _ := s.turn(Host{ID: fmt.Sprint("host-", i)})
		seen[turn.start.Sub(noon).Round(time.Second)] = true
	}
	for i := range 10 {
		if !seen[time.Duration(i+1)*time.Hour] {
			t.Errorf("nobody starts at +%dh: %v", i+1, seen)
		}
	}
}

func TestAnInventoryThatIsNotPinnedChangesNothing(t *testing.T) {
	in := open()
	in.Deployment.Waves = []release.Wave{{Name: "site", Labels: map[string]string{"site": "ams"}}}
	want := Decide(in)
	pin(&in, release.InventoryHost{ID: "web-1", Labels: map[string]string{"site": "fra"}})
	in.Deployment.Inventory = nil
	if got := Decide(in); got != want || !got.Act {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestRevertsGoInTheReverseOfTheWayForward(t *testing.T) {
	s := ranked3(fleet(50, nil))
	for i := range 50 {
		for j := range 50 {
			a, b := Host{ID: fmt.Sprint("host-", i)}, Host{ID: fmt.Sprint("host-", j)}
			forward := s.roster.seats[a.ID].overall < s.roster.seats[b.ID].overall
			if forward != (s.revertShare(a) > s.revertShare(b)) {
				t.Fatalf("%s and %s", a.ID, b.ID)
			}
		}
	}
	if plain := NewSchedule(deployment(), nil, release.Digest{}); plain.revertShare(Host{ID: "x"}) != ^place("r-7", "x") {
		t.Error("without ranks the order does not reverse")
	}
}

func BenchmarkDecideOfOneHostAmongAHundredThousand(b *testing.B) {
	in := open()
	in.Host.ID = "host-77777"
	in.Deployment.Waves = []release.Wave{{Name: "canary", Count: 10}, {Name: "rest", PercentBP: 10000}}
	pin(&in, fleet(100_000, nil)...)
	b.Run("ranking", func(b *testing.B) {
		for b.Loop() {
			Decide(in)
		}
	})
	in.Schedule = NewSchedule(in.Deployment, in.Inventory, in.InventoryDigest)
	b.Run("ranked", func(b *testing.B) {
		for b.Loop() {
			Decide(in)
		}
	})
}

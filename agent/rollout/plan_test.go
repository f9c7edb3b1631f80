package rollout

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

func kinds(f Forecast) (list []string) {
	for _, w := range f.Warnings {
		list = append(list, strings.Trim(w.Kind+":"+w.Wave, ":"))
	}
	return list
}

// planned is a deployment that gives no cause for warnings.
func planned(waves ...release.Wave) *release.Deployment {
	d := deployment()
	d.Freshness, d.Population, d.Waves = hours(0.25), 10_000, waves
	return d
}

func TestThePlanOfASoundDeploymentWarnsOfNothing(t *testing.T) {
	d := planned(release.Wave{Name: "canary", PercentBP: 100, Spread: hours(1)},
		release.Wave{Name: "rest", PercentBP: 10000, StartAfter: hours(24), Spread: hours(12)})
	f := Plan(d, nil, release.Digest{}, 0)
	if len(f.Warnings) != 0 || f.Exact || f.Hosts != 10_000 || f.Waves[0].Hosts != 100 || f.Waves[1].Hosts != 9900 {
		t.Errorf("got %+v", f)
	}
	rest := f.Waves[1]
	if !rest.Opens.Equal(noon.Add(24*time.Hour)) || rest.Last.After(noon.Add(36*time.Hour)) || rest.NeedsSignature {
		t.Errorf("rest: %+v", rest)
	}
}

func TestThePlanKnowsTheChanceOfAnEmptyCanary(t *testing.T) {
	d := planned(release.Wave{Name: "canary", PercentBP: 500}, release.Wave{Name: "rest", PercentBP: 10000})
	f := Plan(d, nil, release.Digest{}, 20)
	if got := f.Waves[0].Empty; math.Abs(got-0.358) > 0.001 {
		t.Errorf("5 %% of 20 hosts is empty with a chance of %.3f", got)
	}
	if want := []string{"empty-wave:canary"}; !slices.Equal(kinds(f), want) {
		t.Errorf("got %v, want %v", f.Warnings, want)
	}
	empty := 0
	for i := range 4000 {
		d.RolloutID = fmt.Sprint("r-", i)
		s := NewSchedule(d, nil, release.Digest{})
		if !slices.ContainsFunc(s.Starts(hostsOf(20)), func(s Start) bool { return s.Wave == "canary" }) {
			empty++
		}
	}
	if share := float64(empty) / 4000; math.Abs(share-f.Waves[0].Empty) > 0.04 {
		t.Errorf("forecast %.3f, but %.3f of 4000 rollouts had an empty canary", f.Waves[0].Empty, share)
	}
}

func hostsOf(n int) []Host {
	hosts := make([]Host, n)
	for i := range hosts {
		hosts[i] = Host{ID: fmt.Sprint("host-", i), Environment: production}
	}
	return hosts
}

func TestThePlanWarnsOfEverythingThatCannotWork(t *testing.T) {
	rest := release.Wave{Name: "rest", PercentBP: 10000}
	cases := map[string]func(*release.Deployment){
		"unplaced":          func(d *release.Deployment) { d.Waves[0].PercentBP = 5000 },
		"freshness":         func(d *release.Deployment) { d.Freshness = 0 },
		"no-population":     func(d *release.Deployment) { d.Population = 0 },
		"min-hosts:rest":    func(d *release.Deployment) { d.Waves[0].MinHosts = 20_000 },
		"never-opens:rest":  func(d *release.Deployment) { d.Waves[0].Spread = hours(2); d.Expires = ptr(noon.Add(time.Hour)) },
		"no-halt":           func(d *release.Deployment) { d.Coordinator, d.Budget = hub, &release.Budget{Count: 1} },
		"bunched:rest":      func(d *release.Deployment) { d.Waves[0].Spread = hours(24); d.Windows = nightly },
		"advance:late":      func(d *release.Deployment) { d.Waves = twoWaves("auto") },
		"empty-wave:canary": func(d *release.Deployment) { d.Waves = twoWaves("none"); d.Population = 10 },
	}
	for want, change := range cases {
		d := planned(rest)
		change(d)
		if got := kinds(Plan(d, nil, release.Digest{}, 0)); !slices.Equal(got, []string{want}) {
			t.Errorf("got %v, want %s", got, want)
		}
	}
}

var nightly = []release.Window{{Days: everyDay, Start: "22:00", Length: hours(4)}}

func twoWaves(advance string) []release.Wave {
	return []release.Wave{{Name: "canary", PercentBP: 1000}, {Name: "late", PercentBP: 10000, Advance: advance}}
}

func TestThePlanOfARankedFleetIsExact(t *testing.T) {
	in := open()
	in.Deployment.Freshness = hours(1)
	in.Deployment.Waves = []release.Wave{{Name: "canary", Count: 3}, {Name: "gone", Hosts: []string{"x"}}, {Name: "half", PercentBP: 5000, Advance: "signed"}}
	pin(&in, fleet(20, nil)...)
	f := Plan(in.Deployment, in.Inventory, in.InventoryDigest, 0)
	if !f.Exact || f.Hosts != 20 || f.Waves[0].Hosts != 3 || f.Waves[2].Hosts != 7 || !f.Waves[2].NeedsSignature {
		t.Errorf("got %+v", f)
	}
	if want := []string{"unknown-host:gone", "unplaced"}; !slices.Equal(kinds(f), want) {
		t.Errorf("got %v, want %v", f.Warnings, want)
	}
	if len(f.Problems) != 1 || f.Problems[0].Field != "waves[1]" || !strings.Contains(f.Problems[0].Reason, "wave gone is empty") {
		t.Errorf("problems: %v", f.Problems)
	}
	in.Deployment.State = release.StateHalted
	if f := Plan(in.Deployment, in.Inventory, in.InventoryDigest, 0); len(f.Problems) != 0 {
		t.Errorf("a halt waits for a better plan: %v", f.Problems)
	}
}

func TestWhatCannotWorkIsAProblemOfItsField(t *testing.T) {
	rest := release.Wave{Name: "rest", PercentBP: 10000}
	for _, c := range []struct {
		field, reason string
		change        func(*release.Deployment)
	}{
		{"inventory.sha256", "not here yet", func(d *release.Deployment) { d.Inventory = &release.InventoryRef{} }},
		{"waves[0]", "until the deployment expires", func(d *release.Deployment) { d.Expires = ptr(noon) }},
		{"waves[1]", "wave late never opens", func(d *release.Deployment) {
			d.Waves = twoWaves("none")
			d.Waves[1].StartAfter, d.Expires = hours(48), ptr(noon.Add(24*time.Hour))
		}},
		{"waves[0]", "free of freezes", func(d *release.Deployment) {
			d.Freeze = []release.Freeze{{From: noon, Until: noon.Add(72 * time.Hour)}}
			d.Expires = ptr(noon.Add(48 * time.Hour))
		}},
		{"expires", "no host could ever start", func(d *release.Deployment) {
			d.Waves, d.Windows, d.Expires = nil, nightly, ptr(noon.Add(time.Hour))
		}},
		{"windows", "no window of the deployment ever does", func(d *release.Deployment) {
			d.Windows = []release.Window{{Days: []string{"someday"}, Start: "10:00", Length: hours(1)}}
		}},
		{"waves[1]", "wave rest before it takes all", func(d *release.Deployment) {
			d.Waves = append(d.Waves, release.Wave{Name: "late", Labels: map[string]string{"a": "b"}})
		}},
		{"waves[1]", "wave ams before it takes all", func(d *release.Deployment) {
			d.Waves = []release.Wave{{Name: "ams", Labels: map[string]string{"site": "ams"}},
				{Name: "rack", Labels: map[string]string{"site": "ams", "rack": "1"}}, rest}
		}},
		{"waves[1]", "wave one before it takes all", func(d *release.Deployment) {
			d.Waves = []release.Wave{{Name: "one", Hosts: []string{"a", "b"}}, {Name: "two", Hosts: []string{"b"}}, rest}
		}},
		{"waves[0].min_hosts", "asks for 3 hosts and has 1", func(d *release.Deployment) {
			d.Waves = []release.Wave{{Name: "canary", Hosts: []string{"a"}, MinHosts: 3}, rest}
		}},
		{"coordinator", "needs a [budget]", func(d *release.Deployment) { d.Coordinator = hub }},
		{"budget.min_available", "10000 of 10000", func(d *release.Deployment) { d.Budget = &release.Budget{Count: 1, MinAvailable: 10_000} }},
		{"budget.min_available", "how many hosts share site", func(d *release.Deployment) {
			d.Budget = &release.Budget{Count: 1, MinAvailable: 1, GroupBy: []string{"site"}}
		}},
		{"halt", "no limit", func(d *release.Deployment) { d.Halt = &release.HaltPolicy{OnHalt: "stop"} }},
		{"halt.max_failure_bp", "min_sample", func(d *release.Deployment) { d.Halt = &release.HaltPolicy{MaxFailureBP: 100} }},
		{"halt.min_sample", "never be judged", func(d *release.Deployment) { d.Halt = &release.HaltPolicy{MaxFailureBP: 100, MinSample: 20_000} }},
		{"on_coordinator_loss", "no coordinator", func(d *release.Deployment) { d.OnCoordinatorLoss = "hold" }},
	} {
		d := planned(rest)
		c.change(d)
		got := Plan(d, nil, release.Digest{}, 0).Problems
		if len(got) != 1 || got[0].Field != c.field || !strings.Contains(got[0].Reason, c.reason) {
			t.Errorf("got %v, want %s: … %s", got, c.field, c.reason)
		}
	}
}

func TestALabelGroupThatMayNeverBeTouchedIsAProblem(t *testing.T) {
	in := open()
	in.Deployment.Budget = &release.Budget{Count: 5, GroupBy: []string{"site"}, MinAvailable: 2}
	pin(&in, fleet(12, func(i int) map[string]string { return map[string]string{"site": []string{"ams", "fra"}[min(1, i/10)]} })...)
	got := Plan(in.Deployment, in.Inventory, in.InventoryDigest, 0).Problems
	if len(got) != 1 || got[0].Field != "budget.min_available" || !strings.Contains(got[0].Reason, `site "fra"`) {
		t.Errorf("got %v", got)
	}
}

func TestALimitRoundsDownAndNeverToAStandstillUnlessHostsMustStay(t *testing.T) {
	for _, c := range []struct {
		budget      *release.Budget
		hosts, want int
	}{
		{nil, 7, 7}, {&release.Budget{Count: 3}, 100, 3}, {&release.Budget{Count: 3}, 2, 2},
		{&release.Budget{PercentBP: 1000}, 99, 9}, {&release.Budget{PercentBP: 100}, 20, 1},
		{&release.Budget{PercentBP: 5000, MinAvailable: 8}, 10, 2}, {&release.Budget{Count: 1, MinAvailable: 3}, 3, 0},
	} {
		if got := Limit(c.budget, c.hosts); got != c.want {
			t.Errorf("%+v of %d: got %d, want %d", c.budget, c.hosts, got, c.want)
		}
	}
}

func TestASimulatedPersonHaltsLaterThanAHubAndHostsHearWhenTheyPoll(t *testing.T) {
	d := planned(release.Wave{Name: "all", PercentBP: 10000, Spread: hours(10)})
	s := NewSchedule(d, nil, release.Digest{})
	run := func(react, poll time.Duration) Outcome {
		return s.Simulate(hostsOf(1000), Trial{FailureRate: 1, Took: time.Minute, Seed: 7, Poll: poll, Jitter: 0.1, React: react})
	}
	if got := run(0, time.Minute); got.Started != 1000 || !got.HaltedAt.IsZero() {
		t.Errorf("nobody halts, and yet: %+v", got)
	}
	soon, late := run(time.Minute, 5*time.Minute), run(time.Hour, 5*time.Minute)
	if soon.HaltedAt.IsZero() || soon.Started >= late.Started || late.Started >= 1000 {
		t.Errorf("a halt after a minute: %+v, after an hour: %+v", soon, late)
	}
	// 100 hosts an hour: those of the hour before the halt, and at most those of one poll after it.
	if most := 100*late.HaltedAt.Sub(noon).Hours() + 100*5.5/60 + 20; float64(late.Started) > most {
		t.Errorf("%d hosts were touched, at most %.0f can be", late.Started, most)
	}
}

func TestASimulatedBudgetIsKeptInEveryLabelGroup(t *testing.T) {
	in := open()
	in.Deployment.Coordinator, in.Deployment.Budget = hub, &release.Budget{Count: 1, GroupBy: []string{"site"}}
	pin(&in, fleet(40, func(i int) map[string]string { return map[string]string{"site": fmt.Sprint("s", i%4)} })...)
	s := NewSchedule(in.Deployment, in.Inventory, in.InventoryDigest)
	got := s.Simulate(s.roster.hosts, Trial{Took: time.Hour})
	if got.PeakInFlight != 4 || got.Started != 40 || !got.Finished.Equal(noon.Add(10*time.Hour)) {
		t.Errorf("four sites of ten hosts, one at a time in each: %+v", got)
	}
}

// TestASimulatedReleaseThatAlwaysFailsNeverLeavesTheFirstWave holds whatever the limits are: the hub lets no wave pass in which
// more hosts failed than are well.
func TestASimulatedReleaseThatAlwaysFailsNeverLeavesTheFirstWave(t *testing.T) {
	r := random(t)
	for range 100 {
		d := planned(release.Wave{Name: "canary", PercentBP: 500 + r.IntN(3000)}, release.Wave{Name: "rest", PercentBP: 10000, Advance: "auto"})
		d.RolloutID, d.Coordinator, d.Budget = fmt.Sprint("r-", r.IntN(1000)), hub, &release.Budget{Count: 1 + r.IntN(20)}
		d.Halt = &release.HaltPolicy{MaxFailures: 1 + r.IntN(400)}
		got := NewSchedule(d, nil, release.Digest{}).Simulate(hostsOf(200), Trial{FailureRate: 1, Took: time.Minute, Seed: r.Uint64()})
		if got.Started == 0 || got.Started > d.Waves[0].PercentBP*200/10000+40 || got.HeldIn == "" && got.HaltedIn != "canary" {
			t.Fatalf("canary of %d bp, %d failures allowed: %+v", d.Waves[0].PercentBP, d.Halt.MaxFailures, got)
		}
	}
}

func TestASimulatedShareBoundsTheWholeFleetAsWellAsEachLabelGroup(t *testing.T) {
	in := open()
	in.Deployment.Coordinator, in.Deployment.Budget = hub, &release.Budget{PercentBP: 1000, GroupBy: []string{"site"}}
	pin(&in, fleet(40, func(i int) map[string]string { return map[string]string{"site": fmt.Sprint("s", i%20)} })...)
	s := NewSchedule(in.Deployment, in.Inventory, in.InventoryDigest)
	if got := s.Simulate(s.roster.hosts, Trial{Took: time.Hour}); got.PeakInFlight != 4 || got.Started != 40 {
		t.Errorf("a tenth of 40 hosts on 20 sites: %+v", got)
	}
}

func TestTheOddsOfARolloutAreThoseOfItsSeeds(t *testing.T) {
	d := planned(twoWaves("none")...)
	s := NewSchedule(d, nil, release.Digest{})
	odds := func() Odds {
		return s.Odds(Trial{FailureRate: 0.1, Took: time.Minute, Seed: 42}, 20, func(uint64) []Host { return hostsOf(100) })
	}
	got := odds()
	if got.Runs != 20 || got.Hosts != 100 || got.Started.Least != 100 || got.Failed.Least == got.Failed.Most || got.Failed.Median < 5 || got.Failed.Median > 15 {
		t.Errorf("got %+v", got)
	}
	if again := odds(); again != got {
		t.Errorf("the same seed gives %+v and %+v", got, again)
	}
}

func TestStartsAreTheEarliestThatDecideGives(t *testing.T) {
	r := random(t)
	for range 300 {
		in := someInput(r)
		in.Hold, in.Emergency = nil, nil
		s := NewSchedule(in.Deployment, in.Inventory, in.InventoryDigest)
		for _, start := range s.Starts([]Host{in.Host}) {
			if got := on(in, noon.Add(-week)); !got.Earliest.Equal(start.At) || got.Wave != start.Wave {
				t.Fatalf("planned %+v, decided %+v", start, got)
			}
			if start.At.IsZero() != (start.Because != "") {
				t.Fatalf("%+v", start)
			}
		}
	}
}

func TestASimulatedHubKeepsTheBudgetAndStopsABadRelease(t *testing.T) {
	d := planned(release.Wave{Name: "canary", PercentBP: 1000, Advance: "auto"}, release.Wave{Name: "rest", PercentBP: 10000, Advance: "auto"})
	d.Coordinator, d.Budget, d.Halt = hub, &release.Budget{Count: 5}, &release.HaltPolicy{MaxFailures: 3}
	run := func(rate float64) Outcome {
		return NewSchedule(d, nil, release.Digest{}).Simulate(hostsOf(500), Trial{FailureRate: rate, Took: 10 * time.Minute, Seed: 1})
	}
	if got := run(0); got.Started != 500 || got.Failed != 0 || got.PeakInFlight != 5 || !got.HaltedAt.IsZero() {
		t.Errorf("good release: %+v", got)
	}
	if got := run(0); got.Finished.Sub(noon) < 100*10*time.Minute {
		t.Errorf("500 hosts, 5 at a time, cannot be done by %s", got.Finished)
	}
	bad := run(1)
	if bad.HaltedIn != "canary" || bad.Failed > 3-1+5 || bad.Untouched != 500-bad.Started {
		t.Errorf("bad release: %+v", bad)
	}
	if again := run(1); again != bad {
		t.Errorf("the same seed gives %+v and %+v", bad, again)
	}
}

func TestASimulationWithoutAHubShowsThatNothingHalts(t *testing.T) {
	d := planned(twoWaves("none")...)
	d.Halt, d.Budget = &release.HaltPolicy{MaxFailures: 1}, &release.Budget{Count: 1}
	got := NewSchedule(d, nil, release.Digest{}).Simulate(hostsOf(100), Trial{FailureRate: 1, Took: time.Minute})
	if got.Failed != 100 || !got.HaltedAt.IsZero() || got.PeakInFlight < 2 {
		t.Errorf("got %+v", got)
	}
}

func TestASimulationStartsOnlyInsideWindowsAndHaltsByShare(t *testing.T) {
	d := planned(release.Wave{Name: "all", PercentBP: 10000})
	d.Coordinator, d.Budget, d.Windows = hub, &release.Budget{PercentBP: 100}, nightly
	d.Halt = &release.HaltPolicy{MaxFailureBP: 5000, MinSample: 20}
	s := NewSchedule(d, nil, release.Digest{})
	if got := s.Simulate(hostsOf(100), Trial{Took: time.Hour}); got.Started != 100 || got.Finished.Sub(noon) < 24*24*time.Hour {
		t.Errorf("one at a time, four a night: %+v", got)
	}
	if got := s.Simulate(hostsOf(100), Trial{Took: time.Hour, FailureRate: 1}); got.Failed != 20 {
		t.Errorf("a minimum sample of 20: %+v", got)
	}
	d.Expires = ptr(noon.Add(48 * time.Hour))
	if got := s.Simulate(hostsOf(100), Trial{Took: time.Hour}); got.Started != 8 || got.Untouched != 92 {
		t.Errorf("two nights: %+v", got)
	}
}

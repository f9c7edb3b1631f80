package rollout

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// What a rollout promises on a host, and where it is shown. (What a hub promises is shown in agent/hub; that a host's sequence,
// epoch and clock never go back, in agent and tuf/client.)
//
//	A release that always fails stays in the first wave   TestNothingButASignatureOrAHubOpensALaterWave
//	An empty wave, or one that lacks hosts, cannot pass   TestEveryEmptyOrShortWaveIsRefusedBeforeAnybodySigns
//	A host's wave depends on signed documents and its id  TestATurnDependsOnlyOnSignedDocumentsAndTheHostID, vectors_test.go
//	Positions are uniform, rollouts are independent       vectors_test.go
//	Waves are cumulative; who is eligible stays eligible  TestAHostOnceInItsWaveStaysEligible, TestAHigherMaxWaveOnlyAddsHosts
//	Adding any stop never makes a host act earlier        TestAddingAnyStopNeverMakesAHostActEarlier
//	No coordinator opens a wave before its signed floor   TestNoCoordinatorOpensAWaveBeforeItsSignedFloor
//	Windows open as often as they say, in every zone      TestAWindowOpensAsOftenAsItsCalendarHasItsDays
//	Freezes beat windows, emergencies beat both           calendar_test.go

func chance(r *rand.Rand, percent int) bool { return r.IntN(100) < percent }

func somewhere(r *rand.Rand, span time.Duration) time.Time {
	return noon.Add(time.Duration(r.Int64N(int64(span)))).Truncate(time.Minute)
}

var zones = []string{"", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"}

func someWindows(r *rand.Rand) (windows []release.Window) {
	for range 1 + r.IntN(2) {
		w := release.Window{Start: fmt.Sprintf("%02d:%02d", r.IntN(24), r.IntN(60)), Length: hours(1 + r.Float64()*12), Zone: zones[r.IntN(len(zones))]}
		for _, i := range r.Perm(7)[:1+r.IntN(4)] {
			w.Days = append(w.Days, everyDay[i])
		}
		windows = append(windows, w)
	}
	return windows
}

func someFreeze(r *rand.Rand) release.Freeze {
	from := somewhere(r, week)
	return release.Freeze{From: from, Until: from.Add(time.Duration(1 + r.Int64N(int64(3*day))))}
}

const week = 7 * day

func someWaves(r *rand.Rand, counts bool) (waves []release.Wave) {
	bp, after := 0, time.Duration(0)
	for i := range 1 + r.IntN(4) {
		w := release.Wave{Name: fmt.Sprint("w", i), StartAfter: release.Duration(after), Spread: release.Duration(r.Int64N(int64(day)))}
		switch k := r.IntN(5); {
		case k == 0:
			w.Labels = map[string]string{"site": fmt.Sprint("s", r.IntN(3))}
		case k == 1:
			w.Hosts = []string{fmt.Sprint("host-", r.IntN(12)), fmt.Sprint("host-", r.IntN(12))}
		case k == 2 && counts:
			w.Count = 1 + r.IntN(4)
		default:
			bp = min(10000, bp+1+r.IntN(5000))
			w.PercentBP = bp
		}
		w.Advance = []string{"", "none", "auto", "signed"}[r.IntN(4)]
		after += time.Duration(r.Int64N(int64(day)))
		waves = append(waves, w)
	}
	return waves
}

// someInput is a random start: any stop may be there.
func someInput(r *rand.Rand) Input {
	in := open()
	d := in.Deployment
	in.Host = Host{ID: fmt.Sprint("host-", r.IntN(12)), Environment: production, Labels: map[string]string{"site": fmt.Sprint("s", r.IntN(3))}}
	d.RolloutID = fmt.Sprint("r-", r.IntN(1000))
	if chance(r, 50) {
		d.Waves = someWaves(r, chance(r, 50))
		d.MaxWave = []string{"", "w0", "w1", "w3"}[r.IntN(4)]
	}
	if chance(r, 30) {
		pin(&in, fleet(12, func(i int) map[string]string { return map[string]string{"site": fmt.Sprint("s", i%3)} })...)
	}
	for i, restrict := range restrictions {
		if i < optional && chance(r, 12) {
			restrict.apply(r, &in)
		}
	}
	return in
}

// restrictions add one stop each. They change a private copy. The first ones are also part of random inputs.
const optional = 8

var restrictions = []struct {
	name  string
	apply func(*rand.Rand, *Input)
}{
	{"windows", func(r *rand.Rand, in *Input) {
		if in.Deployment.Windows == nil {
			in.Deployment.Windows = someWindows(r)
		}
	}},
	{"freeze", func(r *rand.Rand, in *Input) {
		in.Deployment.Freeze = append(slices.Clone(in.Deployment.Freeze), someFreeze(r))
	}},
	{"not before", func(r *rand.Rand, in *Input) {
		if in.Deployment.NotBefore == nil {
			in.Deployment.NotBefore = ptr(somewhere(r, 3*day))
		}
	}},
	{"expires", func(r *rand.Rand, in *Input) {
		if in.Deployment.Expires == nil {
			in.Deployment.Expires = ptr(somewhere(r, 2*week))
		}
	}},
	{"hold", func(r *rand.Rand, in *Input) {
		if in.Hold == nil {
			in.Hold = &Hold{Until: somewhere(r, 3*day)}
		}
	}},
	{"halt", func(r *rand.Rand, in *Input) {
		e := *entry("halt", func(e *release.EmergencyEntry) { e.Until = ptr(somewhere(r, 3*day)) })
		if in.Emergency != nil {
			e.Entries = append(e.Entries, in.Emergency.Entries...)
		}
		in.Emergency = &e
	}},
	{"freshness", func(r *rand.Rand, in *Input) {
		if in.Deployment.Freshness == 0 {
			in.Deployment.Freshness = hours(r.Float64() * 2)
		}
	}},
	{"coordinator", func(r *rand.Rand, in *Input) {
		if in.Deployment.Coordinator == nil {
			in.Deployment.Coordinator = &release.Coordinator{Kind: "fleetlock"}
			in.Slot = Slot{Answer: []Answer{AnswerGranted, AnswerNone, AnswerWait, AnswerLost}[r.IntN(4)]}
		}
	}},
	{"paused", func(_ *rand.Rand, in *Input) { in.Deployment.State = release.StatePaused }},
	{"held for good", func(_ *rand.Rand, in *Input) { in.Hold = &Hold{} }},
	{"metadata", func(_ *rand.Rand, in *Input) { in.MetadataExpired = &Expired{"root", noon} }},
	{"emergency expired", func(_ *rand.Rand, in *Input) { in.EmergencyExpired = true }},
	{"clock", func(_ *rand.Rand, in *Input) { in.ClockTrusted = false }},
	{"revoked", func(_ *rand.Rand, in *Input) { in.Emergency = revoke("2.4.1") }},
	{"quarantined", func(_ *rand.Rand, in *Input) { in.Quarantined = ptr("it was sick") }},
	{"refused a slot", func(_ *rand.Rand, in *Input) { in.Slot.Answer = AnswerWait }},
	{"older timestamp", func(_ *rand.Rand, in *Input) { in.Issued = in.Issued.Add(-time.Hour) }},
	{"other environment", func(_ *rand.Rand, in *Input) { in.Host.Environment = staging }},
	{"advance by signature", func(_ *rand.Rand, in *Input) { changeWaves(in, func(w *release.Wave) { w.Advance = "signed" }) }},
	{"later waves", func(_ *rand.Rand, in *Input) { changeWaves(in, func(w *release.Wave) { w.StartAfter += hours(5) }) }},
	{"wider spread", func(_ *rand.Rand, in *Input) { changeWaves(in, func(w *release.Wave) { w.Spread *= 2 }) }},
}

func changeWaves(in *Input, change func(*release.Wave)) {
	in.Deployment.Waves = slices.Clone(in.Deployment.Waves)
	for i := range in.Deployment.Waves {
		change(&in.Deployment.Waves[i])
	}
}

// on asks at another time, with a timestamp of the same age as before.
func on(in Input, now time.Time) Decision {
	in.Issued = in.Issued.Add(now.Sub(in.Now))
	in.Now = now
	return Decide(in)
}

func TestAddingAnyStopNeverMakesAHostActEarlier(t *testing.T) {
	r := random(t)
	acted := map[string]int{}
	for range 400 {
		base := someInput(r)
		for i, restrict := range restrictions {
			tighter := base
			tighter.Deployment = ptr(*base.Deployment)
			restrict.apply(r, &tighter)
			for range 4 {
				now := somewhere(r, 10*day)
				loose, tight := on(base, now), on(tighter, now)
				if tight.Act {
					acted[restrict.name]++
				}
				if tight.Act && !loose.Act {
					t.Fatalf("%s makes a host act at %s\nwithout %+v\nwith    %+v", restrict.name, now, loose, tight)
				}
				if i < optional && !loose.Earliest.IsZero() && !tight.Earliest.IsZero() && !loose.Act && tight.Earliest.Before(loose.Earliest) {
					t.Fatalf("%s moves the earliest start from %s to %s", restrict.name, loose.Earliest, tight.Earliest)
				}
			}
		}
	}
	if len(acted) < optional {
		t.Errorf("the generator is too strict to show anything: %v", acted)
	}
}

func TestUntilIsExactlyWhenTheHostMayAct(t *testing.T) {
	r := random(t)
	exact := 0
	for range 5000 {
		in := someInput(r)
		now := somewhere(r, 5*day)
		got := on(in, now)
		if got.Act || got.Until.IsZero() {
			continue
		}
		if !got.Until.After(now) {
			t.Fatalf("until %s is not after %s: %+v", got.Until, now, got)
		}
		if before := on(in, got.Until.Add(-1)); before.Act {
			t.Fatalf("acts before %s: %+v", got.Until, before)
		}
		then := on(in, got.Until)
		if !then.Act && then.Rule != RuleCoordinator {
			t.Fatalf("said %+v\nbut then %+v", got, then)
		}
		exact++
	}
	if exact < 100 {
		t.Errorf("only %d waits had an end", exact)
	}
}

func TestAHostOnceInItsWaveStaysEligible(t *testing.T) {
	r := random(t)
	for range 500 {
		in := open()
		in.Host.ID = fmt.Sprint("host-", r.IntN(12))
		in.Deployment.Waves = someWaves(r, false)
		started := false
		for h := range 24 * 8 {
			act := on(in, noon.Add(time.Duration(h)*time.Hour)).Act
			if started && !act {
				t.Fatalf("a host loses its turn after %d hours: %+v", h, in.Deployment.Waves)
			}
			started = act
		}
	}
}

func TestATurnDependsOnlyOnSignedDocumentsAndTheHostID(t *testing.T) {
	r := random(t)
	for range 200 {
		in := open()
		in.Deployment.Waves = someWaves(r, true)
		in.Deployment.Budget = &release.Budget{Count: 1, GroupBy: []string{"site"}}
		hosts := fleet(12, func(i int) map[string]string { return map[string]string{"site": fmt.Sprint("s", i%3)} })
		pin(&in, hosts...)
		in.Host.ID = fmt.Sprint("host-", r.IntN(12))
		want := Decide(in)
		in.Schedule = NewSchedule(in.Deployment, in.Inventory, in.InventoryDigest)
		if got := Decide(in); got != want {
			t.Fatalf("with a schedule %+v\nwithout %+v", got, want)
		}
		in.Schedule = in.Schedule.For(in.Host.ID)
		if got := Decide(in); got != want {
			t.Fatalf("with a schedule of this host alone %+v\nwithout %+v", got, want)
		}
		in.Schedule = nil
		r.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
		in.Inventory.Hosts = append(hosts, hosts[0])
		in.Host.Labels = map[string]string{"site": "elsewhere"}
		if got := Decide(in); got != want {
			t.Fatalf("shuffled, and with other local labels: %+v\nwant %+v", got, want)
		}
	}
}

// TestNothingButASignatureOrAHubOpensALaterWave is the pure part of "a release that always fails never leaves the first
// wave": with waves that advance by signature or by judgement and no max_wave, no answer and no time lets a host of a
// later wave go.
func TestNothingButASignatureOrAHubOpensALaterWave(t *testing.T) {
	r := random(t)
	first := 0
	for range 2000 {
		in := someInput(r)
		in.Deployment.Waves, in.Deployment.MaxWave = someWaves(r, true), ""
		judged := []string{"auto", "signed"}[r.IntN(2)]
		changeWaves(&in, func(w *release.Wave) { w.Advance = judged })
		in.Slot = Slot{Answer: []Answer{AnswerNone, AnswerGranted, AnswerWait, AnswerLost}[r.IntN(4)], Since: noon}
		if judged == "signed" && chance(r, 50) {
			in.Deployment.Coordinator = hub
		}
		got := on(in, somewhere(r, 60*day))
		if got.Act && got.Wave != "w0" {
			t.Fatalf("a host of wave %s goes: %+v", got.Wave, in.Deployment.Waves)
		}
		if got.Act {
			first++
		}
	}
	if first == 0 {
		t.Error("no host of the first wave ever went")
	}
}

func TestNoCoordinatorOpensAWaveBeforeItsSignedFloor(t *testing.T) {
	r := random(t)
	for range 2000 {
		in := someInput(r)
		in.Deployment.Waves = someWaves(r, true)
		in.Deployment.Coordinator = hub
		in.Deployment.OnCoordinatorLoss = "signed-schedule"
		in.Slot = Slot{Answer: []Answer{AnswerNone, AnswerGranted, AnswerWait, AnswerLost}[r.IntN(4)], Since: noon.Add(-day)}
		now := somewhere(r, 5*day)
		if got := on(in, now); got.Act && now.Before(NewSchedule(in.Deployment, in.Inventory, in.InventoryDigest).floorOf(got.Wave)) {
			t.Fatalf("acts before the floor of %s: %+v", got.Wave, got)
		}
	}
}

func (s *Schedule) floorOf(wave string) time.Time {
	return s.floor(slices.IndexFunc(s.d.Waves, func(w release.Wave) bool { return w.Name == wave }))
}

func TestRulesAreAClosedSetThatDecisionsKeepTo(t *testing.T) {
	r := random(t)
	for range 3000 {
		got := on(someInput(r), somewhere(r, 10*day))
		if !slices.Contains(Rules(), got.Rule) || got.Because == "" || got.Act != (got.Rule == RuleOpen) {
			t.Fatalf("%+v", got)
		}
	}
}

func TestEveryEmptyOrShortWaveIsRefusedBeforeAnybodySigns(t *testing.T) {
	r := random(t)
	empty, short := 0, 0
	for range 500 {
		in := open()
		in.Deployment.RolloutID, in.Deployment.Waves = fmt.Sprint("r-", r.IntN(1000)), someWaves(r, true)
		for i := range in.Deployment.Waves {
			in.Deployment.Waves[i].MinHosts = r.IntN(5)
		}
		pin(&in, fleet(12, func(i int) map[string]string { return map[string]string{"site": fmt.Sprint("s", i%3)} })...)
		have := map[string]int{}
		for _, s := range NewSchedule(in.Deployment, in.Inventory, in.InventoryDigest).roster.seats {
			if s.wave >= 0 {
				have[in.Deployment.Waves[s.wave].Name]++
			}
		}
		problems := map[string]bool{}
		for _, p := range Plan(in.Deployment, in.Inventory, in.InventoryDigest, 0).Problems {
			problems[p.Field] = true
		}
		for i, w := range in.Deployment.Waves {
			at, n := fmt.Sprintf("waves[%d]", i), have[w.Name]
			if problems[at] != (n == 0) || problems[at+".min_hosts"] != (n > 0 && n < w.MinHosts) {
				t.Fatalf("wave %s has %d hosts and asks for %d: problems %v", w.Name, n, w.MinHosts, problems)
			}
			if n == 0 {
				empty++
			} else if n < w.MinHosts {
				short++
			}
		}
	}
	if empty == 0 || short == 0 {
		t.Errorf("%d waves were empty and %d short", empty, short)
	}
}

func TestAHigherMaxWaveOnlyAddsHosts(t *testing.T) {
	r := random(t)
	added := 0
	for range 200 {
		in := open()
		in.Deployment.Waves = someWaves(r, false)
		changeWaves(&in, func(w *release.Wave) { w.Advance = "signed" })
		if chance(r, 50) {
			pin(&in, fleet(12, nil)...)
		}
		now, before := somewhere(r, 10*day), map[string]bool{}
		for _, w := range in.Deployment.Waves {
			in.Deployment.MaxWave = w.Name
			acting := map[string]bool{}
			for i := range 12 {
				in.Host.ID = fmt.Sprint("host-", i)
				acting[in.Host.ID] = on(in, now).Act
				if before[in.Host.ID] && !acting[in.Host.ID] {
					t.Fatalf("%s loses its turn when max_wave is raised to %s", in.Host.ID, w.Name)
				}
				if acting[in.Host.ID] && !before[in.Host.ID] {
					added++
				}
			}
			before = acting
		}
	}
	if added == 0 {
		t.Error("nobody ever went")
	}
}

package rollout

import (
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

func TestEveryRuleSaysWaitWithItsNameAndEnd(t *testing.T) {
	in5 := noon.Add(5 * time.Hour)
	cases := []struct {
		name   string
		change func(*Input)
		rule   Rule
		until  time.Time
		says   string
	}{
		{"no deployment", func(in *Input) { in.Deployment = nil }, RuleDeployment, time.Time{}, "no deployment"},
		{"other environment", func(in *Input) { in.Host.Environment = staging }, RuleEnvironment, time.Time{}, "belongs to staging"},
		{"paused", func(in *Input) { in.Deployment.State, in.Deployment.Reason = "paused", "errors at checkout" }, RuleState, time.Time{}, "deployment 7 is paused: errors at checkout"},
		{"halted", func(in *Input) { in.Deployment.State = "halted" }, RuleState, time.Time{}, "halted"},
		{"unknown state", func(in *Input) { in.Deployment.State = "go" }, RuleState, time.Time{}, "go"},
		{"metadata", func(in *Input) { in.MetadataExpired = &Expired{"snapshot", noon} }, RuleMetadata, time.Time{}, "snapshot expired 2026-11-24 12:00 UTC"},
		{"emergency expired", func(in *Input) { in.EmergencyExpired = true }, RuleEmergency, time.Time{}, "has expired"},
		{"clock", func(in *Input) { in.ClockTrusted = false }, RuleClock, time.Time{}, "not synchronised"},
		{"clock behind", func(in *Input) { in.Issued = in.Now.Add(time.Hour) }, RuleClock, time.Time{}, "behind the repository"},
		{"not before", func(in *Input) { in.Deployment.NotBefore = &in5 }, RuleNotBefore, in5, "17:00 UTC"},
		{"made in the future", func(in *Input) { in.Deployment.Created = in5 }, RuleWave, in5, "opens"},
		{"expired", func(in *Input) { in.Deployment.Expires = ptr(noon.Add(time.Hour)) }, RuleExpires, time.Time{}, "expired"},
		{"stale", func(in *Input) { in.Deployment.Freshness = release.Duration(time.Minute) }, RuleFreshness, time.Time{}, "issued 1m0s ago"},
		{"never issued", func(in *Input) { in.Deployment.Freshness, in.Issued = hours(1), time.Time{} }, RuleFreshness, time.Time{}, "none is known"},
		{"halt", func(in *Input) { in.Emergency = entry("halt", nil) }, RuleEmergency, in5, "emergency halt of production until 2026-11-24 17:00 UTC: incident 12"},
		{"halt of the app", func(in *Input) { in.Emergency = entry("halt", func(e *release.EmergencyEntry) { e.App = &billing }) }, RuleEmergency, in5, "halt"},
		{"freeze by on-call", func(in *Input) { in.Emergency = entry("freeze", nil) }, RuleEmergency, in5, "freeze"},
		{"unknown entry", func(in *Input) { in.Emergency = entry("ponder", nil) }, RuleEmergency, in5, "ponder"},
		{"revoked", func(in *Input) { in.Emergency = revoke("2.4.1") }, RuleRevoked, time.Time{}, "is revoked: incident 12"},
		{"minimum", func(in *Input) {
			in.Emergency = entry("minimum", func(e *release.EmergencyEntry) {
				e.App, e.Version = &billing, ptr(must(release.ParseVersion("2.10.0")))
			})
		}, RuleMinimum, in5, "2.4.1 is below the emergency minimum 2.10.0"},
		{"quarantined", func(in *Input) { in.Quarantined = ptr("unhealthy in trial") }, RuleQuarantined, time.Time{}, "quarantined here: unhealthy in trial"},
		{"held", func(in *Input) { in.Hold = &Hold{By: "ada", Reason: "disk swap"} }, RuleHold, time.Time{}, "held here by ada until resumed: disk swap"},
		{"held for a time", func(in *Input) { in.Hold = &Hold{Until: in5} }, RuleHold, in5, "until 2026-11-24 17:00 UTC"},
		{"inventory missing", func(in *Input) { pin(in, fleet(3, nil)...); in.Inventory = nil }, RuleInventory, time.Time{}, "not here yet"},
		{"inventory changed", func(in *Input) { pin(in, fleet(3, nil)...); in.InventoryDigest = release.Digest{} }, RuleInventory, time.Time{}, "pins inventory"},
		{"inventory of staging", func(in *Input) { pin(in, fleet(3, nil)...); in.Inventory.Environment = staging }, RuleInventory, time.Time{}, "is of staging"},
		{"not listed", func(in *Input) { pin(in, fleet(3, nil)...) }, RuleInventory, time.Time{}, "web-1"},
		{"count without inventory", func(in *Input) { in.Deployment.Waves = []release.Wave{{Name: "canary", Count: 2}} }, RuleInventory, time.Time{}, "pins no inventory"},
		{"no wave", func(in *Input) { in.Deployment.Waves = []release.Wave{{Name: "db", Hosts: []string{"db-1"}}} }, RuleWave, time.Time{}, "no wave"},
		{"wave to come", func(in *Input) {
			in.Deployment.Waves = []release.Wave{{Name: "rest", PercentBP: 10000, StartAfter: hours(5)}}
		}, RuleWave, in5, "wave rest (position"},
		{"beyond max_wave", func(in *Input) {
			in.Deployment.Waves = []release.Wave{{Name: "db", Hosts: []string{"db-1"}}, {Name: "rest", PercentBP: 10000}}
			in.Deployment.MaxWave = "db"
		}, RuleAdvance, time.Time{}, "beyond the signed max_wave db"},
		{"freeze", func(in *Input) {
			in.Deployment.Freeze = []release.Freeze{{From: noon, Until: in5, Reason: "sale"}}
		}, RuleFreeze, in5, "frozen until 2026-11-24 17:00 UTC: sale"},
		{"window", func(in *Input) {
			in.Deployment.Windows = []release.Window{{Days: everyDay, Start: "17:00", Length: hours(1)}}
		}, RuleWindow, in5, "opens 2026-11-24 17:00 UTC"},
		{"coordinator not asked", func(in *Input) { in.Deployment.Coordinator = hub }, RuleCoordinator, time.Time{}, "asks the coordinator"},
		{"coordinator waits", func(in *Input) { in.Slot = Slot{Answer: AnswerWait, Reason: "5 of 5 taken"} }, RuleCoordinator, time.Time{}, "5 of 5 taken"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := Decide(with(c.change))
			if got.Act || got.Rule != c.rule || !got.Until.Equal(c.until) || !strings.Contains(got.Because, c.says) {
				t.Errorf("got %+v\nwant rule %s until %v saying %q", got, c.rule, c.until, c.says)
			}
		})
	}
}

var (
	everyDay = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}
	hub      = &release.Coordinator{Kind: "hub"}
)

func TestAnOpenDeploymentActivates(t *testing.T) {
	got := Decide(open())
	if !got.Act || got.Verb != VerbActivate || got.Rule != RuleOpen || *got.Target != *ref("2.4.1") || !got.Earliest.Equal(noon) {
		t.Errorf("got %+v", got)
	}
	if want := "2.4.1 is open to every host of production"; got.Because != want {
		t.Errorf("because %q, want %q", got.Because, want)
	}
}

func TestEntriesThatEndedOrConcernOthersStopNothing(t *testing.T) {
	for name, e := range map[string]*release.Emergency{
		"ended":       entry("halt", func(e *release.EmergencyEntry) { e.Until = ptr(noon.Add(time.Hour)) }),
		"other app":   entry("halt", func(e *release.EmergencyEntry) { e.App = &other }),
		"other bytes": revoke("9.9.9"),
		"old minimum": entry("minimum", func(e *release.EmergencyEntry) { e.Version = ptr(must(release.ParseVersion("2.4.1"))) }),
	} {
		if got := Decide(with(func(in *Input) { in.Emergency = e })); !got.Act {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestAHostThatRunsWhatIsWantedHasNothingToDo(t *testing.T) {
	for name, in := range map[string]Input{
		"runs it":         with(func(in *Input) { in.Current = running("2.4.1") }),
		"runs it, paused": with(func(in *Input) { in.Current, in.Deployment.State = running("2.4.1"), "paused" }),
		"absent and gone": with(func(in *Input) { in.Current, in.Deployment.Release, in.Deployment.Absent = nil, nil, true }),
	} {
		if got := Decide(in); got.Act || got.Verb != VerbNone || got.Rule != RuleUpToDate {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestAbsentRemovesUnderTheWaitsOfAStart(t *testing.T) {
	absent := func(in *Input) { in.Deployment.Release, in.Deployment.Fallback, in.Deployment.Absent = nil, nil, true }
	if got := Decide(with(absent)); !got.Act || got.Verb != VerbRemove {
		t.Errorf("open: %+v", got)
	}
	held := Decide(with(func(in *Input) { absent(in); in.Emergency = entry("halt", nil) }))
	if held.Act || held.Verb != VerbRemove || held.Rule != RuleEmergency {
		t.Errorf("halted: %+v", held)
	}
}

func TestARevokedRunningReleaseFollowsTheSignedPolicy(t *testing.T) {
	cases := []struct {
		policy string
		change func(*Input)
		verb   Verb
		target *release.Reference
	}{
		{"", nil, VerbNone, nil},
		{"keep", nil, VerbNone, nil},
		{"revert", nil, VerbRevert, ref("2.4.0")},
		{"revert", func(in *Input) { in.Deployment.Fallback = nil }, VerbRevert, nil},
		{"revert", func(in *Input) { in.Emergency.Entries = append(in.Emergency.Entries, revoke("2.4.0").Entries...) }, VerbRevert, nil},
		{"stop", nil, VerbStop, nil},
		{"stop", func(in *Input) { in.Current.Stopped = true }, VerbNone, nil},
		{"revert", func(in *Input) { in.Deployment.Release, in.Deployment.Absent = nil, true }, VerbStop, nil},
	}
	for _, c := range cases {
		got := Decide(with(func(in *Input) {
			in.Current, in.Emergency, in.Deployment.OnRevoked = running("2.4.1"), revoke("2.4.1"), c.policy
			blockEverything(in)
			if c.change != nil {
				c.change(in)
			}
		}))
		if got.Rule != RuleRevoked || got.Verb != c.verb || got.Act != (c.verb != VerbNone) || (got.Target == nil) != (c.target == nil) {
			t.Errorf("on_revoked %q: %+v", c.policy, got)
		}
	}
}

// blockEverything puts every stop that must not delay a revert in the way.
func blockEverything(in *Input) {
	in.ClockTrusted, in.EmergencyExpired, in.MetadataExpired = false, true, &Expired{"targets", noon}
	in.Hold, in.Issued, in.Deployment.Freshness = &Hold{}, time.Time{}, hours(1)
	in.Deployment.Expires = ptr(noon.Add(time.Minute))
	in.Deployment.Waves = []release.Wave{{Name: "last", PercentBP: 10000, StartAfter: hours(1000)}}
	in.Deployment.Freeze = []release.Freeze{{From: noon, Until: noon.Add(1000 * time.Hour)}}
	in.Deployment.Windows = []release.Window{{Days: []string{"sun"}, Start: "03:00", Length: hours(1)}}
	in.Deployment.Coordinator, in.Slot = hub, Slot{Answer: AnswerWait}
	if in.Emergency == nil {
		in.Emergency = &release.Emergency{Environment: production}
	}
	in.Emergency.Entries = append(in.Emergency.Entries, entry("halt", nil).Entries...)
}

func TestASignedRevertIsDelayedByNothingButItsOwnPace(t *testing.T) {
	reverting := func(change func(*Input)) Decision {
		return Decide(with(func(in *Input) {
			in.Deployment.State, in.Current = release.StateRevert, running("2.4.1")
			blockEverything(in)
			if change != nil {
				change(in)
			}
		}))
	}
	if got := reverting(nil); !got.Act || got.Verb != VerbRevert || *got.Target != *ref("2.4.0") {
		t.Errorf("blocked: %+v", got)
	}
	pace := &release.RevertPolicy{Spread: hours(1000), MaxUnavailable: 5}
	paced := reverting(func(in *Input) { in.Deployment.Revert = pace })
	if paced.Act || paced.Verb != VerbRevert || paced.Rule != RuleRevert || paced.Until.IsZero() {
		t.Errorf("paced: %+v", paced)
	}
	sick := reverting(func(in *Input) { in.Deployment.Revert, in.Current.Healthy = pace, false })
	if !sick.Act {
		t.Errorf("an unhealthy host waits for its turn: %+v", sick)
	}
	slot := func(in *Input) {
		in.Deployment.Revert, in.Deployment.CoordinatorGrace = &release.RevertPolicy{MaxUnavailable: 5}, hours(2)
	}
	if got := reverting(slot); got.Act || got.Rule != RuleCoordinator || !got.Until.Equal(noon.Add(2*time.Hour)) {
		t.Errorf("without a slot: %+v", got)
	}
	if got := reverting(func(in *Input) { slot(in); in.Now = noon.Add(2 * time.Hour) }); !got.Act {
		t.Errorf("a coordinator blocks a revert for good: %+v", got)
	}
	if got := reverting(func(in *Input) { slot(in); in.Slot.Answer = AnswerLost }); !got.Act {
		t.Errorf("a lost coordinator blocks a revert: %+v", got)
	}
}

func TestARevertConcernsOnlyHostsThatRunTheRelease(t *testing.T) {
	for _, current := range []*Running{nil, running("2.4.0"), running("1.0.0")} {
		got := Decide(with(func(in *Input) { in.Deployment.State, in.Current = release.StateRevert, current }))
		if got.Act || got.Verb != VerbNone || got.Rule != RuleRevert {
			t.Errorf("%+v: %+v", current, got)
		}
	}
}

func TestAReleaseThatWasStoppedIsStartedAgainWhenItsRevocationEnds(t *testing.T) {
	got := Decide(with(func(in *Input) { in.Current = running("2.4.1"); in.Current.Stopped = true }))
	if !got.Act || got.Verb != VerbActivate {
		t.Errorf("got %+v", got)
	}
}

func TestTheCoordinatorIsAskedLastAndItsLossFollowsThePolicy(t *testing.T) {
	lost := Slot{Answer: AnswerLost, Since: noon}
	cases := []struct {
		name   string
		change func(*Input)
		act    bool
		rule   Rule
	}{
		{"wave first", func(in *Input) {
			in.Deployment.Waves = []release.Wave{{Name: "w", PercentBP: 10000, StartAfter: hours(9)}}
		}, false, RuleWave},
		{"granted", func(in *Input) { in.Slot.Answer = AnswerGranted }, true, RuleOpen},
		{"lost, hold", func(in *Input) { in.Slot = lost }, false, RuleCoordinator},
		{"lost, in grace", func(in *Input) {
			in.Slot, in.Deployment.OnCoordinatorLoss, in.Deployment.CoordinatorGrace = lost, "signed-schedule", hours(2)
		}, false, RuleCoordinator},
		{"lost, grace over", func(in *Input) {
			in.Slot, in.Deployment.OnCoordinatorLoss, in.Deployment.CoordinatorGrace = lost, "signed-schedule", hours(1)
		}, true, RuleOpen},
		{"refused for long", func(in *Input) {
			in.Slot, in.Deployment.OnCoordinatorLoss = Slot{Answer: AnswerWait, Since: noon.Add(-time.Hour)}, "signed-schedule"
		}, false, RuleCoordinator},
	}
	for _, c := range cases {
		got := Decide(with(func(in *Input) { in.Deployment.Coordinator = hub; c.change(in) }))
		if got.Act != c.act || got.Rule != c.rule {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestTheStrictestRuleIsReportedAndUntilIsWhenAllAreOver(t *testing.T) {
	in := with(func(in *Input) {
		in.Deployment.Waves = []release.Wave{{Name: "rest", PercentBP: 10000, StartAfter: hours(3)}}
		in.Hold = &Hold{Until: noon.Add(8 * time.Hour)}
		in.Deployment.Windows = []release.Window{{Days: everyDay, Start: "22:00", Length: hours(2)}}
	})
	got := Decide(in)
	if want := at("2026-11-24T22:00:00Z"); got.Rule != RuleWindow || !got.Until.Equal(want) || !got.Earliest.Equal(want) {
		t.Errorf("dated: %+v", got)
	}
	in.Deployment.State = release.StatePaused
	if got := Decide(in); got.Rule != RuleState || !got.Until.IsZero() || got.Earliest.IsZero() {
		t.Errorf("undated: %+v", got)
	}
	in.Deployment.Expires = ptr(at("2026-11-24T21:00:00Z"))
	if got := Decide(in); !got.Earliest.IsZero() {
		t.Errorf("expires before it opens: %+v", got)
	}
}

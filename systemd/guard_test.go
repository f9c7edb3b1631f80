package systemd

import (
	"reflect"
	"testing"
	"time"
)

var someGuard = Guard{App: "billing", Attempt: "a1", From: "0123456789ab", To: "ba9876543210", Deadline: 65 * time.Second}

func TestAGuardCountsFromTheManagersStart(t *testing.T) {
	p := newPID1(t) // which started 5 s after boot
	c := p.control()
	name, err := c.ArmGuard(t.Context(), someGuard)
	if err != nil || name != "slipway-guard@billing:a1:0123456789ab:ba9876543210.timer" {
		t.Fatalf("%q, %v", name, err)
	}
	props := p.transients()[name]
	want := map[string]any{
		"TimersMonotonic": [][]any{{"OnStartupSec", uint64(60_000_000)}}, "AccuracyUSec": uint64(100_000),
		"RemainAfterElapse": false, "DefaultDependencies": false,
	}
	for name, value := range want {
		if !reflect.DeepEqual(props[name], value) {
			t.Errorf("%s is %v, want %v", name, props[name], value)
		}
	}
}

func TestArmingAgainReplacesAndDisarmingTwiceIsFine(t *testing.T) {
	p := newPID1(t)
	c := p.control()
	past := someGuard
	past.Deadline = 0
	for _, g := range []Guard{someGuard, past} {
		if _, err := c.ArmGuard(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	if got := p.transients()[someGuard.Timer()]["TimersMonotonic"]; !reflect.DeepEqual(got, [][]any{{"OnStartupSec", uint64(1)}}) {
		t.Errorf("a deadline in the past is armed as %v", got)
	}
	other := someGuard
	other.Attempt = "a2"
	if _, err := c.ArmGuard(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.DisarmGuard(t.Context(), "billing", "a1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, armed := p.transients()[other.Timer()]; len(p.transients()) != 1 || !armed {
		t.Errorf("after disarming a1 there are %v", p.transients())
	}
}

func TestAGuardThatWouldNotStartIsAnError(t *testing.T) {
	p := newPID1(t)
	c := p.control()
	p.set(func() { p.result = "failed" })
	if _, err := c.ArmGuard(t.Context(), someGuard); err == nil {
		t.Error("a timer whose job failed counts as armed")
	}
	if _, err := c.ArmGuard(t.Context(), Guard{App: "x;y", Attempt: "a", To: "b"}); err == nil {
		t.Error("a name that is no name was accepted")
	}
}

func TestGuardInstancesAreReadBackOrRefused(t *testing.T) {
	want := someGuard
	want.Deadline = 0
	if got, err := ParseGuard(someGuard.Instance()); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := ParseGuard("billing:a1::ba9876543210"); err != nil {
		t.Errorf("a first install: %v", err)
	}
	for _, bad := range []string{"", "a", "a:b:c", "a:b:c:d:e", ":b:c:d", "a::c:d", "a:b:c:", "a:b:c:$d", "a:b/c:c:d", "a:b:c:d\n"} {
		if g, err := ParseGuard(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, g)
		}
	}
}

func FuzzParseGuard(f *testing.F) {
	f.Add("billing:a1::ba9876543210")
	f.Fuzz(func(t *testing.T, s string) {
		if g, err := ParseGuard(s); err == nil && g.Instance() != s {
			t.Errorf("%q became %q", s, g.Instance())
		}
	})
}

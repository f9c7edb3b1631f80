package rollout

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

func weekly(zone, start string, length time.Duration, days ...string) release.Window {
	return release.Window{Days: days, Start: start, Length: release.Duration(length), Zone: zone}
}

// openings lists when windows open in [from, until), by walking from one to the next.
func openings(t *testing.T, w release.Window, from, until string) (list []string) {
	t.Helper()
	parsed, problem := newWindow(w)
	if problem != "" {
		t.Fatal(problem)
	}
	for at, end := at(from), at(until); ; {
		opens, ok := parsed.next(at)
		if !ok || !opens.Before(end) {
			return list
		}
		list = append(list, opens.UTC().Format("01-02T15:04"))
		at = opens.Add(parsed.length)
	}
}

func TestAWindowOpensOnceForEachOfItsDates(t *testing.T) {
	cases := []struct {
		name, from, until string
		window            release.Window
		want              string
	}{
		{"UTC by default", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z", weekly("", "22:00", 4*time.Hour, "mon", "thu"), "11-23T22:00 11-26T22:00"},
		{"in a zone", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z", weekly("Asia/Kolkata", "02:00", time.Hour, "sun"), "11-28T20:30"},
		{"clocks go forward over the start", "2026-03-27T00:00:00Z", "2026-03-31T00:00:00Z", weekly("Europe/Berlin", "02:30", time.Hour, everyDay...), "03-27T01:30 03-28T01:30 03-29T01:00 03-30T00:30"},
		{"clocks go forward inside", "2026-03-28T12:00:00Z", "2026-03-31T00:00:00Z", weekly("Europe/Berlin", "01:00", 3*time.Hour, everyDay...), "03-29T00:00 03-29T23:00 03-30T23:00"},
		{"clocks go back over the start", "2026-10-24T00:00:00Z", "2026-10-27T00:00:00Z", weekly("Europe/Berlin", "02:30", time.Hour, everyDay...), "10-24T00:30 10-25T00:30 10-26T01:30"},
		{"clocks jump at midnight", "2018-11-03T12:00:00Z", "2018-11-06T00:00:00Z", weekly("America/Sao_Paulo", "00:00", time.Hour, everyDay...), "11-04T03:00 11-05T02:00"},
		{"a date that the zone skipped", "2011-12-29T11:00:00Z", "2012-01-01T12:00:00Z", weekly("Pacific/Apia", "12:00", time.Hour, everyDay...), "12-29T22:00 12-30T22:00 12-31T22:00"},
		{"half an hour of summer time", "2026-04-03T00:00:00Z", "2026-04-06T00:00:00Z", weekly("Australia/Lord_Howe", "01:45", time.Hour, everyDay...), "04-03T14:45 04-04T14:45 04-05T15:15"},
		{"never", "2026-11-23T00:00:00Z", "2026-12-30T00:00:00Z", weekly("", "22:00", time.Hour), ""},
	}
	for _, c := range cases {
		if got := strings.Join(openings(t, c.window, c.from, c.until), " "); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestAWindowStaysOpenForItsLengthWhateverTheClocksDo(t *testing.T) {
	c := newCalendar([]release.Window{weekly("Europe/Berlin", "23:00", 6*time.Hour, "sat")}, nil)
	for opened, closed := range map[string]string{
		"2026-03-28T22:00:00Z": "2026-03-29T04:00:00Z",
		"2026-10-24T21:00:00Z": "2026-10-25T03:00:00Z",
		"2026-11-21T22:00:00Z": "2026-11-22T04:00:00Z",
	} {
		for instant, open := range map[time.Time]bool{
			at(opened).Add(-1): false, at(opened): true, at(closed).Add(-1): true, at(closed): false,
		} {
			if _, objection := c.next(instant); (objection == nil) != open {
				t.Errorf("at %s: open is %v", instant, !open)
			}
		}
	}
}

func TestAWindowOfAWholeWeekNeverCloses(t *testing.T) {
	c := newCalendar([]release.Window{weekly("Europe/Berlin", "02:30", 7*24*time.Hour+time.Hour, "sun")}, nil)
	for i := range 24 * 366 {
		if _, objection := c.next(noon.Add(time.Duration(i) * time.Hour)); objection != nil {
			t.Fatalf("hour %d: %s", i, objection.because)
		}
	}
}

func TestAFreezeBeatsAWindowAndTheNextWindowAfterItCounts(t *testing.T) {
	windows := []release.Window{weekly("", "22:00", 4*time.Hour, everyDay...)}
	freezes := []release.Freeze{
		{From: at("2026-12-20T00:00:00Z"), Until: at("2026-12-27T23:00:00Z"), Reason: "holidays"},
		{From: at("2026-12-27T22:30:00Z"), Until: at("2026-12-28T12:00:00Z")},
	}
	c := newCalendar(windows, freezes)
	opens, objection := c.next(at("2026-12-21T23:00:00Z"))
	if objection == nil || objection.rule != RuleFreeze || !opens.Equal(at("2026-12-28T22:00:00Z")) {
		t.Fatalf("opens %v: %+v", opens, objection)
	}
	if want := "frozen until 2026-12-27 23:00 UTC: holidays; the next window opens 2026-12-28 22:00 UTC"; objection.because != want {
		t.Errorf("got %q", objection.because)
	}
	if opens, objection = c.next(at("2026-12-19T12:00:00Z")); objection.rule != RuleWindow || !opens.Equal(at("2026-12-19T22:00:00Z")) {
		t.Errorf("before the freeze: %v %+v", opens, objection)
	}
}

func TestAnEmergencyBeatsWindowAndFreeze(t *testing.T) {
	in := with(func(in *Input) {
		in.Emergency = entry("halt", nil)
		in.Deployment.Windows = []release.Window{weekly("", "00:00", 24*time.Hour, everyDay...)}
		in.Deployment.Freeze = []release.Freeze{{From: noon, Until: noon.Add(2 * time.Hour)}}
	})
	if got := Decide(in); got.Rule != RuleEmergency || !got.Until.Equal(noon.Add(5*time.Hour)) {
		t.Errorf("got %+v", got)
	}
}

func TestWindowsThatCannotBeReadOpenNever(t *testing.T) {
	for _, w := range []release.Window{
		weekly("Europe/Atlantis", "22:00", time.Hour, "mon"), weekly("Local", "22:00", time.Hour, "mon"),
		weekly("", "25:00", time.Hour, "mon"), weekly("", "2200", time.Hour, "mon"), weekly("", "22:00", time.Hour, "monday"),
		weekly("", "22:00", 0, "mon"), weekly("", "22:00", -time.Hour, "mon"),
	} {
		got := Decide(with(func(in *Input) {
			in.Deployment.Windows = []release.Window{weekly("", "00:00", 24*time.Hour, everyDay...), w}
			if w.Length <= 0 {
				in.Deployment.Windows = in.Deployment.Windows[1:]
			}
		}))
		if got.Act || got.Rule != RuleWindow || !got.Until.IsZero() || !got.Earliest.IsZero() {
			t.Errorf("%+v: %+v", w, got)
		}
	}
}

// TestAWindowOpensAsOftenAsItsCalendarHasItsDays walks random windows through two years of random zones, over every change of the
// clocks: each local date that the zone has opens the window exactly once.
func TestAWindowOpensAsOftenAsItsCalendarHasItsDays(t *testing.T) {
	r := random(t)
	names := []string{"UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Casablanca", "Pacific/Auckland"}
	from := at("2026-01-01T00:00:00Z")
	for range 60 {
		zone := names[r.IntN(len(names))]
		start := fmt.Sprintf("%02d:%02d", r.IntN(24), r.IntN(60))
		day := everyDay[r.IntN(7)]
		w, problem := newWindow(weekly(zone, start, time.Minute, day))
		if problem != "" {
			t.Fatal(problem)
		}
		loc := must(time.LoadLocation(zone))
		opened := map[string]int{}
		for now := from; ; {
			opens, ok := w.next(now)
			if !ok || opens.After(from.AddDate(2, 0, 0)) {
				break
			}
			opened[opens.In(loc).Format(time.DateOnly)]++
			now = opens.Add(time.Minute)
		}
		for date := from.AddDate(0, 0, 2); date.Before(from.AddDate(2, 0, -2)); date = date.AddDate(0, 0, 1) {
			want := 0
			if weekdays[day] == date.Weekday() {
				want = 1
			}
			if got := opened[date.Format(time.DateOnly)]; got != want {
				t.Fatalf("%s %s in %s opened %d times on %s", day, start, zone, got, date.Format(time.DateOnly))
			}
		}
	}
}

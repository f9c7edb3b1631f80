package rollout

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // hosts without zone files must not read a window as closed for ever

	"github.com/slipway-deploy/slipway/agent/release"
)

// calendar is when starts are allowed: inside any window (or always, without windows) and inside no freeze.
type calendar struct {
	windows []window
	freezes []release.Freeze
	broken  string // why the windows cannot be read; nothing starts then
}

// window is a weekly span. It opens exactly once for every local date that its days name and that the zone's calendar has,
// and stays open for its length of elapsed time whatever the clocks do meanwhile.
type window struct {
	days         [7]bool
	hour, minute int
	length       time.Duration
	zone         *time.Location
}

var weekdays = map[string]time.Weekday{"sun": time.Sunday, "mon": time.Monday, "tue": time.Tuesday,
	"wed": time.Wednesday, "thu": time.Thursday, "fri": time.Friday, "sat": time.Saturday}

func newCalendar(windows []release.Window, freezes []release.Freeze) calendar {
	c := calendar{freezes: freezes}
	for i, w := range windows {
		parsed, problem := newWindow(w)
		if problem != "" {
			c.broken = fmt.Sprintf("window %d of the deployment cannot be used: %s", i+1, problem)
			return c
		}
		c.windows = append(c.windows, parsed)
	}
	return c
}

func newWindow(w release.Window) (parsed window, problem string) {
	for _, name := range w.Days {
		day, ok := weekdays[name]
		if !ok {
			return window{}, fmt.Sprintf("%q is no day", name)
		}
		parsed.days[day] = true
	}
	hour, minute, ok := strings.Cut(w.Start, ":")
	h, errH := strconv.Atoi(hour)
	m, errM := strconv.Atoi(minute)
	if !ok || errH != nil || errM != nil || h < 0 || h > 23 || m < 0 || m > 59 {
		return window{}, fmt.Sprintf("start %q is not HH:MM", w.Start)
	}
	zone, err := time.LoadLocation(w.Zone)
	if err != nil || w.Zone == "Local" {
		return window{}, fmt.Sprintf("zone %q is not known", w.Zone)
	}
	parsed.hour, parsed.minute, parsed.length, parsed.zone = h, m, w.Length.Std(), zone
	return parsed, ""
}

// next is the first instant at or after t that the calendar allows, and the objection if that is not t itself. Each round
// passes a freeze or ends, so it takes at most one round per freeze.
func (c calendar) next(t time.Time) (time.Time, *wait) {
	if c.broken != "" {
		return time.Time{}, &wait{rule: RuleWindow, because: c.broken}
	}
	at, first := t, wait{}
	for {
		if f, frozen := c.frozen(at); frozen {
			if first.rule == "" {
				first = wait{rule: RuleFreeze, because: why("frozen until "+clock(f.Until), f.Reason)}
			}
			at = f.Until
			continue
		}
		opens, ok := c.opening(at)
		if !ok {
			return time.Time{}, &wait{rule: RuleWindow, because: "no window of the deployment ever opens"}
		}
		if !opens.After(at) {
			break
		}
		if first.rule == "" {
			first.rule = RuleWindow
		}
		at = opens
	}
	if first.rule == "" {
		return t, nil
	}
	first.until = at
	if first.rule == RuleWindow {
		first.because = "outside the windows; the next one this host may use opens " + clock(at)
	} else if len(c.windows) > 0 {
		first.because += "; the next window opens " + clock(at)
	}
	return at, &first
}

func (c calendar) frozen(t time.Time) (release.Freeze, bool) {
	i := slices.IndexFunc(c.freezes, func(f release.Freeze) bool { return !t.Before(f.From) && t.Before(f.Until) })
	if i < 0 {
		return release.Freeze{}, false
	}
	return c.freezes[i], true
}

// opening is t if some window is open then, else when the next one opens.
func (c calendar) opening(t time.Time) (first time.Time, ok bool) {
	if len(c.windows) == 0 {
		return t, true
	}
	for _, w := range c.windows {
		if at, opens := w.next(t); opens && (!ok || at.Before(first)) {
			first, ok = at, true
		}
	}
	return first, ok
}

const (
	day = 24 * time.Hour
	// ahead is how far to look for the next opening: a week, and another because a zone may skip a date.
	ahead = 15
	// longest bounds how far back an opening is looked for; a weekly window that long is always open.
	longest = 8 * day
)

// next is t if the window is open then, else its next opening.
func (w window) next(t time.Time) (time.Time, bool) {
	back := int(min(w.length, longest)/day) + 2
	year, month, date := t.In(w.zone).Date()
	for i := -back; i <= ahead; i++ {
		opens, exists := w.opens(time.Date(year, month, date+i, 0, 0, 0, 0, time.UTC))
		if !exists || !t.Before(opens.Add(w.length)) {
			continue
		}
		return latest(opens, t), true
	}
	return time.Time{}, false
}

// opens is the instant the window opens on a local date, given as that date's midnight in UTC. A local time that the clocks
// jump over opens when they jump; one that comes twice opens the first time; a date that the zone skipped does not open.
func (w window) opens(date time.Time) (time.Time, bool) {
	if !w.days[date.Weekday()] || w.length <= 0 {
		return time.Time{}, false
	}
	wall := date.Add(time.Duration(w.hour)*time.Hour + time.Duration(w.minute)*time.Minute)
	before, after := w.offset(wall.Add(-36*time.Hour)), w.offset(wall.Add(36*time.Hour))
	for _, offset := range []time.Duration{max(before, after), min(before, after)} {
		if at := wall.Add(-offset); w.offset(at) == offset {
			return at, true
		}
	}
	_, jump := wall.Add(-max(before, after)).In(w.zone).ZoneBounds()
	skipped := !jump.Add(before).After(date) && !jump.Add(after).Before(date.Add(day))
	return jump, !skipped
}

func (w window) offset(at time.Time) time.Duration {
	_, seconds := at.In(w.zone).Zone()
	return time.Duration(seconds) * time.Second
}

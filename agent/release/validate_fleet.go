package release

import (
	"fmt"
	"slices"
	"time"
)

// weekdays are the names of days in windows, in time.Weekday's order.
var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func (d *Deployment) validateWaves(p *problems) {
	p.span("waves", int64(len(d.Waves)), 0, 100)
	seen := map[string]bool{}
	var percent int
	var after Duration
	for i := range d.Waves {
		w, at := &d.Waves[i], fmt.Sprintf("waves[%d]", i)
		if !wordy(w.Name, 48, "") {
			p.add(at+".name", "%q is not 1 to 48 of [A-Za-z0-9_-]", w.Name)
		} else if seen[w.Name] {
			p.add(at+".name", "%q appears twice", w.Name)
		}
		seen[w.Name] = true
		w.validate(p, at)
		if w.PercentBP > 0 && w.PercentBP <= percent {
			p.add(at+".percent_bp", "%d is not above %d, the wave before it: percentages are cumulative", w.PercentBP, percent)
		}
		percent = max(percent, w.PercentBP)
		if w.StartAfter < after {
			p.add(at+".start_after", "%s is before %s, the start of an earlier wave", w.StartAfter, after)
		}
		after = max(after, w.StartAfter)
		if w.Count > 0 && d.Inventory == nil {
			p.add(at+".count", "a count needs an inventory: without one no host knows its rank")
		}
	}
	if d.MaxWave != "" && !seen[d.MaxWave] {
		p.add("max_wave", "%q is the name of no wave", d.MaxWave)
	}
}

func (w *Wave) validate(p *problems, at string) {
	selectors := b2i(w.PercentBP != 0) + b2i(w.Count != 0) + b2i(len(w.Labels) > 0) + b2i(len(w.Hosts) > 0)
	if selectors != 1 {
		p.add(at, "%d of percent_bp, count, labels and hosts are set: exactly one must be", selectors)
	}
	p.span(at+".percent_bp", int64(w.PercentBP), 0, 10000)
	p.span(at+".count", int64(w.Count), 0, 1<<32)
	p.labels(at+".labels", w.Labels)
	p.span(at+".hosts", int64(len(w.Hosts)), 0, 10*maxList)
	for i, h := range w.Hosts {
		p.hostID(fmt.Sprintf("%s.hosts[%d]", at, i), h)
	}
	p.atMost(at+".start_after", w.StartAfter, 365*day)
	p.atMost(at+".spread", w.Spread, 30*day)
	p.oneOf(at+".advance", w.Advance, "", "auto", "signed", "none")
	p.span(at+".min_hosts", int64(w.MinHosts), 0, 1<<32)
}

func (p *problems) labels(field string, labels map[string]string) {
	p.span(field, int64(len(labels)), 0, 64)
	for key, value := range labels {
		if !wordy(key, 64, "./") {
			p.add(field, "%q is no label: 1 to 64 of [A-Za-z0-9_./-]", key)
		} else if !wordy(value, 128, "./:@+") {
			p.add(field+"."+key, "%q is no value of a label: 1 to 128 of [A-Za-z0-9_./:@+-]", value)
		}
	}
}

func (p *problems) hostID(field, id string) {
	if !wordy(id, 128, ".:") {
		p.add(field, "%q is no host id: 1 to 128 of [A-Za-z0-9_.:-]", id)
	}
}

func (d *Deployment) validateBudget(p *problems) {
	b := d.Budget
	if b == nil {
		return
	}
	p.span("budget.count", int64(b.Count), 0, 1<<32)
	p.span("budget.percent_bp", int64(b.PercentBP), 0, 10000)
	p.span("budget.min_available", int64(b.MinAvailable), 0, 1<<32)
	if (b.Count > 0) == (b.PercentBP > 0) {
		p.add("budget", "exactly one of count and percent_bp must be set, and above zero: with neither no host could ever start")
	}
	if b.PercentBP > 0 && d.Population == 0 && d.Inventory == nil {
		p.add("budget.percent_bp", "a percentage needs population or inventory: of what is it?")
	}
	p.span("budget.group_by", int64(len(b.GroupBy)), 0, 8)
	for i, key := range b.GroupBy {
		if !wordy(key, 64, "./") {
			p.add(fmt.Sprintf("budget.group_by[%d]", i), "%q is no label", key)
		}
	}
}

func (w *Window) validate(p *problems, at string) {
	if len(w.Days) == 0 {
		p.add(at+".days", "at least one day is needed")
	}
	for i, day := range w.Days {
		if !slices.Contains(weekdays, day) {
			p.add(fmt.Sprintf("%s.days[%d]", at, i), "%q is none of mon, tue, wed, thu, fri, sat, sun", day)
		} else if slices.Index(w.Days, day) < i {
			p.add(fmt.Sprintf("%s.days[%d]", at, i), "%q appears twice", day)
		}
	}
	if _, err := time.Parse("15:04", w.Start); err != nil || len(w.Start) != len("15:04") {
		p.add(at+".start", "%q is no time of day, such as 09:30", w.Start)
	}
	if w.Length <= 0 {
		p.add(at+".length", "it must be longer than zero")
	}
	p.atMost(at+".length", w.Length, 7*day)
	if _, err := location(w.Zone); err != nil {
		p.add(at+".zone", "%q is no zone of this host's tz database, such as Europe/Berlin: %v", w.Zone, err)
	}
}

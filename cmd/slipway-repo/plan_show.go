package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

// outlook is the answer of deploy plan.
type outlook struct {
	App         release.App             `json:"app"`
	Environment release.Environment     `json:"environment"`
	Release     string                  `json:"release,omitempty"`
	Absent      bool                    `json:"absent,omitempty"`
	State       release.DeploymentState `json:"state"`
	Sequence    int64                   `json:"sequence"`
	RolloutID   string                  `json:"rollout_id"`
	// Draft says that the rollout id, and so the order of hosts, is an example unless a salt is set.
	Draft bool `json:"draft"`
	// From is what start_after counts from.
	From       time.Time         `json:"from"`
	Hosts      int64             `json:"hosts"`
	Exact      bool              `json:"exact"`
	Waves      []waveAnswer      `json:"waves"`
	Warnings   []warningAnswer   `json:"warnings"`
	Problems   []problemAnswer   `json:"problems"`
	InForce    []string          `json:"emergency,omitempty"`
	Starts     []startAnswer     `json:"starts,omitempty"`
	Simulation *simulationAnswer `json:"simulation,omitempty"`

	problems []release.Problem
	salted   bool
}

type waveAnswer struct {
	Name           string    `json:"name"`
	Selects        string    `json:"selects"`
	Hosts          *float64  `json:"hosts,omitempty"`
	Empty          *float64  `json:"chance_of_empty,omitempty"`
	Floor          time.Time `json:"floor"`
	First          time.Time `json:"first_start,omitzero"`
	Last           time.Time `json:"last_start,omitzero"`
	NeedsSignature bool      `json:"needs_signature"`
}

type warningAnswer struct {
	Kind    string `json:"kind"`
	Wave    string `json:"wave,omitempty"`
	Message string `json:"message"`
}

type problemAnswer struct {
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

type startAnswer struct {
	Host     string    `json:"host"`
	Wave     string    `json:"wave,omitempty"`
	Position float64   `json:"position"`
	At       time.Time `json:"at,omitzero"`
	Because  string    `json:"because,omitempty"`
}

// outlookOf forecasts a deployment.
func outlookOf(seen *repository.Prospect, population int64) *outlook {
	d := seen.Deployment
	f := rollout.Plan(d, seen.Inventory, seen.InventoryDigest, population)
	a := &outlook{
		App: d.App, Environment: d.Environment, Absent: d.Absent, State: d.State, Sequence: d.Sequence, RolloutID: d.RolloutID, From: d.Created,
		Hosts: f.Hosts, Exact: f.Exact, Waves: []waveAnswer{}, Warnings: []warningAnswer{}, Problems: []problemAnswer{}, problems: f.Problems, salted: d.Salt != "",
	}
	if d.NotBefore != nil {
		a.From = *d.NotBefore
	}
	if d.Release != nil {
		if _, v, err := release.ParseReleasePath(d.Release.Path); err == nil {
			a.Release = v.String()
		}
	}
	for i, w := range f.Waves {
		a.Waves = append(a.Waves, waveOf(d.Waves[i], w, f))
	}
	for _, w := range f.Warnings {
		a.Warnings = append(a.Warnings, warningAnswer{w.Kind, w.Wave, w.Message})
	}
	for _, p := range f.Problems {
		a.Problems = append(a.Problems, problemAnswer{p.Field, p.Reason})
	}
	a.InForce = stopsInForce(seen, time.Now())
	return a
}

func stopsInForce(seen *repository.Prospect, now time.Time) (out []string) {
	if seen.Emergency == nil {
		return nil
	}
	for _, e := range seen.Emergency.Entries {
		ended := e.Until != nil && !now.Before(*e.Until)
		if !ended && (e.App == nil || *e.App == seen.Deployment.App) {
			out = append(out, strings.TrimSpace(repository.EmergencyWords(e)))
		}
	}
	return out
}

func waveOf(w release.Wave, f rollout.WaveForecast, all rollout.Forecast) waveAnswer {
	a := waveAnswer{Name: w.Name, Selects: selection(w), Floor: f.Floor, First: f.Opens, Last: f.Last.Truncate(time.Second), NeedsSignature: f.NeedsSignature}
	if f.Hosts >= 0 && (all.Exact || len(w.Hosts) > 0 || all.Hosts > 0) {
		a.Hosts = &f.Hosts
		if all.Exact || w.PercentBP > 0 {
			a.Empty = &f.Empty
		}
	}
	return a
}

// selection says whom a wave takes.
func selection(w release.Wave) string {
	switch {
	case w.PercentBP > 0:
		return fmt.Sprintf("up to %.4g %%", float64(w.PercentBP)/100)
	case w.Count > 0:
		return fmt.Sprintf("%d hosts", w.Count)
	case len(w.Hosts) > 3:
		return fmt.Sprintf("%s and %d more", strings.Join(w.Hosts[:2], ", "), len(w.Hosts)-2)
	case len(w.Hosts) > 0:
		return strings.Join(w.Hosts, ", ")
	}
	var labels []string
	for _, k := range slices.Sorted(maps.Keys(w.Labels)) {
		labels = append(labels, k+"="+w.Labels[k])
	}
	return strings.Join(labels, " ")
}

func startAnswers(s *rollout.Schedule, hosts []rollout.Host) []startAnswer {
	var out []startAnswer
	for _, st := range s.Starts(hosts) {
		out = append(out, startAnswer{st.Host, st.Wave, st.Position, st.At, st.Because})
	}
	slices.SortStableFunc(out, func(a, b startAnswer) int {
		if a.At.IsZero() != b.At.IsZero() {
			if a.At.IsZero() {
				return 1
			}
			return -1
		}
		return a.At.Compare(b.At)
	})
	return out
}

// show prints the outlook for people. Times are UTC; problems are told by the error, with their lines.
func (a *outlook) show(w io.Writer) {
	fmt.Fprintf(w, "%s/%s: %s, sequence %d, %s%s\n", a.Environment, a.App, a.what(), a.Sequence, a.State, a.hint())
	fmt.Fprintf(w, "%s; start_after counts from %s\n", a.fleet(), instant(a.From))
	for _, e := range a.InForce {
		fmt.Fprintf(w, "in force now: emergency %s\n", e)
	}
	if len(a.Waves) == 0 {
		fmt.Fprintln(w, "no waves: every host goes as soon as it knows")
	} else {
		a.table(w)
	}
	for _, x := range a.Warnings {
		fmt.Fprintf(w, "warning: %s\n", x.Message)
	}
	a.showStarts(w)
	if a.Simulation != nil {
		a.Simulation.show(w)
	}
}

func (a *outlook) what() string {
	if a.Absent {
		return "nothing"
	}
	return a.Release
}

func (a *outlook) hint() string {
	switch {
	case a.Draft && a.salted:
		return " (not made yet)"
	case a.Draft:
		return " (not made yet: the order of hosts is drawn when it is)"
	}
	return ", rollout " + a.RolloutID
}

func (a *outlook) fleet() string {
	switch {
	case a.Exact:
		return fmt.Sprintf("%d hosts by the pinned inventory", a.Hosts)
	case a.Hosts > 0:
		return fmt.Sprintf("%d hosts as given, taken by hash: counts are expectations", a.Hosts)
	}
	return "nobody says how many hosts there are (--population)"
}

func (a *outlook) table(w io.Writer) {
	tab := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tab, "WAVE\tTAKES\tHOSTS\tEMPTY\tFLOOR\tFIRST START\tLAST START\tNEEDS")
	for _, v := range a.Waves {
		hosts, empty, needs := "?", "–", "–"
		if v.Hosts != nil && a.Exact {
			hosts = fmt.Sprintf("%.0f", *v.Hosts)
		} else if v.Hosts != nil {
			hosts = fmt.Sprintf("~%.4g", *v.Hosts)
		}
		if v.Empty != nil {
			empty = chance(*v.Empty)
		}
		if v.NeedsSignature {
			needs = "signed max_wave"
		}
		fmt.Fprintf(tab, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", v.Name, v.Selects, hosts, empty, "+"+after(v.Floor.Sub(a.From)), instant(v.First), instant(v.Last), needs)
	}
	_ = tab.Flush()
}

func (a *outlook) showStarts(w io.Writer) {
	if len(a.Starts) == 0 {
		return
	}
	tab := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tab, "HOST\tWAVE\tPOSITION\tEARLIEST START")
	for _, s := range a.Starts {
		when := instant(s.At)
		if s.At.IsZero() {
			when = "never: " + s.Because
		}
		fmt.Fprintf(tab, "%s\t%s\t%.4f\t%s\n", s.Host, orDash(s.Wave), s.Position, when)
	}
	_ = tab.Flush()
}

func chance(p float64) string {
	if p > 0 && p < 0.001 {
		return "<0.1 %"
	}
	return fmt.Sprintf("%.1f %%", p*100)
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

func instant(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04 MST")
}

func after(d time.Duration) string { return release.Duration(d).String() }

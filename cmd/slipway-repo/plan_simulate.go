package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
)

// simulationAnswer says what was assumed and how the runs ended.
type simulationAnswer struct {
	Runs        int      `json:"runs"`
	Seed        uint64   `json:"seed"`
	Hosts       int      `json:"hosts"`
	FailureRate float64  `json:"failure_rate"`
	Took        string   `json:"duration_per_host"`
	Poll        string   `json:"poll"`
	Jitter      float64  `json:"jitter"`
	React       string   `json:"react,omitempty"`
	Halts       string   `json:"halts"`
	Budget      int      `json:"budget,omitempty"`
	GroupBy     []string `json:"group_by,omitempty"`

	Finished spreadAnswer[string] `json:"finished_after"`
	Started  spreadAnswer[int]    `json:"hosts_touched"`
	Failed   spreadAnswer[int]    `json:"hosts_failed"`
	InFlight spreadAnswer[int]    `json:"most_in_flight"`
	Halted   int                  `json:"runs_halted"`
	Held     int                  `json:"runs_held"`
	Halt     spreadAnswer[string] `json:"halted_after"`
}

type spreadAnswer[T any] struct {
	Least  T `json:"least"`
	Median T `json:"median"`
	P90    T `json:"p90"`
	Most   T `json:"most"`
}

func spreadIn[T cmp.Ordered, A any](s rollout.Spread[T], f func(T) A) spreadAnswer[A] {
	return spreadAnswer[A]{f(s.Least), f(s.Median), f(s.P90), f(s.Most)}
}

func answerOdds(d *release.Deployment, trial rollout.Trial, o rollout.Odds) *simulationAnswer {
	long := func(d time.Duration) string { return release.Duration(d.Round(time.Second)).String() }
	count := func(n int) int { return n }
	hub := d.Coordinator != nil && d.Coordinator.Kind == "hub"
	a := &simulationAnswer{
		Runs: o.Runs, Seed: o.Seed, Hosts: o.Hosts, FailureRate: trial.FailureRate, Took: long(trial.Took), Poll: long(trial.Poll), Jitter: trial.Jitter,
		Finished: spreadIn(o.Took, long), Started: spreadIn(o.Started, count), Failed: spreadIn(o.Failed, count), InFlight: spreadIn(o.InFlight, count),
		Halted: o.Halted, Held: o.Held, Halt: spreadIn(o.Halt, long), Halts: "nobody",
	}
	switch {
	case hub && d.Halt != nil:
		a.Halts = "the hub, by the signed limits"
	case !hub && trial.React > 0:
		a.React = long(trial.React)
		a.Halts = "a person, " + a.React + " after the first failure"
		if d.Halt != nil {
			a.Halts = "a person, " + a.React + " after the failure that reaches the signed limits"
		}
	}
	if hub && d.Budget != nil {
		a.GroupBy = d.Budget.GroupBy
		if a.Budget = d.Budget.Count; len(a.GroupBy) == 0 {
			a.Budget = rollout.Limit(d.Budget, o.Hosts)
		}
	}
	return a
}

func (a *simulationAnswer) show(w io.Writer) {
	fmt.Fprintf(w, "\nsimulated %d times over %d hosts, seeds %d to %d: the release fails on %.4g %% of them, a host is busy for %s and polls every %s; who halts: %s\n",
		a.Runs, a.Hosts, a.Seed, a.Seed+uint64(a.Runs)-1, a.FailureRate*100, a.Took, a.Poll, a.Halts)
	tab := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tab, "\tleast\tmedian\t90 %\tmost")
	row(tab, "last host done after", a.Finished)
	row(tab, "hosts touched", a.Started)
	row(tab, "hosts failed", a.Failed)
	row(tab, "in flight at once"+a.bound(), a.InFlight)
	if a.Halted > 0 {
		row(tab, fmt.Sprintf("halted in %d of %d runs, after", a.Halted, a.Runs), a.Halt)
	}
	_ = tab.Flush()
	if a.Held > 0 {
		fmt.Fprintf(w, "in %d of %d runs a wave did not pass, because too few of its hosts were well\n", a.Held, a.Runs)
	}
	if a.Halted == 0 {
		fmt.Fprintln(w, "no run was halted")
	}
}

func (a *simulationAnswer) bound() string {
	switch {
	case a.Budget > 0 && len(a.GroupBy) > 0:
		return fmt.Sprintf(" (budget %d per %s)", a.Budget, strings.Join(a.GroupBy, ", "))
	case a.Budget > 0:
		return fmt.Sprintf(" (budget %d)", a.Budget)
	}
	return " (no budget is kept)"
}

func row[T any](w io.Writer, name string, s spreadAnswer[T]) {
	fmt.Fprintf(w, "%s\t%v\t%v\t%v\t%v\n", name, s.Least, s.Median, s.P90, s.Most)
}

package main

import (
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/release"
)

func TestEvidenceTellsSinceWhenTheReleaseHasRunUndisturbed(t *testing.T) {
	const running, other = "2.4.1-0123456789ab", "2.5.0-abcdefabcdef"
	at := func(hour int) time.Time { return time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC) }
	entry := func(hour int, tried, result string) api.HistoryEntry {
		return api.HistoryEntry{Attempt: "a", Sequence: 7, Tried: tried, Result: result, Ended: at(hour)}
	}
	status := func(change func(*api.AppStatus)) api.Status {
		a := api.AppStatus{App: "billing", Phase: "idle", Current: running}
		if change != nil {
			change(&a)
		}
		return api.Status{Host: "web-01", Environment: "staging", Apps: []api.AppStatus{a}}
	}
	for name, c := range map[string]struct {
		status  api.Status
		history []api.HistoryEntry
		since   int
	}{
		"committed":                       {status(nil), []api.HistoryEntry{entry(3, running, "committed"), entry(1, other, "committed")}, 3},
		"a failed download disturbs none": {status(nil), []api.HistoryEntry{entry(5, other, "failed"), entry(4, other, "refused"), entry(3, running, "committed")}, 3},
		"a revert starts anew":            {status(nil), []api.HistoryEntry{entry(6, other, "reverted"), entry(3, running, "committed")}, 6},
		"never committed":                 {status(nil), []api.HistoryEntry{entry(1, other, "committed")}, 0},
		"no release":                      {status(func(a *api.AppStatus) { a.Current = "" }), []api.HistoryEntry{entry(3, running, "committed")}, 0},
		"busy":                            {status(func(a *api.AppStatus) { a.Busy = true }), []api.HistoryEntry{entry(3, running, "committed")}, 0},
		"stuck":                           {status(func(a *api.AppStatus) { a.Phase = "stuck" }), []api.HistoryEntry{entry(3, running, "committed")}, 0},
		"another app":                     {status(func(a *api.AppStatus) { a.App = "web" }), []api.HistoryEntry{entry(3, running, "committed")}, 0},
	} {
		data, err := evidenceOf(c.status, "billing", c.history, at(20))
		if (err != nil) != (c.since == 0) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		e, err := release.ParseEvidence(data)
		if err != nil || !e.Committed.Equal(at(c.since)) || !e.Observed.Equal(at(20)) || e.Release != running || e.Host != "web-01" {
			t.Errorf("%s: %+v %v", name, e, err)
		}
	}
}

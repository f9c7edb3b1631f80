package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/release"
)

func (c *cli) evidence() *cobra.Command {
	return &cobra.Command{
		Use:   "evidence APP",
		Short: "Say how long this host has run its release, for a promotion",
		Long: `Evidence prints one JSON document: which release of the app this host has committed, since when it has run undisturbed, and when
that was asked. slipway-repo deploy promote reads it. It is not signed: it is as good as the way it travels.`,
		Args:              oneApp,
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := c.api().Status(cmd.Context())
			if err != nil {
				return err
			}
			list, err := c.api().History(cmd.Context(), args[0], 1000)
			if err != nil {
				return err
			}
			data, err := evidenceOf(st, args[0], list, c.now())
			if err != nil {
				return err
			}
			_, err = c.out.Write(data)
			return err
		},
	}
}

func evidenceOf(st api.Status, app string, list []api.HistoryEntry, now time.Time) ([]byte, error) {
	refuse := func(format string, args ...any) error {
		return api.NewError(api.KindRefused, fmt.Sprintf("cannot give evidence of "+app+": "+format, args...), "slipway history "+app+" shows the attempts")
	}
	var a *api.AppStatus
	for i := range st.Apps {
		if st.Apps[i].App == app {
			a = &st.Apps[i]
		}
	}
	switch {
	case a == nil:
		return nil, api.NewError(api.KindNotFound, "this host does not run "+app, "slipway status lists the apps")
	case a.Current == "":
		return nil, refuse("it has no release")
	case a.Busy || a.Trial != nil || a.Phase == "stuck" || a.Phase == "damaged":
		return nil, refuse("it is in phase %s, not at rest", a.Phase)
	}
	commit, since := committed(a.Current, list)
	if commit == nil {
		return nil, refuse("the history of this host has no commit of %s", a.Current)
	}
	e := &release.Evidence{Host: st.Host, Release: a.Current, Sequence: commit.Sequence, Attempt: commit.Attempt,
		Committed: since.UTC().Truncate(time.Second), Observed: now.UTC().Truncate(time.Second)}
	var err error
	if e.Environment, err = release.ParseEnvironment(st.Environment); err != nil {
		return nil, err
	}
	if e.App, err = release.ParseApp(app); err != nil {
		return nil, err
	}
	return release.EncodeEvidence(e)
}

// committed finds the commit of what runs, and since when nothing has taken its place: a revert to it starts the time anew.
func committed(current string, newestFirst []api.HistoryEntry) (*api.HistoryEntry, time.Time) {
	var since time.Time
	for i, h := range newestFirst {
		if h.Tried == current && h.Result == api.ResultCommitted {
			if h.Ended.After(since) {
				since = h.Ended
			}
			return &newestFirst[i], since
		}
		if h.Result != api.ResultRefused && h.Result != api.ResultFailed && h.Ended.After(since) {
			since = h.Ended
		}
	}
	return nil, since
}

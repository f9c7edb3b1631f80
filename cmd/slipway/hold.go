package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/api"
)

func (c *cli) hold() *cobra.Command {
	var all bool
	var until, reason string
	var span time.Duration
	cmd := &cobra.Command{
		Use:   "hold APP | hold --all",
		Short: "Start nothing new until a time, or until resume",
		Long: `A hold stops new activations of one app or of the whole host. What runs goes on, a trial under way is finished, and a revert is
never held. Releases are still fetched and staged. Holds survive a restart of the daemon and of the host.

With --all every app is held, and every app that is added while the hold lasts. It takes the place of the apps' own holds; hold APP
during it cannot end earlier, and resume APP lets that one app go on.`,
		Args:              maybeApp(&all),
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			end, err := holdEnd(c.now(), until, span)
			if err != nil {
				return err
			}
			app := ""
			if len(args) == 1 {
				app = args[0]
			}
			r, err := c.api().Hold(cmd.Context(), app, api.HoldRequest{Until: end, Reason: reason})
			if err != nil {
				return err
			}
			return c.accepted(r)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every app of this host, and those added later")
	cmd.Flags().StringVar(&until, "until", "", `when it ends: "15:04" (today or tomorrow), "2006-01-02 15:04" local, or RFC 3339`)
	cmd.Flags().DurationVar(&span, "for", 0, "how long, for example 2h")
	cmd.Flags().StringVarP(&reason, "reason", "r", "", "why, for those who find the host held")
	return cmd
}

func (c *cli) accepted(r api.Accepted) error {
	if c.json {
		return c.printJSON(r)
	}
	fmt.Fprintln(c.out, clean(r.Message))
	return nil
}

// holdEnd turns the two flags into a time; neither means no end.
func holdEnd(now time.Time, until string, span time.Duration) (time.Time, error) {
	switch {
	case until != "" && span != 0:
		return time.Time{}, usageError{"give either --until or --for", ""}
	case span < 0:
		return time.Time{}, usageError{"--for must not be negative", ""}
	case span > 0:
		return now.Add(span).Round(time.Second), nil
	case until == "":
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, until); err == nil {
		return future(now, t)
	}
	if t, err := time.ParseInLocation("2006-01-02 15:04", until, now.Location()); err == nil {
		return future(now, t)
	}
	t, err := time.ParseInLocation("15:04", until, now.Location())
	if err != nil {
		return time.Time{}, usageError{fmt.Sprintf("--until: %q is no time", until), `write "15:04", "2006-01-02 15:04" or 2006-01-02T15:04:05Z`}
	}
	today := time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), 0, 0, now.Location())
	if !today.After(now) {
		today = today.AddDate(0, 0, 1)
	}
	return today, nil
}

func future(now, t time.Time) (time.Time, error) {
	if !t.After(now) {
		return time.Time{}, usageError{"--until: " + t.Format(time.RFC3339) + " is not in the future", ""}
	}
	return t, nil
}

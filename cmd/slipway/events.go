package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/api"
)

func (c *cli) events() *cobra.Command {
	var follow bool
	var since time.Duration
	cmd := &cobra.Command{
		Use:   "events [APP]",
		Short: "Print what happened, and with --follow what happens",
		Long: `Events prints what the daemon decided and why. It has the newest 1000 since it started; everything older is in the journal of
slipwayd and in /var/lib/slipway/audit/events.jsonl.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return oneApp(cmd, args)
		},
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			q := api.EventQuery{Follow: follow}
			if len(args) == 1 {
				q.App = args[0]
			}
			if since > 0 {
				q.Since = c.now().Add(-since)
			}
			return c.api().Events(cmd.Context(), q, c.printEvent)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	cmd.Flags().DurationVar(&since, "since", 0, "only what is not older, for example 1h")
	return cmd
}

// printEvent writes one line at once; with --json it is a JSON line, not an indented document, so that it can be piped.
func (c *cli) printEvent(e api.Event) error {
	if c.json {
		data, err := json.Marshal(e)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.out, "%s\n", data)
		return err
	}
	app := orDash(e.App)
	_, err := fmt.Fprintf(c.out, "%s  %s  %s\n", clock(c.now(), e.Time), c.paint(c.tty, bold, clean(app)), clean(e.Message))
	return err
}

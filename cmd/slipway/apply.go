package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/api"
)

func (c *cli) apply() *cobra.Command {
	var dry, noWait bool
	cmd := &cobra.Command{
		Use:   "apply APP",
		Short: "Start now what the signed deployment asks for",
		Long: `Apply fetches metadata and looks now, instead of at the next poll, and does not wait out the pause after a failed staging. It
skips nothing else: signatures, gates, windows, waves, holds, quarantine and health all count. If the repository cannot be reached it
goes by what is trusted already. It follows the attempt until it is committed or reverted.`,
		Args:              oneApp,
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			before, err := c.api().App(ctx, args[0])
			if err != nil {
				return err
			}
			r, err := c.api().Apply(ctx, args[0], api.ApplyRequest{ExpectRevision: before.Revision, DryRun: dry})
			if err != nil {
				return err
			}
			if dry {
				return c.showPlan(r)
			}
			c.say("%s", r.Message)
			if noWait {
				return c.answerIfJSON(r)
			}
			return c.follow(ctx, before, api.ResultCommitted)
		},
	}
	cmd.Flags().BoolVarP(&dry, "dry-run", "n", false, "say what would happen and change nothing")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return as soon as the daemon has taken the request")
	return cmd
}

func (c *cli) showPlan(r api.ApplyReport) error {
	if c.json {
		return c.printJSON(r)
	}
	fmt.Fprintln(c.out, clean(r.Message))
	for i, step := range r.Plan {
		fmt.Fprintf(c.out, "%3d. %s\n", i+1, clean(step))
	}
	return nil
}

func (c *cli) answerIfJSON(v any) error {
	if c.json {
		return c.printJSON(v)
	}
	return nil
}

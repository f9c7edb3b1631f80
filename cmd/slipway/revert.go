package main

import (
	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/api"
)

func (c *cli) revert() *cobra.Command {
	var reason string
	var noWait bool
	cmd := &cobra.Command{
		Use:     "revert APP --reason TEXT",
		Aliases: []string{"rollback"},
		Short:   "Go back to the fallback release and quarantine what runs",
		Long: `Revert needs neither network nor fresh metadata, and no hold stops it. The release that ran is quarantined on this host: it is
tried again when a new deployment is published, or after slipway retry.`,
		Args:              oneApp,
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usageError{"a revert needs a reason for those who read the history", `slipway revert ` + args[0] + ` --reason "…"`}
			}
			ctx := cmd.Context()
			before, err := c.api().App(ctx, args[0])
			if err != nil {
				return err
			}
			r, err := c.api().Revert(ctx, args[0], api.RevertRequest{ExpectRevision: before.Revision, Reason: reason})
			if err != nil {
				return err
			}
			c.say("%s", r.Message)
			if noWait {
				return c.answerIfJSON(r)
			}
			return c.follow(ctx, before, api.ResultReverted)
		},
	}
	cmd.Flags().StringVarP(&reason, "reason", "r", "", "why (required)")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return as soon as the daemon has taken the request")
	return cmd
}

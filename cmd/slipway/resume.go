package main

import (
	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/api"
)

func (c *cli) resume() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:               "resume APP | resume --all",
		Short:             "End a hold",
		Long:              `Resume ends the hold of one app. With --all it ends every hold on this host: the one over the whole host and those of single apps.`,
		Args:              maybeApp(&all),
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			app, revision := "", int64(0)
			if all {
				s, err := c.api().Status(ctx)
				if err != nil {
					return err
				}
				revision = s.Revision
			} else {
				a, err := c.api().App(ctx, args[0])
				if err != nil {
					return err
				}
				app, revision = a.App, a.Revision
			}
			r, err := c.api().Resume(ctx, app, api.ResumeRequest{ExpectRevision: revision})
			if err != nil {
				return err
			}
			return c.accepted(r)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every hold on this host")
	return cmd
}

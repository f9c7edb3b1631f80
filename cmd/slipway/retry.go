package main

import (
	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/api"
)

func (c *cli) retry() *cobra.Command {
	var digest string
	cmd := &cobra.Command{
		Use:               "retry APP",
		Short:             "Clear the quarantine, so that a release may be tried again",
		Args:              oneApp,
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := c.api().App(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			r, err := c.api().Retry(cmd.Context(), args[0], api.RetryRequest{ExpectRevision: a.Revision, Digest: digest})
			if err != nil {
				return err
			}
			return c.accepted(r)
		},
	}
	cmd.Flags().StringVar(&digest, "digest", "", "only this release (default: all of the app)")
	return cmd
}

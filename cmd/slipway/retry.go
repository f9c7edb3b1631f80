package main

import (
	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/api"
)

func (c *cli) retry() *cobra.Command {
	var digest string
	cmd := &cobra.Command{
		Use:   "retry APP",
		Short: "Clear the quarantine, so that a release may be tried again",
		Long: `Retry lets what is quarantined on this host be tried again, if it is still what is signed; a revoked release stays out. An app that
is stuck is taken out of that first, and its quarantine stays until a second retry. A release that runs without having passed a trial
gets its trial anew, if there is an earlier release to go back to.`,
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
	cmd.Flags().StringVar(&digest, "digest", "", "only the release with this full digest, as status --json shows it (default: all of the app)")
	return cmd
}

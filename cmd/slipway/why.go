package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (c *cli) why() *cobra.Command {
	return &cobra.Command{
		Use:               "why APP",
		Short:             "Say in one sentence what happens to an app, or why nothing does",
		Args:              oneApp,
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := c.api().App(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(map[string]string{"app": a.App, "phase": a.Phase, "why": a.Why})
			}
			fmt.Fprintln(c.out, clean(a.Why))
			return nil
		},
	}
}

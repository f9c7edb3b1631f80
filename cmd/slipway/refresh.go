package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (c *cli) refresh() *cobra.Command {
	return &cobra.Command{
		Use:   "refresh",
		Short: "Fetch and verify the repository's metadata now",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := c.api().Refresh(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(r)
			}
			fmt.Fprintln(c.out, clean(r.Message))
			return nil
		},
	}
}

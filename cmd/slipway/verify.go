package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/api"
)

func (c *cli) verify() *cobra.Command {
	var quick bool
	cmd := &cobra.Command{
		Use:               "verify APP",
		Short:             "Compare the running release with its signed manifest",
		Long:              "Verify reads every file below current and names each path that is not what was signed. It changes nothing; the exit code is 1 if there are differences.",
		Args:              oneApp,
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := c.api().Verify(cmd.Context(), args[0], api.VerifyQuery{Quick: quick})
			if err != nil {
				return err
			}
			if err := c.showVerify(r); err != nil {
				return err
			}
			if !r.OK {
				return ended{exitFailed}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&quick, "quick", false, "compare sizes and executables only")
	return cmd
}

func (c *cli) showVerify(r api.VerifyReport) error {
	if c.json {
		return c.printJSON(r)
	}
	var rows [][]cell
	for _, d := range r.Differences {
		rows = append(rows, []cell{{d.What, red}, {d.Path, ""}, {wantGot(d), ""}})
	}
	c.table(c.out, rows)
	if r.OK {
		fmt.Fprintf(c.out, "%s is exactly what was signed (%d files, %s, %s)\n", clean(r.Release), r.Files, bytesText(r.Bytes), time.Duration(r.Took).Round(time.Millisecond))
		return nil
	}
	noun := "differences"
	if len(r.Differences) == 1 {
		noun = "difference"
	}
	fmt.Fprintf(c.err, "slipway: %s %s has %d %s from what was signed\n", c.paint(c.errTTY, red, "error:"), clean(r.Release), len(r.Differences), noun)
	c.hint("a release is never edited in place; go back with slipway revert %s, or publish a new one", r.App)
	return nil
}

func wantGot(d api.Difference) string {
	switch {
	case d.Want != "" && d.Got != "":
		return "want " + d.Want + ", got " + d.Got
	case d.Want != "":
		return "want " + d.Want
	case d.Got != "":
		return "got " + d.Got
	}
	return ""
}

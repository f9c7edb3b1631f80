package main

import (
	"errors"
	"os"
	"os/exec"
	"strconv"

	"github.com/spf13/cobra"
)

func (c *cli) logs() *cobra.Command {
	var follow bool
	var lines int
	var since string
	cmd := &cobra.Command{
		Use:               "logs APP",
		Short:             "Show the journal of an app's services between Slipway's own decisions about it",
		Args:              oneApp,
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			tool, err := exec.LookPath("journalctl")
			if err != nil {
				return failure{"cannot show logs: there is no journalctl on this host", "slipway events " + args[0] + " shows Slipway's own decisions"}
			}
			argv := []string{"--lines=" + strconv.Itoa(lines)}
			if follow {
				argv = append(argv, "--follow")
			}
			if since != "" {
				argv = append(argv, "--since="+since)
			}
			if c.json {
				argv = append(argv, "--output=json")
			}
			var units []string
			if a, err := c.api().App(cmd.Context(), args[0]); err == nil {
				for _, u := range a.Units {
					units = append(units, u.Name)
				}
			}
			run := exec.CommandContext(cmd.Context(), tool, append(argv, journalMatches(args[0], units)...)...)
			run.Stdin, run.Stdout, run.Stderr = c.in, c.out, c.err
			run.Cancel = func() error { return run.Process.Signal(os.Interrupt) }
			var exit *exec.ExitError
			if err := run.Run(); errors.As(err, &exit) {
				return ended{exitFailed}
			} else if err != nil {
				return failure{"cannot show logs: " + err.Error(), ""}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	cmd.Flags().IntVarP(&lines, "lines", "n", 100, "how many lines")
	cmd.Flags().StringVar(&since, "since", "", "as journalctl takes it, for example -1h")
	return cmd
}

// journalMatches joins what the units wrote, what systemd says about them, and what slipwayd decided about the app. Without the
// daemon the units' names are not known and patterns must do, which cannot be joined with other fields.
func journalMatches(app string, units []string) []string {
	if len(units) == 0 {
		return []string{"--unit=" + app + ".*", "--unit=" + app + "-*", "--unit=" + app + "@*"}
	}
	var out []string
	for _, u := range units {
		out = append(out, "_SYSTEMD_UNIT="+u, "+", "_PID=1", "UNIT="+u, "+")
	}
	return append(out, "SLIPWAY_APP="+app)
}

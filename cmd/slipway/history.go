package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
)

func (c *cli) history() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:               "history APP",
		Short:             "List the attempts, newest first",
		Args:              oneApp,
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 || limit > 1000 {
				return usageError{fmt.Sprintf("--limit: %d is not between 1 and 1000", limit), ""}
			}
			list, err := c.api().History(cmd.Context(), args[0], limit)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(list)
			}
			if len(list) == 0 {
				c.say("nothing was tried yet")
				return nil
			}
			rows := [][]cell{{{"WHEN", dim}, {"ATTEMPT", dim}, {"SEQ", dim}, {"FROM", dim}, {"TO", dim}, {"RESULT", dim}, {"WHY", dim}}}
			for _, h := range list {
				seq := "-"
				if h.Sequence > 0 {
					seq = strconv.FormatInt(h.Sequence, 10)
				}
				result, col := h.Result, red
				switch h.Result {
				case "":
					result, col = "under way", yellow
				case "committed", "removed":
					col = green
				}
				rows = append(rows, []cell{{clock(c.now(), h.Started), ""}, {h.Attempt, ""}, {seq, ""}, {orDash(h.From), ""}, {orDash(h.To), ""}, {result, col}, {h.Message, ""}})
			}
			c.table(c.out, rows)
			return nil
		},
	}
	cmd.Flags().IntVarP(&limit, "limit", "n", 20, "how many")
	return cmd
}

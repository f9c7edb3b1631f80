package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/spf13/cobra"
)

// whyAnswer is what scripts get: the sentence, and the host's place in the rollout as fields.
type whyAnswer struct {
	App   string    `json:"app"`
	Phase string    `json:"phase"`
	Why   string    `json:"why"`
	Turn  *api.Turn `json:"turn,omitempty"`
}

func (c *cli) why() *cobra.Command {
	return &cobra.Command{
		Use:   "why APP",
		Short: "Say in one sentence what happens to an app, or why nothing does",
		Long: `Say in one sentence what happens to an app, or why nothing does. While a host waits for its turn, the rule that is in the way,
the host's wave and place and its earliest start are added; with --json they are fields of "turn".`,
		Args:              oneApp,
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := c.api().App(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(whyAnswer{a.App, a.Phase, a.Why, a.Turn})
			}
			fmt.Fprintln(c.out, clean(a.Why+standing(a.Turn)))
			return nil
		},
	}
}

// standing is the host's place in the rollout, for the end of the sentence.
func standing(t *api.Turn) string {
	if t == nil || t.Act || t.Rule == rollout.RuleUpToDate {
		return ""
	}
	parts := []string{"rule " + t.Rule}
	if t.Wave != "" {
		parts = append(parts, fmt.Sprintf("wave %s at position %.4f", t.Wave, t.Position))
	} else {
		parts = append(parts, fmt.Sprintf("position %.4f", t.Position))
	}
	if t.Earliest.IsZero() {
		parts = append(parts, "no earliest start is known")
	} else {
		parts = append(parts, "earliest start "+t.Earliest.UTC().Format(time.RFC3339))
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

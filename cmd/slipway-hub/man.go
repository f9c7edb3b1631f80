package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manCommand writes the manual from the same words as --help; packages are built with it. It honours SOURCE_DATE_EPOCH.
func (t *tool) manCommand() *cobra.Command {
	c := &cobra.Command{Use: "man DIR", Short: "Write manual pages into a directory", Args: cobra.ExactArgs(1), Hidden: true}
	c.RunE = t.do(func(_ context.Context, args []string) error {
		if err := os.MkdirAll(args[0], 0o755); err != nil {
			return fmt.Errorf("cannot write manual pages: %w", err)
		}
		root := c.Root()
		root.DisableAutoGenTag = true
		root.Long += "\n\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 refused, 4 the hub does not answer."
		if err := doc.GenManTree(root, &doc.GenManHeader{Section: "8", Source: "Slipway", Manual: "Slipway Manual"}, args[0]); err != nil {
			return fmt.Errorf("cannot write manual pages: %w", err)
		}
		return nil
	})
	return c
}

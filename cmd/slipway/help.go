package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

const exitCodeText = `0  done: what was asked for holds now
1  failed: it was tried and did not work, or a check found something wrong
2  usage: the command line cannot be meant
3  refused: a policy, a role or the present state forbids it; nothing was changed
4  unreachable: slipwayd did not answer`

// exitCodes is a help topic: a command without Run.
func exitCodes() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long:  exitCodeText,
	}
}

// man writes the manual pages; packages ship them. It honours SOURCE_DATE_EPOCH.
func (c *cli) man() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the manual pages into a directory",
		Hidden: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{cmd.CommandPath() + " needs one directory", ""}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := filepath.Clean(args[0])
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return failure{"cannot write manual pages: " + err.Error(), ""}
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			root.Long += "\n\nExit codes:\n\n" + strings.ReplaceAll(exitCodeText, "\n", "\n\n")
			root.InitDefaultCompletionCmd()
			header := &doc.GenManHeader{Section: "8", Source: "Slipway", Manual: "Slipway Manual"}
			if err := doc.GenManTree(root, header, dir); err != nil {
				return failure{"cannot write manual pages: " + err.Error(), ""}
			}
			return nil
		},
	}
}

package main

import (
	"context"
	"os"

	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "development"

// tool is one run of the command: its streams and the flags that every command has.
type tool struct {
	streams
	json       bool
	dir        string
	passphrase string
	// started turns true when a command's own code runs; errors before that are wrong usage.
	started bool
}

func run(ctx context.Context, args []string, s streams) int {
	t := &tool{streams: s}
	root := t.root()
	root.SetArgs(args)
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetIn(s.in)
	if err := root.ExecuteContext(ctx); err != nil {
		return t.fail(err)
	}
	return exitDone
}

func (t *tool) root() *cobra.Command {
	root := t.group("slipway-repo", "Publish signed releases and deployments for Slipway hosts",
		`slipway-repo works on a repository directory: metadata/ and targets/ in it are what any static web server, mounted
directory or mirror serves to hosts. Every change is a folder under changes/ until enough keys have signed it and it is
published. Private keys stay in their files, outside the repository.`)
	root.Version = version
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.HiddenDefaultCmd = true
	f := root.PersistentFlags()
	f.StringVarP(&t.dir, "dir", "C", envOr("SLIPWAY_REPOSITORY", "."), "repository `directory` (or SLIPWAY_REPOSITORY)")
	f.BoolVar(&t.json, "json", false, "answer in JSON")
	f.StringVar(&t.passphrase, "passphrase-file", os.Getenv("SLIPWAY_PASSPHRASE_FILE"), "`file` whose first line opens encrypted keys (or SLIPWAY_PASSPHRASE_FILE)")
	root.AddCommand(t.keyCommand(), t.initCommand(), t.appCommand(), t.envCommand(), t.roleCommand(), t.revokeCommand(), t.releaseCommand(),
		t.emergencyCommand(), t.inventoryCommand(), t.rotateCommand(), t.recoverCommand(),
		t.deployCommand(), t.changeCommand(), t.trustCommand(), t.logCommand(), t.gcCommand(), t.publishCommand(), t.refreshCommand(), t.statusCommand(), t.verifyCommand(), t.bundleCommand(), t.manCommand())
	return root
}

// group is a command that only holds others.
func (t *tool) group(use, short, long string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(children...)
	return c
}

// do marks the start of a command's own work.
func (t *tool) do(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		t.started = true
		return f(c.Context(), args)
	}
}

func (t *tool) open() (*repository.Repository, error) { return repository.Open(t.dir) }

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

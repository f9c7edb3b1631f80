package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/config"
)

// cli is what all commands share: the streams, the global flags and the client.
type cli struct {
	in                 io.Reader
	out, err           io.Writer
	tty, errTTY, inTTY bool
	now                func() time.Time

	socket    string
	configDir string
	json      bool
	client    *api.Client

	fleetFlags fleetFlags

	machineRoot string // where the machine's own files are looked for; empty means /
}

// main runs one command line and returns its exit code.
func (c *cli) main(ctx context.Context, args []string) int {
	if c.now == nil {
		c.now = time.Now
	}
	root := c.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if c.client != nil {
		defer c.client.Close()
		if skew := c.client.Skew(); skew != "" && c.errTTY {
			defer c.hint("%s; after an upgrade: systemctl restart slipwayd", skew)
		}
	}
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return exitFailed
	}
	return c.exitCode(err)
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "slipway",
		Short: "See and steer what Slipway deploys on this host",
		Long: `Slipway deploys signed releases on this host, tries each one, and keeps it or hauls it back.

This command asks the daemon slipwayd over its socket. Status and why need no rights; what else asks the daemon needs a role that
/etc/slipway/slipway.toml gives, and root has all of them. Init, add and remove write to /etc/slipway, which takes root.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Args:          noArgs,
	}
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.SetVersionTemplate("slipway {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{err.Error(), "see " + cmd.CommandPath() + " --help"}
	})
	f := root.PersistentFlags()
	f.StringVar(&c.socket, "socket", "", "control socket of slipwayd (default "+api.DefaultControlSocket+")")
	f.BoolVar(&c.json, "json", false, "print JSON on standard output")
	f.StringVar(&c.configDir, "config", config.DefaultDir, "configuration directory")
	_ = root.MarkPersistentFlagDirname("config") // fails only for a flag that is not defined
	root.AddCommand(c.status(), c.why(), c.refresh(), c.apply(), c.revert(), c.hold(), c.resume(), c.retry(), c.history(), c.evidence(), c.verify(),
		c.doctor(), c.events(), c.logs(), c.fleet(), c.initHost(), c.enroll(), c.add(), c.remove(), c.man(), exitCodes())
	return root
}

// api makes the client on first use: commands that need no daemon never touch the socket. An own --socket has its read-only
// sibling beside it.
func (c *cli) api() *api.Client {
	if c.client == nil {
		control, reading := api.DefaultControlSocket, api.DefaultReadOnlySocket
		if c.socket != "" {
			control = c.socket
			reading = strings.TrimSuffix(c.socket, ".sock") + "-ro.sock"
		}
		c.client = api.NewClient(control, reading, version)
	}
	return c.client
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		if cmd.HasSubCommands() {
			return usageError{"there is no command " + args[0], "slipway --help lists them"}
		}
		return usageError{cmd.CommandPath() + " takes no argument, but got " + args[0], "see " + cmd.CommandPath() + " --help"}
	}
	return nil
}

// oneApp wants exactly one well-formed app name.
func oneApp(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{cmd.CommandPath() + " needs the name of one app", "slipway status lists the apps; see " + cmd.CommandPath() + " --help"}
	}
	return checkApp(args[0])
}

func checkApp(name string) error {
	if err := config.CheckApp(name); err != nil {
		return usageError{err.Error(), ""}
	}
	return nil
}

// maybeApp wants an app or --all.
func maybeApp(all *bool) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case *all && len(args) > 0:
			return usageError{"give either an app or --all", ""}
		case *all:
			return nil
		case len(args) == 0:
			return usageError{cmd.CommandPath() + " needs an app or --all", "slipway status lists the apps"}
		}
		return oneApp(cmd, args)
	}
}

// completeApps asks the daemon; a daemon that does not answer completes nothing.
func (c *cli) completeApps(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
	defer cancel()
	s, err := c.api().Status(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, a := range s.Apps {
		out = append(out, a.App+"\t"+a.Version+" "+a.Phase)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

package main

import (
	"context"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

func (t *tool) amendCommand() *cobra.Command {
	var m changing
	var a repository.Amendment
	var state, expires string
	c := &cobra.Command{
		Use: "amend ENVIRONMENT APP", Short: "Open the next wave of a rollout, pause, resume or revert it", Args: cobra.ExactArgs(2),
		Long: `Opens a change with the next sequence of the deployment in force. Release, waves and rollout stay: the order of hosts, what
start_after counts from, and what hosts have quarantined are as they were. Use deploy new to roll the same release out anew.`,
		Example: `  slipway-repo deploy amend production billing --max-wave rest --reason "canary is well" --sign ann --sign ben
  slipway-repo deploy amend production billing --state paused --reason "OPS-77" --sign ann --sign ben
  slipway-repo deploy amend production billing --state revert --reason "it leaks memory" --sign ann --sign ben`,
	}
	f := c.Flags()
	f.StringVar(&a.MaxWave, "max-wave", "", "the last `wave` that may go")
	f.StringVar(&state, "state", "", "active, paused, halted or revert")
	f.StringVar(&expires, "expires", "", "start nothing after this `time` (RFC 3339, or 72h from now)")
	f.StringVar(&a.Reason, "reason", "", "why, for people")
	f.StringVar(&a.Ticket, "ticket", "", "ticket, for people")
	m.flags(c)
	c.MarkFlagsOneRequired("max-wave", "state", "expires")
	_ = c.MarkFlagRequired("reason")
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		d := deployFlags{env: args[0], app: args[1]}
		var w repository.Wish
		if err := d.names(&w); err != nil {
			return err
		}
		if expires != "" {
			at, err := moment(expires, time.Now())
			if err != nil {
				return usage("--expires: %v", err)
			}
			a.Expires = &at
		}
		source := &written{path: args[0] + "/" + args[1]}
		a.Environment, a.App, a.State, a.Origin, a.Judge = w.Environment, w.App, release.DeploymentState(state), m.origin(), t.judge(source)
		return t.make(ctx, &m, func(r *repository.Repository) (*repository.Change, error) {
			c, err := r.Amend(ctx, a)
			return c, source.locate(err)
		})
	})
	return c
}

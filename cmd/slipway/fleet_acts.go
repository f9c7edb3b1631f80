package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// fleetVerb is one of the acts on a fleet.
type fleetVerb struct {
	name, short, long string
	all               bool // may be about the whole fleet
	host              bool // is about one host
	wave              bool // may name a wave
	// blind acts may be done without having seen the rollout: stopping must not fail because something moved.
	blind bool
}

var fleetActs = []fleetVerb{
	{name: fleet.ActHalt, all: true, blind: true, short: "Stop a rollout, or all of them: no host starts any more",
		long: `No host gets a slot any more, and hosts that have one but have not swapped yet do not swap. Hosts in the middle of a trial finish it.
With --all the whole fleet. If the signed deployment says that a halt reverts, hosts that already run the release go back.`},
	{name: fleet.ActPause, blind: true, short: "Pause a rollout",
		long: "No further host starts. Unlike a halt it says nothing about the release: nothing is reverted."},
	{name: fleet.ActResume, all: true, short: "Let a paused or halted rollout go on",
		long: "Takes more rights than stopping. With --all it lifts the halt of the whole fleet; rollouts that were stopped one by one stay stopped."},
	{name: fleet.ActPromote, wave: true, short: "Open the next wave now",
		long: "Opens the wave that is next, or the one named with --wave, without waiting for its conditions. The signed limits stay: no wave opens before its time or beyond max_wave."},
	{name: fleet.ActRevert, short: "Take a rollout back: hosts that run it go to the signed fallback",
		long: `Hosts go back one budget at a time, each checks the order against what is signed, and does it once per rollout. A deployment that
reserves reverting to its signers refuses this.`},
	{name: fleet.ActForget, host: true, short: "Free the slot of a host that will not come back",
		long: `For a host that is gone for good. Its slot is free at once, so that another host may become unavailable: make sure that it is really
gone and not only unreachable. A host that comes back after all is refused and asks anew.`},
	{name: fleet.ActReconcile, short: "Go on after the hub's store was restored from an old copy",
		long: `After a restore nobody gets a slot until this is said: hosts tell which slots they hold, and those are put back first. Wait until
slipway fleet hosts shows that all hosts have been seen since.`},
}

func (v fleetVerb) use() string {
	switch {
	case v.host:
		return v.name + " ENVIRONMENT/APP HOST"
	case v.all:
		return v.name + " ENVIRONMENT/APP | --all"
	}
	return v.name + " ENVIRONMENT/APP"
}

// fleetAct makes the command of one act. Acts but the blind ones carry the rollout that the operator saw: the one shown by status
// now, or the one named with --rollout; if another one is in force by then, nothing happens.
func (c *cli) fleetAct(v fleetVerb) *cobra.Command {
	var act fleet.Act
	var all bool
	cmd := &cobra.Command{Use: v.use(), Short: v.short, Long: v.long, ValidArgsFunction: c.completeGroups}
	f := cmd.Flags()
	f.StringVar(&act.Reason, "reason", "", "why, for whoever reads the log (required)")
	f.StringVar(&act.Rollout, "rollout", "", "the rollout `id` you looked at; another one in force refuses the act")
	if v.all {
		f.BoolVar(&all, "all", false, "the whole fleet")
	}
	if v.wave {
		f.StringVar(&act.Wave, "wave", "", "`name` of the wave to open (default: the next one)")
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error { return v.args(cmd, args, all) }
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if act.Reason == "" {
			return usageError{cmd.CommandPath() + " needs --reason", "it is what the next person on call reads"}
		}
		if all {
			return c.ask(func(o *fleet.Operator) error { return c.carryOut(cmd.Context(), o, v.name, act) })
		}
		g, err := parseGroup(args[0])
		if err != nil {
			return err
		}
		act.Environment, act.App = g.env, g.app
		if v.host {
			act.Host = args[1]
		}
		return c.ask(func(o *fleet.Operator) error {
			if !v.blind && (act.Rollout == "" || v.wave && act.Wave == "") {
				if err := c.see(cmd.Context(), o, g, v.wave, &act); err != nil {
					return err
				}
			}
			return c.carryOut(cmd.Context(), o, v.name, act)
		})
	}
	return cmd
}

func (v fleetVerb) args(cmd *cobra.Command, args []string, all bool) error {
	switch {
	case all && len(args) > 0:
		return usageError{"give either ENVIRONMENT/APP or --all", ""}
	case all:
		return nil
	case v.host && len(args) != 2:
		return usageError{cmd.CommandPath() + " needs ENVIRONMENT/APP and a host", "slipway fleet slots lists who holds what"}
	case v.host:
		if err := fleet.CheckHost(args[1]); err != nil {
			return usageError{err.Error(), ""}
		}
		args = args[:1]
	case v.all && len(args) == 0:
		return usageError{cmd.CommandPath() + " needs ENVIRONMENT/APP or --all", "slipway fleet status lists them"}
	}
	return oneGroup(cmd, args)
}

// see fills in what the operator did not name: the rollout in force, and the next wave if the act is about one. It is told before
// anything happens, and the hub refuses the act if it is not so any more.
func (c *cli) see(ctx context.Context, o *fleet.Operator, g group, wave bool, act *fleet.Act) error {
	s, err := o.Status(ctx)
	if err != nil {
		return err
	}
	r, err := rolloutOf(s, g)
	if err != nil {
		return err
	}
	c.say("%s/%s: rollout %s, %s, is %s", g.env, g.app, r.Rollout, r.Version, r.State)
	act.Rollout = first(act.Rollout, r.Rollout)
	if !wave || act.Wave != "" {
		return nil
	}
	for _, w := range r.Waves {
		if !w.Open {
			act.Wave = w.Name
			return nil
		}
	}
	return nil
}

func (c *cli) carryOut(ctx context.Context, o *fleet.Operator, name string, act fleet.Act) error {
	done, err := o.Act(ctx, name, act)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(done)
	}
	fmt.Fprintln(c.out, clean(done.Done))
	return nil
}

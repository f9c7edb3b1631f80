package main

import (
	"context"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

// envFlags are the flags of env set, as typed.
type envFlags struct {
	m                                   changing
	add, remove, emergency, inventory   []string
	threshold                           int
	apart                               bool
	expires, freshness, noSpare, reason string
}

func (t *tool) envSetCommand() *cobra.Command {
	var k envFlags
	c := &cobra.Command{
		Use: "set ENVIRONMENT", Short: "Change the approvers of an environment, for all its apps at once", Args: cobra.ExactArgs(1),
		Long: `Opens one change of the environment's template, which apps added later get, and of every deployment role made from it. A
deployment role that was set apart with role set gets and loses keys too, and keeps its own threshold and expiry. The targets
keys sign this, and the new approvers sign what is published with too few signatures otherwise.

--emergency-key and --inventory-key give the environment a role that it has not had.`,
		Example: `  slipway-repo env set production --remove-key ben --add-key dan.pub --reason "ben left" --sign alice --sign bob
  slipway-repo env set production --expires 30d --reason "approvals are looked at every month"
  slipway-repo env set production --emergency-key oncall.pub --reason "somebody must be able to stop the fleet"`,
	}
	k.m.flags(c)
	f := c.Flags()
	f.StringArrayVar(&k.add, "add-key", nil, "public key `file` of an approver who comes (repeatable)")
	f.StringArrayVar(&k.remove, "remove-key", nil, "`key` of an approver who leaves, by id or name (repeatable)")
	f.IntVar(&k.threshold, "threshold", 0, "how many approvals hosts demand")
	f.BoolVar(&k.apart, "requester-apart", false, "whether whoever asks for a deployment may not approve it, nor the app's own keys (=false lifts it)")
	f.StringVar(&k.expires, "expires", "", "how long a deployment's signature lasts from now on, such as 90d")
	f.StringVar(&k.freshness, "freshness", "", "how recent news must be for a host to start, such as 24h, unless a deployment says otherwise")
	f.StringArrayVar(&k.emergency, "emergency-key", nil, "public key `file` that may stop, hold and revoke: a role the environment has not had (repeatable)")
	f.StringArrayVar(&k.inventory, "inventory-key", nil, "public key `file` that may list the hosts: a role the environment has not had (repeatable)")
	f.StringVar(&k.noSpare, "allow-no-spare", "", "`reason` why no key may be lost (threshold = number of keys)")
	f.StringVar(&k.reason, "reason", "", "`why`, for the signers to see")
	_ = c.MarkFlagRequired("reason")
	c.RunE = func(c *cobra.Command, args []string) error {
		t.started = true
		return t.envSet(c.Context(), args[0], &k, c.Flags().Changed)
	}
	return c
}

func (t *tool) envSet(ctx context.Context, name string, k *envFlags, given func(flag string) bool) error {
	env, err := release.ParseEnvironment(name)
	if err != nil {
		return usage("%v", err)
	}
	o := repository.EnvironmentSetOptions{Remove: k.remove, NoSpare: k.noSpare, Reason: k.reason, Origin: k.m.origin()}
	if given("threshold") {
		o.Threshold = &k.threshold
	}
	if given("requester-apart") {
		o.Apart = &k.apart
	}
	if k.expires != "" {
		if o.Expires, err = repository.ParsePeriod(k.expires); err != nil {
			return usage("--expires: %v", err)
		}
	}
	if k.freshness != "" {
		if o.Freshness, err = release.ParseDuration(k.freshness); err != nil {
			return usage("--freshness: %v", err)
		}
	}
	if o.Add, err = publicKeys(k.add); err != nil {
		return err
	}
	if o.Emergency, err = publicKeys(k.emergency); err != nil {
		return err
	}
	if o.Inventory, err = publicKeys(k.inventory); err != nil {
		return err
	}
	return t.make(ctx, &k.m, t.warned(func(r *repository.Repository) (*repository.Change, error) { return r.SetEnvironment(ctx, env, o) }))
}

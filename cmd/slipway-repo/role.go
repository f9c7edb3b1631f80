package main

import (
	"context"
	"path/filepath"

	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

// roleFlags are the flags of role set, as typed.
type roleFlags struct {
	m                        changing
	add, remove, online      []string
	threshold                int
	expires, noSpare, reason string
}

func (t *tool) roleSetCommand() *cobra.Command {
	var k roleFlags
	c := &cobra.Command{
		Use: "set ROLE", Short: "Change the keys, the threshold or the expiry of a role", Args: cobra.ExactArgs(1),
		Long: `Opens a change of who signs ROLE and how many must: in root for root, targets, snapshot and timestamp, in targets for every
other role. A role whose published signatures no longer reach its threshold is part of the change and must be signed by its
new keys. A new root is signed by the thresholds of the old and of the new root.

Keys are removed by id, by the beginning of an id, or by name. Apps that are added later still get the approvers of their
environment's template in policy.json.`,
		Example: `  slipway-repo role set deploy.production.billing --remove-key ben --add-key dan.pub --reason "ben left" --sign alice --sign bob
  slipway-repo role set root --add-key dora.pub --add-key erin.pub --threshold 3 --reason "five holders"
  slipway-repo role set timestamp --expires 2d --reason "hosts shall notice sooner"`,
	}
	k.m.flags(c)
	f := c.Flags()
	f.StringArrayVar(&k.add, "add-key", nil, "public key `file` that may sign the role from now on (repeatable)")
	f.StringArrayVar(&k.remove, "remove-key", nil, "`key` that may no longer sign it, by id or name (repeatable)")
	f.IntVar(&k.threshold, "threshold", 0, "how many of its keys must sign")
	f.StringVar(&k.expires, "expires", "", "how long its signatures last, such as 90d: kept for root, targets, snapshot and timestamp, else for this version")
	f.StringVar(&k.noSpare, "allow-no-spare", "", "`reason` why no key may be lost (threshold = number of keys)")
	f.StringVar(&k.reason, "reason", "", "`why`, for the signers to see")
	f.StringArrayVar(&k.online, "use-online", nil, "private online key `file` for policy.json to remember instead of those it has (repeatable)")
	_ = c.MarkFlagRequired("reason")
	c.RunE = func(c *cobra.Command, args []string) error {
		t.started = true
		return t.roleSet(c.Context(), args[0], &k, c.Flags().Changed("threshold"))
	}
	return c
}

func (t *tool) roleSet(ctx context.Context, role string, k *roleFlags, threshold bool) error {
	o := repository.RoleOptions{Remove: k.remove, NoSpare: k.noSpare, Reason: k.reason, Origin: k.m.origin()}
	if threshold {
		o.Threshold = &k.threshold
	}
	var err error
	if k.expires != "" {
		if o.Expires, err = repository.ParsePeriod(k.expires); err != nil {
			return usage("--expires: %v", err)
		}
	}
	if o.Add, err = publicKeys(k.add); err != nil {
		return err
	}
	if o.UseOnline, err = absolute(k.online); err != nil {
		return err
	}
	return t.make(ctx, &k.m, func(r *repository.Repository) (*repository.Change, error) { return r.SetRole(ctx, role, o) })
}

func absolute(refs []string) ([]string, error) {
	var out []string
	for _, ref := range refs {
		abs, err := filepath.Abs(ref)
		if err != nil {
			return nil, err
		}
		out = append(out, abs)
	}
	return out, nil
}

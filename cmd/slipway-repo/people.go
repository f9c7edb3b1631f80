package main

import (
	"context"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

// keyFlags is a set of keys with a threshold.
type keyFlags struct {
	keys      []string
	threshold int
	noSpare   string
}

func (k *keyFlags) flags(c *cobra.Command, of string) {
	c.Flags().StringArrayVar(&k.keys, "key", nil, "public key `file` of "+of+" (repeatable)")
	c.Flags().IntVar(&k.threshold, "threshold", 1, "how many of them must sign")
	c.Flags().StringVar(&k.noSpare, "allow-no-spare", "", "`reason` why no key may be lost (threshold = number of keys)")
}

func (t *tool) initCommand() *cobra.Command {
	var root, targets keyFlags
	var online, onlineRefs, sign []string
	c := &cobra.Command{
		Use: "init", Short: "Create a repository", Args: cobra.NoArgs,
		Long: `Creates the directory and opens its first change: root, signed by the offline root keys, and targets. With --sign it is
signed at once; then run publish with the online key, and pin metadata/1.root.json on every host.`,
		Example: `  slipway-repo init -C repo --root-key alice.pub --root-key bob.pub --root-key carol.pub --root-threshold 2 \
      --online-key online.pub --use-online online --sign alice --sign bob
  slipway-repo publish -C repo`,
	}
	f := c.Flags()
	f.StringArrayVar(&root.keys, "root-key", nil, "public key `file` of a root holder (repeatable)")
	f.IntVar(&root.threshold, "root-threshold", 1, "how many root holders must sign")
	f.StringArrayVar(&targets.keys, "targets-key", nil, "public key `file` for targets (default: the root keys)")
	f.IntVar(&targets.threshold, "targets-threshold", 0, "how many must sign targets (default: as root)")
	f.StringVar(&root.noSpare, "allow-no-spare", "", "`reason` why no key may be lost (threshold = number of keys)")
	f.StringArrayVar(&online, "online-key", nil, "public key `file` for snapshot and timestamp (repeatable: any one suffices)")
	f.StringArrayVar(&onlineRefs, "use-online", nil, "online key `file` to remember in policy.json for publish and refresh")
	f.StringArrayVar(&sign, "sign", nil, "key `file`, or exec:PROGRAM, to sign with at once (repeatable)")
	for _, name := range []string{"root-key", "online-key"} {
		_ = c.MarkFlagRequired(name)
	}
	c.RunE = t.do(func(ctx context.Context, _ []string) error {
		if len(targets.keys) == 0 {
			targets.keys = root.keys
			if targets.threshold == 0 {
				targets.threshold = root.threshold
			}
		}
		targets.threshold = max(1, targets.threshold)
		return t.init(ctx, root, targets, online, onlineRefs, sign)
	})
	return c
}

func (t *tool) init(ctx context.Context, root, targets keyFlags, online, refs, sign []string) error {
	o := repository.CreateOptions{RootThreshold: root.threshold, TargetsThreshold: targets.threshold, NoSpare: root.noSpare}
	var err error
	if o.Root, err = publicKeys(root.keys); err != nil {
		return err
	}
	if o.Targets, err = publicKeys(targets.keys); err != nil {
		return err
	}
	if o.Online, err = publicKeys(online); err != nil {
		return err
	}
	policy := repository.DefaultPolicy()
	if policy.OnlineKeys, err = absolute(refs); err != nil {
		return err
	}
	o.Policy = &policy
	signers, err := t.signers(ctx, sign)
	if err != nil {
		return err
	}
	r, c, err := repository.Create(t.dir, o)
	if err != nil {
		return err
	}
	if err := t.warnOf(r, c); err != nil {
		return err
	}
	return t.signAndShow(ctx, r, c, signers)
}

func (t *tool) appCommand() *cobra.Command {
	var k keyFlags
	var m changing
	add := &cobra.Command{
		Use: "add APP", Short: "Let an app's own keys sign its releases", Args: cobra.ExactArgs(1),
		Long: `Delegates releases/APP/*/* to the app's keys, and one deployment role per environment to that environment's approvers. The
targets keys sign this.`,
		Example: `  slipway-repo app add billing --key billing-ci.pub --sign alice --sign bob`,
	}
	k.flags(add, "the app's release engineers or CI")
	m.flags(add)
	_ = add.MarkFlagRequired("key")
	add.RunE = t.do(func(ctx context.Context, args []string) error {
		app, err := release.ParseApp(args[0])
		if err != nil {
			return usage("%v", err)
		}
		list, err := publicKeys(k.keys)
		if err != nil {
			return err
		}
		return t.make(ctx, &m, t.warned(func(r *repository.Repository) (*repository.Change, error) {
			return r.AddApp(ctx, app, repository.AppOptions{Keys: list, Threshold: k.threshold, NoSpare: k.noSpare, Origin: m.origin()})
		}))
	})
	return t.group("app", "Add apps", "", add)
}

func (t *tool) envCommand() *cobra.Command {
	var k keyFlags
	var m changing
	var emergency, inventory []string
	var expiry, freshness string
	var apart bool
	add := &cobra.Command{
		Use: "add ENVIRONMENT", Short: "Add an environment and its approvers", Args: cobra.ExactArgs(1),
		Long: `Gives every app, now and later, a role that signs exactly deployments/ENVIRONMENT/APP.json. The threshold is the number of
approvals that every host demands. The targets keys sign this.`,
		Example: `  slipway-repo env add production --key ann.pub --key ben.pub --key cem.pub --threshold 2 --freshness 24h \
      --emergency-key oncall.pub --sign alice --sign bob
  slipway-repo env add staging --key ci.pub --sign alice --sign bob`,
	}
	k.flags(add, "an approver")
	m.flags(add)
	add.Flags().StringArrayVar(&emergency, "emergency-key", nil, "public key `file` that may stop, hold and revoke (repeatable)")
	add.Flags().StringArrayVar(&inventory, "inventory-key", nil, "public key `file` that may list the hosts (repeatable)")
	add.Flags().StringVar(&expiry, "expiry", "", "how long a deployment's signature lasts, such as 90d (default: policy.json)")
	add.Flags().StringVar(&freshness, "freshness", "", "how recent news must be for a host to start, such as 24h, unless a deployment says otherwise")
	add.Flags().BoolVar(&apart, "requester-apart", false, "whoever asks for a deployment may not approve it, nor may the app's own keys")
	_ = add.MarkFlagRequired("key")
	add.RunE = t.do(func(ctx context.Context, args []string) error {
		env, err := release.ParseEnvironment(args[0])
		if err != nil {
			return usage("%v", err)
		}
		o := repository.EnvironmentOptions{Origin: m.origin()}
		o.Threshold, o.NoSpare, o.Apart = k.threshold, k.noSpare, apart
		if o.Keys, err = publicKeys(k.keys); err != nil {
			return err
		}
		if o.Emergency, err = publicKeys(emergency); err != nil {
			return err
		}
		if o.Inventory, err = publicKeys(inventory); err != nil {
			return err
		}
		if err := parseTimes(expiry, freshness, &o.Template); err != nil {
			return err
		}
		return t.make(ctx, &m, t.warned(func(r *repository.Repository) (*repository.Change, error) {
			return r.AddEnvironment(ctx, env, o)
		}))
	})
	return t.group("env", "Add and change environments", "", add, t.envSetCommand())
}

func parseTimes(expiry, freshness string, into *repository.Template) (err error) {
	if expiry != "" {
		if into.Expiry, err = repository.ParsePeriod(expiry); err != nil {
			return usage("--expiry: %v", err)
		}
	}
	if freshness != "" {
		if into.Freshness, err = release.ParseDuration(freshness); err != nil {
			return usage("--freshness: %v", err)
		}
	}
	return nil
}

func (t *tool) roleCommand() *cobra.Command {
	var m changing
	var within string
	renew := &cobra.Command{
		Use: "renew [ROLE]...", Short: "Sign roles again before they expire", Args: cobra.ArbitraryArgs,
		Long:    `Opens a change with the next version of each role: the same content, a fresh expiry. Without names it takes every offline role that expires soon.`,
		Example: "  slipway-repo role renew --within 30d\n  slipway-repo role renew root --sign alice --sign bob",
	}
	m.flags(renew)
	renew.Flags().StringVar(&within, "within", "30d", "without names: the roles that expire within this time")
	renew.RunE = t.do(func(ctx context.Context, args []string) error {
		period, err := repository.ParsePeriod(within)
		if err != nil {
			return usage("--within: %v", err)
		}
		return t.make(ctx, &m, func(r *repository.Repository) (*repository.Change, error) {
			return r.Renew(ctx, args, period, m.origin())
		})
	})
	return t.group("role", "Change roles, and keep them alive", "", t.roleSetCommand(), t.roleShowCommand(), renew)
}

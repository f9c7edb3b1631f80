package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

// roleFlags are the flags of role set, as typed.
type roleFlags struct {
	m                        changing
	add, remove, online      []string
	threshold                int
	apart                    bool
	expires, noSpare, reason string
}

func (t *tool) roleSetCommand() *cobra.Command {
	var k roleFlags
	c := &cobra.Command{
		Use: "set ROLE", Short: "Change the keys, the threshold or the expiry of a role", Args: cobra.ExactArgs(1),
		Long: `Opens a change of who signs ROLE and how many must: in root for root, targets, snapshot and timestamp, in targets for every
other role. A role whose published signatures no longer reach its threshold is part of the change and must be signed by its
new keys. A new root is signed by the thresholds of the old and of the new root.

Keys are removed by id, by the beginning of an id, or by name. --expires is kept for the role's later versions. For all the
deployment roles of an environment, and those of apps to come, use env set.`,
		Example: `  slipway-repo role set deploy.production.billing --remove-key ben --add-key dan.pub --reason "ben left" --sign alice --sign bob
  slipway-repo role set root --add-key dora.pub --add-key erin.pub --threshold 3 --reason "five holders"
  slipway-repo role set timestamp --expires 2d --reason "hosts shall notice sooner"`,
	}
	k.m.flags(c)
	f := c.Flags()
	f.StringArrayVar(&k.add, "add-key", nil, "public key `file` that may sign the role from now on (repeatable)")
	f.StringArrayVar(&k.remove, "remove-key", nil, "`key` that may no longer sign it, by id or name (repeatable)")
	f.IntVar(&k.threshold, "threshold", 0, "how many of its keys must sign")
	f.BoolVar(&k.apart, "requester-apart", false, "for a deployment role: whether whoever asks for a deployment may not approve it, nor the app's own keys (=false lifts it)")
	f.StringVar(&k.expires, "expires", "", "how long its signatures last from now on, such as 90d")
	f.StringVar(&k.noSpare, "allow-no-spare", "", "`reason` why no key may be lost (threshold = number of keys)")
	f.StringVar(&k.reason, "reason", "", "`why`, for the signers to see")
	f.StringArrayVar(&k.online, "use-online", nil, "online key `file` for policy.json to remember instead of those it has (repeatable)")
	_ = c.MarkFlagRequired("reason")
	c.RunE = func(c *cobra.Command, args []string) error {
		t.started = true
		return t.roleSet(c.Context(), args[0], &k, c.Flags().Changed)
	}
	return c
}

func (t *tool) roleSet(ctx context.Context, role string, k *roleFlags, given func(flag string) bool) error {
	o := repository.RoleOptions{Remove: k.remove, NoSpare: k.noSpare, Reason: k.reason, Origin: k.m.origin()}
	if given("threshold") {
		o.Threshold = &k.threshold
	}
	if given("requester-apart") {
		o.Apart = &k.apart
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
	return t.make(ctx, &k.m, t.warned(func(r *repository.Repository) (*repository.Change, error) { return r.SetRole(ctx, role, o) }))
}

// warned tells of what is allowed and unwise about the keys that a change brings.
func (t *tool) warned(build func(*repository.Repository) (*repository.Change, error)) func(*repository.Repository) (*repository.Change, error) {
	return func(r *repository.Repository) (*repository.Change, error) {
		c, err := build(r)
		if err != nil {
			return nil, err
		}
		return c, t.warnOf(r, c)
	}
}

func (t *tool) warnOf(r *repository.Repository, c *repository.Change) error {
	list, err := r.Warnings(c)
	for _, w := range list {
		t.warn("%s", w)
	}
	return err
}

// absolute makes key files findable from anywhere, for policy.json to remember.
func absolute(refs []string) ([]string, error) {
	var out []string
	for _, ref := range refs {
		path, err := keys.FilePath(ref)
		if err != nil {
			return nil, err
		}
		if path, err = filepath.Abs(path); err != nil {
			return nil, err
		}
		out = append(out, path)
	}
	return out, nil
}

func (t *tool) roleShowCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "show [ROLE]...", Short: "Tell who may sign a role, and how many must", Args: cobra.ArbitraryArgs,
		Long:    `Reads what is published: each role's threshold, keys with their ids, expiry, and the metadata that says so.`,
		Example: "  slipway-repo role show deploy.production.billing\n  slipway-repo role show --all",
	}
	c.Flags().BoolVar(&all, "all", false, "every role")
	c.RunE = t.do(func(_ context.Context, args []string) error {
		if all != (len(args) == 0) {
			return usage("name the roles, or give --all")
		}
		r, err := t.open()
		if err != nil {
			return err
		}
		roles, err := r.Roles(args...)
		if err != nil {
			return err
		}
		return t.answer(roles, func(w io.Writer) {
			for _, role := range roles {
				showRole(w, role)
			}
		})
	})
	return c
}

func showRole(w io.Writer, role repository.RoleView) {
	fmt.Fprintf(w, "%s: %d of %d, named by %s\n", role.Role, role.Threshold, len(role.Keys), role.By)
	if role.Version == 0 {
		fmt.Fprintln(w, "  has signed nothing yet")
	} else {
		fmt.Fprintf(w, "  version %d expires %s\n", role.Version, role.Expires.Format(time.RFC3339))
	}
	for _, k := range role.Keys {
		fmt.Fprintf(w, "  %s  %s  %s\n", k.ID, k.Type(), k.Name)
	}
}

func (t *tool) revokeCommand() *cobra.Command {
	var m changing
	var o repository.RevokeOptions
	var successor string
	var online []string
	c := &cobra.Command{
		Use: "revoke KEY", Short: "Take a lost or stolen key out of every role", Args: cobra.ExactArgs(1),
		Long: `Opens one change that takes KEY (an id, its beginning, a name, or a .pub file) out of every role and out of the templates of
environments. Roles whose published signatures do not verify without it are in the change; the answer says who must sign what.
It is refused where a role would have too few keys left, unless --replace-with names a successor for all of them.

For a stolen online key, publish with the new one (--online-key) and then stop using the old: hosts forget the versions of
timestamp and snapshot that the old key signed.`,
		Example: `  slipway-repo revoke ben --reason "laptop stolen" --replace-with ben2.pub --sign alice --sign bob
  slipway-repo revoke online --reason "server broken into" --replace-with online2.pub --use-online online2 --sign alice --sign bob
  slipway-repo publish --online-key online2`,
	}
	m.flags(c)
	f := c.Flags()
	f.StringVar(&o.Reason, "reason", "", "`why`, for the signers to see")
	f.StringVar(&successor, "replace-with", "", "public key `file` of the key that takes its place in every role")
	f.StringVar(&o.NoSpare, "allow-no-spare", "", "`reason` why no key may be lost after that (threshold = number of keys)")
	f.StringArrayVar(&online, "use-online", nil, "online key `file` for policy.json to remember instead of those it has (repeatable)")
	_ = c.MarkFlagRequired("reason")
	c.RunE = t.do(func(ctx context.Context, args []string) (err error) {
		o.Origin = m.origin()
		if o.Key, err = keyName(args[0]); err != nil {
			return err
		}
		if successor != "" {
			if o.Replace, err = keys.LoadPublic(successor); err != nil {
				return err
			}
		}
		if o.UseOnline, err = absolute(online); err != nil {
			return err
		}
		return t.make(ctx, &m, t.warned(func(r *repository.Repository) (*repository.Change, error) { return r.Revoke(ctx, o) }))
	})
	return c
}

// keyName is what finds a key in metadata: of a file its fingerprint, since ids are whatever metadata calls them.
func keyName(arg string) (string, error) {
	if !strings.HasSuffix(arg, ".pub") {
		return arg, nil
	}
	k, err := keys.LoadPublic(arg)
	if err != nil {
		return "", err
	}
	sum := k.Fingerprint()
	return hex.EncodeToString(sum[:]), nil
}

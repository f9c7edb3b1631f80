package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

// publishWait is how long an emergency waits for another publisher, such as the refresh timer, to finish.
const publishWait = 30 * time.Second

// urgent is what the commands share that act at once: they sign with the emergency key and publish.
type urgent struct {
	m      changing
	online []string
	reason string
}

func (u *urgent) flags(c *cobra.Command) {
	u.m.flags(c)
	c.Flags().StringArrayVar(&u.online, "online-key", nil, "key `file`, or exec:PROGRAM, for snapshot and timestamp (default: policy.json)")
	c.Flags().StringVar(&u.reason, "reason", "", "`why`, shown on every host")
	_ = c.MarkFlagRequired("reason")
}

// stop is how long an entry holds.
type stop struct{ lasts, until string }

func (s *stop) flags(c *cobra.Command, otherwise string) {
	c.Flags().StringVar(&s.lasts, "for", otherwise, "how long it holds, such as 12h or 7d")
	c.Flags().StringVar(&s.until, "until", "", "`time` when it ends (RFC 3339), instead of --for")
}

func (s *stop) end(now time.Time) (*time.Time, error) {
	if s.until != "" {
		at, err := time.Parse(time.RFC3339, s.until)
		if err != nil {
			return nil, usage("--until: %q is not a time like 2026-01-31T12:00:00Z", s.until)
		}
		at = at.UTC().Truncate(time.Second)
		return &at, nil
	}
	if s.lasts == "" {
		return nil, nil
	}
	p, err := repository.ParsePeriod(s.lasts)
	if err != nil {
		return nil, usage("--for: %v", err)
	}
	at := now.UTC().Truncate(time.Second).Add(p.Std())
	return &at, nil
}

func (t *tool) emergencyCommand() *cobra.Command {
	return t.group("emergency", "Stop, hold and revoke at once, with the emergency key", "",
		t.emergencyHalt(), t.emergencyFreeze(), t.emergencyMinimum(), t.emergencyRevoke(), t.emergencyLift(), t.emergencyShow())
}

func (t *tool) emergencyHalt() *cobra.Command {
	return t.emergencyStop("halt", &cobra.Command{
		Use: "halt ENVIRONMENT", Short: "Let no host of an environment start anything", Args: cobra.ExactArgs(1),
		Long: `Signs the environment's next emergency document with the emergency key (--sign, or SLIPWAY_EMERGENCY_KEY) and publishes it, in one
act. Hosts obey with their next look at the repository: they activate nothing, of one app or of all, until the time is over or
the halt is lifted. What runs keeps running, and reverts go on. A halt always ends by itself; choose when.`,
		Example: `  slipway-repo emergency halt production --reason "payments fail since 14:10" --sign oncall
  slipway-repo emergency halt production --app billing --for 2h --reason "OPS-77"`,
	}, "7d")
}

func (t *tool) emergencyFreeze() *cobra.Command {
	return t.emergencyStop("freeze", &cobra.Command{
		Use: "freeze ENVIRONMENT", Short: "Let nothing start in an environment until a time", Args: cobra.ExactArgs(1),
		Long: `Does what emergency halt does, for a time that is planned rather than for trouble: stocktaking, an audit, a public holiday. Hosts
tell the two apart when they say why they wait. A freeze that is known when a deployment is made belongs into its [[freeze]].`,
		Example: `  slipway-repo emergency freeze production --until 2026-12-27T06:00:00Z --reason "stocktaking" --sign oncall`,
	}, "")
}

// emergencyStop is a halt or a freeze. Without a usual length one must be given.
func (t *tool) emergencyStop(kind string, c *cobra.Command, lasts string) *cobra.Command {
	var u urgent
	var s stop
	var app string
	u.flags(c)
	s.flags(c, lasts)
	if lasts == "" {
		c.MarkFlagsOneRequired("for", "until")
	}
	c.Flags().StringVar(&app, "app", "", "only this `app`")
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		env, err := release.ParseEnvironment(args[0])
		if err != nil {
			return usage("%v", err)
		}
		e := release.EmergencyEntry{Kind: kind, Reason: u.reason}
		if e.Until, err = s.end(time.Now()); err != nil {
			return err
		}
		if app != "" {
			if e.App, err = parseAppFlag(app); err != nil {
				return err
			}
		}
		return t.actIn(ctx, &u, env, repository.EmergencyOptions{Add: []release.EmergencyEntry{e}})
	})
	return c
}

func parseAppFlag(name string) (*release.App, error) {
	a, err := release.ParseApp(name)
	if err != nil {
		return nil, usage("%v", err)
	}
	return &a, nil
}

func (t *tool) emergencyMinimum() *cobra.Command {
	var u urgent
	var s stop
	c := &cobra.Command{
		Use: "minimum ENVIRONMENT APP VERSION", Short: "Let no host start a release below a version", Args: cobra.ExactArgs(3),
		Long: `Signs and publishes that no release of APP below VERSION may be started, nor be the target of a revert, until the time is over or the entry is
lifted. What runs keeps running.`,
		Example: `  slipway-repo emergency minimum production billing 2.4.1 --for 30d --reason "CVE in 2.4.0" --sign oncall`,
	}
	u.flags(c)
	s.flags(c, "30d")
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		env, err := release.ParseEnvironment(args[0])
		if err != nil {
			return usage("%v", err)
		}
		v, err := release.ParseVersion(args[2])
		if err != nil {
			return usage("%v", err)
		}
		e := release.EmergencyEntry{Kind: "minimum", Version: &v, Reason: u.reason}
		if e.App, err = parseAppFlag(args[1]); err != nil {
			return err
		}
		if e.Until, err = s.end(time.Now()); err != nil {
			return err
		}
		return t.actIn(ctx, &u, env, repository.EmergencyOptions{Add: []release.EmergencyEntry{e}})
	})
	return c
}

func (t *tool) emergencyRevoke() *cobra.Command {
	var u urgent
	var s stop
	var envs []string
	c := &cobra.Command{
		Use: "revoke APP VERSION|DIGEST", Short: "Let no host start a release, anywhere", Args: cobra.ExactArgs(2),
		Long: `Signs and publishes, in every environment that has emergency keys or in those named with --env, that this release of APP may not be started or
reverted to. Whether hosts that run it keep it, stop it or go back is what their deployment's on_revoked says: the answer tells.
Without --for and --until a revocation stays until it is lifted. One environment that cannot be signed does not hold up another.`,
		Example: `  slipway-repo emergency revoke billing 2.4.0 --reason "it leaks card numbers" --sign oncall
  slipway-repo emergency revoke billing 9f2c41d07b6e --env production --reason "OPS-77"`,
	}
	u.flags(c)
	s.flags(c, "")
	c.Flags().StringArrayVar(&envs, "env", nil, "only this `environment` (repeatable)")
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		app, err := parseAppFlag(args[0])
		if err != nil {
			return err
		}
		e := release.EmergencyEntry{Kind: "revoke", App: app, Reason: u.reason}
		if e.Until, err = s.end(time.Now()); err != nil {
			return err
		}
		return t.revokeRelease(ctx, &u, e, args[1], envs)
	})
	return c
}

// revokedIn is the environments named, or all that have emergency keys.
func revokedIn(r *repository.Repository, names []string) (envs []release.Environment, err error) {
	for _, name := range names {
		env, err := release.ParseEnvironment(name)
		if err != nil {
			return nil, usage("--env: %v", err)
		}
		envs = append(envs, env)
	}
	if len(names) > 0 {
		return envs, nil
	}
	if envs, err = r.EmergencyEnvironments(); err == nil && len(envs) == 0 {
		err = &repository.RefusedError{Rule: "a document has a role", Reason: "cannot revoke: no environment has emergency keys", Remedy: "run env set ENVIRONMENT --emergency-key FILE.pub"}
	}
	return envs, err
}

// revokeRelease acts in one environment after the other: production must not wait for the key of staging.
func (t *tool) revokeRelease(ctx context.Context, u *urgent, e release.EmergencyEntry, text string, names []string) error {
	r, err := t.open()
	if err != nil {
		return err
	}
	envs, err := revokedIn(r, names)
	if err != nil {
		return err
	}
	digest, v, err := r.ReleaseDigest(*e.App, text)
	if err != nil {
		return err
	}
	if v == "" {
		t.warn("%s publishes no release with digest %s: the revocation counts for what hosts may have of it", e.App, digest.Short())
	}
	e.Digest = &digest
	var failed []error
	done := []acted{}
	for _, env := range envs {
		a, err := t.act(ctx, u, env, repository.EmergencyOptions{Add: []release.EmergencyEntry{e}})
		if err != nil {
			t.warn("NOT revoked in %s: %v", env, err)
			failed = append(failed, err)
			continue
		}
		done = append(done, *a)
		words, err := r.RevocationEffect(env, *e.App, digest)
		if err != nil {
			return err
		}
		if words != "" {
			t.say("%s", words)
		}
	}
	if err := t.answer(done, func(w io.Writer) { showActed(w, done...) }); err != nil {
		return err
	}
	if len(failed) > 0 {
		return fmt.Errorf("cannot revoke in %d of %d environments: %w", len(failed), len(envs), errors.Join(failed...))
	}
	return nil
}

func (t *tool) emergencyLift() *cobra.Command {
	var u urgent
	var all bool
	var epoch int64
	c := &cobra.Command{
		Use: "lift ENVIRONMENT [NUMBER]...", Short: "Take back a halt, a minimum or a revocation", Args: cobra.MinimumNArgs(1),
		Long:    `Signs and publishes the next emergency document without the entries of these numbers, as emergency show counts them. Nothing is lifted that is not named.`,
		Example: "  slipway-repo emergency show production\n  slipway-repo emergency lift production 1 --reason \"OPS-77 is mended\" --sign oncall\n  slipway-repo emergency lift production --all --reason \"drill is over\" --sign oncall",
	}
	u.flags(c)
	c.Flags().BoolVar(&all, "all", false, "every entry")
	c.Flags().Int64Var(&epoch, "epoch", 0, "refuse if another epoch than this is in force by now")
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		env, err := release.ParseEnvironment(args[0])
		if err != nil {
			return usage("%v", err)
		}
		if all == (len(args) > 1) {
			return usage("name the numbers that emergency show gives, or --all")
		}
		o := repository.EmergencyOptions{Reason: u.reason, Epoch: epoch}
		for _, a := range args[1:] {
			n, err := strconv.Atoi(a)
			if err != nil {
				return usage("%q is not a number of an entry; see emergency show %s", a, env)
			}
			o.Lift = append(o.Lift, n)
		}
		if all {
			if o, err = t.liftAll(env, o); err != nil {
				return err
			}
		}
		return t.actIn(ctx, &u, env, o)
	})
	return c
}

func (t *tool) liftAll(env release.Environment, o repository.EmergencyOptions) (repository.EmergencyOptions, error) {
	r, err := t.open()
	if err != nil {
		return o, err
	}
	doc, err := r.Emergency(env)
	if err != nil {
		return o, err
	}
	if doc == nil || len(doc.Entries) == 0 {
		return o, &repository.RefusedError{Rule: "a change changes something", Reason: "cannot lift anything in " + env.String() + ": nothing is in force",
			Remedy: "emergency show " + env.String() + " tells what is"}
	}
	for i := range doc.Entries {
		o.Lift = append(o.Lift, i+1)
	}
	if o.Epoch == 0 {
		o.Epoch = doc.Epoch
	}
	return o, nil
}

// acted is what is in force now.
type acted struct {
	Change      string              `json:"change"`
	Environment release.Environment `json:"environment"`
	Summary     string              `json:"summary"`
	Timestamp   int64               `json:"timestamp"`
}

func showActed(w io.Writer, list ...acted) {
	for _, a := range list {
		fmt.Fprintf(w, "in force, timestamp %d: %s\n", a.Timestamp, a.Summary)
	}
}

func (t *tool) actIn(ctx context.Context, u *urgent, env release.Environment, o repository.EmergencyOptions) error {
	a, err := t.act(ctx, u, env, o)
	if err != nil {
		return err
	}
	return t.answer(a, func(w io.Writer) { showActed(w, *a) })
}

// act writes, signs and publishes one environment's next emergency document. Keys are opened first, so that a wrong
// passphrase leaves nothing behind; nothing but this change is published.
func (t *tool) act(ctx context.Context, u *urgent, env release.Environment, o repository.EmergencyOptions) (*acted, error) {
	r, err := t.open()
	if err != nil {
		return nil, err
	}
	refs := u.m.sign
	if key := os.Getenv("SLIPWAY_EMERGENCY_KEY"); len(refs) == 0 && key != "" {
		refs = []string{key}
	}
	if len(refs) == 0 {
		return nil, usage("name the emergency key: --sign FILE, or SLIPWAY_EMERGENCY_KEY")
	}
	signers, err := t.signers(ctx, refs)
	if err != nil {
		return nil, err
	}
	online, err := t.online(ctx, r, u.online)
	if err != nil {
		return nil, err
	}
	o.Origin = u.m.origin()
	c, err := r.EditEmergency(ctx, env, o)
	if err != nil {
		return nil, err
	}
	if err := t.signHere(ctx, r, c, signers); err != nil {
		return nil, t.notInForce(r, c, u.m.into, err)
	}
	to, err := t.destinations(r, nil)
	if err != nil {
		return nil, t.notInForce(r, c, u.m.into, err)
	}
	out, err := t.publishNow(ctx, r, repository.PublishOptions{Changes: []string{c.ID}, Online: online, To: to})
	if err = t.lags(err); err != nil {
		return nil, t.notInForce(r, c, u.m.into, err)
	}
	return &acted{Change: c.ID, Environment: env, Summary: c.Summary, Timestamp: out.Timestamp}, nil
}

// notInForce leaves a change that others can sign, and removes one that was opened for a key that may not.
func (t *tool) notInForce(r *repository.Repository, c *repository.Change, into string, err error) error {
	var stranger *repository.NotASignerError
	if errors.As(err, &stranger) && into == "" {
		if _, gone := r.Abandon(context.Background(), c.ID); gone != nil {
			return errors.Join(err, gone)
		}
		return err
	}
	t.warn("this is NOT in force yet; change %s stays open: have it signed with change sign, and run publish %s", c.ID, c.ID)
	return err
}

// publishNow waits for a publisher that is at work.
func (t *tool) publishNow(ctx context.Context, r *repository.Repository, o repository.PublishOptions) (*repository.Published, error) {
	ctx, cancel := context.WithTimeout(ctx, publishWait)
	defer cancel()
	for {
		out, err := r.Publish(ctx, o)
		var busy *durable.LockedError
		if !errors.As(err, &busy) {
			return out, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (t *tool) emergencyShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ENVIRONMENT", Short: "Tell what is stopped in an environment", Args: cobra.ExactArgs(1),
		Long:    "Lists the published entries with the numbers that emergency lift takes. Those whose time is over bind no host any more.",
		Example: "  slipway-repo emergency show production",
		RunE: t.do(func(_ context.Context, args []string) error {
			env, err := release.ParseEnvironment(args[0])
			if err != nil {
				return usage("%v", err)
			}
			r, err := t.open()
			if err != nil {
				return err
			}
			doc, err := r.Emergency(env)
			if err != nil {
				return err
			}
			return t.answer(doc, func(w io.Writer) { showEmergency(w, env, doc, time.Now()) })
		}),
	}
}

func showEmergency(w io.Writer, env release.Environment, doc *release.Emergency, now time.Time) {
	if doc == nil {
		fmt.Fprintf(w, "%s: no emergency document was ever signed\n", env)
		return
	}
	fmt.Fprintf(w, "%s: epoch %d, issued %s, %d entries\n", env, doc.Epoch, doc.Issued.Format(time.RFC3339), len(doc.Entries))
	for i, e := range doc.Entries {
		note := ""
		if e.Until != nil && !now.Before(*e.Until) {
			note = " (over)"
		}
		fmt.Fprintf(w, "  %d  %s%s\n", i+1, strings.TrimSpace(repository.EmergencyWords(e)), note)
	}
}

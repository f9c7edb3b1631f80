package main

import (
	"context"
	"fmt"
	"io"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

func (t *tool) recoverCommand() *cobra.Command {
	return t.group("recover", "Find out what is wrong with the repository, and mend it", "", t.recoverDiagnose(), t.recoverSequence(), t.recoverEpoch())
}

func (t *tool) recoverDiagnose() *cobra.Command {
	var o repository.DiagnoseOptions
	var seen []string
	var within string
	c := &cobra.Command{
		Use: "diagnose", Short: "Say what is wrong, what hosts do meanwhile, and what to do", Args: cobra.NoArgs,
		Long: `Looks for what has expired or soon does, a publish that stopped half way, signatures that no longer suffice, sequences and
epochs that leapt, and lets the hosts' own client judge what is published. It changes nothing and needs no key.

What the repository cannot know you tell it: --lost and --stolen name keys, by id or name; --seen takes a number from an error
message of a host (timestamp=900, deploy.production.billing=7, sequence:production/billing=41, epoch:production=7).
Exits with 1 when there is something to do.`,
		Example: `  slipway-repo recover diagnose
  slipway-repo recover diagnose --lost carol
  slipway-repo recover diagnose --stolen online --seen timestamp=900
  slipway-repo recover diagnose --seen sequence:production/billing=41`,
	}
	f := c.Flags()
	f.StringArrayVar(&o.Lost, "lost", nil, "`key` that nobody has any more (repeatable)")
	f.StringArrayVar(&o.Stolen, "stolen", nil, "`key` that others may have (repeatable)")
	f.StringArrayVar(&seen, "seen", nil, "`number` that hosts say they have seen (repeatable)")
	f.StringVar(&within, "within", "30d", "tell of roles that expire within this time")
	c.RunE = t.do(func(ctx context.Context, _ []string) error {
		var err error
		if o.Within, err = repository.ParsePeriod(within); err != nil {
			return usage("--within: %v", err)
		}
		for _, text := range seen {
			s, err := repository.ParseSighting(text)
			if err != nil {
				return usage("--seen: %v", err)
			}
			o.Seen = append(o.Seen, s)
		}
		r, err := t.open()
		if err != nil {
			return err
		}
		found, err := r.Diagnose(ctx, o)
		if err != nil {
			return err
		}
		return t.showFindings(found)
	})
	return c
}

func (t *tool) showFindings(found []repository.Finding) error {
	todo := 0
	err := t.answer(found, func(w io.Writer) {
		for _, f := range found {
			mark := ""
			if f.Urgent {
				mark = "URGENT "
			}
			fmt.Fprintf(w, "%s%s: %s\n  hosts: %s\n", mark, f.Kind, f.What, f.Hosts)
			for i, r := range f.Remedy {
				fmt.Fprintf(w, "  %d. %s\n", i+1, r)
			}
		}
	})
	for _, f := range found {
		if f.Urgent || len(f.Remedy) > 0 {
			todo++
		}
	}
	if err != nil {
		return err
	}
	if todo > 0 {
		return &attention{fmt.Sprintf("%d findings want something done", todo)}
	}
	t.say("nothing is wrong: a new host accepts what is published")
	return nil
}

// numberFlags are the flags of recover sequence and recover epoch.
type numberFlags struct {
	m changing
	o repository.NumberOptions
}

func (n *numberFlags) flags(c *cobra.Command, what string) {
	n.m.flags(c)
	c.Flags().Int64Var(&n.o.Above, "above", 0, "the highest "+what+" that hosts have seen (default: go back before a leap)")
	c.Flags().StringVar(&n.o.Reason, "reason", "", "`why`, for the signers to see")
	_ = c.MarkFlagRequired("reason")
}

func (t *tool) recoverSequence() *cobra.Command {
	var n numberFlags
	c := &cobra.Command{
		Use: "sequence ENVIRONMENT APP", Short: "Make a deployment that hosts accept although they remember a higher sequence", Args: cobra.ExactArgs(2),
		Long: `With --above, the published deployment again, with a sequence above what hosts have seen: for a publisher that lost its history.

Without, the deployment that was in force before somebody leapt ahead, counted on from there. Hosts follow because they forget a
sequence when a key that signed it leaves the role; so it must be in one change with the revocation (revoke first, then this with
--change), and it is refused where a host could keep the leapt sequence. To deploy something else in that change, run deploy new
--change after this.`,
		Example: `  slipway-repo recover sequence production billing --above 41 --reason "restored from backup" --sign ann --sign ben
  slipway-repo revoke ben --replace-with ben2.pub --reason stolen --sign alice --sign bob
  slipway-repo recover sequence production billing --change 3fa2 --reason "ben's thief leapt to 900000" --sign ann --sign cem`,
	}
	n.flags(c, "sequence")
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		env, err := release.ParseEnvironment(args[0])
		if err != nil {
			return usage("%v", err)
		}
		app, err := release.ParseApp(args[1])
		if err != nil {
			return usage("%v", err)
		}
		n.o.Origin = n.m.origin()
		return t.make(ctx, &n.m, func(r *repository.Repository) (*repository.Change, error) {
			return r.RecoverSequence(ctx, env, app, n.o)
		})
	})
	return c
}

func (t *tool) recoverEpoch() *cobra.Command {
	var n numberFlags
	c := &cobra.Command{
		Use: "epoch ENVIRONMENT", Short: "Make an emergency document that hosts accept although they remember a higher epoch", Args: cobra.ExactArgs(1),
		Long: `What recover sequence does, for the emergency document: with --above its entries stay, without it they are those that were in force before the
leap. Publish it with the revocation of the stolen emergency key, in one change.`,
		Example: `  slipway-repo revoke oncall --replace-with oncall2.pub --reason stolen --sign alice --sign bob
  slipway-repo recover epoch production --change 3fa2 --reason "the thief leapt to 900000" --sign oncall2`,
	}
	n.flags(c, "epoch")
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		env, err := release.ParseEnvironment(args[0])
		if err != nil {
			return usage("%v", err)
		}
		n.o.Origin = n.m.origin()
		return t.make(ctx, &n.m, func(r *repository.Repository) (*repository.Change, error) { return r.RecoverEpoch(ctx, env, n.o) })
	})
	return c
}

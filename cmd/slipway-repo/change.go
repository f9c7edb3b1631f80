package main

import (
	"context"
	"fmt"
	"io"

	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

func (t *tool) changeCommand() *cobra.Command {
	return t.group("change", "Look at, sign and abandon open changes", "", t.changeList(), t.changeShow(), t.changeSign(), t.changeAbandon())
}

func (t *tool) changeList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List open changes", Args: cobra.NoArgs, Example: "  slipway-repo change list",
		RunE: t.do(func(ctx context.Context, _ []string) error {
			r, err := t.open()
			if err != nil {
				return err
			}
			s, err := r.Status(ctx)
			if err != nil {
				return err
			}
			return t.answer(s.Changes, func(w io.Writer) {
				for _, c := range s.Changes {
					fmt.Fprintf(w, "%s  %s\n", c.ID, c.Summary)
				}
			})
		}),
	}
}

func (t *tool) withChange(args []string, f func(*repository.Repository, *repository.Change) error) error {
	r, err := t.open()
	if err != nil {
		return err
	}
	c, err := r.Change(args[0])
	if err != nil {
		return err
	}
	return f(r, c)
}

func (t *tool) changeShow() *cobra.Command {
	return &cobra.Command{
		Use: "show CHANGE", Aliases: []string{"status"}, Short: "Show a change and who still has to sign it", Args: cobra.ExactArgs(1),
		Example: "  slipway-repo change show 3fa2",
		RunE: t.do(func(_ context.Context, args []string) error {
			return t.withChange(args, t.showChange)
		}),
	}
}

func (t *tool) changeSign() *cobra.Command {
	var refs []string
	var yes bool
	c := &cobra.Command{
		Use: "sign CHANGE", Short: "Sign every role of a change that your key may sign", Args: cobra.ExactArgs(1),
		Example: "  slipway-repo change sign 3fa2 --key ~/keys/ann",
	}
	c.Flags().StringArrayVar(&refs, "key", nil, "key `file`, or exec:PROGRAM (repeatable)")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	_ = c.MarkFlagRequired("key")
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		return t.withChange(args, func(r *repository.Repository, c *repository.Change) error {
			if err := t.judgeChange(r, c); err != nil {
				return err
			}
			if !yes {
				t.say("%s\n  roles: %v", c.Summary, c.Roles())
				showPromotions(t.err, c)
				ok, err := t.confirm("Sign this?")
				if err != nil {
					return err
				}
				if !ok {
					return usage("not signed: answer y, or use --yes in scripts")
				}
			}
			signers, err := t.signers(ctx, refs)
			if err != nil {
				return err
			}
			return t.signAndShow(ctx, r, c, signers)
		})
	})
	return c
}

// judgeChange looks at the deployments of a change the way deploy new does: another tool may have made it.
func (t *tool) judgeChange(r *repository.Repository, c *repository.Change) error {
	all, err := r.Prospects(c)
	if err != nil {
		return err
	}
	judge := t.judge(&written{path: "change " + c.ID})
	for _, seen := range all {
		if err := judge(seen); err != nil {
			return err
		}
	}
	return nil
}

func (t *tool) changeAbandon() *cobra.Command {
	return &cobra.Command{
		Use: "abandon CHANGE", Short: "Delete an open change", Args: cobra.ExactArgs(1), Example: "  slipway-repo change abandon 3fa2",
		RunE: t.do(func(ctx context.Context, args []string) error {
			r, err := t.open()
			if err != nil {
				return err
			}
			c, err := r.Abandon(ctx, args[0])
			if err != nil {
				return err
			}
			return t.answer(map[string]string{"abandoned": c.ID}, func(w io.Writer) { fmt.Fprintf(w, "abandoned %s\n", c.ID) })
		}),
	}
}

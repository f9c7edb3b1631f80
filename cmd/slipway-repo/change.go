package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

func (t *tool) changeCommand() *cobra.Command {
	return t.group("change", "Look at, sign, collect and abandon open changes",
		`A change is one folder: new content of roles, unsigned, the versions it was made from, who must sign, and one file per
signature. It travels by git, mail or USB. diff and sign need nothing but the folder and a root that you trust; the other
commands need the repository.`,
		t.changeNew(), t.changeList(), t.changeShow(), t.changeDiff(), t.changeSign(), t.changeCollect(), t.changeStatus(), t.changeAbandon())
}

func (t *tool) changeNew() *cobra.Command {
	var author string
	c := &cobra.Command{
		Use: "new TITLE", Short: "Open an empty change, for other commands to add to with --change", Args: cobra.ExactArgs(1),
		Long: `What belongs together is signed in one step and published in one step. Nothing is published of a change that is empty, or that
waits for one signature.`,
		Example: `  slipway-repo change new "billing moves to production"
  slipway-repo app add billing --key billing-ci.pub --change 3fa2`,
	}
	c.Flags().StringVar(&author, "requested-by", "", "`who` asks for it, for the signers to see")
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		r, err := t.open()
		if err != nil {
			return err
		}
		change, err := r.NewChange(ctx, args[0], repository.Origin{RequestedBy: author})
		if err != nil {
			return err
		}
		return t.showChange(r, change)
	})
	return c
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
		Use: "show CHANGE", Short: "Show what an open change says, and who still has to sign it", Args: cobra.ExactArgs(1),
		Long:    "Shows the words that were found when the change was made. diff verifies the change and finds them anew.",
		Example: "  slipway-repo change show 3fa2",
		RunE: t.do(func(_ context.Context, args []string) error {
			return t.withChange(args, func(r *repository.Repository, c *repository.Change) error {
				if c.Words != nil && !t.json {
					for _, line := range c.Words.Lines() {
						fmt.Fprintln(t.out, harmless(line))
					}
				}
				return t.showChange(r, c)
			})
		}),
	}
}

func (t *tool) changeStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status [CHANGE]...", Short: "Say how far the signatures of open changes are", Args: cobra.ArbitraryArgs,
		Long: `One line per role: how many signatures there are, how many are needed, and whose are missing. Without names, of every open
change. Exits with 0 whether signatures are missing or not: that is the normal state of a change.`,
		Example: "  slipway-repo change status\n  slipway-repo change status 3fa2 --json",
		RunE: t.do(func(ctx context.Context, args []string) error {
			r, err := t.open()
			if err != nil {
				return err
			}
			s, err := r.Status(ctx)
			if err != nil {
				return err
			}
			shown := s.Changes
			if len(args) > 0 {
				if shown, err = only(r, s.Changes, args); err != nil {
					return err
				}
			}
			return t.answer(shown, func(w io.Writer) { showProgress(w, shown) })
		}),
	}
}

func only(r *repository.Repository, all []repository.ChangeStatus, names []string) ([]repository.ChangeStatus, error) {
	var out []repository.ChangeStatus
	for _, name := range names {
		c, err := r.Change(name)
		if err != nil {
			return nil, err
		}
		for _, s := range all {
			if s.ID == c.ID {
				out = append(out, s)
			}
		}
	}
	return out, nil
}

func showProgress(w io.Writer, changes []repository.ChangeStatus) {
	for _, c := range changes {
		fmt.Fprintf(w, "%s  %s\n", c.ID, c.Summary)
		for _, p := range c.Progress {
			fmt.Fprintf(w, "  %s\n", p)
		}
		switch {
		case c.Problem != "":
			fmt.Fprintf(w, "  %s\n", c.Problem)
		case c.Empty:
			fmt.Fprintf(w, "  nothing is in it yet: add to it with --change\n")
		}
	}
}

func (t *tool) changeCollect() *cobra.Command {
	return &cobra.Command{
		Use: "collect FOLDER|FILE...", Short: "Bring signatures back from copies of changes", Args: cobra.MinimumNArgs(1),
		Long: `Takes signature files, directories of them, or copies of change folders that somebody has signed, and puts the signatures into
the open changes they belong to. Each is verified: it must be over exactly the payload that the change has now, by a key
that counts for it. If one is not, none is taken. Collecting twice changes nothing.`,
		Example: "  slipway-repo change collect ~/mail/20260102-150405-deploy-production-billing-3fa2\n  slipway-repo change collect ~/mail/deploy.production.billing.*.json",
		RunE: t.do(func(ctx context.Context, args []string) error {
			r, err := t.open()
			if err != nil {
				return err
			}
			got, err := r.Collect(ctx, args...)
			if err != nil {
				return err
			}
			return t.answer(got, func(w io.Writer) {
				for _, one := range got {
					news := "was there already"
					if one.New {
						news = "collected"
					}
					fmt.Fprintf(w, "%s: %s by %s, for %s\n", news, one.Role, one.Key, one.Change)
				}
			})
		}),
	}
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

// folder finds the change that is meant: a folder wherever it lies, or an open change of the repository.
func (t *tool) folder(name string) (string, error) {
	if info, err := os.Stat(filepath.Join(name, "change.json")); err == nil && info.Mode().IsRegular() {
		return name, nil
	}
	if strings.ContainsRune(name, filepath.Separator) {
		return "", fmt.Errorf("cannot find a change in %s: there is no change.json; name the folder that was sent to you", name)
	}
	r, err := t.open()
	if err != nil {
		return "", fmt.Errorf("cannot find change %q: it is no folder of a change, and %w", name, err)
	}
	c, err := r.Change(name)
	if err != nil {
		return "", err
	}
	return c.Dir(), nil
}

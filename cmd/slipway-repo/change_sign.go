package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

// reviewing is what diff and sign have in common: whose root a change is verified from.
type reviewing struct {
	root  string
	first bool
}

func (v *reviewing) flags(c *cobra.Command) {
	c.Flags().StringVar(&v.root, "root", "", "the root.json `file` that you trust (default: what trust add has pinned)")
	c.Flags().BoolVar(&v.first, "first", false, "the change founds a repository: there is nothing yet to verify it against")
}

// review verifies a change from the signer's own root and finds its words.
func (t *tool) review(ctx context.Context, name string, v *reviewing) (*repository.Review, error) {
	dir, err := t.folder(name)
	if err != nil {
		return nil, err
	}
	o := repository.ReviewOptions{First: v.first, Trust: t.trust()}
	switch {
	case v.root != "":
		if o.Root, err = os.ReadFile(v.root); err != nil {
			return nil, fmt.Errorf("cannot read your root: %w", err)
		}
		if _, err := repository.ReadRoot(o.Root); err != nil {
			return nil, err
		}
	case !v.first:
		if o.Root, err = o.Trust.RootFor(dir); err != nil {
			return nil, err
		}
	}
	return repository.ReviewFolder(ctx, dir, o)
}

type diffAnswer struct {
	ID          string                `json:"change"`
	Summary     string                `json:"summary"`
	RequestedBy string                `json:"requested_by,omitempty"`
	Base        string                `json:"base"`
	Words       *repository.Words     `json:"words"`
	Notes       []string              `json:"notes,omitempty"`
	Signed      []string              `json:"signed,omitempty"`
	Progress    []repository.Progress `json:"progress"`
}

func answerOf(v *repository.Review) (diffAnswer, error) {
	progress, err := v.Progress()
	c := v.Change
	return diffAnswer{ID: c.ID, Summary: harmless(c.Summary), RequestedBy: harmless(c.RequestedBy), Base: v.Base, Words: v.Words, Notes: v.Notes, Progress: progress}, err
}

// tell writes a change the way signers read it: what its maker says, then what was verified.
func (a diffAnswer) tell(w io.Writer) {
	fmt.Fprintf(w, "change %s\n", a.ID)
	said := a.Summary
	if a.RequestedBy != "" {
		said += "; requested by " + a.RequestedBy
	}
	fmt.Fprintf(w, "  its maker says: %s\n  %s\n", said, a.Base)
	for _, line := range a.Words.Lines() {
		fmt.Fprintln(w, line)
	}
	for _, n := range a.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
}

func (a diffAnswer) progress(w io.Writer) {
	for _, p := range a.Progress {
		fmt.Fprintf(w, "%s (keys of %s)\n", p, p.By)
	}
}

func (t *tool) changeDiff() *cobra.Command {
	var v reviewing
	c := &cobra.Command{
		Use: "diff CHANGE|FOLDER", Short: "Verify a change from your own root and say what it does", Args: cobra.ExactArgs(1),
		Long: `Prints the words that sign prints, and signs nothing. It needs no repository and no network, only the change's folder and a
root that you trust.`,
		Example: "  slipway-repo change diff 3fa2\n  slipway-repo change diff ~/mail/20260102-150405-deploy-production-billing-3fa2 --root ~/root.json",
	}
	v.flags(c)
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		review, err := t.review(ctx, args[0], &v)
		if err != nil {
			return err
		}
		defer review.Close()
		a, err := answerOf(review)
		if err != nil {
			return err
		}
		return t.answer(a, func(w io.Writer) {
			a.tell(w)
			a.progress(w)
		})
	})
	return c
}

func (t *tool) changeSign() *cobra.Command {
	var v reviewing
	var refs []string
	var yes bool
	c := &cobra.Command{
		Use: "sign CHANGE|FOLDER", Short: "Sign every role of a change that your key may sign", Args: cobra.ExactArgs(1),
		Long: `Works on any machine, offline, with nothing but the change's folder, your key, and a root that you trust: one that trust add
has pinned, or --root FILE. It verifies what the change was made from as hosts do, finds the difference itself, prints it, asks,
and writes one file per role into the folder's signatures/. Send the folder or those files back; the maintainer runs collect.

Refused are a base that does not follow from your root or is older than what you have seen, payloads that do something else
than the change says, and folders with links, devices or oversized files.`,
		Example: `  slipway-repo change sign ~/mail/20260102-150405-deploy-production-billing-3fa2 --key ~/keys/ann
  slipway-repo change sign 3fa2 --key ~/keys/ann --root ~/root.json --yes`,
	}
	v.flags(c)
	c.Flags().StringArrayVar(&refs, "key", nil, "key `file`, or exec:PROGRAM (repeatable)")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	_ = c.MarkFlagRequired("key")
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		review, err := t.review(ctx, args[0], &v)
		if err != nil {
			return err
		}
		defer review.Close()
		return t.signReviewed(ctx, review, args[0], refs, yes)
	})
	return c
}

func (t *tool) signReviewed(ctx context.Context, v *repository.Review, name string, refs []string, yes bool) error {
	a, err := answerOf(v)
	if err != nil {
		return err
	}
	a.tell(t.err)
	if err := t.judgeChange(v); err != nil {
		return err
	}
	if !yes {
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
	for _, s := range signers {
		roles, err := v.Sign(ctx, s)
		if err != nil {
			return err
		}
		a.Signed = append(a.Signed, roles...)
		t.say("signed %s with %s", strings.Join(roles, ", "), s.Public())
	}
	if a.Progress, err = v.Progress(); err != nil {
		return err
	}
	if err := t.answer(a, a.progress); err != nil {
		return err
	}
	if strings.ContainsRune(name, filepath.Separator) {
		t.say("send the folder, or the new files in its signatures/, back to the maintainer")
	}
	return nil
}

// judgeChange looks at the deployments of a change the way deploy new does: another tool may have made it.
func (t *tool) judgeChange(v *repository.Review) error {
	all, err := v.Prospects()
	if err != nil {
		return err
	}
	judge := t.judge(&written{path: "change " + v.Change.ID})
	for _, seen := range all {
		if err := judge(seen); err != nil {
			return err
		}
	}
	return nil
}

// signHere signs a change that this command has just made in the repository. Without a pinned root, the repository's own first
// root is what it must follow from.
func (t *tool) signHere(ctx context.Context, r *repository.Repository, c *repository.Change, signers []keys.Signer) error {
	if len(signers) == 0 {
		return nil
	}
	o := repository.ReviewOptions{Trust: t.trust()}
	var err error
	if o.Root, err = o.Trust.RootFor(c.Dir()); err != nil {
		return err
	}
	if o.Root == nil {
		o.Trust = nil // a signer who has pinned nothing has nothing to hold what was seen against
	}
	v, err := r.Review(ctx, c, o)
	var foreign *repository.SwappedError
	if errors.As(err, &foreign) && o.Root != nil {
		return fmt.Errorf("%w (your pinned root is in %s)", err, t.trustDir())
	}
	if err != nil {
		return err
	}
	defer v.Close()
	for _, s := range signers {
		roles, err := v.Sign(ctx, s)
		if err != nil {
			return err
		}
		t.say("signed %s with %s", strings.Join(roles, ", "), s.Public())
	}
	return nil
}

// harmless keeps text that came from elsewhere from controlling the terminal.
func harmless(s string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, s)
}

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

func (t *tool) gcCommand() *cobra.Command {
	var o repository.GarbageOptions
	var grace string
	c := &cobra.Command{
		Use: "gc", Short: "List, and with --delete remove, metadata that no host can need", Args: cobra.NoArgs,
		Long: `A host comes from whatever root it has pinned to the published timestamp, and from there to the versions that it names. Older ones
are of use only to hosts that are reading right now; they go after the grace. Never removed are roots, which hosts follow one by
one, and the versions of deployments and emergencies, which recovery needs. --targets also takes files that nothing published
leads to. It can be interrupted and run again. Mirrors are not touched: sync them afterwards.`,
		Example: "  slipway-repo gc\n  slipway-repo gc --targets --grace 30d --delete",
	}
	f := c.Flags()
	f.StringVar(&grace, "grace", "7d", "how long a version stays after the next one came")
	f.BoolVar(&o.Targets, "targets", false, "files that nothing published leads to, too")
	f.BoolVar(&o.Delete, "delete", false, "remove what was found")
	c.RunE = t.do(func(ctx context.Context, _ []string) error {
		p, err := repository.ParsePeriod(grace)
		if err != nil {
			return usage("--grace: %v", err)
		}
		o.Grace = p.Std()
		r, err := t.open()
		if err != nil {
			return err
		}
		g, err := r.CollectGarbage(ctx, o)
		if err != nil {
			return err
		}
		return t.answer(g, func(w io.Writer) { t.showGarbage(w, g) })
	})
	return c
}

func (t *tool) showGarbage(w io.Writer, g *repository.Garbage) {
	verb := "would remove"
	if g.Deleted {
		verb = "removed"
	}
	for _, list := range []struct {
		dir   string
		files []repository.Superseded
	}{{"metadata", g.Metadata}, {"targets", g.Targets}} {
		for _, one := range list.files {
			fmt.Fprintf(w, "%s %s/%s (%d bytes, since %s)\n", verb, list.dir, one.Name, one.Bytes, one.Since.Format(time.DateOnly))
		}
	}
	fmt.Fprintf(w, "%d files, %d bytes\n", len(g.Metadata)+len(g.Targets), g.Bytes)
	if n := len(g.Metadata) + len(g.Targets); n > 0 && !g.Deleted {
		t.say("nothing was removed: add --delete")
	}
}

func (t *tool) logCommand() *cobra.Command {
	var role, since string
	var full bool
	c := &cobra.Command{
		Use: "log", Short: "Tell the repository's history: what was published, and who signed it", Args: cobra.NoArgs,
		Long: `Newest first. Whose signatures count comes from the published metadata; when somebody signed is the word of that machine's clock.
Refreshes of snapshot and timestamp are not told.`,
		Example: "  slipway-repo log\n  slipway-repo log --role deploy.production.billing --since 90d --words",
	}
	f := c.Flags()
	f.StringVar(&role, "role", "", "only what touched this `role`")
	f.StringVar(&since, "since", "", "only what was published within this time, such as 90d")
	f.BoolVar(&full, "words", false, "with everything that changed, as signers saw it")
	c.RunE = t.do(func(ctx context.Context, _ []string) error {
		o := repository.LogOptions{Role: role}
		if since != "" {
			p, err := repository.ParsePeriod(since)
			if err != nil {
				return usage("--since: %v", err)
			}
			o.Since = time.Now().Add(-p.Std())
		}
		r, err := t.open()
		if err != nil {
			return err
		}
		entries, err := r.Log(ctx, o)
		if err != nil {
			return err
		}
		return t.answer(entries, func(w io.Writer) {
			for _, e := range entries {
				showEntry(w, e, full)
			}
		})
	})
	return c
}

func showEntry(w io.Writer, e repository.LogEntry, full bool) {
	fmt.Fprintf(w, "%s  %s", e.At.Format("2006-01-02 15:04"), e.Summary)
	if e.RequestedBy != "" {
		fmt.Fprintf(w, " (requested by %s)", e.RequestedBy)
	}
	fmt.Fprintln(w)
	if e.ID != "" {
		fmt.Fprintf(w, "  change %s\n", e.ID)
	}
	for _, r := range e.Roles {
		fmt.Fprintf(w, "  %s version %d, signed by", r.Role, r.Version)
		for i, s := range r.Signed {
			if i > 0 {
				fmt.Fprint(w, ",")
			}
			fmt.Fprintf(w, " %s", s.Key)
			if !s.At.IsZero() {
				fmt.Fprintf(w, " on %s", s.At.Format("2006-01-02 15:04"))
			}
		}
		fmt.Fprintln(w)
	}
	if !full || e.Words == nil {
		return
	}
	for _, line := range e.Words.Lines() {
		fmt.Fprintf(w, "    %s\n", harmless(line))
	}
}

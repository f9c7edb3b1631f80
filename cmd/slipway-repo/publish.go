package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

func (t *tool) publishCommand() *cobra.Command {
	var online, to []string
	c := &cobra.Command{
		Use: "publish [CHANGE]...", Short: "Check signed changes and make them visible to hosts", Args: cobra.ArbitraryArgs,
		Long: `Publishes the named changes, or every open change that has all its signatures. Everything is checked first, as a host would;
the timestamp is replaced last. It can be interrupted at any moment and run again.

Hosts may read from the repository directory itself, or from destinations: other directories and buckets of S3-compatible stores.
The first destination decides: where another publisher was faster, nothing is published. Credentials for a bucket come from
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from the file named by AWS_SHARED_CREDENTIALS_FILE.`,
		Example: "  slipway-repo publish\n  slipway-repo publish --to /srv/www/deploy\n  slipway-repo publish --to 's3://deploy/slipway?region=eu-central-1'\n  slipway-repo publish 20260102-150405-release-billing-2.4.1-3fa2 --online-key online",
	}
	toFlag(c, &to)
	c.Flags().StringArrayVar(&online, "online-key", nil, "key `file`, or exec:PROGRAM, for snapshot and timestamp (default: policy.json)")
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		r, err := t.open()
		if err != nil {
			return err
		}
		signers, err := t.online(ctx, r, online)
		if err != nil {
			return err
		}
		dest, err := t.destinations(r, to)
		if err != nil {
			return err
		}
		out, err := r.Publish(ctx, repository.PublishOptions{Changes: args, Online: signers, To: dest})
		if out == nil {
			return err
		}
		return errors.Join(err, t.showPublished(out, dest))
	})
	return c
}

func (t *tool) showPublished(out *repository.Published, to []repository.Destination) error {
	err := t.answer(out, func(w io.Writer) {
		for _, id := range out.Changes {
			fmt.Fprintf(w, "published %s\n", id)
		}
		if len(out.Changes) > 0 {
			fmt.Fprintf(w, "timestamp is now version %d\n", out.Timestamp)
		}
		t.showPushed(w, out.Pushed, to)
	})
	for _, text := range out.Behind {
		t.warn("an open change keeps its old base: %s", harmless(text))
	}
	for _, id := range out.Waiting {
		t.say("left out %s: it waits for signatures (slipway-repo change show %s)", id, id)
	}
	if err != nil || len(out.Changes) > 0 {
		return err
	}
	if len(out.Waiting) > 0 {
		return &repository.RefusedError{Rule: "thresholds are met", Reason: fmt.Sprintf("cannot publish: %d open changes wait for signatures", len(out.Waiting)),
			Remedy: "change show tells who is missing, change sign signs"}
	}
	t.say("nothing to publish")
	return nil
}

func (t *tool) refreshCommand() *cobra.Command {
	var online, to []string
	var force bool
	c := &cobra.Command{
		Use: "refresh", Short: "Sign snapshot and timestamp again when they are due", Args: cobra.NoArgs,
		Long: `Run it from a timer at least every third of the strictest freshness of your deployments: hosts take the timestamp's signed time
for the age of everything they know, and start nothing on news that is too old. The package ships slipway-repo-refresh.timer for
this, off until /etc/slipway-repo/refresh.conf is there: see docs/maintainers-manual.md.

It also finishes an interrupted publish, and brings destinations that lag behind up to date.`,
		Example: "  slipway-repo refresh --online-key online\n  slipway-repo refresh --force",
	}
	c.Flags().StringArrayVar(&online, "online-key", nil, "key `file`, or exec:PROGRAM, for snapshot and timestamp (default: policy.json)")
	c.Flags().BoolVar(&force, "force", false, "sign even if nothing is due")
	toFlag(c, &to)
	c.RunE = t.do(func(ctx context.Context, _ []string) error {
		r, err := t.open()
		if err != nil {
			return err
		}
		signers, err := t.online(ctx, r, online)
		if err != nil {
			return err
		}
		dest, err := t.destinations(r, to)
		if err != nil {
			return err
		}
		out, err := r.Refresh(ctx, repository.RefreshOptions{Online: signers, Force: force, To: dest})
		if out == nil {
			return err
		}
		return errors.Join(err, t.showRefreshed(out, dest))
	})
	return c
}

func (t *tool) showRefreshed(out *repository.Refreshed, to []repository.Destination) error {
	return t.answer(out, func(w io.Writer) {
		if len(out.Signed) == 0 {
			fmt.Fprintf(w, "nothing is due before %s\n", out.Due.Format(time.RFC3339))
		} else {
			fmt.Fprintf(w, "signed timestamp %d, snapshot %d; next due %s\n", out.Timestamp, out.Snapshot, out.Due.Format(time.RFC3339))
		}
		t.showPushed(w, out.Pushed, to)
	})
}

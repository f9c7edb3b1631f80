package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/slipway-deploy/slipway/tuf/client"
	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

func (t *tool) verifyCommand() *cobra.Command {
	var root, metadata, targets, from string
	var payloads bool
	c := &cobra.Command{
		Use: "verify", Short: "Read the repository as a host does, from the pinned root", Args: cobra.NoArgs,
		Long: `Runs the hosts' own client with an empty cache: every deployment in force, its release and its fallback. With --payloads it reads
and hashes the files of every published release.`,
		Example: `  slipway-repo verify
  slipway-repo verify --root pinned-root.json --metadata https://deploy.example.com/metadata --payloads
  slipway-repo verify --from /srv/www/deploy`,
	}
	c.Flags().StringVar(&root, "root", "", "pinned root.json `file` (default: version 1 of the repository)")
	c.Flags().StringVar(&metadata, "metadata", "", "`URL` or absolute path of a mirror's metadata (default: the repository directory)")
	c.Flags().StringVar(&targets, "targets", "", "`URL` or absolute path of its targets (default: targets beside metadata)")
	c.Flags().StringVar(&from, "from", "", "read this `destination` instead: a directory or s3:// reference, as for publish --to")
	c.MarkFlagsMutuallyExclusive("from", "metadata")
	c.Flags().BoolVar(&payloads, "payloads", false, "read every release and every file it pins")
	c.RunE = t.do(func(ctx context.Context, _ []string) error {
		r, err := t.open()
		if err != nil {
			return err
		}
		o := repository.VerifyOptions{Payloads: payloads}
		if root != "" {
			if o.Root, err = os.ReadFile(root); err != nil {
				return fmt.Errorf("cannot read pinned root: %w", err)
			}
		}
		if from != "" {
			if o.From, err = openDestination(from, "."); err != nil {
				return err
			}
		}
		if metadata != "" {
			o.Mirror = client.Mirror{Metadata: metadata, Targets: targets}
		}
		v, err := r.Verify(ctx, o)
		if err != nil {
			return err
		}
		return t.answer(v, func(w io.Writer) {
			fmt.Fprintf(w, "verified: root %d, timestamp %d, issued %s\n", v.Root, v.Timestamp, v.Issued.Format(time.RFC3339))
			for _, d := range v.Deployments {
				fmt.Fprintf(w, "  %s\n", d)
			}
			fmt.Fprintf(w, "  %d releases", v.Releases)
			if payloads {
				fmt.Fprintf(w, ", %d files, %d bytes", v.Files, v.Bytes)
			}
			fmt.Fprintln(w)
		})
	})
	return c
}

package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/slipway-deploy/slipway/tuf/destination"
	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

const toHelp = "`destination` that hosts read from: a directory, or s3://BUCKET/PREFIX?endpoint=URL&region=NAME (repeatable; default: policy.json)"

func toFlag(c *cobra.Command, to *[]string) { c.Flags().StringArrayVar(to, "to", nil, toHelp) }

// destinations opens those named by flag, else those of the policy. Nobody is asked yet.
func (t *tool) destinations(r *repository.Repository, refs []string) ([]repository.Destination, error) {
	base := "."
	if len(refs) == 0 {
		p, err := r.Policy()
		if err != nil {
			return nil, err
		}
		refs, base = p.Destinations, r.Dir()
	}
	var out []repository.Destination
	for _, ref := range refs {
		d, err := openDestination(ref, base)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func openDestination(ref, base string) (repository.Destination, error) {
	if strings.HasPrefix(ref, "s3:") {
		return destination.OpenS3(ref)
	}
	if scheme, _, ok := strings.Cut(ref, "://"); ok {
		return nil, usage("a destination is a directory or s3://BUCKET/PREFIX, not %s://", scheme)
	}
	if !filepath.IsAbs(ref) {
		ref = filepath.Join(base, ref)
	}
	return destination.OpenDir(ref)
}

// lags turns the failure of one of several destinations into a warning, for commands whose point is that it is published.
func (t *tool) lags(err error) error {
	var lagging *repository.LaggingError
	if errors.As(err, &lagging) {
		t.warn("%v", err)
		return nil
	}
	return err
}

// showPushed tells what was brought where, and which store cannot promise that publishers do not overwrite one another.
func (t *tool) showPushed(w io.Writer, pushed []repository.Pushed, to []repository.Destination) {
	for _, p := range pushed {
		fmt.Fprintf(w, "%s has timestamp %d (%d files, %d bytes were new)\n", p.Destination, p.Timestamp, p.Files, p.Bytes)
	}
	for _, d := range to {
		if u, ok := d.(interface{ Unguarded() bool }); ok && u.Unguarded() {
			t.warn("%s ignores conditional writes: two publishers at the same moment could overwrite one another; let one machine publish there", d)
		}
	}
}

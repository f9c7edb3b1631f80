package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

// trustDir is the signer's own directory, apart from every repository and every change.
func (t *tool) trustDir() string {
	if dir := os.Getenv("SLIPWAY_TRUST"); dir != "" {
		return dir
	}
	if dir, err := os.UserConfigDir(); err == nil {
		return filepath.Join(dir, "slipway-repo")
	}
	return ""
}

// trust is nil where there is no home to keep it in: then --root is needed, and nothing is remembered.
func (t *tool) trust() *repository.Trust {
	dir := t.trustDir()
	if dir == "" {
		return nil
	}
	return repository.OpenTrust(dir)
}

func (t *tool) trustCommand() *cobra.Command {
	return t.group("trust", "Pin the roots that you trust as a signer",
		`What you sign is verified from a root of your own, not from one that came with it. It is kept with the newest versions you have
seen in SLIPWAY_TRUST, or else in slipway-repo below your configuration directory (~/.config).`, t.trustAdd(), t.trustList(), t.trustForget())
}

func (t *tool) trustAdd() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "add FILE", Short: "Pin a root.json", Args: cobra.ExactArgs(1),
		Long: `FILE is an N.root.json of the repository, as it is published. Compare the fingerprint that is printed with the other holders,
by a way that nobody who could have changed the file controls. Any version will do: newer ones are followed from it.`,
		Example: "  slipway-repo trust add 1.root.json\n  slipway-repo trust add 3.root.json --name payments",
	}
	c.Flags().StringVar(&name, "name", "default", "what you call the repository")
	c.RunE = t.do(func(_ context.Context, args []string) error {
		raw, err := os.ReadFile(args[0])
		if err != nil {
			return fmt.Errorf("cannot read root: %w", err)
		}
		if t.trustDir() == "" {
			return usage("there is no home directory to keep it in: set SLIPWAY_TRUST, or use --root with every command")
		}
		p, err := t.trust().Add(name, raw)
		if err != nil {
			return err
		}
		return t.answer(p, func(w io.Writer) { showPin(w, p) })
	})
	return c
}

func showPin(w io.Writer, p repository.Pin) {
	fmt.Fprintf(w, "%s: root version %d, expires %s\n  sha256 %s\n", p.Name, p.Version, p.Expires.Format(time.DateOnly), p.Fingerprint())
	for _, k := range p.Keys {
		fmt.Fprintf(w, "  held by %s\n", k)
	}
}

func (t *tool) trustList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the roots that you have pinned", Args: cobra.NoArgs, Example: "  slipway-repo trust list",
		RunE: t.do(func(context.Context, []string) error {
			pins, err := t.trust().Pins()
			if err != nil {
				return err
			}
			return t.answer(pins, func(w io.Writer) {
				for _, p := range pins {
					showPin(w, p)
				}
			})
		}),
	}
}

func (t *tool) trustForget() *cobra.Command {
	return &cobra.Command{
		Use: "forget NAME", Short: "Unpin a root, and forget what was seen with it", Args: cobra.ExactArgs(1),
		Long: `For a repository that is gone, or that was restored from before what you have seen. After that, nothing keeps you from signing
what was made from old versions: pin the right root again first.`,
		Example: "  slipway-repo trust forget payments",
		RunE: t.do(func(_ context.Context, args []string) error {
			p, err := t.trust().Forget(args[0])
			if err != nil {
				return err
			}
			return t.answer(map[string]string{"forgotten": p.Name}, func(w io.Writer) { fmt.Fprintf(w, "forgot %s\n", p.Name) })
		}),
	}
}

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

func (t *tool) bundleCommand() *cobra.Command {
	return t.group("bundle", "Carry the repository to hosts without a network, as one file", "", t.bundleCreate(), t.bundleVerify())
}

func (t *tool) bundleCreate() *cobra.Command {
	var out, env string
	var apps, platforms []string
	c := &cobra.Command{
		Use: "create --out FILE", Short: "Put what an environment runs into one file", Args: cobra.NoArgs,
		Long: `Writes one file with all roots, the published metadata, and the files of the releases that the environment's deployments name,
fallbacks included. It needs no key. The file appears whole, after the hosts' own client has read it. The same published
state gives the same bytes.`,
		Example: `  slipway-repo refresh --force
  slipway-repo bundle create --out /media/usb/production.bundle --environment production
  slipway-repo bundle create --out billing.bundle --environment production --app billing --platform linux/arm64`,
	}
	f := c.Flags()
	f.StringVar(&out, "out", "", "`file` to write (replaced as a whole)")
	f.StringVar(&env, "environment", "", "the one `environment` whose hosts it is for (default: all)")
	f.StringArrayVar(&apps, "app", nil, "only this `app` (repeatable; default: every app deployed there)")
	f.StringArrayVar(&platforms, "platform", nil, "only archives for this `platform`, such as linux/amd64 (repeatable; default: all)")
	_ = c.MarkFlagRequired("out")
	c.RunE = t.do(func(ctx context.Context, _ []string) error {
		o, err := bundleOptions(env, apps, platforms)
		if err != nil {
			return err
		}
		r, err := t.open()
		if err != nil {
			return err
		}
		b, err := r.WriteBundle(ctx, out, o)
		if err != nil {
			return err
		}
		return t.showBundle(out, b)
	})
	return c
}

func bundleOptions(env string, apps, platforms []string) (o repository.BundleOptions, err error) {
	if env != "" {
		if o.Environment, err = release.ParseEnvironment(env); err != nil {
			return o, usage("--environment: %v", err)
		}
	}
	for _, a := range apps {
		app, err := release.ParseApp(a)
		if err != nil {
			return o, usage("--app: %v", err)
		}
		o.Apps = append(o.Apps, app)
	}
	for _, p := range platforms {
		pl, err := release.ParsePlatform(p)
		if err != nil {
			return o, usage("--platform: %v", err)
		}
		o.Platforms = append(o.Platforms, pl)
	}
	return o, nil
}

func (t *tool) bundleVerify() *cobra.Command {
	var root, age string
	c := &cobra.Command{
		Use: "verify FILE --root ROOT --max-age AGE", Short: "Read a bundle as a host does, from the pinned root", Args: cobra.ExactArgs(1),
		Long: `Runs the hosts' own client over the file with an empty cache, reads and hashes everything in it, and says what it holds and how
old it is. It needs no repository and no network. What nobody signed is refused, and so is a bundle whose timestamp was issued
longer ago than --max-age.`,
		Example: `  slipway-repo bundle verify /media/usb/production.bundle --root 1.root.json --max-age 14d`,
	}
	c.Flags().StringVar(&root, "root", "", "pinned root.json `file`, obtained over a way you trust")
	c.Flags().StringVar(&age, "max-age", "", "how long ago the timestamp may have been issued, such as 14d")
	for _, name := range []string{"root", "max-age"} {
		_ = c.MarkFlagRequired(name)
	}
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		period, err := repository.ParsePeriod(age)
		if err != nil {
			return usage("--max-age: %v", err)
		}
		check := repository.BundleCheck{MaxAge: period.Std()}
		if check.Root, err = os.ReadFile(root); err != nil {
			return fmt.Errorf("cannot read pinned root: %w", err)
		}
		b, err := repository.VerifyBundle(ctx, args[0], check)
		if err != nil {
			return err
		}
		return t.showBundle(args[0], b)
	})
	return c
}

func (t *tool) showBundle(file string, b *repository.Bundled) error {
	return t.answer(b, func(w io.Writer) {
		fmt.Fprintf(w, "%s: verified for %s\n", file, b.For)
		fmt.Fprintf(w, "  root %d, timestamp %d, issued %s, %s old\n", b.Root, b.Timestamp, b.Issued.Format(time.RFC3339), span(b.Old()))
		for _, d := range b.Deployments {
			fmt.Fprintf(w, "  %s\n", d)
		}
		fmt.Fprintf(w, "  %d releases, %d files, %d bytes\n", b.Releases, b.Files, b.Bytes)
		fmt.Fprintf(w, "  hosts start nothing from it after %s, when %s expires\n", b.Until.Format(time.RFC3339), b.UntilRole)
	})
}

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

func (t *tool) releaseCommand() *cobra.Command {
	return t.group("release", "Pack, check and publish releases", "", t.releasePack(), t.releaseCheck(), t.releasePublish())
}

func (t *tool) releasePublish() *cobra.Command {
	var m changing
	c := &cobra.Command{
		Use: "publish DIR | APP VERSION", Short: "List a packed release, to be signed by the app's keys", Args: cobra.RangeArgs(1, 2),
		Long: `Opens a change that lists the release in the app's role. DIR is what release pack wrote; APP VERSION means ./APP-VERSION. Hosts
run it only once a deployment says so.`,
		Example: "  slipway-repo release publish ./billing-2.4.1 --sign billing-ci\n  slipway-repo release publish billing 2.4.1 --sign billing-ci",
	}
	m.flags(c)
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		dir := args[0]
		if len(args) == 2 {
			dir = filepath.Join(".", args[0]+"-"+args[1])
		}
		return t.make(ctx, &m, func(r *repository.Repository) (*repository.Change, error) {
			return r.PublishRelease(ctx, dir, m.origin())
		})
	})
	return c
}

// findTOML looks for release.toml in the tree and then beside it.
func findTOML(named, tree string) (string, error) {
	if named != "" {
		return named, nil
	}
	for _, p := range []string{filepath.Join(tree, "release.toml"), filepath.Join(filepath.Dir(filepath.Clean(tree)), "release.toml")} {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", usage("there is no release.toml in %s or beside it: write one, or name it with --config", tree)
}

// checkUnits holds every unit that the release ships against the rules hosts apply.
func checkUnits(doc *release.Release, tree string, allowRoot bool) error {
	rules := release.UnitRules{AppRoot: "/opt/slipway/" + doc.App.String(), AllowRoot: allowRoot}
	for _, u := range doc.Units {
		content, err := os.ReadFile(filepath.Join(tree, filepath.FromSlash(u.Path)))
		if err != nil {
			return fmt.Errorf("cannot read unit %s: %w", u.Name, err)
		}
		if err := release.CheckUnit(doc.App, u.Name, content, rules); err != nil {
			return err
		}
	}
	return nil
}

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

func (t *tool) promoteCommand() *cobra.Command {
	var d deployFlags
	var m changing
	var from string
	var evidence []string
	c := &cobra.Command{
		Use: "promote APP VERSION --from ENVIRONMENT --to ENVIRONMENT", Short: "Let an environment run what another one runs", Args: cobra.ExactArgs(2),
		Long: `Opens a change with a deployment of the very release that the other environment's deployment in force names: the same digest,
nothing is uploaded again, and the approvers of the new environment sign. What policy.json demands of a promotion is checked now
and again by publish. Files of evidence come from slipway evidence on hosts of the environment it comes from; they are not
signed. Signers are shown what they say, and the deployment's signed reason holds their digest.`,
		Example: `  ssh stage-01 slipway evidence billing >stage-01.json
  slipway-repo deploy promote billing 2.4.1 --from staging --to production --evidence stage-01.json --file deployment.toml --requested-by dora`,
	}
	f := c.Flags()
	f.StringVar(&from, "from", "", "`environment` that runs it")
	f.StringVar(&d.env, "to", "", "`environment` that shall run it")
	f.StringArrayVar(&evidence, "evidence", nil, "`file` made by slipway evidence on a host (repeatable, one per host)")
	d.flags(f)
	m.flags(c)
	for _, name := range []string{"from", "to"} {
		_ = c.MarkFlagRequired(name)
	}
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		d.app, d.version = args[0], args[1]
		w, file, err := d.wish(time.Now())
		if err != nil {
			return err
		}
		w.Origin, w.Judge = m.origin(), t.judge(file)
		p := repository.PromoteWish{Wish: *w}
		if p.From, err = release.ParseEnvironment(from); err != nil {
			return usage("--from: %v", err)
		}
		for _, file := range evidence {
			data, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("cannot read evidence: %w", err)
			}
			p.Evidence = append(p.Evidence, data)
		}
		return t.make(ctx, &m, func(r *repository.Repository) (*repository.Change, error) {
			c, err := r.Promote(ctx, p)
			return c, file.locate(err)
		})
	})
	return c
}

// showPromotions says where the releases of a change come from.
func showPromotions(w io.Writer, c *repository.Change) {
	for _, p := range c.Promotions {
		for _, line := range p.Words() {
			fmt.Fprintf(w, "  %s/%s: %s\n", p.To, p.App, line)
		}
	}
}

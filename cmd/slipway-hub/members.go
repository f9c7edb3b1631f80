package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/hub/roster"
	"github.com/slipway-deploy/slipway/agent/hub/serve"
	"github.com/slipway-deploy/slipway/agent/release"
)

func (t *tool) membersCommand() *cobra.Command {
	return &cobra.Command{
		Use: "members", Short: "List who was enrolled, and who was revoked", Args: cobra.NoArgs,
		Long: `Lists the hosts that enrolled through a hub of this fleet, and whoever was revoked. Hosts and operators whose certificates were
signed by hand or by another authority appear once they are revoked.`,
		RunE: t.do(func(ctx context.Context, _ []string) error {
			var list []roster.Member
			if err := t.local(ctx, http.MethodGet, serve.PathMembers, nil, &list); err != nil {
				return err
			}
			return t.answer(list, func(w io.Writer) {
				tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				fmt.Fprintln(tab, "ENVIRONMENT\tNAME\tENROLLED\tCERTIFICATE UNTIL\tSTATE")
				for _, m := range list {
					fmt.Fprintln(tab, strings.Join(memberRow(m), "\t"))
				}
				tab.Flush()
			})
		}),
	}
}

func memberRow(m roster.Member) []string {
	environment, name := m.Environment.String(), m.Host
	if m.Operator != "" {
		environment, name = "(operator)", m.Operator
	}
	state := "in"
	if m.Revoked != nil {
		state = fmt.Sprintf("revoked %s by %s: %s", m.Revoked.At.Local().Format(time.DateTime), clean(m.Revoked.By), clean(m.Revoked.Reason))
	}
	return []string{environment, name, dateOrDash(m.Enrolled), dateOrDash(m.Until), state}
}

func dateOrDash(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return at.Local().Format(time.DateTime)
}

func (t *tool) revokeCommand() *cobra.Command {
	var v roster.Revocation
	var environment string
	c := &cobra.Command{
		Use: "revoke", Short: "End the certificates of a host or an operator", Args: cobra.NoArgs,
		Long: `The hubs refuse the certificates at once. A host is let in again by a token with --replace, an operator by --earlier, which ends
only the certificates issued until now, followed by a new one. A revoked host keeps running what it runs, and by the signed
policy for a lost coordinator it may go on updating; to stop that, stop the rollout or revoke the release.`,
		Example: "  slipway-hub revoke --environment production --host web-01 --reason 'stolen, INC-7'\n  slipway-hub revoke --operator alice --earlier --reason 'lost laptop'",
	}
	f := c.Flags()
	f.StringVar(&environment, "environment", "", "the host's environment")
	f.StringVar(&v.Host, "host", "", "the host's id")
	f.StringVar(&v.Operator, "operator", "", "the operator's name")
	f.StringVar(&v.Reason, "reason", "", "why (required)")
	f.BoolVar(&v.Earlier, "earlier", false, "only the certificates issued until now")
	c.RunE = t.do(func(ctx context.Context, _ []string) (err error) {
		if (v.Operator == "") == (v.Host == "") || (v.Host == "") != (environment == "") || v.Reason == "" {
			return usage("say whose: --environment and --host, or --operator; and why: --reason")
		}
		if environment != "" {
			if v.Environment, err = release.ParseEnvironment(environment); err != nil {
				return usage("--environment: %v", err)
			}
		}
		return t.localDone(ctx, http.MethodPost, serve.PathRevoke, v)
	})
	return c
}

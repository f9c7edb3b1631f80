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

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub/roster"
	"github.com/slipway-deploy/slipway/agent/hub/serve"
	"github.com/slipway-deploy/slipway/agent/release"
)

func (t *tool) tokenCommand() *cobra.Command {
	return t.group("token", "Let a new host in, once",
		`A token lets one machine become one host of one environment, once, until it expires. It also carries what the host may believe on
the way: the digests of the fleet's root certificate and of the repository's root.json. Give it to slipway enroll on the host, in a file or on standard input.`,
		t.tokenCreate(), t.tokenList(), t.tokenDrop())
}

func (t *tool) tokenCreate() *cobra.Command {
	var environment string
	var ask roster.Ask
	var labels map[string]string
	var ttl time.Duration
	c := &cobra.Command{
		Use: "create", Short: "Make a token for a host", Args: cobra.NoArgs,
		Long: `Prints a token, once: the hub keeps only its hash. With --replace the machine that has this host id now loses its identity at the
moment when the new one enrols; its slot, if it holds one, is let go.`,
		Example: "  slipway-hub token create --environment production --host web-01 --label site=zrh\n  slipway-hub token create --environment production --host web-01 --replace",
	}
	f := c.Flags()
	f.StringVar(&environment, "environment", "", "the host's environment (required)")
	f.StringVar(&ask.Host, "host", "", "the host's id (required)")
	f.StringToStringVar(&labels, "label", nil, "label `name=value`; with any, only these count, not what the host says (repeatable)")
	f.DurationVar(&ttl, "ttl", roster.DefaultTTL, "how long it can be used; at most 720h")
	f.BoolVar(&ask.Replace, "replace", false, "take the place of the machine that has this host id now")
	c.RunE = t.do(func(ctx context.Context, _ []string) (err error) {
		if ask.Environment, err = release.ParseEnvironment(environment); err != nil {
			return usage("--environment: %v", err)
		}
		if err := fleet.CheckHost(ask.Host); err != nil {
			return usage("--host: %v", err)
		}
		ask.TTL, ask.Labels = int(ttl/time.Second), labels
		var m roster.Minted
		if err := t.local(ctx, http.MethodPost, serve.PathTokens, ask, &m); err != nil {
			return err
		}
		if m.Warning != "" {
			t.say("slipway-hub: warning: %s", clean(m.Warning))
		}
		return t.answer(m, func(w io.Writer) {
			fmt.Fprintln(w, m.Token)
			t.say("It can be used once, until %s: slipway enroll --hub https://… --token-file FILE", m.Expires.Local().Format(time.DateTime))
		})
	})
	return c
}

func (t *tool) tokenList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the tokens that have not expired", Args: cobra.NoArgs,
		RunE: t.do(func(ctx context.Context, _ []string) error {
			var list []roster.TokenStatus
			if err := t.local(ctx, http.MethodGet, serve.PathTokens, nil, &list); err != nil {
				return err
			}
			return t.answer(list, func(w io.Writer) {
				tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				fmt.Fprintln(tab, "ID\tENVIRONMENT\tHOST\tUNTIL\tBY\tSTATE")
				for _, one := range list {
					fmt.Fprintln(tab, strings.Join([]string{one.ID, one.Environment.String(), one.Host, one.Expires.Local().Format(time.DateTime), clean(one.By), tokenState(one)}, "\t"))
				}
				tab.Flush()
			})
		}),
	}
}

func tokenState(s roster.TokenStatus) string {
	state := "unused"
	switch {
	case s.Used != nil:
		state = "used " + s.Used.Local().Format(time.DateTime)
	case time.Now().After(s.Expires):
		state = "expired"
	}
	if s.Replace {
		state += ", replaces"
	}
	return state
}

func (t *tool) tokenDrop() *cobra.Command {
	return &cobra.Command{
		Use: "drop ID", Short: "Take a token back", Args: cobra.ExactArgs(1),
		Example: "  slipway-hub token drop 3f2a9c01b7de",
		RunE: t.do(func(ctx context.Context, args []string) error {
			return t.localDone(ctx, http.MethodDelete, serve.PathTokens, serve.Drop{ID: args[0]})
		}),
	}
}

// localDone asks for a change and prints what was changed.
func (t *tool) localDone(ctx context.Context, method, path string, in any) error {
	var d serve.Done
	if err := t.local(ctx, method, path, in, &d); err != nil {
		return err
	}
	return t.answer(d, func(w io.Writer) { fmt.Fprintln(w, clean(d.Done)) })
}

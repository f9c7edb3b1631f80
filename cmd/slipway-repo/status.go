package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

type statusFlags struct {
	within, prometheus string
	to                 []string
	offline            bool
}

func (t *tool) statusCommand() *cobra.Command {
	var f statusFlags
	c := &cobra.Command{
		Use: "status", Short: "Show roles, expiry, destinations, and what waits", Args: cobra.NoArgs,
		Long: `Exits with 1 when something needs attention: a role has expired or expires within the given time, the timestamp is overdue, a publish
was interrupted, or a destination is not current. Fit for monitoring. With --prometheus the answer is a file of figures, replaced
atomically, for node_exporter's textfile collector; what needs attention is still said, and still the exit code.`,
		Example: "  slipway-repo status\n  slipway-repo status --within 30d --json\n  slipway-repo status --prometheus /var/lib/prometheus/node-exporter/slipway-repo.prom",
	}
	c.Flags().StringVar(&f.within, "within", "", "exit with 1 if anything expires within this time, such as 30d")
	c.Flags().StringVar(&f.prometheus, "prometheus", "", "write figures in Prometheus' text format to this `file`")
	toFlag(c, &f.to)
	c.Flags().BoolVar(&f.offline, "offline", false, "ask no destination")
	c.MarkFlagsMutuallyExclusive("to", "offline")
	c.RunE = t.do(func(ctx context.Context, _ []string) error { return t.runStatus(ctx, &f) })
	return c
}

func (t *tool) runStatus(ctx context.Context, f *statusFlags) error {
	var limit time.Duration
	if f.within != "" {
		p, err := repository.ParsePeriod(f.within)
		if err != nil {
			return usage("--within: %v", err)
		}
		limit = p.Std()
	}
	r, err := t.open()
	if err != nil {
		return err
	}
	var to []repository.Destination
	if !f.offline {
		if to, err = t.destinations(r, f.to); err != nil {
			return err
		}
	}
	s, err := r.Status(ctx, to...)
	if err != nil {
		return err
	}
	now := time.Now()
	a := newStatusAnswer(s, now, limit)
	if f.prometheus != "" {
		if err := durable.WriteFile(f.prometheus, a.prometheus(now), 0o644); err != nil {
			return err
		}
	}
	if f.prometheus == "" || t.json {
		if err := t.answer(a, func(w io.Writer) { a.text(w, now) }); err != nil {
			return err
		}
	}
	if s.Freshness == 0 && !s.Issued.IsZero() {
		t.say("no deployment in force asks for freshness: a mirror that holds news back can delay a halt until the timestamp expires")
	}
	return a.verdict()
}

// statusAnswer is the status with what a person must look at.
type statusAnswer struct {
	*repository.Status
	// Within is how far ahead expiry was looked for, in seconds.
	Within int64 `json:"within_seconds"`
	// Expiry is the expiry table: seconds left by role, negative once over.
	Expiry    map[string]int64 `json:"seconds_to_expiry"`
	Attention []string         `json:"attention"`
}

func newStatusAnswer(s *repository.Status, now time.Time, limit time.Duration) *statusAnswer {
	a := &statusAnswer{Status: s, Within: int64(limit / time.Second), Expiry: map[string]int64{}, Attention: []string{}}
	for _, role := range s.Roles {
		if role.Version == 0 {
			continue
		}
		left := role.Left(now)
		a.Expiry[role.Role] = int64(left / time.Second)
		// Online roles live for days by design; their refresh time says whether they are looked after.
		online := role.Role == "snapshot" || role.Role == "timestamp"
		remedy := "run role renew"
		if online {
			remedy = "run refresh"
		}
		switch {
		case left <= 0:
			a.note("%s expired %s ago: %s", role.Role, span(-left), remedy)
		case left <= limit && !online:
			a.note("%s expires in %s, within %s: %s", role.Role, span(left), span(limit), remedy)
		}
	}
	if !s.Due.IsZero() && now.After(s.Due) {
		a.note("the timestamp is overdue by %s: run refresh", span(now.Sub(s.Due)))
	}
	if s.Begun != "" {
		a.note("a publish to %s was interrupted: run publish again", s.Begun)
	}
	for _, d := range s.Destinations {
		if d.Problem != "" {
			a.note("%s: %s", d.Destination, d.Problem)
		}
	}
	return a
}

func (a *statusAnswer) note(format string, args ...any) {
	a.Attention = append(a.Attention, fmt.Sprintf(format, args...))
}

func (a *statusAnswer) verdict() error {
	switch len(a.Attention) {
	case 0:
		return nil
	case 1:
		return &attention{a.Attention[0]}
	}
	return &attention{fmt.Sprintf("%d things need attention; first, %s", len(a.Attention), a.Attention[0])}
}

func (a *statusAnswer) text(w io.Writer, now time.Time) {
	tab := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tab, "ROLE\tVERSION\tEXPIRES\tLEFT\tSIGNED BY")
	for _, role := range a.Roles {
		expires, left := "-", "-"
		if role.Version > 0 {
			expires, left = role.Expires.Format(time.DateOnly), span(role.Left(now))
		}
		fmt.Fprintf(tab, "%s\t%d\t%s\t%s\t%d of %d\n", role.Role, role.Version, expires, left, role.Threshold, len(role.Keys))
	}
	_ = tab.Flush()
	if !a.Issued.IsZero() {
		fmt.Fprintf(w, "issued %s ago, refresh due in %s\n", span(now.Sub(a.Issued)), span(a.Due.Sub(now)))
	}
	for _, d := range a.Destinations {
		if d.Current {
			fmt.Fprintf(w, "destination %s: timestamp %d, current\n", d.Destination, d.Timestamp)
		} else {
			fmt.Fprintf(w, "destination %s: timestamp %d; %s\n", d.Destination, d.Timestamp, d.Problem)
		}
	}
	for _, c := range a.Changes {
		fmt.Fprintf(w, "open: %s  %s\n", c.ID, c.Summary)
		for _, p := range c.Progress {
			fmt.Fprintf(w, "  %s\n", p)
		}
		if c.Problem != "" {
			fmt.Fprintf(w, "  %s\n", c.Problem)
		}
	}
	if len(a.Attention) > 1 {
		for _, what := range a.Attention {
			fmt.Fprintf(w, "attention: %s\n", what)
		}
	}
}

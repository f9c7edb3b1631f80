package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/api"
)

func (c *cli) status() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:   "status [APP]",
		Short: "Show what runs, what is under way, and why",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return oneApp(cmd, args)
		},
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			if watch && c.json {
				return usageError{"--watch and --json exclude each other", "slipway events --follow --json streams what happens"}
			}
			app := ""
			if len(args) == 1 {
				app = args[0]
			}
			if watch {
				return c.watchStatus(cmd.Context(), app)
			}
			return c.showStatus(cmd.Context(), app)
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "redraw until interrupted")
	return cmd
}

func (c *cli) showStatus(ctx context.Context, app string) error {
	s, err := c.api().Status(ctx)
	if err != nil {
		return err
	}
	if app != "" {
		if s.Apps, err = onlyApp(s.Apps, app); err != nil {
			return err
		}
	}
	if c.json {
		if app != "" {
			return c.printJSON(s.Apps[0])
		}
		return c.printJSON(s)
	}
	c.drawStatus(c.out, s)
	return nil
}

func onlyApp(apps []api.AppStatus, app string) ([]api.AppStatus, error) {
	for _, a := range apps {
		if a.App == app {
			return []api.AppStatus{a}, nil
		}
	}
	return nil, api.NewError(api.KindNotFound, "there is no app "+app+" on this host", "slipway status lists the apps, slipway add "+app+" adds it")
}

// watchStatus redraws in place on a terminal; elsewhere it prints when something changed. A daemon that restarts is waited for.
func (c *cli) watchStatus(ctx context.Context, app string) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := ""
	for {
		var b bytes.Buffer
		s, err := c.api().Status(ctx)
		if err == nil && app != "" {
			s.Apps, err = onlyApp(s.Apps, app)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && last == "":
			return err
		case err != nil:
			fmt.Fprintln(&b, clean(err.Error()))
		default:
			c.drawStatus(&b, s)
		}
		text := b.String()
		switch {
		case c.tty:
			if last == "" {
				fmt.Fprint(c.out, "\x1b[2J")
			}
			fmt.Fprint(c.out, "\x1b[H"+strings.ReplaceAll(text, "\n", "\x1b[K\n")+"\x1b[J")
		case text != last:
			fmt.Fprint(c.out, text)
		}
		last = text
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (c *cli) drawStatus(w io.Writer, s api.Status) {
	now := c.now()
	head := []string{s.Host, s.Environment, "slipwayd " + s.Version}
	if s.Supervisor != "" && s.Supervisor != "systemd" {
		head = append(head, s.Supervisor)
	}
	fmt.Fprintln(w, c.paint(c.tty, bold, clean(strings.Join(head, " · "))))
	fmt.Fprintln(w, c.repositoryLine(now, s.Repository))
	if s.Hold != nil {
		fmt.Fprintln(w, c.paint(c.tty, yellow, clean("the whole host is "+holdText(now, *s.Hold))))
	}
	for _, warning := range s.Warnings {
		fmt.Fprintln(w, c.paint(c.tty, yellow, "warning: ")+clean(warning))
	}
	fmt.Fprintln(w)
	if len(s.Apps) == 0 {
		fmt.Fprintln(w, "no apps yet; slipway add APP adds one")
		return
	}
	rows := [][]cell{{{"APP", dim}, {"VERSION", dim}, {"PHASE", dim}, {"WHY", dim}}}
	for _, a := range s.Apps {
		rows = append(rows, []cell{{a.App, bold}, {orDash(a.Version), ""}, {phaseText(a), phaseColour(a)}, {a.Why, ""}})
	}
	c.table(w, rows)
	for _, a := range s.Apps {
		c.drawDetails(w, now, a)
	}
}

func (c *cli) repositoryLine(now time.Time, r api.Repository) string {
	parts := []string{"repository " + string(r.State)}
	if !r.Issued.IsZero() {
		parts = append(parts, "issued "+ago(now, r.Issued))
	}
	parts = append(parts, "refreshed "+ago(now, r.LastRefresh))
	if role, at := firstExpiry(r.Expires); role != "" {
		if at.After(now) {
			parts = append(parts, role+" expires in "+span(at.Sub(now)))
		} else {
			parts = append(parts, role+" expired "+ago(now, at))
		}
	}
	col := green
	if r.State != api.RepositoryOK {
		col = red
	}
	line := c.paint(c.tty, col, clean(strings.Join(parts, " · ")))
	if r.Error != "" {
		line += "\n  " + clean(r.Error)
	}
	return line
}

func firstExpiry(m map[string]time.Time) (string, time.Time) {
	roles := make([]string, 0, len(m))
	for role := range m {
		roles = append(roles, role)
	}
	if len(roles) == 0 {
		return "", time.Time{}
	}
	sort.Slice(roles, func(i, j int) bool {
		a, b := m[roles[i]], m[roles[j]]
		return a.Before(b) || a.Equal(b) && roles[i] < roles[j]
	})
	return roles[0], m[roles[0]]
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func phaseText(a api.AppStatus) string {
	switch {
	case !a.Enabled:
		return a.Phase + " (disabled)"
	case a.Hold != nil:
		return a.Phase + " (held)"
	}
	return a.Phase
}

func phaseColour(a api.AppStatus) colour {
	switch {
	case a.Phase == "reverting" || a.LastOutcome != nil && a.LastOutcome.Result != api.ResultCommitted && a.LastOutcome.Result != api.ResultRemoved:
		return red
	case a.Busy || a.Hold != nil || !a.Enabled || len(a.Quarantine) > 0:
		return yellow
	}
	return green
}

func holdText(now time.Time, h api.Hold) string {
	s := "held"
	if h.By != "" {
		s += " by " + h.By
	}
	if !h.Until.IsZero() {
		s += " until " + clock(now, h.Until)
	}
	if h.Reason != "" {
		s += ": " + h.Reason
	}
	return s
}

// drawDetails shows what a line of the table has no room for, only where there is something to show.
func (c *cli) drawDetails(w io.Writer, now time.Time, a api.AppStatus) {
	var lines []string
	if a.Candidate != "" && a.Candidate != a.Current {
		lines = append(lines, "candidate  "+a.Candidate)
	}
	if a.Progress != nil {
		lines = append(lines, "progress   "+progressText(*a.Progress))
	}
	if t := a.Trial; t != nil {
		lines = append(lines, fmt.Sprintf("trial      healthy for %s of %s; reverts at %s unless healthy", span(time.Duration(t.HealthyFor)), span(time.Duration(t.MinHealthy)), clock(now, t.Deadline)))
		for _, k := range t.Checks {
			lines = append(lines, strings.TrimRight(fmt.Sprintf("           %s %s  %s", checkMark(k.Answer), k.Name, k.Detail), " "))
		}
		if a.Fallback != "" {
			lines = append(lines, "fallback   "+a.Fallback)
		}
	}
	for _, u := range a.Units {
		if u.Active == "failed" {
			lines = append(lines, "failed     "+u.Name+"; slipway logs "+a.App+" shows what it said")
		}
	}
	if a.Hold != nil {
		lines = append(lines, "hold       "+holdText(now, *a.Hold))
	}
	for _, q := range a.Quarantine {
		line := fmt.Sprintf("quarantine %s  %s %s", q.Release, q.Cause, ago(now, q.At))
		if q.Reason != "" {
			line += ": " + q.Reason
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", c.paint(c.tty, bold, clean(a.App)))
	for _, l := range lines {
		fmt.Fprintln(w, "  "+clean(l))
	}
}

func checkMark(answer string) string {
	switch answer {
	case "healthy":
		return "✓"
	case "unhealthy":
		return "✗"
	}
	return "?"
}

// progressText is "downloading 42 % · 13.4 of 32.0 MB · 5.1 MB/s · 4 s left".
func progressText(p api.Progress) string {
	parts := []string{p.Step}
	if p.Total > 0 {
		parts[0] += fmt.Sprintf(" %d %%", int(p.Percent))
		parts = append(parts, bytesText(p.Bytes)+" of "+bytesText(p.Total))
	} else if p.Bytes > 0 {
		parts = append(parts, bytesText(p.Bytes))
	}
	if p.Rate > 0 {
		parts = append(parts, bytesText(p.Rate)+"/s")
		if left := p.Total - p.Bytes; left > 0 {
			parts = append(parts, span(time.Duration(left/p.Rate)*time.Second)+" left")
		}
	}
	return strings.Join(parts, " · ")
}

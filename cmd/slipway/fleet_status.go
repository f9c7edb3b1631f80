package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// watchEvery is how often a watched status is asked for anew.
const watchEvery = 2 * time.Second

func (c *cli) fleetStatus() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:   "status [ENVIRONMENT/APP]",
		Short: "Show how the rollouts stand: waves, slots, failures, and when it will be over",
		Args:  maybeGroup, ValidArgsFunction: c.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.ask(func(o *fleet.Operator) error {
				if watch {
					return c.watchFleet(cmd.Context(), o, args)
				}
				s, err := only(cmd.Context(), o, args)
				if err != nil {
					return err
				}
				if c.json {
					return c.printJSON(s)
				}
				c.drawFleet(c.out, s)
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on until interrupted: redraws on a terminal, prints changes elsewhere, one JSON object each with --json")
	return cmd
}

// watchFleet shows what changed. A hub that falls silent is waited for, once one has answered.
func (c *cli) watchFleet(ctx context.Context, o *fleet.Operator, args []string) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last := ""
	for {
		s, err := only(ctx, o, args)
		var b bytes.Buffer
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && last == "":
			return err
		case err != nil && c.json:
		case err != nil:
			fmt.Fprintln(&b, clean(fleetError(err).Error()))
		case c.json:
			_ = json.NewEncoder(&b).Encode(s) // into memory, of our own plain types
		default:
			c.drawFleet(&b, s)
		}
		last = c.redraw(last, b.String())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (c *cli) redraw(last, text string) string {
	switch {
	case c.tty && !c.json:
		if last == "" {
			fmt.Fprint(c.out, "\x1b[2J")
		}
		fmt.Fprint(c.out, "\x1b[H"+strings.ReplaceAll(text, "\n", "\x1b[K\n")+"\x1b[J")
	case text != last && text != "":
		fmt.Fprint(c.out, text)
	case text == "":
		return last
	}
	return text
}

func (c *cli) drawFleet(w io.Writer, s fleet.Status) {
	fmt.Fprintln(w, c.paint(c.tty, bold, clean("fleet "+s.Fleet)))
	if s.Halt != nil {
		fmt.Fprintln(w, c.paint(c.tty, red, clean("the whole fleet is halted: "+c.stopText(*s.Halt))))
	}
	if len(s.Rollouts) == 0 {
		fmt.Fprintln(w, "\nno rollout yet: no signed deployment names this fleet's hub as its coordinator")
	}
	for _, r := range s.Rollouts {
		fmt.Fprintln(w)
		c.drawRollout(w, r)
	}
}

func (c *cli) stopText(s fleet.Stop) string {
	return fmt.Sprintf("%s, by %s, %s", s.Reason, s.By, ago(c.now(), s.At))
}

// stateColours: what stopped or goes back is red, what waits for a person yellow.
var stateColours = map[string]colour{fleet.StateHalted: red, fleet.StateReverting: red, fleet.StateRestored: red, fleet.StatePaused: yellow, fleet.StateDone: green}

func (c *cli) drawRollout(w io.Writer, r fleet.RolloutStatus) {
	version := "removed"
	if !r.Version.IsZero() {
		version = r.Version.String()
	}
	fmt.Fprintf(w, "%s  %s  %s  rollout %s, sequence %d\n", c.paint(c.tty, bold, clean(r.Environment.String()+"/"+r.App.String())), clean(version),
		c.paint(c.tty, stateColours[r.State], clean(r.State)), clean(r.Rollout), r.Sequence)
	if r.Stop != nil {
		fmt.Fprintf(w, "  stopped   %s\n", clean(c.stopText(*r.Stop)))
	}
	fmt.Fprintf(w, "  progress  %s\n", clean(c.progress(r)))
	if r.Why != "" {
		fmt.Fprintf(w, "  waits     %s\n", clean(r.Why))
	}
	c.drawWaves(w, r)
	for _, cell := range r.Cells {
		fmt.Fprintf(w, "  budget    %s: %d of %d slots in use", clean(cell.Cell), cell.Held+cell.Lost, cell.Limit)
		if cell.Lost > 0 {
			fmt.Fprintf(w, ", %s", c.paint(c.tty, red, fmt.Sprintf("%d lost", cell.Lost)))
		}
		fmt.Fprintln(w)
	}
	if len(r.Slots) > 0 {
		c.table(indent(w), c.slotRows(r.Slots))
	}
	c.drawFailures(w, r.Failures)
}

// progress is counts and, if somebody can tell, how much is left.
func (c *cli) progress(r fleet.RolloutStatus) string {
	n := r.Counts
	text := fmt.Sprintf("%d committed, %d failed", n.Committed, n.Failed())
	if r.Hosts > 0 {
		text = fmt.Sprintf("%d of %d hosts committed (%d %%), %d failed", n.Committed, r.Hosts, 100*n.Committed/r.Hosts, n.Failed())
	}
	for _, one := range []struct {
		n    int
		what string
	}{{n.Reverted, "reverted"}, {n.Stuck, "stuck"}, {n.Lost, "lost"}, {n.FailedBefore, "were failing before"}, {n.Skipped, "gave up before the swap"}} {
		if one.n > 0 {
			text += fmt.Sprintf(", %d %s", one.n, one.what)
		}
	}
	if !r.Done.IsZero() {
		text += "; at this pace over " + ago(c.now(), r.Done)
	}
	return text
}

func (c *cli) drawWaves(w io.Writer, r fleet.RolloutStatus) {
	if len(r.Waves) == 0 {
		return
	}
	rows := [][]cell{{{"WAVE", dim}, {"STATE", dim}, {"HOSTS", dim}, {"COMMITTED", dim}, {"FAILED", dim}, {"WHY", dim}}}
	for _, v := range r.Waves {
		state, hosts, why := "closed", "?", v.Why
		if v.Open {
			state = "open"
		} else if why == "" && !v.Opens.IsZero() {
			why = "not before " + clock(c.now(), v.Opens)
		}
		if v.Hosts >= 0 {
			hosts = fmt.Sprint(v.Hosts)
		}
		rows = append(rows, []cell{{orDash(v.Name), bold}, {state, ""}, {hosts, ""}, {fmt.Sprint(v.Counts.Committed), ""}, {fmt.Sprint(v.Counts.Failed()), ""}, {why, ""}})
	}
	c.table(indent(w), rows)
}

func (c *cli) drawFailures(w io.Writer, list []fleet.Failure) {
	if len(list) == 0 {
		return
	}
	rows := [][]cell{{{"FAILED", dim}, {"WAVE", dim}, {"HOW", dim}, {"WHEN", dim}, {"WHY", dim}}}
	for _, f := range list {
		rows = append(rows, []cell{{f.Host, bold}, {orDash(f.Wave), ""}, {string(f.Result), red}, {ago(c.now(), f.At), ""}, {f.Reason, ""}})
	}
	c.table(indent(w), rows)
}

// indented puts two spaces before each line.
type indented struct{ w io.Writer }

func indent(w io.Writer) io.Writer { return indented{w} }

func (i indented) Write(b []byte) (int, error) {
	for line := range bytes.Lines(b) {
		if _, err := fmt.Fprintf(i.w, "  %s", line); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

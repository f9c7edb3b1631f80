package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/config"
	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
)

// fleetFlags say which hub is asked, and as whom. What is not given comes from the environment, then from fleet.toml.
type fleetFlags struct {
	hubs            []string
	certificate, ca string
}

func (c *cli) fleet() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fleet",
		Short: "See and steer the rollouts of a fleet",
		Long: `Asks a hub of the fleet, with an operator's certificate. Which hub and which certificate is written in
~/.config/slipway/fleet.toml:

    hubs = ["https://hub.example.com:7443"]
    certificate = "alice.pem"

or given by flags, or by SLIPWAY_HUB, SLIPWAY_FLEET_CERTIFICATE and SLIPWAY_FLEET_CA. These commands need no slipwayd, and work on any
machine. What an operator may do is written in the hub's configuration: resume, promote, forget and reconcile take more rights
than halt, pause and revert.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Args: noArgs,
	}
	f := cmd.PersistentFlags()
	f.StringArrayVar(&c.fleetFlags.hubs, "hub", nil, "`URL` of a hub (repeatable: the next is asked if one is silent)")
	f.StringVar(&c.fleetFlags.certificate, "certificate", "", "`file` with the operator's key and certificate")
	f.StringVar(&c.fleetFlags.ca, "ca", "", "`file` with what hubs are known by (default: the last one in the certificate's file)")
	cmd.AddCommand(c.fleetStatus(), c.fleetSlots(), c.fleetHosts(), c.fleetAudit())
	for _, a := range fleetActs {
		cmd.AddCommand(c.fleetAct(a))
	}
	return cmd
}

// operatorTimeout is longer than a hub takes over one request: an act whose answer is not waited for may have been done.
const operatorTimeout = 15 * time.Second

// operator makes the client from flags, environment and file.
func (c *cli) operator() (*fleet.Operator, error) {
	file := os.Getenv("SLIPWAY_FLEET_CONFIG")
	if file == "" {
		if dir, err := os.UserConfigDir(); err == nil {
			file = filepath.Join(dir, "slipway", "fleet.toml")
		}
	}
	known, err := config.LoadFleet(file)
	if err != nil {
		return nil, err
	}
	hubs := c.fleetFlags.hubs
	if env := os.Getenv("SLIPWAY_HUB"); len(hubs) == 0 && env != "" {
		hubs = strings.Fields(env)
	}
	if len(hubs) == 0 {
		hubs = known.Hubs
	}
	certificate := first(c.fleetFlags.certificate, os.Getenv("SLIPWAY_FLEET_CERTIFICATE"), known.Certificate)
	ca := first(c.fleetFlags.ca, os.Getenv("SLIPWAY_FLEET_CA"), known.CA, certificate)
	if len(hubs) == 0 || certificate == "" {
		return nil, usageError{"no hub or no certificate is known",
			"write " + file + ", or give --hub https://host:port and --certificate FILE;\nslipway-hub ca operator NAME makes the certificate"}
	}
	for _, u := range hubs {
		if err := config.CheckHubURL(u); err != nil {
			return nil, usageError{"--hub: " + err.Error(), ""}
		}
	}
	if err := checkSecret(certificate); err != nil {
		return nil, err
	}
	return fleet.NewOperator(fleet.Options{URLs: hubs, UserAgent: "slipway/" + version, Timeout: operatorTimeout,
		Credentials: fleet.Credentials{CA: ca, Cert: certificate, Key: certificate}})
}

func first(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

// checkSecret refuses a key that others could have read: it may be theirs by now.
func checkSecret(file string) error {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return failure{"cannot read the operator's certificate: there is no file " + file, "slipway-hub ca operator NAME makes one"}
	}
	if err != nil {
		return failure{"cannot read the operator's certificate: " + err.Error(), ""}
	}
	if info.Mode().Perm()&0o077 != 0 {
		return failure{fmt.Sprintf("%s holds a private key and can be read by others (mode %04o)", file, info.Mode().Perm()), "chmod 600 " + file}
	}
	return nil
}

// ask calls f with a client and turns a hub's errors into the command line's.
func (c *cli) ask(f func(*fleet.Operator) error) error {
	o, err := c.operator()
	if err != nil {
		return err
	}
	return fleetError(f(o))
}

func fleetError(err error) error {
	var no *fleet.RefusedError
	var silent *fleet.SilentError
	var here *fleet.LocalError
	switch {
	case errors.As(err, &no):
		kind := no.Reply.Kind
		switch kind {
		case fleet.KindUnknown, fleet.KindRevoked, fleet.KindIdentity:
			kind = api.KindRefused
		}
		return api.NewError(kind, no.Reply.Message, no.Reply.Hint)
	case errors.As(err, &silent):
		return api.NewError(api.KindUnreachable, "no hub answers: "+err.Error(), "name a hub that runs with --hub; curl -k "+silent.URL+"/v1/health tells whether one does")
	case errors.As(err, &here):
		return failure{here.Error(), ""}
	}
	return err
}

// group is "environment/app" on the command line.
type group struct {
	env release.Environment
	app release.App
}

func parseGroup(s string) (g group, err error) {
	env, app, ok := strings.Cut(s, "/")
	if !ok {
		return g, usageError{fmt.Sprintf("%q is not ENVIRONMENT/APP", s), "for example production/billing; slipway fleet status lists them"}
	}
	if g.env, err = release.ParseEnvironment(env); err != nil {
		return g, usageError{err.Error(), ""}
	}
	if g.app, err = release.ParseApp(app); err != nil {
		return g, usageError{err.Error(), ""}
	}
	return g, nil
}

func (g group) is(env release.Environment, app release.App) bool { return g.env == env && g.app == app }

// completeGroups asks the hub; one that does not answer completes nothing.
func (c *cli) completeGroups(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var out []string
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
	defer cancel()
	if len(args) == 0 {
		_ = c.ask(func(o *fleet.Operator) error {
			s, err := o.Status(ctx)
			for _, r := range s.Rollouts {
				out = append(out, r.Environment.String()+"/"+r.App.String()+"\t"+r.Version.String()+" "+r.State)
			}
			return err
		})
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func oneGroup(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{cmd.CommandPath() + " needs ENVIRONMENT/APP", "for example production/billing; slipway fleet status lists them"}
	}
	_, err := parseGroup(args[0])
	return err
}

func maybeGroup(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return oneGroup(cmd, args)
}

func (c *cli) fleetSlots() *cobra.Command {
	var lost bool
	cmd := &cobra.Command{
		Use:   "slots [ENVIRONMENT/APP]",
		Short: "Show who may be unavailable now, and why",
		Long: `Lists the slots in use. A slot that is lost belongs to a host that was silent past its deadline: it counts as unavailable until it
reports, or until somebody who knows better says slipway fleet forget.`,
		Args: maybeGroup, ValidArgsFunction: c.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.ask(func(o *fleet.Operator) error {
				s, err := only(cmd.Context(), o, args)
				if err != nil {
					return err
				}
				list := []fleet.SlotStatus{}
				for _, r := range s.Rollouts {
					for _, one := range r.Slots {
						if !lost || one.State == "lost" {
							list = append(list, one)
						}
					}
				}
				if c.json {
					return c.printJSON(list)
				}
				c.table(c.out, c.slotRows(list))
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&lost, "lost", false, "only lost ones")
	return cmd
}

// only is the status of all rollouts, or of the one that is named.
func only(ctx context.Context, o *fleet.Operator, args []string) (fleet.Status, error) {
	s, err := o.Status(ctx)
	if err != nil || len(args) == 0 {
		return s, err
	}
	g, err := parseGroup(args[0])
	if err != nil {
		return s, err
	}
	r, err := rolloutOf(s, g)
	s.Rollouts = []fleet.RolloutStatus{r}
	return s, err
}

func rolloutOf(s fleet.Status, g group) (fleet.RolloutStatus, error) {
	for _, r := range s.Rollouts {
		if g.is(r.Environment, r.App) {
			return r, nil
		}
	}
	return fleet.RolloutStatus{}, api.NewError(api.KindRefused, fmt.Sprintf("the hub knows no rollout of %s in %s", g.app, g.env),
		"slipway fleet status lists those it knows; a deployment has to name the hub as its coordinator")
}

func (c *cli) slotRows(list []fleet.SlotStatus) [][]cell {
	now := c.now()
	rows := [][]cell{{{"HOST", dim}, {"APP", dim}, {"CELL", dim}, {"WAY", dim}, {"STATE", dim}, {"SINCE", dim}, {"DEADLINE", dim}, {"WHY", dim}}}
	for _, s := range list {
		colour := colour("")
		if s.State != "held" {
			colour = red
		}
		rows = append(rows, []cell{{s.Host, bold}, {s.App.String(), ""}, {s.Cell, ""}, {string(s.Direction), ""}, {s.State, colour},
			{ago(now, s.Since), ""}, {clock(now, s.Deadline), ""}, {s.Reason, ""}})
	}
	return rows
}

func (c *cli) fleetHosts() *cobra.Command {
	return &cobra.Command{
		Use:   "hosts ENVIRONMENT/APP",
		Short: "Show what each host last told about an app",
		Args:  oneGroup, ValidArgsFunction: c.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			g, err := parseGroup(args[0])
			if err != nil {
				return err
			}
			return c.ask(func(o *fleet.Operator) error {
				list, err := o.Hosts(cmd.Context(), g.env, g.app)
				if err != nil {
					return err
				}
				if c.json {
					return c.printJSON(list)
				}
				c.table(c.out, c.hostRows(list))
				return nil
			})
		},
	}
}

func (c *cli) hostRows(list []fleet.HostStatus) [][]cell {
	now := c.now()
	rows := [][]cell{{{"HOST", dim}, {"WAVE", dim}, {"RUNS", dim}, {"PHASE", dim}, {"SEEN", dim}, {"WHY", dim}}}
	for _, h := range list {
		runs, why := "-", h.Why
		if h.Runs != nil {
			runs = h.Runs.Version.String()
			if !h.Runs.Healthy {
				runs += " (unhealthy)"
			}
		}
		if h.Clone {
			why = "another machine uses this host id; " + why
		}
		rows = append(rows, []cell{{h.Host, bold}, {orDash(h.Wave), ""}, {runs, ""}, {orDash(h.Phase), ""}, {ago(now, h.Seen), ""}, {why, ""}})
	}
	return rows
}

func (c *cli) fleetAudit() *cobra.Command {
	var since int64
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Show who did what to the fleet, and why",
		Long: `Prints the operators' log, oldest first, and verifies on this machine that no line in it was changed or left out: each line's hash
covers the one before. Keep the last hash somewhere else to notice also that the end was cut off. With --since it begins behind
a line, whose hash is then taken as it is.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if since < 0 {
				return usageError{"--since takes the number of a line", ""}
			}
			return c.ask(func(o *fleet.Operator) error { return c.showAudit(cmd.Context(), o, since) })
		},
	}
	cmd.Flags().Int64Var(&since, "since", 0, "begin behind the line with this `number`")
	return cmd
}

// showAudit verifies page by page. The line before the first is read too, so that --since joins on to it.
func (c *cli) showAudit(ctx context.Context, o *fleet.Operator, since int64) error {
	var all []fleet.AuditEntry
	var prev *fleet.AuditEntry
	if since > 0 {
		before, err := o.Audit(ctx, since-1)
		if err != nil {
			return err
		}
		if len(before) == 0 {
			return api.NewError(api.KindRefused, fmt.Sprintf("the log has no line %d", since), "")
		}
		prev = &before[0]
	}
	for n := since; ; {
		page, err := o.Audit(ctx, n)
		if err != nil {
			return err
		}
		if err := fleet.VerifyAudit(prev, page); err != nil {
			return failure{err.Error(), "somebody with access to the hub's store did this; see the fleet's incident runbook"}
		}
		all = append(all, page...)
		if len(page) < fleet.AuditPage {
			break
		}
		prev = &page[len(page)-1]
		n = prev.N
	}
	if c.json {
		return c.printJSON(all)
	}
	rows := [][]cell{{{"N", dim}, {"WHEN", dim}, {"BY", dim}, {"ACT", dim}, {"ON", dim}, {"DONE", dim}, {"WHY", dim}}}
	for _, e := range all {
		rows = append(rows, []cell{{fmt.Sprint(e.N), ""}, {clock(c.now(), e.At), ""}, {e.By, ""}, {e.Act, bold}, {e.On, ""}, {e.Done, ""}, {e.Why, ""}})
	}
	c.table(c.out, rows)
	if n := len(all); n > 0 {
		c.say("verified; the last line is %d, with hash %s", all[n-1].N, all[n-1].Hash)
	}
	return nil
}

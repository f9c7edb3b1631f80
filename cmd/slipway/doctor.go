package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/config"
)

func (c *cli) doctor() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look for what could keep deployments from working on this host",
		Long: `Doctor looks at the host itself (clock, disks, mounts, labels, units, boot wiring), which works without the daemon, and then asks
the daemon. The exit code is 1 if a check failed; warnings do not change it.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := config.Load(c.configDir)
			checks := localChecks(system{root: "/"}, c.configDir, h, err, c.now())
			checks = append(checks, c.askDaemon(cmd.Context())...)
			return c.showDoctor(api.DoctorReport{Checks: checks})
		},
	}
}

// askDaemon bounds its wait: a hung daemon is a finding, not a reason to hang.
func (c *cli) askDaemon(ctx context.Context) []api.DoctorCheck {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	r, err := c.api().Doctor(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return []api.DoctorCheck{{Name: "daemon", Status: api.DoctorFail, Message: "slipwayd did not answer for 20 s", Hint: "journalctl -u slipwayd; its guard reverts a trial without it"}}
	}
	if err != nil {
		wire := api.Wire(err)
		status := api.DoctorFail
		if wire.Kind() == api.KindForbidden {
			status = api.DoctorWarn
		}
		return []api.DoctorCheck{{Name: "daemon", Status: status, Message: wire.Message, Hint: wire.Hint}}
	}
	checks := []api.DoctorCheck{{Name: "daemon", Status: api.DoctorOK, Message: "slipwayd answers"}}
	if skew := c.api().Skew(); skew != "" {
		checks[0] = api.DoctorCheck{Name: "daemon", Status: api.DoctorWarn, Message: skew, Hint: "systemctl restart slipwayd"}
	}
	return append(checks, r.Checks...)
}

func (c *cli) showDoctor(r api.DoctorReport) error {
	failed, warned := 0, 0
	for _, k := range r.Checks {
		switch k.Status {
		case api.DoctorFail:
			failed++
		case api.DoctorWarn:
			warned++
		}
	}
	if c.json {
		if err := c.printJSON(r); err != nil {
			return err
		}
	} else {
		c.drawDoctor(r, failed, warned)
	}
	if failed > 0 {
		return ended{exitFailed}
	}
	return nil
}

func (c *cli) drawDoctor(r api.DoctorReport, failed, warned int) {
	var rows [][]cell
	for _, k := range r.Checks {
		col := green
		switch k.Status {
		case api.DoctorFail:
			col = red
		case api.DoctorWarn:
			col = yellow
		}
		rows = append(rows, []cell{{k.Status, col}, {k.Name, bold}, {k.Message, ""}})
		if k.Hint != "" {
			rows = append(rows, []cell{{"", ""}, {"", ""}, {"→ " + k.Hint, dim}})
		}
	}
	c.table(c.out, rows)
	fmt.Fprintf(c.out, "\n%d checks, %d failed, %d warnings\n", len(r.Checks), failed, warned)
}

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/agent/state"
)

// Doctor implements api.Inspector: what only the daemon can see.
func (c *control) Doctor(ctx context.Context) (api.DoctorReport, error) {
	checks := []api.DoctorCheck{c.checkConfig(), c.checkRepository(), c.checkReserve(), c.checkClock()}
	checks = append(checks, c.checkExpiry()...)
	for _, m := range c.d.host.Machines() {
		checks = append(checks, c.checkApp(ctx, m.App().String()))
	}
	checks = append(checks, c.checkFleet()...)
	checks = append(checks, c.checkBoot(ctx)...)
	return api.DoctorReport{Checks: checks}, nil
}

func verdictOf(name string, bad bool, status, message, hint string) api.DoctorCheck {
	if !bad {
		return api.DoctorCheck{Name: name, Status: api.DoctorOK, Message: message}
	}
	return api.DoctorCheck{Name: name, Status: status, Message: message, Hint: hint}
}

func (c *control) checkConfig() api.DoctorCheck {
	c.d.mu.Lock()
	refused := c.d.refused
	c.d.mu.Unlock()
	if refused == "" {
		return verdictOf("configuration", false, "", "the files on disk are in force", "")
	}
	return verdictOf("configuration", true, api.DoctorFail, "the last edit was refused: "+refused, "slipwayd --check-config shows every problem")
}

func (c *control) checkRepository() api.DoctorCheck {
	r := c.repository()
	message := fmt.Sprintf("%s, last confirmed %s", r.State, r.LastRefresh.UTC().Format(time.RFC3339))
	if r.Error != "" {
		message += ": " + r.Error
	}
	return verdictOf("repository", r.State != api.RepositoryOK, api.DoctorFail, message, "what runs goes on; nothing new starts until this is mended")
}

func (c *control) checkReserve() api.DoctorCheck {
	if err := c.d.state.EnsureReserve(); err != nil {
		return verdictOf("state reserve", true, api.DoctorFail, err.Error(), "free some space; nothing is activated before")
	}
	return verdictOf("state reserve", false, "", "space for a revert is set aside", "")
}

func (c *control) checkClock() api.DoctorCheck {
	if c.d.clock.Synchronised() {
		return verdictOf("time", false, "", "signed times are judged by the clock", "")
	}
	return verdictOf("time", true, api.DoctorFail, "the clock is not synchronised, so nothing signed can be judged and nothing starts",
		"start a time service such as systemd-timesyncd or chrony")
}

func (c *control) checkExpiry() []api.DoctorCheck {
	var out []api.DoctorCheck
	now := c.d.clock.Now()
	expires := c.d.host.RefreshState().Metadata.Expires
	for _, role := range slices.Sorted(maps.Keys(expires)) {
		at := expires[role]
		left := at.Sub(now)
		status := api.DoctorWarn
		if left <= 0 {
			status = api.DoctorFail
		}
		short := 6 * time.Hour
		if role != "timestamp" && role != "snapshot" {
			short = 14 * 24 * time.Hour
		}
		out = append(out, verdictOf("expiry of "+role, left < short, status, "expires "+at.UTC().Format(time.RFC3339), "have it signed anew and published"))
	}
	return out
}

func (c *control) checkApp(ctx context.Context, app string) api.DoctorCheck {
	m, err := c.machine(app)
	if err != nil {
		return verdictOf("app "+app, true, api.DoctorFail, err.Error(), "")
	}
	st, err := c.d.state.Read(m.App())
	if err != nil {
		return verdictOf("app "+app, true, api.DoctorFail, err.Error(), "slipwayd sets the damaged file aside when it next looks")
	}
	if _, diffs, err := m.Verify(ctx, true); err == nil && len(diffs) > 0 {
		return verdictOf("app "+app, true, api.DoctorFail, fmt.Sprintf("the live release differs from its manifest in %d places, first %s", len(diffs), diffs[0].Path), "slipway verify "+app+" lists them")
	}
	bad := st.Phase == state.Stuck
	return verdictOf("app "+app, bad, api.DoctorFail, "phase "+string(st.Phase), "slipway why "+app)
}

// checkFleet looks at the identity and at how the coordinators answered last; nothing of it is said of a host without any.
func (c *control) checkFleet() []api.DoctorCheck {
	id, cfg := c.d.identity, c.d.config()
	var out []api.DoctorCheck
	if id.unfit != "" {
		out = append(out, verdictOf("identity", true, api.DoctorFail, id.unfit, "nothing new starts; slipway enroll --new-identity, and then enrol again"))
	}
	if id.home.Enrolled() || cfg.Fleet.Cert != "" {
		out = append(out, c.checkCertificate())
	}
	for _, m := range c.d.host.Machines() {
		s := m.View().Slot
		if s == nil {
			continue
		}
		message := "it answers"
		if s.Reason != "" {
			message = s.Reason
		}
		bad := s.Answer == rollout.AnswerLost || s.Rule == fleet.KindIdentity || s.Rule == fleet.RuleClone || s.Rule == fleet.KindRevoked
		out = append(out, verdictOf("coordinator of "+m.App().String(), bad, api.DoctorFail, message, "the signed on_coordinator_loss says what happens meanwhile; slipway why "+m.App().String()))
	}
	return out
}

// checkCertificate warns once renewal, which begins at two thirds of a certificate's life, is clearly late.
func (c *control) checkCertificate() api.DoctorCheck {
	const name = "certificate for the hub"
	leaf, err := c.d.identity.leaf(c.d.config())
	if err != nil {
		return verdictOf(name, true, api.DoctorFail, err.Error(), "slipway enroll gives this host another")
	}
	now := c.d.clock.Now()
	status := api.DoctorWarn
	if !now.Before(leaf.NotAfter) {
		status = api.DoctorFail
	}
	late := now.After(fleet.RenewAt(leaf).Add(leaf.NotAfter.Sub(leaf.NotBefore) / 12))
	return verdictOf(name, late, status, "speaks for "+c.d.identity.host+" until "+leaf.NotAfter.UTC().Format(time.RFC3339),
		"it should have been renewed by now: is the hub reachable? After its end this host has to enrol again")
}

// checkBoot asks whether what works without the daemon is wired up.
func (c *control) checkBoot(ctx context.Context) []api.DoctorCheck {
	if c.d.config().Supervisor != "systemd" {
		return []api.DoctorCheck{verdictOf("supervisor", true, api.DoctorWarn, c.d.manager.Describe(), "for demonstration and development only: nothing survives the daemon")}
	}
	st, err := c.d.manager.Unit(ctx, "slipway-boot.service")
	switch {
	case err != nil:
		return []api.DoctorCheck{verdictOf("boot guardian", true, api.DoctorFail, "the service manager does not answer: "+err.Error(), "systemctl status")}
	case st.Active == "failed":
		return []api.DoctorCheck{verdictOf("boot guardian", true, api.DoctorFail, "slipway-boot.service failed at this boot: no trial begins",
			"journalctl -u slipway-boot.service; then systemctl restart slipwayd runs it again")}
	}
	return []api.DoctorCheck{verdictOf("boot guardian", st.Load != "loaded", api.DoctorFail, "slipway-boot.service is "+st.Load, "systemctl enable slipway-boot.service")}
}

package release

import (
	"fmt"
	"net/url"
	"time"
)

// Validate checks the rules that types cannot express and returns all problems at once.
func (d *Deployment) Validate() error {
	if err := kindDeployment.schemaError(d.Schema); err != nil {
		return err
	}
	p := &problems{}
	if d.App.IsZero() || d.Environment.IsZero() {
		p.add("app", "app and environment must be set")
		return p.err("deployment")
	}
	if d.Sequence < 1 {
		p.add("sequence", "%d is below 1: every deployment has a higher sequence than the one before", d.Sequence)
	}
	if !wordy(d.RolloutID, 64, "") {
		p.add("rollout_id", "%q is not 1 to 64 of [A-Za-z0-9_-]", d.RolloutID)
	}
	p.oneOf("state", string(d.State), string(StateActive), string(StatePaused), string(StateHalted), string(StateRevert))
	d.validateReleases(p)
	d.validateTimes(p)
	d.validatePolicies(p)
	d.validateFleet(p)
	return p.err("deployment")
}

func (d *Deployment) validateReleases(p *problems) {
	switch {
	case d.Release != nil && d.Absent:
		p.add("absent", "release and absent exclude each other")
	case d.Release == nil && !d.Absent:
		p.add("release", "one of release and absent must be set")
	case d.Absent && d.Fallback != nil:
		p.add("fallback", "an absent app has no fallback")
	case d.State == StateRevert && d.Fallback == nil:
		p.add("fallback", "state revert needs it")
	case d.Release != nil && d.Fallback != nil && d.Release.SHA256 == d.Fallback.SHA256:
		p.add("fallback", "it is the release itself")
	}
	if d.Release != nil {
		p.reference("release", *d.Release, d.App)
	}
	if d.Fallback != nil {
		p.reference("fallback", *d.Fallback, d.App)
	}
}

func (p *problems) reference(field string, ref Reference, app App) {
	owner, _, err := ParseReleasePath(ref.Path)
	if err != nil {
		p.add(field+".path", "%v", err)
	} else if owner != app {
		p.add(field+".path", "%q is a release of %s, not of %s", ref.Path, owner, app)
	}
	if ref.SHA256.IsZero() {
		p.add(field+".sha256", "it is missing")
	}
}

func (d *Deployment) validateTimes(p *problems) {
	if d.Created.IsZero() {
		p.add("created", "it is missing")
	}
	if d.NotBefore != nil && d.NotBefore.IsZero() {
		p.add("not_before", "it is the zero time: leave the field out")
	}
	if d.Expires != nil && !d.Expires.After(d.Created) {
		p.add("expires", "it is not after created")
	}
	if d.Expires != nil && d.NotBefore != nil && !d.Expires.After(*d.NotBefore) {
		p.add("expires", "it is not after not_before")
	}
	p.atMost("freshness", d.Freshness, 365*day)
	p.words("reason", d.Reason, maxWords)
	p.words("ticket", d.Ticket, 256)
	p.words("requested_by", d.RequestedBy, 256)
	p.words("salt", d.Salt, 64)
}

func (d *Deployment) validatePolicies(p *problems) {
	p.oneOf("on_first_failure", d.OnFirstFailure, "", "remove", "keep")
	p.oneOf("on_revoked", d.OnRevoked, "", "keep", "revert", "stop")
	if h := d.Health; h != nil {
		p.atMost("health.min_healthy_time", h.MinHealthyTime, 30*day)
		p.atMost("health.healthy_deadline", h.HealthyDeadline, 30*day)
		if h.HealthyDeadline > 0 && h.MinHealthyTime >= h.HealthyDeadline {
			p.add("health.min_healthy_time", "%s is not shorter than the healthy_deadline of %s: no trial could pass", h.MinHealthyTime, h.HealthyDeadline)
		}
		p.span("health.boots", int64(h.Boots), 0, 100)
		p.span("health.checks", int64(len(h.Checks)), 0, 100)
		for name, t := range h.Checks {
			if !wordy(name, 48, "") {
				p.add("health.checks", "%q is no name of a check", name)
				continue
			}
			p.timing("health.checks."+name, t)
		}
	}
	if g := d.Gates; g != nil {
		for name, gate := range map[string]*GatePolicy{"provenance": g.Provenance, "sbom": g.SBOM, "malware": g.Malware, "command": g.Command} {
			if gate != nil && gate.Policy != nil {
				p.policyReference("gates."+name+".policy", *gate.Policy)
			}
		}
	}
}

// policyReference checks the path of a policy document. Who may sign it is TUF's business.
func (p *problems) policyReference(field string, ref Reference) {
	p.treePath(field+".path", ref.Path)
	if ref.SHA256.IsZero() {
		p.add(field+".sha256", "it is missing")
	}
}

func (d *Deployment) validateFleet(p *problems) {
	p.span("population", d.Population, 0, 1<<32)
	d.validateWaves(p)
	d.validateBudget(p)
	p.span("windows", int64(len(d.Windows)), 0, 100)
	for i := range d.Windows {
		d.Windows[i].validate(p, fmt.Sprintf("windows[%d]", i))
	}
	p.span("freeze", int64(len(d.Freeze)), 0, maxList)
	for i, f := range d.Freeze {
		at := fmt.Sprintf("freeze[%d]", i)
		if !f.Until.After(f.From) {
			p.add(at+".until", "it is not after from")
		}
		p.words(at+".reason", f.Reason, maxWords)
	}
	d.validateHalt(p)
	d.validateCoordinator(p)
	if d.Inventory != nil && d.Inventory.SHA256.IsZero() {
		p.add("inventory.sha256", "it is missing")
	}
}

func (d *Deployment) validateHalt(p *problems) {
	if h := d.Halt; h != nil {
		p.span("halt.max_failures", int64(h.MaxFailures), 0, 1<<32)
		p.span("halt.max_failure_bp", int64(h.MaxFailureBP), 0, 10000)
		p.span("halt.min_sample", int64(h.MinSample), 0, 1<<32)
		p.span("halt.max_lost", int64(h.MaxLost), 0, 1<<32)
		p.atMost("halt.update_deadline", h.UpdateDeadline, 30*day)
		p.atMost("halt.progress_deadline", h.ProgressDeadline, 365*day)
		p.oneOf("halt.on_halt", h.OnHalt, "", "stop", "revert")
		if h.OnHalt == "revert" && d.Fallback == nil {
			p.add("halt.on_halt", "revert needs a signed fallback")
		}
	}
	if r := d.Revert; r != nil {
		p.span("revert.max_unavailable", int64(r.MaxUnavailable), 0, 1<<32)
		p.atMost("revert.spread", r.Spread, 30*day)
	}
}

func (d *Deployment) validateCoordinator(p *problems) {
	p.oneOf("on_coordinator_loss", d.OnCoordinatorLoss, "", "hold", "signed-schedule")
	p.atMost("coordinator_grace", d.CoordinatorGrace, 30*day)
	c := d.Coordinator
	if c == nil {
		return
	}
	p.oneOf("coordinator.kind", c.Kind, "none", "hub", "fleetlock")
	if c.Group != "" && !wordy(c.Group, 64, ".") {
		p.add("coordinator.group", "%q is not 1 to 64 of [A-Za-z0-9_.-]", c.Group)
	}
	if c.Kind == "none" && len(c.URLs) > 0 {
		p.add("coordinator.urls", "kind none has no urls")
	}
	if c.Kind == "fleetlock" && len(c.URLs) == 0 {
		p.add("coordinator.urls", "kind fleetlock needs one")
	}
	p.span("coordinator.urls", int64(len(c.URLs)), 0, 32)
	for i, text := range c.URLs {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Fragment != "" {
			p.add(fmt.Sprintf("coordinator.urls[%d]", i), "%q is no plain http or https URL", text)
		}
	}
}

// location resolves a zone's name as the host's tz database knows it. A host without that database accepts only UTC unless
// its binary embeds time/tzdata, which the programs under cmd do.
func location(name string) (*time.Location, error) {
	if name == "Local" {
		return nil, fmt.Errorf("it differs from host to host")
	}
	return time.LoadLocation(name)
}

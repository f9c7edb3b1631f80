package release

import (
	"fmt"
	"time"
)

// Validate checks the rules that types cannot express and returns all problems at once.
func (r *Release) Validate() error {
	if err := kindRelease.schemaError(r.Schema); err != nil {
		return err
	}
	p := &problems{}
	if r.App.IsZero() || r.Version.IsZero() {
		p.add("app", "app and version must be set")
		return p.err("release")
	}
	if r.Created.IsZero() {
		p.add("created", "it is missing")
	}
	if r.Source != nil {
		p.words("source.repository", r.Source.Repository, maxWords)
		p.words("source.commit", r.Source.Commit, 128)
	}
	r.validateArtifacts(p)
	r.validateUnits(p)
	r.validateHost(p)
	r.validateChecks(p)
	r.validateHooks(p)
	if r.RollbackFloor != nil && r.RollbackFloor.Compare(r.Version) > 0 {
		p.add("rollback_floor", "%s is newer than the release itself", r.RollbackFloor)
	}
	return p.err("release")
}

func (r *Release) validateArtifacts(p *problems) {
	folder := releaseFolder(r.App, r.Version)
	if len(r.Platforms) == 0 {
		p.add("platforms", "at least one platform is needed")
	}
	for platform, a := range r.Platforms {
		at := "platforms." + platform.String()
		if platform.IsZero() {
			p.add("platforms", "a platform has no name")
		}
		p.file(at+".archive", a.Archive, folder, maxArchive)
		p.file(at+".manifest", a.Manifest, folder, int64(kindManifest.limit))
		p.span(at+".unpacked", a.Unpacked, 0, maxArchive)
		p.span(at+".files", a.Files, 1, maxEntries)
	}
	if r.SBOM != nil {
		p.file("sbom", *r.SBOM, folder, maxArchive)
	}
	for field, files := range map[string][]File{"provenance": r.Provenance, "approvals": r.Approvals} {
		p.span(field, int64(len(files)), 0, maxList)
		for i, f := range files {
			p.file(fmt.Sprintf("%s[%d]", field, i), f, folder, maxArchive)
		}
	}
	p.span("patches", int64(len(r.Patches)), 0, maxList)
	for i, patch := range r.Patches {
		at := fmt.Sprintf("patches[%d]", i)
		if patch.Platform.IsZero() || patch.From.IsZero() {
			p.add(at, "platform and from must be set")
		}
		p.file(at+".file", patch.File, folder, maxArchive)
	}
}

func (r *Release) validateUnits(p *problems) {
	p.oneOf("restart", string(r.Restart), string(RestartModeRestart), string(RestartModeReload), string(RestartModeSocket), string(RestartModeNone))
	p.span("units", int64(len(r.Units)), 0, maxList)
	seen, socket := map[UnitName]bool{}, false
	for i, u := range r.Units {
		at := fmt.Sprintf("units[%d]", i)
		if !u.Name.BelongsTo(r.App) {
			p.add(at+".name", "%q is not of the app: it must be %s, %s-… or %s@…", u.Name, r.App, r.App, r.App)
		} else if seen[u.Name] {
			p.add(at+".name", "%s appears twice", u.Name)
		}
		seen[u.Name] = true
		socket = socket || u.Name.Kind() == "socket"
		p.treePath(at+".path", u.Path)
	}
	if r.Restart == RestartModeSocket && !socket {
		p.add("restart", "mode socket needs a .socket unit among the units")
	}
}

func (r *Release) validateHost(p *problems) {
	p.span("users", int64(len(r.Users)), 0, maxList)
	users := map[string]bool{}
	for i, u := range r.Users {
		at := fmt.Sprintf("users[%d]", i)
		p.appUser(at+".name", u.Name, r.App)
		if users[u.Name] {
			p.add(at+".name", "%q appears twice", u.Name)
		}
		users[u.Name] = true
		if u.Home != "" && u.Home != "/nonexistent" {
			p.appDir(at+".home", u.Home, r.App)
		}
	}
	p.span("directories", int64(len(r.Dirs)), 0, maxList)
	for i, d := range r.Dirs {
		at := fmt.Sprintf("directories[%d]", i)
		p.appDir(at+".path", d.Path, r.App)
		if mode, err := parseMode(d.Mode); err != nil {
			p.add(at+".mode", "%v", err)
		} else if mode&0o002 != 0 {
			p.add(at+".mode", "%s lets everybody write", d.Mode)
		}
		if d.User != "root" {
			p.appUser(at+".user", d.User, r.App)
		}
		if d.Group != "" && d.Group != "root" {
			p.appUser(at+".group", d.Group, r.App)
		}
	}
}

func (r *Release) validateChecks(p *problems) {
	p.span("checks", int64(len(r.Checks)), 0, 100)
	seen := map[string]bool{}
	for i, c := range r.Checks {
		at := fmt.Sprintf("checks[%d]", i)
		if !wordy(c.Name, 48, "") {
			p.add(at+".name", "%q is not 1 to 48 of [A-Za-z0-9_-]", c.Name)
		} else if seen[c.Name] {
			p.add(at+".name", "%q appears twice", c.Name)
		}
		seen[c.Name] = true
		c.validateFields(p, at)
		c.validateKind(p, at, r.App)
		p.timing(at, c.Timing)
	}
}

// checkFields says which fields a kind may set; the first of them is the one it must.
var checkFields = map[CheckKind][]string{
	CheckUnitState: {"unit"},
	CheckHTTP:      {"url", "status"},
	CheckTCP:       {"address"},
	CheckExec:      {"command", "user"},
	CheckGRPC:      {"address", "service"},
}

func (c *Check) validateFields(p *problems, at string) {
	allowed, known := checkFields[c.Kind]
	if !known {
		p.add(at+".kind", "%q is none of unit, http, tcp, exec, grpc", c.Kind)
		return
	}
	set := []struct {
		field string
		set   bool
	}{
		{"unit", !c.Unit.IsZero()}, {"url", c.URL != ""}, {"status", c.Status != 0}, {"address", c.Address != ""},
		{"service", c.Service != ""}, {"command", len(c.Command) > 0}, {"user", c.User != ""},
	}
	for _, f := range set {
		may := false
		for _, name := range allowed {
			may = may || name == f.field
		}
		if f.set && !may {
			p.add(at+"."+f.field, "a check of kind %s must not set it", c.Kind)
		}
		if !f.set && f.field == allowed[0] {
			p.add(at+"."+f.field, "a check of kind %s needs it", c.Kind)
		}
	}
}

func (c *Check) validateKind(p *problems, at string, app App) {
	if !c.Unit.IsZero() && !c.Unit.BelongsTo(app) {
		p.add(at+".unit", "%q is not a unit of %s", c.Unit, app)
	}
	if c.URL != "" {
		p.loopbackURL(at+".url", c.URL)
	}
	if c.Status != 0 {
		p.span(at+".status", int64(c.Status), 100, 599)
	}
	if c.Address != "" {
		p.address(at+".address", c.Address)
	}
	p.words(at+".service", c.Service, 256)
	if len(c.Command) > 0 {
		p.command(at+".command", c.Command)
	}
	if c.User != "" {
		p.appUser(at+".user", c.User, app)
	}
}

func (r *Release) validateHooks(p *problems) {
	if r.Hooks == nil {
		return
	}
	for name, h := range map[string]*Command{"pre_activate": r.Hooks.PreActivate, "post_commit": r.Hooks.PostCommit, "post_revert": r.Hooks.PostRevert} {
		if h == nil {
			continue
		}
		at := "hooks." + name
		p.command(at+".command", h.Command)
		if h.User != "" {
			p.appUser(at+".user", h.User, r.App)
		}
		p.atMost(at+".timeout", h.Timeout, Duration(6*time.Hour))
	}
}

package config

import (
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"
)

// Print writes the effective configuration as TOML: every option with the value in force. Tables apps.NAME hold what apps.d/NAME.toml
// said. It is meant for people and for comparing two configurations; the order is always the same.
func Print(w io.Writer, h *Host) error {
	p := &printer{}
	for _, f := range h.Files {
		p.line("# read %s", f)
	}
	for _, u := range h.unsafe {
		p.line("# UNSAFE %s", u)
	}
	p.text("environment", h.Environment)
	if h.HostID == "" {
		p.line("# host_id is derived from the machine")
	} else {
		p.text("host_id", h.HostID)
	}
	p.text("supervisor", h.Supervisor)
	p.pairs("labels", h.Labels)
	p.repository(h.Repository)
	p.head("paths")
	p.text("install", h.Paths.Install)
	p.text("state", h.Paths.State)
	p.text("run", h.Paths.Run)
	p.text("units", h.Paths.Units)
	p.head("poll")
	p.text("interval", formatDuration(h.Poll.Interval))
	p.line("jitter = %s", formatFloat(h.Poll.Jitter))
	p.fleet(h.Fleet)
	p.head("space")
	p.text("reserve", formatSize(h.Space.Reserve))
	p.head("retention")
	p.line("keep = %d", h.Retention.Keep)
	p.text("min_age", formatDuration(h.Retention.MinAge))
	p.head("clock")
	if h.Clock.MaxStep != 0 {
		p.text("max_step", formatDuration(h.Clock.MaxStep))
	}
	p.line("unsafe_unsynchronised = %v", h.Clock.UnsafeUnsynchronised)
	p.members("viewer", h.Roles.Viewer)
	p.members("operator", h.Roles.Operator)
	p.members("security", h.Roles.Security)
	p.members("admin", h.Roles.Admin)
	p.head("metrics")
	if h.Metrics.Listen == "" {
		p.line("# listen is off")
	} else {
		p.text("listen", h.Metrics.Listen)
	}
	p.head("log")
	p.text("level", h.Log.Level)
	for _, name := range sortedKeys(h.Apps) {
		p.app(name, h.Apps[name])
	}
	_, err := io.WriteString(w, p.b.String())
	return err
}

type printer struct{ b strings.Builder }

func (p *printer) line(format string, args ...any) { fmt.Fprintf(&p.b, format+"\n", args...) }

func (p *printer) head(name string) { p.line("\n[%s]", name) }

func (p *printer) text(key, value string) { p.line("%s = %s", keyText(key), quote(value)) }

func (p *printer) textIfSet(key, value string) {
	if value != "" {
		p.text(key, value)
	}
}

func (p *printer) pairs(name string, m map[string]string) {
	p.head(name)
	for _, k := range sortedKeys(m) {
		p.text(k, m[k])
	}
}

func (p *printer) repository(r Repository) {
	p.head("repository")
	p.text("root", r.Root)
	p.textIfSet("proxy", r.Proxy)
	p.textIfSet("ca_file", r.CAFile)
	p.textIfSet("client_cert", r.ClientCert)
	p.textIfSet("client_key", r.ClientKey)
	p.textIfSet("auth_header_file", r.AuthHeaderFile)
	if r.MaxBundleAge != 0 {
		p.text("max_bundle_age", formatDuration(r.MaxBundleAge))
	}
	for _, m := range r.Mirrors {
		p.line("\n[[repository.mirrors]]")
		p.text("metadata", m.Metadata)
		p.text("targets", m.Targets)
	}
}

func (p *printer) fleet(f HostFleet) {
	p.head("fleet")
	if len(f.URLs) == 0 {
		p.line("# urls are those that deployments name")
	} else {
		p.line("urls = %s", quoteAll(f.URLs))
	}
	p.textIfSet("ca", f.CA)
	p.textIfSet("cert", f.Cert)
	p.textIfSet("key", f.Key)
	p.text("poll", formatDuration(f.Poll))
}

func (p *printer) members(role string, m Members) {
	p.head("roles." + role)
	p.line("users = %s", quoteAll(m.Users))
	p.line("groups = %s", quoteAll(m.Groups))
}

func (p *printer) app(name string, a App) {
	table := "apps." + keyText(name)
	p.head(table)
	p.line("enabled = %v", a.Enabled)
	p.line("allow_root = %v", a.AllowRoot)
	p.line("unsafe_remote_checks = %v", a.UnsafeRemoteChecks)
	p.pairs(table+".env", a.Env)
	p.pairs(table+".credentials", a.Credentials)
	for _, check := range sortedKeys(a.Checks) {
		c := a.Checks[check]
		p.head(table + ".checks." + keyText(check))
		p.textIfSet("url", c.URL)
		p.textIfSet("address", c.Address)
		if c.Port != 0 {
			p.line("port = %d", c.Port)
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

func keyText(k string) string {
	if bareKey(k) {
		return k
	}
	return quote(k)
}

// quote writes a basic TOML string. Go's own quoting differs for control characters.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func quoteAll(list []string) string {
	out := make([]string, 0, len(list))
	for _, s := range list {
		out = append(out, quote(s))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

func formatFloat(f float64) string {
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// Package units owns what Slipway writes into systemd's unit directory: generated copies of the units a release ships, our
// drop-ins beside them, and the links that start them at boot. It writes files and decides nothing about jobs; whoever
// calls it reloads the service manager when something changed.
//
//	<dir>/                          /etc/systemd/system
//	  billing.service               generated copy, first line "# slipway: app=billing …"
//	  billing.service.d/
//	    10-slipway.conf             After=slipway-boot.service, the host's environment and credentials
//	    20-slipway-trial.conf       from before the swap to the end of a trial: Requires=slipway-boot.service
//	  multi-user.target.wants/
//	    billing.service -> ../billing.service
//
// The links are made here and never by `systemctl enable`, which would write a path inside one release and dangle once that
// release is pruned.
package units

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/slipway-deploy/slipway/agent/release"
)

// Set is everything the unit directory must hold for one release of an app, rendered. It is kept with the app's state, so
// that going back to a release neither parses nor decides anything.
type Set struct {
	App release.App `json:"app"`
	ID  release.ID  `json:"id"`
	// Files holds the unit files by name, DropIns the 10-slipway.conf of each unit by unit name.
	Files   map[string]string `json:"files"`
	DropIns map[string]string `json:"drop_ins"`
	// Links are the boot links, "<target>.wants/<unit>" or "<target>.requires/<unit>".
	Links []string `json:"links,omitempty"`
	// Start lists the units an activation starts or restarts, sockets first; Idle those that only run when something
	// else starts them.
	Start []string `json:"start,omitempty"`
	Idle  []string `json:"idle,omitempty"`
}

// Options are the host's part in rendering.
type Options struct {
	// AppRoot is the app's directory, /opt/slipway/<app>.
	AppRoot string
	// Env and Credentials come from the host's configuration: variables, and names with the paths systemd loads.
	Env         map[string]string
	Credentials map[string]string
	AllowRoot   bool
}

// RefusedError says that a unit may not come onto this host.
type RefusedError struct {
	Unit   string
	Reason string
}

func (e *RefusedError) Error() string { return fmt.Sprintf("cannot use unit %s: %s", e.Unit, e.Reason) }

// Kind names this error for metrics and the wire.
func (e *RefusedError) Kind() string { return "unit-refused" }

const unitFileMax = 256 << 10

// Render reads the units rel ships from tree, checks them against the rules of the app's confinement and renders them for
// this host. It writes nothing.
func Render(rel *release.Release, id release.ID, tree string, o Options) (*Set, error) {
	set := &Set{App: rel.App, ID: id, Files: map[string]string{}, DropIns: map[string]string{}}
	if err := o.checkCredentials(rel.App); err != nil {
		return nil, err
	}
	rules := release.UnitRules{AppRoot: o.AppRoot, AllowRoot: o.AllowRoot}
	root, err := os.OpenRoot(tree)
	if err != nil {
		return nil, fmt.Errorf("cannot open release %s: %w", id, err)
	}
	defer root.Close()
	for _, u := range rel.Units {
		data, err := readUnit(root, u.Path)
		if err != nil {
			return nil, &RefusedError{Unit: u.Name.String(), Reason: err.Error()}
		}
		if err := release.CheckUnit(rel.App, u.Name, data, rules); err != nil {
			return nil, &RefusedError{Unit: u.Name.String(), Reason: err.Error()}
		}
		text := release.RenderUnit(data, release.UnitVars{Current: filepath.Join(o.AppRoot, "current"), App: rel.App})
		name := u.Name.String()
		set.Files[name] = header(rel.App, id) + string(text)
		set.DropIns[name] = header(rel.App, id) + dropIn(name, o)
		set.wire(name, text)
	}
	slices.Sort(set.Links)
	slices.SortStableFunc(set.Start, func(a, b string) int { return rank(a) - rank(b) })
	return set, nil
}

func readUnit(root *os.Root, path string) ([]byte, error) {
	st, err := root.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > unitFileMax {
		return nil, fmt.Errorf("it must be a regular file of at most %d KiB", unitFileMax>>10)
	}
	return root.ReadFile(path)
}

// wire sorts a unit into boot links and start list. Templates are never started by themselves; a unit without an install
// section is started by whatever refers to it.
func (s *Set) wire(name string, data []byte) {
	links := release.UnitInstall(data)
	for _, target := range links.WantedBy {
		s.Links = append(s.Links, target+".wants/"+name)
	}
	for _, target := range links.RequiredBy {
		s.Links = append(s.Links, target+".requires/"+name)
	}
	if strings.Contains(name, "@.") || len(links.WantedBy)+len(links.RequiredBy) == 0 {
		s.Idle = append(s.Idle, name)
		return
	}
	s.Start = append(s.Start, name)
}

func rank(unit string) int {
	switch filepath.Ext(unit) {
	case ".socket":
		return 0
	case ".service":
		return 1
	}
	return 2
}

const marker = "# slipway: app="

func header(app release.App, id release.ID) string {
	return fmt.Sprintf("%s%s release=%s\n# Generated by slipwayd. Edits are reported as drift and lost at the next activation.\n", marker, app, id)
}

// owner returns the app named in a generated file's first line, or "" if the file is not ours.
func owner(data []byte) string {
	line, _, _ := strings.Cut(string(data), "\n")
	rest, ok := strings.CutPrefix(line, marker)
	if !ok {
		return ""
	}
	app, _, _ := strings.Cut(rest, " ")
	return app
}

func dropIn(name string, o Options) string {
	var b strings.Builder
	b.WriteString("[Unit]\nAfter=slipway-boot.service\n")
	if filepath.Ext(name) != ".service" {
		return b.String()
	}
	b.WriteString("\n[Service]\n")
	for _, k := range slices.Sorted(maps.Keys(o.Env)) {
		fmt.Fprintf(&b, "Environment=%s\n", quote(k+"="+o.Env[k]))
	}
	for _, k := range slices.Sorted(maps.Keys(o.Credentials)) {
		fmt.Fprintf(&b, "LoadCredential=%s:%s\n", k, strings.ReplaceAll(o.Credentials[k], "%", "%%"))
	}
	return b.String()
}

// trialText is the drop-in a unit has during a trial. No unit starts unless the guardian has run. Behind a socket the start
// limits are off: every waiting request starts a release that dies again, and once a limit is hit systemd closes the socket,
// which would fail requests that only need to wait for the revert. How often it dies is judged by the trial's own checks.
func (s *Set) trialText(name string) string {
	text := header(s.App, s.ID) + "[Unit]\nRequires=slipway-boot.service\n"
	switch {
	case filepath.Ext(name) == ".socket":
		return text + "\n[Socket]\nTriggerLimitIntervalSec=0\n"
	case IsService(name) && s.hasSocket():
		return text + "StartLimitIntervalSec=0\n"
	}
	return text
}

func (s *Set) hasSocket() bool {
	for name := range s.Files {
		if filepath.Ext(name) == ".socket" {
			return true
		}
	}
	return false
}

// quote writes s as one word of a unit file: systemd.syntax(7) quoting, with specifiers taken literally. Control characters
// are escaped, because systemd ends a line at a carriage return too.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '\\' || c == '"':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c == '%':
			b.WriteString("%%")
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, "\\x%02x", c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// checkCredentials refuses what cannot be written: a credential's path is taken to the end of its line, unquoted.
func (o Options) checkCredentials(app release.App) error {
	for name, path := range o.Credentials {
		if strings.ContainsFunc(name+path, unicode.IsControl) {
			return &RefusedError{Unit: app.String() + ".service", Reason: fmt.Sprintf("the path %q of credential %q has a control character", path, name)}
		}
	}
	return nil
}

// Inert is the set with nothing that starts it: no boot links and no units to start.
func (s *Set) Inert() *Set {
	out := *s
	out.Links, out.Start, out.Idle = nil, nil, s.Names()
	return &out
}

// Encode returns the set as it is kept with the app's state.
func (s *Set) Encode() []byte {
	data, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings and maps of strings always encode
	}
	return append(data, '\n')
}

// Decode reads what Encode wrote.
func Decode(data []byte) (*Set, error) {
	var s Set
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("cannot read kept units: %w", err)
	}
	return &s, nil
}

// Names lists the set's units in order of name.
func (s *Set) Names() []string { return slices.Sorted(maps.Keys(s.Files)) }

// IsService reports whether a unit runs processes.
func IsService(unit string) bool { return filepath.Ext(unit) == ".service" }

// HasSocketFor reports whether the set has a socket of the service's own name.
func (s *Set) HasSocketFor(service string) bool {
	stem := strings.TrimSuffix(service, ".service")
	_, ok := s.Files[stem+".socket"]
	return ok && IsService(service)
}

// IsTemplate reports whether a name is a template, which cannot be started, stopped or asked about by itself.
func IsTemplate(unit string) bool { return strings.Contains(unit, "@.") }

package release

import (
	"path"
	"slices"
	"strings"
)

// UnitRules are what the host adds to the rules.
type UnitRules struct {
	// AppRoot is the app's directory on the host, such as /opt/slipway/billing.
	AppRoot string
	// AllowRoot lifts the rules that confine a service to the app's user. It is the host's decision for this app, never
	// the release's.
	AllowRoot bool
}

// CheckUnit refuses a unit file that could reach beyond its app. Signing a release grants what its units grant, so the rules
// are a list of what is allowed; a directive that is not on it is refused, with the line and the reason. It checks the file
// as RenderUnit will write it. All problems are in one *UnitError.
//
// The rules, for writers of releases:
//
//   - The name is <app>, <app>-… or <app>@…, of kind service, socket, timer, path or target. Only [Unit], [Install] and the
//     section of the kind may occur.
//   - A service sets User= to <app> or <app>-…, or DynamicUser=yes; Group= and SupplementaryGroups= likewise.
//   - The program of every Exec…= lies in @current@/ (or /opt/slipway/<app>/current/), is not quoted, and has no prefix that
//     raises rights (+, !, !!). No shell of the host, no second command after ";".
//   - Wants=, Requires=, BindsTo= and WantedBy= name units of the app or well-known targets; After=, PartOf=
//     and Requisite= may name any unit. Conflicts=, OnFailure=, OnSuccess=, Unit=, Service=, Sockets=, Also=,
//     JoinsNamespaceOf= and Propagates…To= name units of the app. Alias= and DefaultInstance= are refused.
//   - Directories made by systemd (StateDirectory= and its siblings) are <app> or <app>-…; EnvironmentFile= and
//     LoadCredential= point into the release; PIDFile= and socket paths into the release or the app's own directories.
//   - Capabilities: at most CAP_NET_BIND_SERVICE. Output goes to the journal, a socket or nowhere.
//   - Hardening (Protect…, Private…, Restrict…, SystemCall…) and limits are free. FailureAction= and its like are none.
//   - The file is UTF-8 without control characters; a backslash continues a directive only as the last byte of its line,
//     and no comment may interrupt it.
//
// With the host's allow_root, a service may run as root, programs may be anywhere, and directives that are not on the list
// are accepted; names and references stay confined.
func CheckUnit(app App, name UnitName, content []byte, rules UnitRules) error {
	c := &unitCheck{app: app, kind: name.Kind(), rules: rules, current: rules.AppRoot + "/current"}
	if !name.BelongsTo(app) {
		c.refuse(unitLine{}, "the name is not "+app.String()+", "+app.String()+"-… or "+app.String()+"@…")
	}
	lines, bad := readUnit(RenderUnit(content, UnitVars{Current: c.current, App: app}))
	c.bad = append(c.bad, bad...)
	sections := map[string]bool{}
	for _, l := range lines {
		sections[l.section] = true
		c.line(l)
	}
	if own := unitSection[c.kind]; own != "" && !sections[own] {
		c.refuse(unitLine{}, "it has no ["+own+"] section")
	}
	if c.kind == "service" && !rules.AllowRoot {
		c.user(lines)
	}
	if len(c.bad) == 0 {
		return nil
	}
	return &UnitError{name, c.bad}
}

type unitCheck struct {
	app     App
	kind    string
	rules   UnitRules
	current string
	bad     []UnitProblem
}

func (c *unitCheck) refuse(l unitLine, reason string) {
	directive := ""
	if l.key != "" {
		directive = l.key + "="
	}
	c.bad = append(c.bad, UnitProblem{l.line, directive, reason})
}

// unitSection is the section that belongs to a kind of unit.
var unitSection = map[string]string{"service": "Service", "socket": "Socket", "timer": "Timer", "path": "Path"}

func (c *unitCheck) line(l unitLine) {
	if l.section != "Unit" && l.section != "Install" && l.section != unitSection[c.kind] {
		c.refuse(l, "section ["+l.section+"] has no place in a ."+c.kind+" unit")
		return
	}
	rule, known := unitRules[l.section][l.key]
	switch {
	case known && rule == nil, !known && c.free(l):
		return
	case !known && l.section == "Install":
		c.refuse(l, "only WantedBy, RequiredBy and Also are allowed in [Install]")
	case !known && !c.rules.AllowRoot:
		c.refuse(l, "the directive is not on the list of those a release may use; a host can set it in a drop-in of its own")
	case known && l.value != "":
		if why := rule(c, l.value); why != "" {
			c.refuse(l, why)
		}
	}
}

// free reports directives that are allowed by the beginning of their name: they only take rights away or set limits.
func (c *unitCheck) free(l unitLine) bool {
	prefixes := map[string][]string{
		"Unit":    {"Condition", "Assert"},
		"Service": {"Private", "Protect", "Restrict", "SystemCall", "Limit", "Memory", "Tasks", "IO", "IPAddress", "Timeout", "Watchdog", "Syslog", "LogRateLimit"},
		"Socket":  {"KeepAlive", "TriggerLimit", "PollLimit", "MaxConnections"},
		"Timer":   {"On"},
		"Path":    {"TriggerLimit"},
	}
	return slices.ContainsFunc(prefixes[l.section], func(p string) bool { return strings.HasPrefix(l.key, p) })
}

// user demands that what counts in the end, the last assignment, is not root.
func (c *unitCheck) user(lines []unitLine) {
	user, dynamic := "", false
	for _, l := range lines {
		switch {
		case l.section != "Service":
		case l.key == "User":
			user = l.value
		case l.key == "DynamicUser":
			dynamic = slices.Contains([]string{"1", "yes", "y", "true", "t", "on"}, strings.ToLower(l.value))
		}
	}
	if user == "" && !dynamic {
		c.refuse(unitLine{}, "it has neither User="+c.app.String()+" nor DynamicUser=yes, so it would run as root, which needs the host's allow_root")
	}
}

// targets are the foreign units that may be wanted or required, and those a unit may be enabled for. None of them stops
// anything when it is started.
var (
	targets      = []string{"basic.target", "local-fs.target", "network-online.target", "network.target", "nss-lookup.target", "nss-user-lookup.target", "remote-fs.target", "sysinit.target", "time-set.target", "time-sync.target"}
	enablers     = []string{"multi-user.target", "graphical.target"}
	beforeOthers = []string{"shutdown.target", "multi-user.target", "graphical.target"}
)

// own reports whether a reference can only mean a unit of the app. Specifiers may follow the app's prefix, not replace it.
func (c *unitCheck) own(ref string) bool {
	dot := strings.LastIndexByte(ref, '.')
	if dot < 1 || !slices.Contains(UnitKinds, ref[dot+1:]) || strings.ContainsAny(ref, "/\\\"'*?[") {
		return false
	}
	stem := ref[:dot]
	return c.app.Owns(stem) || strings.HasPrefix(stem, c.app.String()+"@")
}

// refs makes the rule that every unit named is the app's own or one of others.
func refs(others ...string) unitRule {
	return func(c *unitCheck, value string) string {
		for _, ref := range strings.Fields(value) {
			if !c.own(ref) && !slices.Contains(others, ref) {
				what := "a unit of " + c.app.String()
				if len(others) > 0 {
					what += " or one of " + strings.Join(others, ", ")
				}
				return ref + " is not " + what
			}
		}
		return ""
	}
}

// enabler allows units of the app, the two targets of a running host, and for sockets, timers and paths the target of their
// kind. A service wanted by sockets.target would come both before and after basic.target: an ordering cycle, which PID 1
// breaks by dropping somebody's start.
func enabler(c *unitCheck, value string) string {
	others := enablers
	switch c.kind {
	case "socket", "timer", "path":
		others = append([]string{c.kind + "s.target"}, enablers...)
	}
	return refs(others...)(c, value)
}

// killMode allows the modes that end every process of a unit: what stays behind would run on unwatched.
func killMode(_ *unitCheck, value string) string {
	if value != "control-group" && value != "mixed" {
		return value + " leaves processes running after a stop: use control-group or mixed"
	}
	return ""
}

func ownUsers(c *unitCheck, value string) string {
	for _, u := range strings.Fields(value) {
		if labelProblem(u, maxUser) != "" || !c.app.Owns(u) {
			return u + " is not " + c.app.String() + " or " + c.app.String() + "-…; others, root too, need the host's allow_root"
		}
	}
	return ""
}

// program checks one Exec…= line: prefixes, one command, and a program inside the release.
func program(c *unitCheck, value string) string {
	if c.rules.AllowRoot {
		return ""
	}
	rest := value
	for rest != "" && strings.IndexByte("@-:+!|", rest[0]) >= 0 {
		if strings.IndexByte("+!|", rest[0]) >= 0 {
			return "the prefix " + rest[:1] + " runs the program with other rights, which needs the host's allow_root"
		}
		rest = rest[1:]
	}
	words := strings.Fields(rest)
	if len(words) == 0 {
		return "it has no program"
	}
	if slices.Contains(words, ";") {
		return "a second command after ; is not allowed: write another line"
	}
	if !inside(words[0], c.current) {
		return words[0] + " is not inside @current@/: a release runs only its own programs, and a program must not be quoted or computed"
	}
	return ""
}

// inside reports a clean path below dir that systemd takes literally.
func inside(p, dir string) bool {
	return strings.HasPrefix(p, dir+"/") && path.Clean(p) == p && !strings.ContainsAny(p, "\\\"'%$*?[")
}

// ownPath allows paths inside the release and in the app's own directories.
func ownPath(c *unitCheck, value string) string {
	p := strings.TrimPrefix(value, "-")
	if inside(p, c.current) {
		return ""
	}
	var found problems
	found.appDir("", p, c.app)
	if len(found.list) > 0 || strings.ContainsAny(p, "*?[ ") {
		return p + " is neither inside @current@/ nor in a directory of the app below " + strings.Join(appDirs, ", ")
	}
	return ""
}

// releasePath allows files inside the release only. PID 1 reads them as root and follows links, so a file in a directory that
// the app's user can write could name anybody's secret.
func releasePath(c *unitCheck, value string) string {
	if p := strings.TrimPrefix(value, "-"); !inside(p, c.current) {
		return p + " is not inside @current@/: a host gives variables and credentials in its own configuration"
	}
	return ""
}

// ownDirs checks the names of directories that systemd makes below /run, /var/lib and so on.
func ownDirs(c *unitCheck, value string) string {
	for _, d := range strings.Fields(value) {
		first, _, _ := strings.Cut(d, "/")
		if path.Clean(d) != d || strings.ContainsAny(d, ":\\\"'%") || !c.app.Owns(first) {
			return d + " is not below a directory named " + c.app.String() + " or " + c.app.String() + "-…"
		}
	}
	return ""
}

func credential(c *unitCheck, value string) string {
	_, file, found := strings.Cut(value, ":")
	if !found {
		return "it names no file: a host provides credentials in its own configuration"
	}
	return releasePath(c, file)
}

// listen allows ports, addresses with ports, abstract names of the app and paths in its directories.
func listen(c *unitCheck, value string) string {
	switch {
	case value[0] == '/':
		return ownPath(c, value)
	case value[0] == '@':
		if c.app.Owns(value[1:]) {
			return ""
		}
		return value + " is not @" + c.app.String() + " or @" + c.app.String() + "-…"
	case strings.ContainsAny(value, "%\\ "):
		return value + " is no port or address"
	}
	return ""
}

func capabilities(c *unitCheck, value string) string {
	if c.rules.AllowRoot || value == "CAP_NET_BIND_SERVICE" {
		return ""
	}
	return "only CAP_NET_BIND_SERVICE is allowed"
}

func stream(_ *unitCheck, value string) string {
	if slices.Contains([]string{"null", "journal", "inherit", "socket"}, value) || strings.HasPrefix(value, "fd:") {
		return ""
	}
	return value + " is none of null, journal, inherit, socket, fd:…"
}

func none(_ *unitCheck, value string) string {
	if value == "none" {
		return ""
	}
	return "only none is allowed: a release must not reboot or stop a host"
}

func ownSlice(c *unitCheck, value string) string {
	if stem, ok := strings.CutSuffix(value, ".slice"); ok && c.app.Owns(stem) {
		return ""
	}
	return value + " is not " + c.app.String() + ".slice or " + c.app.String() + "-….slice"
}

func notNegative(_ *unitCheck, value string) string {
	if value[0] == '-' {
		return "a release must not put itself before others: " + value + " is negative"
	}
	return ""
}

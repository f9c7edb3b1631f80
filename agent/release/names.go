package release

import (
	"fmt"
	"slices"
	"strings"
)

// Longest names. Together with their fixed parts they keep every path component below the 255 bytes of a file name.
const (
	maxApp         = 48
	maxEnvironment = 32
	maxVersion     = 64
	maxUnitName    = 128
)

// NameError refuses a name that came from outside. What is the kind of name, such as "app"; Value is shortened for display.
type NameError struct {
	What, Value, Reason string
}

func (e *NameError) Error() string {
	return fmt.Sprintf("cannot use %q as %s: %s", e.Value, e.What, e.Reason)
}

// Kind is the stable label of this error for metrics and the wire.
func (e *NameError) Kind() string { return "bad-name" }

func badName(what, value, reason string) error {
	if len(value) > 80 {
		value = value[:80] + "…"
	}
	return &NameError{What: what, Value: value, Reason: reason}
}

// name is the shared body of the validated names. It is comparable, and only the Parse functions fill it.
type name struct{ s string }

// String is the name as written in documents and paths.
func (n name) String() string { return n.s }

// IsZero reports a name that was never parsed. Fields that may be absent need `omitzero`.
func (n name) IsZero() bool { return n.s == "" }

// MarshalText refuses the zero value: written as "" it could never be read back.
func (n name) MarshalText() ([]byte, error) {
	if n.s == "" {
		return nil, fmt.Errorf("cannot write an empty name")
	}
	return []byte(n.s), nil
}

// App is the name of an application. It is safe as a path component, a unit name and a TUF role component, and cannot be
// built but by ParseApp.
type App struct{ name }

// ParseApp accepts [a-z0-9-], not starting or ending with a hyphen, at most 48 bytes.
func ParseApp(s string) (App, error) {
	if why := labelProblem(s, maxApp); why != "" {
		return App{}, badName("an app name", s, why)
	}
	return App{name{s}}, nil
}

// UnmarshalText is ParseApp.
func (a *App) UnmarshalText(text []byte) (err error) {
	*a, err = ParseApp(string(text))
	return err
}

// Owns reports whether s is the app's own name or lies in its name space (<app>-…). Users and directories use it.
// Note that "pay" thereby owns names of an app "pay-roll"; a host refuses the collision when both claim one thing.
func (a App) Owns(s string) bool {
	return !a.IsZero() && (s == a.s || strings.HasPrefix(s, a.s+"-"))
}

// Environment is the name of an environment. A host is pinned to exactly one.
type Environment struct{ name }

// ParseEnvironment accepts [a-z0-9-], not starting or ending with a hyphen, at most 32 bytes.
func ParseEnvironment(s string) (Environment, error) {
	if why := labelProblem(s, maxEnvironment); why != "" {
		return Environment{}, badName("an environment name", s, why)
	}
	return Environment{name{s}}, nil
}

// UnmarshalText is ParseEnvironment.
func (e *Environment) UnmarshalText(text []byte) (err error) {
	*e, err = ParseEnvironment(string(text))
	return err
}

// Platform is an operating system and an architecture, such as "linux/amd64".
type Platform struct{ name }

// ParsePlatform accepts "linux/" and an architecture in Go's spelling.
func ParsePlatform(s string) (Platform, error) {
	arch, ok := strings.CutPrefix(s, "linux/")
	if !ok {
		return Platform{}, badName("a platform", s, `it must be "linux/" and an architecture, such as linux/amd64`)
	}
	if arch == "" || len(arch) > 16 || strings.Trim(arch, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return Platform{}, badName("a platform", s, "the architecture must be 1 to 16 of [a-z0-9], such as amd64")
	}
	return Platform{name{s}}, nil
}

// UnmarshalText is ParsePlatform.
func (p *Platform) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePlatform(string(text))
	return err
}

// FileName is the platform as one path component, such as "linux-amd64".
func (p Platform) FileName() string { return strings.ReplaceAll(p.s, "/", "-") }

// UnitName is the file name of a systemd unit of a kind a release may ship.
type UnitName struct{ name }

// UnitKinds are the unit types a release may ship. Mounts, slices, swaps, devices and scopes are the host's.
var UnitKinds = []string{"service", "socket", "timer", "path", "target"}

// ParseUnitName accepts <stem>.<kind> with a stem of [A-Za-z0-9_.@-] that starts with a letter or digit and holds at most
// one @.
func ParseUnitName(s string) (UnitName, error) {
	bad := func(why string) (UnitName, error) { return UnitName{}, badName("a unit name", s, why) }
	if len(s) > maxUnitName {
		return bad(fmt.Sprintf("it has %d bytes, at most %d are allowed", len(s), maxUnitName))
	}
	dot := strings.LastIndexByte(s, '.')
	if dot < 1 {
		return bad("it has no suffix such as .service")
	}
	if !slices.Contains(UnitKinds, s[dot+1:]) {
		return bad("a release ships only ." + strings.Join(UnitKinds, ", .") + " units")
	}
	stem := s[:dot]
	if !isAlnum(stem[0]) {
		return bad("it must start with a letter or digit")
	}
	for i := range len(stem) {
		if c := stem[i]; !isAlnum(c) && c != '_' && c != '.' && c != '@' && c != '-' {
			return bad("only [A-Za-z0-9_.@-] are allowed before the suffix")
		}
	}
	if strings.Count(stem, "@") > 1 {
		return bad("it holds more than one @")
	}
	return UnitName{name{s}}, nil
}

// UnmarshalText is ParseUnitName.
func (u *UnitName) UnmarshalText(text []byte) (err error) {
	*u, err = ParseUnitName(string(text))
	return err
}

// Stem is the name without its suffix.
func (u UnitName) Stem() string { return u.s[:max(0, strings.LastIndexByte(u.s, '.'))] }

// Kind is the suffix without its dot, such as "service".
func (u UnitName) Kind() string { return u.s[strings.LastIndexByte(u.s, '.')+1:] }

// IsTemplate reports a unit such as billing@.service that is only ever started as an instance.
func (u UnitName) IsTemplate() bool { return strings.HasSuffix(u.Stem(), "@") }

// BelongsTo reports whether the unit is in the app's name space: <app>, <app>-… or <app>@….
func (u UnitName) BelongsTo(a App) bool {
	return a.Owns(u.Stem()) || !a.IsZero() && strings.HasPrefix(u.s, a.s+"@")
}

// labelProblem says why s is not a label of [a-z0-9-] of at most limit bytes, or nothing.
func labelProblem(s string, limit int) string {
	switch {
	case s == "":
		return "it is empty"
	case len(s) > limit:
		return fmt.Sprintf("it has %d bytes, at most %d are allowed", len(s), limit)
	case s[0] == '-' || s[len(s)-1] == '-':
		return "it must not start or end with a hyphen"
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return "only lower-case letters, digits and hyphens are allowed"
		}
	}
	return ""
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isAlnum(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

package release

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
)

// Bounds of the documents. They are far above what is sensible and keep sums within 64 bits and messages readable.
const (
	maxArchive  = int64(1) << 40
	maxEntries  = 5_000_000
	maxList     = 1000
	maxWords    = 1024
	maxArgument = 4096
	// maxUser is what useradd and systemd-sysusers accept everywhere.
	maxUser = 31

	day = Duration(24 * time.Hour)
)

// treePathProblem says why s is no clean path inside a release tree, or nothing. The rule holds for manifest entries, unit
// files and commands alike.
func treePathProblem(s string) string {
	switch {
	case s == "":
		return "the path is empty"
	case len(s) > maxPath:
		return fmt.Sprintf("the path has %d bytes, at most %d are allowed", len(s), maxPath)
	case s[0] == '/':
		return "the path is absolute: it must be relative to the release"
	}
	rest := s
	for depth := 1; ; depth++ {
		part, tail, more := strings.Cut(rest, "/")
		switch {
		case part == "" || part == "." || part == "..":
			return fmt.Sprintf("the path holds the component %q", part)
		case len(part) > 255:
			return "a component of the path is longer than 255 bytes"
		case depth > maxTreeDepth:
			return fmt.Sprintf("the path is deeper than %d levels", maxTreeDepth)
		}
		if !more {
			break
		}
		rest = tail
	}
	if why := textProblem(s); why != "" {
		return "the path " + why
	}
	return ""
}

func (p *problems) treePath(field, s string) {
	if why := treePathProblem(s); why != "" {
		p.add(field, "%s", why)
	}
}

// file checks a pinned file of the repository, which must lie directly in folder.
func (p *problems) file(field string, f File, folder string, limit int64) {
	base, inside := strings.CutPrefix(f.Path, folder)
	switch {
	case !inside:
		p.add(field+".path", "%q is not in %s", f.Path, folder)
	case base == "" || base == "release.json" || base[0] == '.' || !plainFileName(base):
		p.add(field+".path", "%q is no file name: only [A-Za-z0-9_.+-] are allowed, no leading dot, and not release.json", base)
	}
	if f.SHA256.IsZero() {
		p.add(field+".sha256", "it is missing")
	}
	p.span(field+".length", f.Length, 1, limit)
}

func plainFileName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && strings.IndexByte("_.+-", c) < 0 {
			return false
		}
	}
	return len(s) <= 128
}

// appUser checks the name of a system user or group that must belong to the app.
func (p *problems) appUser(field, name string, app App) {
	if !app.Owns(name) || labelProblem(name, maxUser) != "" {
		p.add(field, "%q is not %s or %s-… of at most %d bytes of [a-z0-9-]", name, app, app, maxUser)
	}
}

// appDirs are the parents below which an app may have directories of its own.
var appDirs = []string{"/var/lib", "/var/log", "/var/cache", "/run", "/etc"}

// appDir checks a directory outside the release: clean, and below one of appDirs in a directory of the app's.
func (p *problems) appDir(field, dir string, app App) {
	if !path.IsAbs(dir) || path.Clean(dir) != dir || len(dir) > maxPath || textProblem(dir) != "" {
		p.add(field, "%q is no clean absolute path", dir)
		return
	}
	if strings.ContainsAny(dir, " %\\\"'$") {
		p.add(field, "%q holds a character that systemd would interpret", dir)
		return
	}
	for _, parent := range appDirs {
		if rest, ok := strings.CutPrefix(dir, parent+"/"); ok {
			first, _, _ := strings.Cut(rest, "/")
			if app.Owns(first) {
				return
			}
		}
	}
	p.add(field, "%q is not below %s in a directory named %s or %s-…", dir, strings.Join(appDirs, ", "), app, app)
}

// parseMode checks permission bits as octal text and returns them.
func parseMode(s string) (uint32, error) {
	if len(s) != 4 || s[0] != '0' {
		return 0, fmt.Errorf("%q is not four octal digits starting with 0, such as 0755", s)
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not four octal digits starting with 0, such as 0755", s)
	}
	return uint32(n), nil
}

// command checks a command whose program must lie inside the release.
func (p *problems) command(field string, words []string) {
	if len(words) == 0 {
		p.add(field, "it is empty")
		return
	}
	p.span(field, int64(len(words)), 1, 64)
	p.treePath(field+"[0]", words[0])
	for i, w := range words[1:] {
		p.words(fmt.Sprintf("%s[%d]", field, i+1), w, maxArgument)
	}
}

// loopback says why host is no loopback address, or nothing.
func loopback(host string) string {
	if host == "localhost" {
		return ""
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsLoopback() && ip.Zone() == "" {
		return ""
	}
	return fmt.Sprintf("%q is not localhost, 127.0.0.1 or ::1: a release may only check itself; a host can override the endpoint", host)
}

func (p *problems) address(field, address string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		p.add(field, "%q is not host:port, such as 127.0.0.1:8080", address)
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		p.add(field, "the port %q is not 1 to 65535", port)
	}
	if why := loopback(host); why != "" {
		p.add(field, "%s", why)
	}
}

func (p *problems) loopbackURL(field, text string) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		p.add(field, "%q is no http or https URL", text)
		return
	case u.User != nil || u.Fragment != "":
		p.add(field, "a user or a fragment is not allowed")
	case len(text) > maxWords:
		p.add(field, "it is longer than %d bytes", maxWords)
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			p.add(field, "the port %q is not 1 to 65535", port)
		}
	}
	if why := loopback(u.Hostname()); why != "" {
		p.add(field, "%s", why)
	}
}

func (p *problems) timing(field string, t Timing) {
	p.atMost(field+".interval", t.Interval, day)
	p.atMost(field+".timeout", t.Timeout, day/24)
	p.atMost(field+".start_period", t.StartPeriod, day)
	p.span(field+".success_threshold", int64(t.SuccessThreshold), 0, 1000)
	p.span(field+".failure_threshold", int64(t.FailureThreshold), 0, 1000)
	if t.Interval > 0 && t.Interval < Duration(10*time.Millisecond) {
		p.add(field+".interval", "%s is shorter than 10ms", t.Interval)
	}
	if t.Timeout > 0 && t.Timeout < Duration(time.Millisecond) {
		p.add(field+".timeout", "%s is shorter than 1ms", t.Timeout)
	}
}

// wordy reports whether s is 1 to limit bytes of [A-Za-z0-9_-] or of extra.
func wordy(s string, limit int, extra string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '_' && c != '-' && strings.IndexByte(extra, c) < 0 {
			return false
		}
	}
	return s != "" && len(s) <= limit
}

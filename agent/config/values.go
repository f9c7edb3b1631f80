package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var (
	appName  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	hostID   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$`)
	labelKey = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$`)
	envName  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	credName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	// The names in the certificates of a fleet, as agent/fleet judges them, and what a hub is reached by.
	operatorName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@-]*$`)
	hubName      = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)
	account      = regexp.MustCompile(`^([a-z_][a-z0-9_.-]{0,30}\$?|[0-9]{1,10})$`)
)

// reservedEnv is what systemd itself tells a service; an app's own value would cut it off from its supervisor or its credentials.
var reservedEnv = map[string]bool{
	"NOTIFY_SOCKET": true, "LISTEN_FDS": true, "LISTEN_PID": true, "LISTEN_FDNAMES": true, "WATCHDOG_USEC": true, "WATCHDOG_PID": true,
	"CREDENTIALS_DIRECTORY": true, "INVOCATION_ID": true, "MAINPID": true,
}

// CheckApp judges the name of an app: lower-case letters, digits and inner dashes, at most 48.
func CheckApp(s string) error {
	if len(s) > 48 || !appName.MatchString(s) {
		return fmt.Errorf("%q is no app name: use lower-case letters, digits and dashes inside, at most 48", s)
	}
	return nil
}

// CheckEnvironment judges the name of an environment: like an app's, at most 32.
func CheckEnvironment(s string) error {
	if len(s) > 32 || !appName.MatchString(s) {
		return fmt.Errorf("%q is no environment name: use lower-case letters, digits and dashes inside, at most 32", s)
	}
	return nil
}

func checkHostID(s string) error {
	if !hostID.MatchString(s) {
		return fmt.Errorf("%q is no host id: use letters, digits and .-_ inside, at most 128", s)
	}
	return nil
}

func checkLabelKey(s string) error {
	if !labelKey.MatchString(s) {
		return fmt.Errorf("%q is no label name: use letters, digits and ./_- inside, at most 63", s)
	}
	return nil
}

func checkPlain(s string) error {
	if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return errors.New("must not hold control characters or line breaks")
	}
	return nil
}

func checkEnvName(s string) error {
	if !envName.MatchString(s) {
		return fmt.Errorf("%q is no name of a variable: use letters, digits and _, not a digit first", s)
	}
	if reservedEnv[s] {
		return fmt.Errorf("%s is set by systemd for the service and cannot be overridden", s)
	}
	return nil
}

func checkCredName(s string) error {
	if !credName.MatchString(s) {
		return fmt.Errorf("%q is no name of a credential: use letters, digits and ._- inside, at most 128", s)
	}
	return nil
}

func checkAccount(s string) error {
	if !account.MatchString(s) {
		return fmt.Errorf("%q is no name or number of a user or group", s)
	}
	return nil
}

func checkPath(s string) error {
	if err := checkPlain(s); err != nil {
		return err
	}
	if !path.IsAbs(s) {
		return fmt.Errorf("%q must be an absolute path", s)
	}
	if path.Clean(s) != s {
		return fmt.Errorf("%q must be written as %q", s, path.Clean(s))
	}
	return nil
}

// checkDir judges a directory Slipway will own. Executables below a directory that everybody may write to are nobody's.
func checkDir(s string) error {
	if err := checkPath(s); err != nil {
		return err
	}
	if s == "/" {
		return errors.New("must not be the root directory")
	}
	for _, bad := range []string{"/tmp", "/var/tmp", "/dev/shm"} {
		if s == bad {
			return fmt.Errorf("must not be %s, which everybody may write to", bad)
		}
	}
	return nil
}

// checkCredPath also refuses what LoadCredential= would read as a separator or a specifier.
func checkCredPath(s string) error {
	if strings.ContainsAny(s, ":%") {
		return fmt.Errorf("%q must not hold a colon or a percent sign", s)
	}
	return checkPath(s)
}

// bundleScheme marks a mirror that is one file. What follows is a path as it is, not an escaped URL.
const bundleScheme = "bundle:"

func checkMirror(s string) error {
	if file, ok := strings.CutPrefix(s, bundleScheme); ok {
		if err := checkPath(file); err != nil || file == "/" {
			return fmt.Errorf("%q must be bundle: and the absolute path of a file, such as bundle:/media/usb/production.bundle", s)
		}
		return nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return fmt.Errorf("%q is no URL", s)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "file":
		return fmt.Errorf("%q must be a URL that starts with https://, http:// or file://, or bundle: and a path", s)
	case u.Scheme == "file" && (u.Host != "" || !path.IsAbs(u.Path)):
		return fmt.Errorf("%q must be file:// and an absolute path", s)
	case u.Scheme != "file" && u.Hostname() == "":
		return fmt.Errorf("%q names no host", s)
	case u.User != nil:
		return errors.New("must not hold a password; use repository.auth_header_file")
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%q must end with the path", s)
	}
	return nil
}

func checkProxy(s string) error {
	if s == "direct" {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" {
		return errors.New(`must be "direct" or a URL that starts with http://, https:// or socks5://`)
	}
	return nil
}

func checkListen(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q must be address:port, for example 127.0.0.1:9464", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q is no port between 1 and 65535", port)
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "localhost" {
		return fmt.Errorf("%q must start with an IP address; for all of them write 0.0.0.0 or [::]", s)
	}
	return nil
}

func oneOf(words ...string) func(string) error {
	return func(s string) error {
		for _, w := range words {
			if s == w {
				return nil
			}
		}
		return fmt.Errorf("%q is not one of %s", s, strings.Join(words, ", "))
	}
}

// loopback tells whether a host, as written in a URL or an address, can only be this machine.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

func parseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf(`%q is no duration; write for example "90s", "5m", "24h" or "7d"`, s)
	}
	return d, nil
}

// formatDuration is time.Duration's form without empty units: "5m", not "5m0s".
func formatDuration(d time.Duration) string {
	s := d.String()
	if d == 0 {
		return "0s"
	}
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

func parseSize(s string) (int64, error) {
	bad := fmt.Errorf(`%q is no size; write for example "256MiB", "2GiB" or "500MB"`, s)
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 {
			return 0, bad
		}
		if n > math.MaxInt64/u.bytes {
			return 0, fmt.Errorf("%q is too large", s)
		}
		return n * u.bytes, nil
	}
	return 0, bad
}

func formatSize(n int64) string {
	for _, u := range sizeUnits {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return "0B"
}

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/config"
)

// system is where the local checks look; tests give them a small tree of their own.
type system struct{ root string }

func (s system) path(p string) string { return filepath.Join(s.root, p) }

func (s system) read(p string) string {
	data, err := os.ReadFile(s.path(p))
	if err != nil {
		return "" // absent and unreadable both mean: nothing to say
	}
	return string(data)
}

// localChecks need no daemon. h is nil when the configuration has problems; then the defaults' directories are looked at.
func localChecks(s system, dir string, h *config.Host, problems error, now time.Time) []api.DoctorCheck {
	out := []api.DoctorCheck{checkConfig(problems)}
	install, state, root, reserve, proxy := "/opt/slipway", "/var/lib/slipway", filepath.Join(dir, "root.json"), int64(256<<20), ""
	systemd := true
	if h != nil {
		install, state, root, reserve, proxy = h.Paths.Install, h.Paths.State, h.Repository.Root, h.Space.Reserve, h.Repository.Proxy
		systemd = h.Supervisor == config.SupervisorSystemd
	}
	out = append(out, checkRoot(root, now), s.checkClock())
	for _, d := range []string{install, state} {
		out = append(out, checkSpace(d, reserve))
	}
	out = append(out, checkNoexec(install), s.checkLabels(install), checkProxyEnv(proxy))
	if systemd {
		out = append(out, s.checkUnits(), s.checkBoot(), s.checkMounts(install, state))
	}
	return out
}

func good(name, format string, args ...any) api.DoctorCheck {
	return api.DoctorCheck{Name: name, Status: api.DoctorOK, Message: fmt.Sprintf(format, args...)}
}

func bad(name, status, hint, format string, args ...any) api.DoctorCheck {
	return api.DoctorCheck{Name: name, Status: status, Message: fmt.Sprintf(format, args...), Hint: hint}
}

func checkConfig(err error) api.DoctorCheck {
	var p config.Problems
	switch {
	case err == nil:
		return good("config", "the configuration has no problems")
	case errors.As(err, &p) && len(p) > 1:
		return bad("config", api.DoctorFail, p.Hint(), "%s (and %d more)", p[0], len(p)-1)
	case errors.As(err, &p) && len(p) == 1:
		return bad("config", api.DoctorFail, p.Hint(), "%s", p[0])
	}
	return bad("config", api.DoctorFail, "", "%v", err)
}

func checkRoot(path string, now time.Time) api.DoctorCheck {
	root, err := readRoot(path)
	if err != nil {
		return bad("root", api.DoctorFail, "slipway init --root FILE --environment ENV --repository URL pins one", "%v", err)
	}
	left := root.expires.Sub(now)
	switch {
	case left <= 0:
		return bad("root", api.DoctorWarn, "fine as long as the repository serves the newer roots it leads to; the daemon's checks know",
			"the pinned root (version %d) expired on %s", root.version, root.expires.Format("2006-01-02"))
	case left < 30*24*time.Hour:
		return bad("root", api.DoctorWarn, "the root's owners should publish the next one", "the pinned root (version %d) expires in %s", root.version, span(left))
	}
	return good("root", "root version %d is pinned, valid until %s", root.version, root.expires.Format("2006-01-02"))
}

// checkClock asks the kernel, which every time service tells.
func (s system) checkClock() api.DoctorCheck {
	const staUnsync = 0x40
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return bad("clock", api.DoctorWarn, "", "the kernel does not say whether the clock is synchronised: %v", err)
	}
	if state == unix.TIME_ERROR || t.Status&staUnsync != 0 {
		return bad("clock", api.DoctorWarn, "start a time service: systemctl enable --now systemd-timesyncd (or chrony)",
			"nothing synchronises the clock; expiry cannot be judged by it")
	}
	return good("clock", "the clock is synchronised")
}

// existing is the nearest directory that is there: what is asked about may be created later.
func existing(path string) string {
	for path != "/" {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		path = filepath.Dir(path)
	}
	return path
}

func checkSpace(dir string, reserve int64) api.DoctorCheck {
	name := "disk"
	var st unix.Statfs_t
	if err := unix.Statfs(existing(dir), &st); err != nil {
		return bad(name, api.DoctorFail, "", "cannot look at %s: %v", dir, err)
	}
	free := int64(st.Bavail) * st.Bsize
	switch {
	case free < reserve:
		return bad(name, api.DoctorFail, "free space there, or lower space.reserve", "%s has %s free, less than the reserve of %s: nothing can be staged", dir, bytesText(free), bytesText(reserve))
	case st.Files > 0 && st.Ffree < 1000:
		return bad(name, api.DoctorFail, "delete files there", "%s has only %d inodes free", dir, st.Ffree)
	case free < 2*reserve:
		return bad(name, api.DoctorWarn, "free space there before the next release", "%s has %s free, with a reserve of %s", dir, bytesText(free), bytesText(reserve))
	}
	return good(name, "%s has %s free", dir, bytesText(free))
}

func checkNoexec(install string) api.DoctorCheck {
	var st unix.Statfs_t
	if err := unix.Statfs(existing(install), &st); err != nil {
		return bad("noexec", api.DoctorFail, "", "cannot look at %s: %v", install, err)
	}
	return noexecVerdict(install, st.Flags)
}

func noexecVerdict(install string, flags int64) api.DoctorCheck {
	if flags&unix.ST_NOEXEC != 0 {
		return bad("noexec", api.DoctorFail, "mount it without noexec, or set paths.install", "%s is mounted noexec: no release can run from there", install)
	}
	return good("noexec", "programs may run from %s", install)
}

// checkLabels looks at the SELinux type of the install directory, which every release inherits.
func (s system) checkLabels(install string) api.DoctorCheck {
	enforce := strings.TrimSpace(s.read("/sys/fs/selinux/enforce"))
	if enforce == "" {
		return good("selinux", "SELinux is not in use")
	}
	buf := make([]byte, 256)
	n, err := unix.Getxattr(existing(install), "security.selinux", buf)
	if err != nil {
		return bad("selinux", api.DoctorWarn, "restorecon -Rv "+install, "%s has no SELinux label: %v", install, err)
	}
	return labelVerdict(install, strings.TrimRight(string(buf[:n]), "\x00"), enforce == "1")
}

func labelVerdict(install, label string, enforcing bool) api.DoctorCheck {
	parts := strings.Split(label, ":")
	if len(parts) < 3 {
		return bad("selinux", api.DoctorWarn, "restorecon -Rv "+install, "%s has the odd SELinux label %q", install, label)
	}
	switch typ := parts[2]; typ {
	case "unlabeled_t", "default_t", "tmp_t", "user_home_t", "admin_home_t", "var_lib_t":
		status := api.DoctorWarn
		if enforcing {
			status = api.DoctorFail
		}
		return bad("selinux", status, "semanage fcontext -a -t usr_t '"+install+"(/.*)?' && restorecon -Rv "+install,
			"%s has the SELinux type %s, from which services may not start programs", install, typ)
	default:
		return good("selinux", "%s has the SELinux type %s", install, typ)
	}
}

// checkProxyEnv finds the commonest surprise: a proxy that works in this shell and that the daemon never hears of.
func checkProxyEnv(configured string) api.DoctorCheck {
	if configured != "" {
		return good("proxy", "repository.proxy is %s", configured)
	}
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"} {
		if os.Getenv(name) != "" {
			return bad("proxy", api.DoctorWarn, "set repository.proxy in slipway.toml", "%s is set in this shell, but slipwayd does not see it and has no repository.proxy", name)
		}
	}
	return good("proxy", "no proxy")
}

var unitDirs = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

func (s system) checkUnits() api.DoctorCheck {
	var missing []string
	for _, unit := range []string{"slipwayd.service", "slipwayd.socket", "slipwayd-ro.socket", "slipway-boot.service", "slipway-guard@.service"} {
		found := false
		for _, dir := range unitDirs {
			if info, err := os.Stat(s.path(filepath.Join(dir, unit))); err == nil && info.Mode().IsRegular() {
				found = true
			}
		}
		if !found {
			missing = append(missing, unit)
		}
	}
	if len(missing) > 0 {
		return bad("units", api.DoctorFail, "install the package again", "not installed or masked: %s", strings.Join(missing, ", "))
	}
	return good("units", "the daemon's units are installed")
}

// checkBoot looks for the links that make systemd start the parts: without the boot guardian's, a reboot in a trial starts an
// untried release.
func (s system) checkBoot() api.DoctorCheck {
	var missing []string
	for _, unit := range []string{"slipway-boot.service", "slipwayd.service"} {
		linked := false
		for _, dir := range unitDirs {
			for _, kind := range []string{"wants", "requires"} {
				matches, _ := filepath.Glob(s.path(filepath.Join(dir, "*."+kind, unit))) // the pattern is constant and valid
				linked = linked || len(matches) > 0
			}
		}
		if !linked {
			missing = append(missing, unit)
		}
	}
	if len(missing) > 0 {
		return bad("boot", api.DoctorFail, "systemctl enable "+strings.Join(missing, " "), "not started at boot: %s", strings.Join(missing, ", "))
	}
	return good("boot", "the boot guardian and the daemon are started at boot")
}

// lateTypes are filesystems that are mounted after the network, when the boot guardian has long run.
var lateTypes = map[string]bool{"nfs": true, "nfs4": true, "cifs": true, "smb3": true, "9p": true, "ceph": true, "glusterfs": true, "autofs": true}

func (s system) checkMounts(dirs ...string) api.DoctorCheck {
	for _, dir := range dirs {
		for line := range strings.SplitSeq(s.read("/etc/fstab"), "\n") {
			f := strings.Fields(line)
			if len(f) < 4 || strings.HasPrefix(f[0], "#") || !within(dir, f[1]) {
				continue
			}
			if opt := lateOption(f[3]); opt != "" || lateTypes[f[2]] {
				return bad("mounts", api.DoctorFail, "mount it early: without "+orDash(opt)+", on a local filesystem", "%s lies on %s (%s, %s), which is mounted after the boot guardian", dir, f[1], f[2], f[3])
			}
		}
		if typ, at := s.mountOf(dir); lateTypes[typ] {
			return bad("mounts", api.DoctorFail, "use a local filesystem", "%s lies on %s, a %s mount that comes after the boot guardian", dir, at, typ)
		}
	}
	return good("mounts", "%s are mounted before the boot guardian runs", strings.Join(dirs, " and "))
}

func lateOption(options string) string {
	for o := range strings.SplitSeq(options, ",") {
		if o == "_netdev" || o == "noauto" || o == "x-systemd.automount" || o == "nofail" {
			return o
		}
	}
	return ""
}

func within(dir, mount string) bool {
	return dir == mount || mount == "/" || strings.HasPrefix(dir, strings.TrimSuffix(mount, "/")+"/")
}

// mountOf is the type and place of the mount that holds dir, by the kernel's own list.
func (s system) mountOf(dir string) (typ, at string) {
	for line := range strings.SplitSeq(s.read("/proc/self/mountinfo"), "\n") {
		before, after, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if ok && len(f) > 4 && len(g) > 0 && within(dir, f[4]) && len(f[4]) >= len(at) {
			typ, at = g[0], f[4]
		}
	}
	return typ, at
}

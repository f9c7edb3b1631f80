package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// machineTools are the programs a lab runs on the machine itself and the Debian package of each.
var machineTools = []struct{ program, debian string }{
	{"debootstrap", "debootstrap"},
	{"systemd-nspawn", "systemd-container"},
	{"journalctl", "systemd"},
	{"ip", "iproute2"},
	{"nft", "nftables"},
	{"zstd", "zstd"},
	{"mkfs.ext4", "e2fsprogs"},
	{"nsenter", "util-linux"},
	{"losetup", "mount"},
}

// InstallTools installs the Debian packages that provide the named programs and are missing on this
// machine, after one apt-get update. Pairs are program=package; with none it installs what a lab needs.
// It holds the cache lock, so two runs never fight over dpkg.
func InstallTools(ctx context.Context, pairs ...string) error {
	wanted := machineTools
	if len(pairs) > 0 {
		wanted = nil
		for _, pair := range pairs {
			program, debian, ok := strings.Cut(pair, "=")
			if !ok {
				debian = program
			}
			wanted = append(wanted, struct{ program, debian string }{program, debian})
		}
	}
	missing := func() (packages []string) {
		for _, tool := range wanted {
			if lookProgram(tool.program) == "" {
				packages = append(packages, tool.debian)
			}
		}
		return packages
	}
	if len(missing()) == 0 {
		return nil
	}
	unlock, err := lockFile(ctx, filepath.Join(CacheDir(), "tools.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	packages := missing()
	if len(packages) == 0 {
		return nil
	}
	if lookProgram("apt-get") == "" {
		return fmt.Errorf("cannot install %s: apt-get is not on this machine; install them by hand", strings.Join(packages, ", "))
	}
	wait := []string{"-q", "-o", "DPkg::Lock::Timeout=300"}
	if _, err := run(ctx, "apt-get", append(wait, "update")...); err != nil {
		return err
	}
	_, err = run(ctx, "apt-get", append(append(wait, "install", "-y", "--no-install-recommends"), packages...)...)
	return err
}

// lookProgram finds a program in PATH or in the sbin directories that a user's PATH may lack.
func lookProgram(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// CacheDir is where bases, built programs and the directories of runs live:
// SLIPWAY_LAB_CACHE, else XDG_CACHE_HOME/slipway-lab, else /var/cache/slipway-lab.
func CacheDir() string {
	if dir := os.Getenv("SLIPWAY_LAB_CACHE"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "slipway-lab")
	}
	return "/var/cache/slipway-lab"
}

// run runs a program of the machine and returns its standard output; the error carries the tail of
// what it wrote.
func run(ctx context.Context, name string, args ...string) (string, error) {
	path := lookProgram(name)
	if path == "" {
		return "", fmt.Errorf("cannot run %s: not found on this machine", name)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8",
		"PATH="+os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return stdout.String(), fmt.Errorf("cannot run %s %s: %w: %s", name, strings.Join(args, " "), err,
			tail(stderr.String()+stdout.String(), 1500))
	}
	return stdout.String(), nil
}

func tail(s string, n int) string {
	s = strings.TrimSpace(s)
	if len(s) > n {
		s = "…" + s[len(s)-n:]
	}
	return s
}

// lockFile takes an exclusive flock, waiting for it, and returns what releases it. The kernel releases
// it too when the process dies, so there are no stale locks.
func lockFile(ctx context.Context, path string) (func(), error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	locked := func() (bool, error) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return err == nil, err
	}
	if err := poll(ctx, locked); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

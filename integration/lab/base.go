package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// suite is the Debian release that hosts run; systemd 252 is the oldest that Slipway supports.
const suite = "bookworm"

var basePackages = []string{
	"systemd", "systemd-sysv", "dbus", "iproute2", "curl", "procps", "rpm",
}

// baseRecipe is run inside the fresh base. It belongs to the cache key: a change makes a new base.
const baseRecipe = `set -e
apt-get clean
rm -rf /var/lib/apt/lists/* /var/log/*.log /var/log/apt /var/cache/debconf/*-old
rm -f /etc/machine-id /var/lib/dbus/machine-id /etc/hostname /etc/resolv.conf
mkdir -p /var/log/journal
: > /etc/fstab
printf '[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\nSystemMaxUse=64M\n' > /etc/systemd/journald.conf.d.lab
mkdir -p /etc/systemd/journald.conf.d
mv /etc/systemd/journald.conf.d.lab /etc/systemd/journald.conf.d/lab.conf
for unit in console-getty.service getty.target apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
	e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-firstboot.service; do
	ln -sf /dev/null /etc/systemd/system/$unit
done
useradd --create-home --shell /bin/sh visitor
touch /etc/.updated /var/.updated
`

// baseKey names a base by everything that went into it.
func baseKey() string {
	sum := sha256.Sum256([]byte(suite + "\n" + strings.Join(basePackages, "\n") + "\n" + baseRecipe))
	return hex.EncodeToString(sum[:6])
}

// Base makes sure the root file system that hosts share is unpacked in the cache and returns its
// directory. The first call on a machine takes about a minute; concurrent callers wait for one another.
func Base(ctx context.Context, logf func(string, ...any)) (string, error) {
	dir := filepath.Join(CacheDir(), "base-"+baseKey())
	stamp := dir + ".complete"
	if exists(stamp) {
		return dir, nil
	}
	unlock, err := lockFile(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(stamp) {
		return dir, nil
	}
	archive := dir + ".tar.zst"
	if !exists(archive) {
		if err := makeBase(ctx, dir, archive, logf); err != nil {
			return "", err
		}
	}
	if err := unpackBase(ctx, archive, dir); err != nil {
		return "", err
	}
	return dir, os.WriteFile(stamp, nil, 0o644)
}

func makeBase(ctx context.Context, dir, archive string, logf func(string, ...any)) error {
	mirror, err := debianMirror(ctx)
	if err != nil {
		return err
	}
	logf("making the base of the lab's hosts; this takes about a minute, once")
	started := time.Now()
	fresh := dir + ".making"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	defer os.RemoveAll(fresh)
	if _, err := run(ctx, "debootstrap", "--variant=minbase", "--include="+strings.Join(basePackages, ","),
		suite, fresh, mirror); err != nil {
		return err
	}
	if _, err := run(ctx, "chroot", fresh, "/bin/sh", "-c", baseRecipe); err != nil {
		return err
	}
	part := archive + ".part"
	if _, err := run(ctx, "tar", "-C", fresh, "--one-file-system", "-I", "zstd -3 -T2", "-cf", part, "."); err != nil {
		return err
	}
	logf("base made in %s", time.Since(started).Round(time.Second))
	return os.Rename(part, archive)
}

func unpackBase(ctx context.Context, archive, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	_, err := run(ctx, "tar", "-C", dir, "--zstd", "--numeric-owner", "-xpf", archive)
	return err
}

// debianMirror asks apt where this machine gets the suite's packages from, so that no address is
// written down here.
func debianMirror(ctx context.Context) (string, error) {
	format := []string{"indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main"}
	out, err := run(ctx, "apt-get", append(format, "Codename: "+suite)...)
	if err == nil && strings.TrimSpace(out) == "" {
		if _, err := run(ctx, "apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "update"); err != nil {
			return "", err
		}
		out, err = run(ctx, "apt-get", append(format, "Codename: "+suite)...)
	}
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if uri := strings.TrimSpace(line); strings.Contains(uri, "://") {
			return uri, nil
		}
	}
	return "", fmt.Errorf("cannot find a mirror of Debian %s: apt's sources on this machine name none; add one and run apt-get update", suite)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// cgroups are the directories of the host's own control groups: in the hierarchy systemd keeps its processes in, and in the
// unified one beside it where the machine has both. Hosts that shared one would remove each other's empty groups, because every
// systemd gives the same unit the same name; a service that starts at that moment fails with 219/CGROUP.
func (h *Host) cgroups() []string {
	own, _ := os.ReadFile("/proc/self/cgroup")
	var dirs []string
	for line := range strings.Lines(string(own)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		var mount string
		switch {
		case fields[1] == "name=systemd":
			mount = "/sys/fs/cgroup/systemd"
		case fields[0] == "0" && exists("/sys/fs/cgroup/cgroup.procs"):
			mount = "/sys/fs/cgroup"
		case fields[0] == "0":
			mount = "/sys/fs/cgroup/unified"
		default:
			continue
		}
		if exists(filepath.Join(mount, "cgroup.procs")) {
			dirs = append(dirs, filepath.Join(mount, fields[2], "slab-"+h.lab.run+"-"+h.Name))
		}
	}
	return dirs
}

// makeCgroups makes the host's control groups anew, so that a boot finds nothing of the one before. A killed process stays in its
// group until the kernel is done with it, so removal is tried for a while.
func (h *Host) makeCgroups() ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	dirs := h.cgroups()
	for _, dir := range dirs {
		var err error
		poll(ctx, func() (bool, error) {
			err = removeCgroup(dir)
			return err == nil, nil
		})
		if err != nil {
			return nil, fmt.Errorf("cannot remove the control group of %s's last boot: %w", h.Name, err)
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, fmt.Errorf("cannot make a control group for %s: %w", h.Name, err)
		}
	}
	return dirs, nil
}

// removeCgroup removes a control group and those below it; one that is not there is fine.
func removeCgroup(dir string) error {
	var groups []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			groups = append(groups, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	slices.Reverse(groups)
	for _, group := range groups {
		err = errors.Join(err, os.Remove(group))
	}
	return err
}

// inCgroups are the arguments of a shell that moves itself into the control groups and becomes the program.
func inCgroups(dirs []string, program string, args ...string) []string {
	const move = `while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@"`
	return slices.Concat([]string{"-c", move, "sh"}, dirs, []string{"--", program}, args)
}

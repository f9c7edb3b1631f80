package lab

import (
	"context"
	"path/filepath"
)

// InstallDeb copies a Debian package of the machine into the host and installs or upgrades it with
// dpkg, the way an administrator does.
func (h *Host) InstallDeb(ctx context.Context, deb string) (Result, error) {
	return h.pushAndRun(ctx, deb, "dpkg", "--install")
}

// InstallRPM does the same with rpm; upgrade is true for -U, false for -i. Dependencies are not
// checked, because the host's own packages are Debian's.
func (h *Host) InstallRPM(ctx context.Context, rpm string, upgrade bool) (Result, error) {
	how := "--install"
	if upgrade {
		how = "--upgrade"
	}
	return h.pushAndRun(ctx, rpm, "rpm", how, "--nodeps", "--nosignature")
}

func (h *Host) pushAndRun(ctx context.Context, file string, command ...string) (Result, error) {
	inside := "/root/" + filepath.Base(file)
	if err := h.Push(file, inside); err != nil {
		return Result{Command: command, Exit: -1}, err
	}
	r, err := h.Exec(ctx, append(command, inside)...)
	if err == nil {
		err = r.Err()
	}
	return r, err
}

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// execTimeout bounds a command in a host whose context has no earlier deadline.
const execTimeout = 3 * time.Minute

// Result is what a command in a host said and how it ended.
type Result struct {
	Command        []string
	Stdout, Stderr string
	// Exit is the exit status, or -1 when a signal ended the command.
	Exit int
}

// Err is nil for exit status 0 and otherwise an error with what the command wrote.
func (r Result) Err() error {
	if r.Exit == 0 {
		return nil
	}
	return fmt.Errorf("%s: exit %d: %s", strings.Join(r.Command, " "), r.Exit, tail(r.Stderr+r.Stdout, 2000))
}

// Exec runs a command as root in the running host, outside of any unit and of the container's seccomp
// filter. The error tells that it could not be run or did not end in time; how it ended is in Result.
func (h *Host) Exec(ctx context.Context, command ...string) (Result, error) {
	return h.ExecInput(ctx, "", command...)
}

// ExecInput is Exec with standard input.
func (h *Host) ExecInput(ctx context.Context, stdin string, command ...string) (Result, error) {
	ctx, cancel := bounded(ctx, execTimeout)
	defer cancel()
	r := Result{Command: command, Exit: -1}
	cmd, release, err := h.command(ctx, command...)
	if err != nil {
		return r, err
	}
	defer release()
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err = cmd.Run()
	r.Stdout, r.Stderr = stdout.String(), stderr.String()
	var exited *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return r, fmt.Errorf("cannot finish %s in %s: %w: %s", strings.Join(command, " "), h.Name, context.Cause(ctx),
			tail(r.Stderr+r.Stdout, 1000))
	case errors.As(err, &exited):
		r.Exit = exited.ExitCode()
	case err != nil:
		return r, fmt.Errorf("cannot run %s in %s: %w", strings.Join(command, " "), h.Name, err)
	default:
		r.Exit = 0
	}
	return r, nil
}

// command prepares a command in the namespaces of the host's PID 1. release closes the descriptors.
func (h *Host) command(ctx context.Context, command ...string) (*exec.Cmd, func(), error) {
	if len(command) == 0 {
		return nil, nil, errors.New("cannot run an empty command")
	}
	spaces, err := h.spaces()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot run %s in %s: %w", strings.Join(command, " "), h.Name, err)
	}
	var args []string
	for i, n := range namespaceFlags {
		args = append(args, fmt.Sprintf("%s=/proc/self/fd/%d", n.flag, 3+i))
	}
	args = append(append(args, "--"), command...)
	cmd := exec.CommandContext(ctx, "/bin/sh", inCgroups(h.cgroups(), lookProgram("nsenter"), args...)...)
	cmd.ExtraFiles = spaces
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "LANG=C.UTF-8",
		"TERM=dumb", "DEBIAN_FRONTEND=noninteractive", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0",
	}
	// nsenter's child is in the host; only the group reaches both.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	return cmd, func() {
		for _, f := range spaces {
			f.Close()
		}
	}, nil
}

var errOff = errors.New("the host is not running")

// spaces duplicates the descriptors of the leader's namespaces, so that a reboot during a command
// cannot pull them away.
func (h *Host) spaces() ([]*os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.leader == nil && h.nspawn != 0 {
		h.leader = findLeader(h.nspawn)
	}
	if h.leader == nil {
		return nil, errOff
	}
	var files []*os.File
	for _, f := range h.leader.spaces {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		files = append(files, os.NewFile(uintptr(fd), f.Name()))
	}
	return files, nil
}

// EnterCommand is the shell line with which a person gets a shell in the running host.
func (h *Host) EnterCommand() (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.leader == nil {
		return "", errOff
	}
	return fmt.Sprintf("nsenter -t %d -m -u -i -n -p -C -- /bin/bash -l", h.leader.pid), nil
}

// open opens a path as the host sees it: its own /run and /tmp when it is on, symlinks resolved inside
// the host and never on the machine.
func (h *Host) open(name string, flags int, perm os.FileMode) (*os.File, error) {
	root := h.root()
	h.mu.Lock()
	if h.leader != nil {
		root = fmt.Sprintf("/proc/%d/root", h.leader.pid)
	}
	h.mu.Unlock()
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s of %s: %w", name, h.Name, err)
	}
	defer unix.Close(dir)
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(perm.Perm())
	}
	fd, err := unix.Openat2(dir, name, &how)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: h.Name + ":" + name, Err: err}
	}
	return os.NewFile(uintptr(fd), h.Name+":"+name), nil
}

// ReadFile reads a file of the host, on or off.
func (h *Host) ReadFile(name string) ([]byte, error) {
	f, err := h.open(name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var content bytes.Buffer
	_, err = content.ReadFrom(f)
	return content.Bytes(), err
}

// WriteFile writes a file of the host, on or off, and the directories above it.
func (h *Host) WriteFile(name string, data []byte, perm os.FileMode) error {
	f, err := h.create(name, perm)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	return errors.Join(f.Chmod(perm.Perm()), f.Close())
}

func (h *Host) create(name string, perm os.FileMode) (*os.File, error) {
	flags := unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC
	f, err := h.open(name, flags, perm)
	if !errors.Is(err, os.ErrNotExist) {
		return f, err
	}
	if err := h.mkdirAll(path.Dir(path.Clean("/" + name))); err != nil {
		return nil, err
	}
	return h.open(name, flags, perm)
}

func (h *Host) mkdirAll(dir string) error {
	if dir == "/" {
		return nil
	}
	if d, err := h.open(dir, unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
		return d.Close()
	}
	if err := h.mkdirAll(path.Dir(dir)); err != nil {
		return err
	}
	parent, err := h.open(path.Dir(dir), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := unix.Mkdirat(int(parent.Fd()), path.Base(dir), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return &os.PathError{Op: "mkdir", Path: h.Name + ":" + dir, Err: err}
	}
	return nil
}

// Push copies a file of the machine into the host, with its permission bits.
func (h *Host) Push(machineFile, name string) error {
	from, err := os.Open(machineFile)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	to, err := h.create(name, info.Mode())
	if err != nil {
		return err
	}
	_, err = to.ReadFrom(from)
	return errors.Join(err, to.Chmod(info.Mode().Perm()), to.Close())
}

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// rebootCode is what systemd-nspawn exits with when the host asked for a reboot; with --keep-unit
// starting it again is ours to do.
const rebootCode = 133

// Boot switches the host on and waits until systemd has finished booting. It returns systemd's word
// for the result, "running" or "degraded".
func (h *Host) Boot(ctx context.Context) (string, error) {
	ctx, cancel := bounded(ctx, bootTimeout)
	defer cancel()
	if err := h.Start(ctx); err != nil {
		return "", err
	}
	return h.WaitBooted(ctx)
}

// Start switches the host on and returns as soon as its PID 1 takes commands, long before boot ends.
func (h *Host) Start(ctx context.Context) error {
	ctx, cancel := bounded(ctx, bootTimeout)
	defer cancel()
	h.mu.Lock()
	if h.gone != nil && !closed(h.gone) {
		h.mu.Unlock()
		return fmt.Errorf("cannot boot %s: it is on already", h.Name)
	}
	next := h.boots + 1
	h.stopping, h.gone = false, make(chan struct{})
	go h.supervise(h.gone)
	h.mu.Unlock()
	return h.waitLeader(ctx, next)
}

// WaitBooted waits until the current boot has finished and returns systemd's word for how it went.
func (h *Host) WaitBooted(ctx context.Context) (string, error) {
	ctx, cancel := bounded(ctx, bootTimeout)
	defer cancel()
	r, err := h.Exec(ctx, "systemctl", "is-system-running", "--wait")
	if err != nil {
		return "", err
	}
	state := strings.TrimSpace(r.Stdout)
	if state != "running" && state != "degraded" {
		return state, fmt.Errorf("cannot boot %s: systemd says %q %s", h.Name, state, strings.TrimSpace(r.Stderr))
	}
	return state, nil
}

// supervise runs containers until one ends for another reason than a reboot.
func (h *Host) supervise(gone chan struct{}) {
	defer close(gone)
	for {
		code := h.runContainer()
		h.mu.Lock()
		h.exit = code
		again := code == rebootCode && !h.stopping
		h.mu.Unlock()
		if !again {
			return
		}
	}
}

func (h *Host) runContainer() int {
	cmd, console, err := h.nspawnCommand()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		h.lab.logf("cannot start %s: %v", h.Name, err)
		return -1
	}
	h.mu.Lock()
	h.boots++
	h.nspawn = cmd.Process.Pid
	h.mu.Unlock()
	cmd.Wait()
	console.Close()
	h.mu.Lock()
	h.nspawn = 0
	if h.leader != nil {
		h.leader.close()
		h.leader = nil
	}
	h.mu.Unlock()
	return cmd.ProcessState.ExitCode()
}

func (h *Host) nspawnCommand() (*exec.Cmd, *os.File, error) {
	console, err := os.OpenFile(h.console(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, nil, err
	}
	args := []string{
		"--quiet", "--boot", "--directory=" + h.root(), "--machine=" + h.Name + "-" + h.lab.run, "--hostname=" + h.Name,
		"--register=no", "--keep-unit", "--network-namespace-path=/run/netns/" + h.ns, "--console=pipe",
		"--link-journal=no", "--resolv-conf=off", "--timezone=off",
		// The journal is the witness: it lies outside the disk that power cuts and full disks happen to.
		"--bind=" + filepath.Join(h.dir, "journal") + ":/var/log/journal",
		"--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self",
	}
	if h.disk {
		args = append(args, "--bind="+filepath.Join(h.dir, "disk")+":"+DiskMount)
	}
	groups, err := h.makeCgroups()
	if err != nil {
		console.Close()
		return nil, nil, err
	}
	cmd := exec.Command("/bin/sh", inCgroups(groups, lookProgram("systemd-nspawn"), append(args, h.extra...)...)...)
	cmd.Stdout, cmd.Stderr = console, console
	// A session of its own: Ctrl-C is for the lab, which then switches the hosts off.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, console, nil
}

func (h *Host) console() string { return filepath.Join(h.dir, "console.log") }

// waitLeader waits until boot number n has a PID 1 that takes commands.
func (h *Host) waitLeader(ctx context.Context, n int) error {
	err := poll(ctx, func() (bool, error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if closed(h.gone) {
			return false, fmt.Errorf("systemd-nspawn exited with %d", h.exit)
		}
		if h.boots < n || h.nspawn == 0 {
			return false, nil
		}
		if h.leader == nil {
			h.leader = findLeader(h.nspawn)
		}
		return h.leader != nil, nil
	})
	if err != nil {
		console, _ := os.ReadFile(h.console())
		return fmt.Errorf("cannot boot %s: %w; console: %s", h.Name, err, tail(string(console), 1500))
	}
	return nil
}

// WaitReboot waits for boot number n of the host, which it started by itself, and for its end.
func (h *Host) WaitReboot(ctx context.Context, n int) (string, error) {
	ctx, cancel := bounded(ctx, bootTimeout)
	defer cancel()
	if err := h.waitLeader(ctx, n); err != nil {
		return "", err
	}
	return h.WaitBooted(ctx)
}

// Boots is how often the host has been started, by us or by its own reboots.
func (h *Host) Boots() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.boots
}

// On says whether the host's container exists, booted or not.
func (h *Host) On() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gone != nil && !closed(h.gone)
}

// Reboot asks systemd for an orderly reboot and waits until the next boot has finished.
func (h *Host) Reboot(ctx context.Context) (string, error) {
	next := h.Boots() + 1
	if _, err := h.Exec(ctx, "systemctl", "reboot"); err != nil && h.On() && h.Boots() < next {
		return "", err
	}
	return h.WaitReboot(ctx, next)
}

// PowerOff asks systemd for an orderly shutdown and waits until the host is off.
func (h *Host) PowerOff(ctx context.Context) error {
	ctx, cancel := bounded(ctx, bootTimeout)
	defer cancel()
	h.mu.Lock()
	h.stopping = true
	h.mu.Unlock()
	if _, err := h.Exec(ctx, "systemctl", "poweroff"); err != nil && h.On() {
		return err
	}
	return h.waitOff(ctx)
}

// KillLeader kills PID 1, and so every process of the host at once: a kernel crash without loss of
// what was written, because the machine's page cache survives. For that there is PowerCut.
func (h *Host) KillLeader(ctx context.Context) error {
	ctx, cancel := bounded(ctx, bootTimeout)
	defer cancel()
	h.mu.Lock()
	h.stopping = true
	if h.leader == nil && h.nspawn != 0 {
		h.leader = findLeader(h.nspawn)
	}
	if h.leader == nil {
		h.mu.Unlock()
		return fmt.Errorf("cannot crash %s: it is not running", h.Name)
	}
	err := h.leader.kill()
	h.mu.Unlock()
	if err != nil {
		return fmt.Errorf("cannot crash %s: %w", h.Name, err)
	}
	return h.waitOff(ctx)
}

func (h *Host) waitOff(ctx context.Context) error {
	h.mu.Lock()
	gone := h.gone
	h.mu.Unlock()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot see %s go off: %w", h.Name, context.Cause(ctx))
	}
}

// abandon kills the host without waiting for anything; the lab's teardown makes sure of the rest.
func (h *Host) abandon() {
	h.mu.Lock()
	h.stopping = true
	if h.leader == nil && h.nspawn != 0 {
		h.leader = findLeader(h.nspawn)
	}
	if h.leader != nil {
		h.leader.kill()
	}
	h.mu.Unlock()
}

// shutdownIoctl is FS_IOC_SHUTDOWN, and noLogFlush its way of stopping without writing the journal out.
const (
	shutdownIoctl = 0x8004587d
	noLogFlush    = 2
)

// PowerCut takes the power away: what the host's disk had not been told to keep is lost. The host is
// off afterwards, its disk mounted again with the journal replayed, ready for Boot. Only hosts with
// their own disk have it. The host's journal is kept elsewhere and survives.
func (h *Host) PowerCut(ctx context.Context) error {
	ctx, cancel := bounded(ctx, bootTimeout)
	defer cancel()
	if !h.disk {
		return fmt.Errorf("cannot cut the power of %s: it has no disk of its own; make it with Loop", h.Name)
	}
	disk, err := os.Open(filepath.Join(h.dir, "disk"))
	if err != nil {
		return err
	}
	err = unix.IoctlSetPointerInt(int(disk.Fd()), shutdownIoctl, noLogFlush)
	disk.Close()
	// EIO: a failpoint inside the host was first.
	if err != nil && !errors.Is(err, unix.EIO) {
		return fmt.Errorf("cannot cut the power of %s: %w", h.Name, err)
	}
	if h.On() {
		if err := h.KillLeader(ctx); err != nil && h.On() {
			return err
		}
	}
	if err := h.unmount(ctx); err != nil {
		return fmt.Errorf("cannot unmount %s after a power cut: %w", h.Name, err)
	}
	return h.mount(ctx)
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// leader is PID 1 of a running host, held by descriptors: they can never come to mean another process,
// so no command meant for the host can run on the machine.
type leader struct {
	pid    int
	pidfd  int
	spaces []*os.File
}

// namespaceFlags are nsenter's words for the namespaces of a host, in the order of leader.spaces.
var namespaceFlags = []struct{ flag, file string }{
	{"--mount", "mnt"}, {"--uts", "uts"}, {"--ipc", "ipc"}, {"--net", "net"}, {"--pid", "pid"}, {"--cgroup", "cgroup"},
}

// findLeader looks for the child of systemd-nspawn that is PID 1 of its own namespace and has its
// private socket up; the first child is not always the one. Nil while there is none.
func findLeader(nspawn int) *leader {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", nspawn))
	for _, list := range lists {
		children, _ := os.ReadFile(list)
		for _, child := range strings.Fields(string(children)) {
			pid, err := strconv.Atoi(child)
			if err != nil || !isInit(pid) {
				continue
			}
			if info, err := os.Stat(fmt.Sprintf("/proc/%d/root/run/systemd/private", pid)); err != nil || info.Mode()&os.ModeSocket == 0 {
				continue
			}
			if l := openLeader(pid); l != nil {
				return l
			}
		}
	}
	return nil
}

// isInit says whether the process is PID 1 of a namespace below ours.
func isInit(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields := strings.Fields(ids)
			return len(fields) >= 2 && fields[len(fields)-1] == "1"
		}
	}
	return false
}

func openLeader(pid int) *leader {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	l := &leader{pid: pid, pidfd: pidfd}
	for _, n := range namespaceFlags {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, n.file))
		if err != nil {
			l.close()
			return nil
		}
		l.spaces = append(l.spaces, f)
	}
	// Still the same process after everything was opened through its number?
	if !isInit(pid) || unix.PidfdSendSignal(pidfd, 0, nil, 0) != nil {
		l.close()
		return nil
	}
	return l
}

func (l *leader) kill() error {
	err := unix.PidfdSendSignal(l.pidfd, unix.SIGKILL, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func (l *leader) close() {
	unix.Close(l.pidfd)
	for _, f := range l.spaces {
		f.Close()
	}
}

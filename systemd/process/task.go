package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/slipway-deploy/slipway/systemd"
)

// Run runs a task as a child in its own process group. Properties are ignored: there is no sandbox.
func (c *Control) Run(ctx context.Context, t systemd.Task) (systemd.TaskResult, error) {
	if len(t.Command) == 0 || !filepath.IsAbs(t.Command[0]) {
		return systemd.TaskResult{}, fmt.Errorf("cannot run %s: the command must begin with an absolute path", t.Name)
	}
	cred, identity, err := credential(t.User, t.Group)
	if err != nil {
		return systemd.TaskResult{}, fmt.Errorf("cannot run %s: %w", t.Name, err)
	}
	timeout := t.Timeout
	if timeout <= 0 {
		timeout = systemd.DefaultTaskTimeout
	}
	output := &ring{}
	cmd := &exec.Cmd{
		Path: t.Command[0], Args: t.Command, Dir: t.Dir, Stdout: output, Stderr: output, WaitDelay: 100 * time.Millisecond,
		Env: append(append([]string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"}, identity...), t.Env...),
	}
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if err := c.spawn.start(cmd); err != nil {
		// systemd's own word for a program that cannot be executed.
		return systemd.TaskResult{Exit: 203, Result: "exit-code", Output: err.Error()}, ctx.Err()
	}
	return c.finish(ctx, cmd, timeout, output)
}

// finish waits for a task and kills its whole process group at the end, at its timeout and when ctx or the Control ends.
func (c *Control) finish(ctx context.Context, cmd *exec.Cmd, timeout time.Duration, output *ring) (systemd.TaskResult, error) {
	kill := func() { killGroup(cmd.Process.Pid, syscall.SIGKILL) }
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer context.AfterFunc(bounded, kill)()
	defer context.AfterFunc(c.ctx, kill)()
	err := cmd.Wait()
	kill()
	if ctx.Err() != nil {
		return systemd.TaskResult{}, ctx.Err()
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // the command ended well; something it left behind held its output open
	}
	result, exit := outcome(err)
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		result, exit = "signal", 128+int(ws.Signal())
	}
	timedOut := bounded.Err() != nil
	if timedOut {
		result = "timeout"
	}
	return systemd.TaskResult{Exit: exit, Result: result, TimedOut: timedOut, Output: output.text()}, nil
}

// ring keeps the last 4 KiB written to it.
type ring struct {
	mu  sync.Mutex
	buf []byte
}

func (r *ring) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buf = append(r.buf, p...)
	if over := len(r.buf) - 4<<10; over > 0 {
		r.buf = append(r.buf[:0], r.buf[over:]...)
	}
	return len(p), nil
}

func (r *ring) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.ToValidUTF8(string(r.buf), "\uFFFD")
}

// armed is a guard and the timer behind it.
type armed struct {
	guard systemd.Guard
	timer *time.Timer
}

func guardKey(app, attempt string) string { return app + ":" + attempt }

// ArmGuard sets a timer in this process; arming again replaces it. It cannot help when this process is dead or stopped.
func (c *Control) ArmGuard(_ context.Context, g systemd.Guard) (string, error) {
	if _, err := systemd.ParseGuard(g.Instance()); err != nil {
		return "", err
	}
	if len(c.cfg.Guard) == 0 {
		return "", fmt.Errorf("cannot arm %s: no guard command is configured", g.Timer())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.guards[guardKey(g.App, g.Attempt)]; old != nil {
		old.timer.Stop()
	}
	a := &armed{guard: g}
	a.timer = time.AfterFunc(max(0, g.Deadline-bootClock()), func() { c.fire(a) })
	c.guards[guardKey(g.App, g.Attempt)] = a
	return g.Timer(), nil
}

// fire runs the guard command in a session of its own: it must outlive this process, which it may have to kill.
func (c *Control) fire(a *armed) {
	c.mu.Lock()
	key := guardKey(a.guard.App, a.guard.Attempt)
	mine := c.guards[key] == a
	if mine {
		delete(c.guards, key)
	}
	c.mu.Unlock()
	if !mine {
		return
	}
	cmd := exec.Command(c.cfg.Guard[0], append(c.cfg.Guard[1:len(c.cfg.Guard):len(c.cfg.Guard)], a.guard.Instance())...)
	log, err := os.OpenFile(c.logPath(a.guard.Service()), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		c.cfg.Log.Error("the guard has no log", "app", a.guard.App, "error", err)
	} else {
		defer log.Close()
		cmd.Stdout, cmd.Stderr = log, log
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Run(); err != nil {
		c.cfg.Log.Error("the guard failed", "app", a.guard.App, "attempt", a.guard.Attempt, "error", err)
	}
}

// DisarmGuard stops a guard's timer; one that is absent or has fired is fine.
func (c *Control) DisarmGuard(_ context.Context, app, attempt string) error {
	key := guardKey(app, attempt)
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.guards[key]; a != nil {
		a.timer.Stop()
		delete(c.guards, key)
	}
	return nil
}

// Guards lists the guards armed now.
func (c *Control) Guards(context.Context) ([]systemd.Guard, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	guards := make([]systemd.Guard, 0, len(c.guards))
	for _, a := range c.guards {
		guards = append(guards, a.guard)
	}
	return guards, nil
}

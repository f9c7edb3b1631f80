package process

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/slipway-deploy/slipway/systemd"
)

// runtimeUnit is a unit as it is now. All fields but op are guarded by Control.mu; op lets one job at a time work on the unit.
type runtimeUnit struct {
	name string
	op   sync.Mutex
	spec *spec

	active, sub, result string
	pid, restarts, exit int
	invocation, said    string
	since               time.Duration
	gone                chan struct{} // closes when the main process has been reaped and its end handled
	stopping            bool
	starts              []time.Time
	abortStart, noRetry context.CancelFunc
	listeners           []*listener
}

func (u *runtimeUnit) status() systemd.UnitStatus {
	return systemd.UnitStatus{
		Name: u.name, Load: "loaded", Active: u.active, Sub: u.sub, Result: u.result, MainPID: u.pid, NRestarts: u.restarts,
		ExecStatus: u.exit, InvocationID: u.invocation, ActiveEnter: u.since, FragmentPath: u.spec.path, StatusText: u.said,
	}
}

// become changes a unit's state and tells watchers.
func (c *Control) become(u *runtimeUnit, active, sub, result string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if active == "active" && u.active != "active" {
		u.since = bootClock()
	}
	u.active, u.sub, u.result = active, sub, result
	c.touch()
}

// start starts a unit unless it runs. A start by hand begins the count of restarts anew.
func (c *Control) start(ctx context.Context, u *runtimeUnit) error {
	ctx, abort := context.WithCancel(ctx)
	defer abort()
	u.op.Lock()
	defer u.op.Unlock()
	if c.isRunning(u) {
		return nil
	}
	c.mu.Lock()
	u.abortStart, u.restarts, u.stopping = abort, 0, false
	c.mu.Unlock()
	switch filepath.Ext(u.name) {
	case ".socket":
		return c.listen(u)
	case ".target":
		c.become(u, "active", "active", "success")
		return nil
	}
	return c.launch(ctx, u)
}

// launch brings a service up; the caller holds op.
func (c *Control) launch(ctx context.Context, u *runtimeUnit) error {
	if !c.mayStart(u) {
		c.become(u, "failed", "failed", "start-limit-hit")
		return errors.New("started too often, start-limit-hit; reset the failure first")
	}
	c.mu.Lock()
	s := u.spec
	u.stopping = false
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	u.invocation, u.said, u.exit = hex.EncodeToString(id), "", 0
	c.mu.Unlock()
	if s.startTimeout > 0 && s.startTimeout != forever {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.startTimeout)
		defer cancel()
	}
	c.become(u, "activating", "start", "success")
	if err := c.openSockets(ctx, s); err != nil {
		c.failed(ctx, u, err)
		return err
	}
	p, err := c.prepare(u, s, true)
	if err == nil {
		err = c.bringUp(ctx, u, s, p)
	}
	if err != nil {
		c.failed(ctx, u, err)
		return err
	}
	return nil
}

func (c *Control) bringUp(ctx context.Context, u *runtimeUnit, s *spec, p *execution) error {
	for _, pre := range s.pre {
		if err := c.runCommand(ctx, u, p, pre); err != nil {
			p.close()
			return fmt.Errorf("ExecStartPre: %w", err)
		}
	}
	if s.typ == "oneshot" {
		return c.oneshot(ctx, u, s, p)
	}
	gone, err := c.startMain(u, s, p)
	if err != nil || s.typ != "notify" {
		return err
	}
	select {
	case <-p.ready:
		return c.readyNow(u)
	case <-gone:
		return errEarly
	case <-ctx.Done():
		return fmt.Errorf("not ready within %s", s.startTimeout)
	}
}

var errEarly = errors.New("the process ended before it was ready")

// readyNow makes a service active unless its process has just ended.
func (c *Control) readyNow(u *runtimeUnit) error {
	c.mu.Lock()
	alive := u.pid != 0
	if alive {
		u.active, u.sub, u.since = "active", "running", bootClock()
		c.touch()
	}
	c.mu.Unlock()
	if !alive {
		return errEarly
	}
	return nil
}

func (c *Control) oneshot(ctx context.Context, u *runtimeUnit, s *spec, p *execution) error {
	defer p.close()
	for _, command := range s.start {
		if err := c.runCommand(ctx, u, p, command); err != nil {
			return err
		}
	}
	if s.remain {
		c.become(u, "active", "exited", "success")
		return nil
	}
	c.become(u, "inactive", "dead", "success")
	return nil
}

// failed ends a start that went wrong: nothing of it keeps running.
func (c *Control) failed(ctx context.Context, u *runtimeUnit, cause error) {
	c.mu.Lock()
	u.stopping = true
	pid, gone := u.pid, u.gone
	c.mu.Unlock()
	killGroup(pid, syscall.SIGKILL)
	if gone != nil {
		<-gone
	}
	result := "exit-code"
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		result = "timeout"
	}
	c.become(u, "failed", "failed", result)
	c.retry(u, true)
	c.rearm(u)
	c.cfg.Log.Info("a unit did not start", "unit", u.name, "error", cause)
}

// mayStart enforces the start limit.
func (c *Control) mayStart(u *runtimeUnit) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	var recent []time.Time
	for _, at := range u.starts {
		if now.Sub(at) < u.spec.limitInterval {
			recent = append(recent, at)
		}
	}
	u.starts = append(recent, now)
	return u.spec.limitBurst <= 0 || u.spec.limitInterval <= 0 || len(u.starts) <= u.spec.limitBurst
}

// startMain starts the main process and the goroutine that waits for its end.
// Without a readiness protocol the service is active from here on.
func (c *Control) startMain(u *runtimeUnit, s *spec, p *execution) (<-chan struct{}, error) {
	cmd, err := p.command(s.start[0], c.fdsFor(u))
	if err != nil {
		p.close()
		return nil, err
	}
	if err := c.spawn.start(cmd); err != nil {
		p.close()
		return nil, fmt.Errorf("cannot start %s: %w", s.start[0].path, err)
	}
	gone := make(chan struct{})
	c.mu.Lock()
	u.pid, u.gone = cmd.Process.Pid, gone
	c.mu.Unlock()
	if s.typ != "notify" {
		_ = c.readyNow(u)
	}
	c.running.Go(func() {
		defer close(gone)
		err := cmd.Wait()
		killGroup(cmd.Process.Pid, syscall.SIGKILL)
		p.close()
		c.ended(u, err)
	})
	return gone, nil
}

// ended handles the end of a main process.
func (c *Control) ended(u *runtimeUnit, err error) {
	result, exit := outcome(err)
	c.mu.Lock()
	stopping, clean := u.stopping, result == "success" || result == "signal" && u.stopping
	starting := u.active == "activating"
	u.pid, u.exit = 0, exit
	c.mu.Unlock()
	switch {
	case starting:
		return
	case stopping && clean || result == "success":
		c.become(u, "inactive", "dead", "success")
	default:
		c.become(u, "failed", "failed", result)
	}
	if !stopping {
		c.retry(u, result != "success")
	}
	c.rearm(u)
}

// outcome words the end of a process as systemd does. The usual signals of a stop count as a clean end.
func outcome(err error) (string, int) {
	if err == nil {
		return "success", 0
	}
	exited, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return "resources", 1
	}
	ws, _ := exited.Sys().(syscall.WaitStatus)
	switch {
	case ws.Signaled() && (ws.Signal() == syscall.SIGTERM || ws.Signal() == syscall.SIGINT || ws.Signal() == syscall.SIGHUP || ws.Signal() == syscall.SIGPIPE):
		return "success", int(ws.Signal())
	case ws.Signaled():
		return "signal", int(ws.Signal())
	}
	return "exit-code", ws.ExitStatus()
}

// retry follows Restart=.
func (c *Control) retry(u *runtimeUnit, failed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	again := map[string]bool{
		"always": true, "on-failure": failed, "on-success": !failed, "on-abnormal": failed && u.result != "exit-code",
		"on-abort": failed && u.result == "signal",
	}[u.spec.restart]
	if !again || c.ctx.Err() != nil || u.result == "start-limit-hit" {
		return
	}
	ctx, cancel := context.WithCancel(c.ctx)
	u.noRetry = cancel
	u.active, u.sub = "activating", "auto-restart"
	c.touch()
	c.running.Go(func() {
		defer cancel()
		select {
		case <-time.After(u.spec.restartDelay):
		case <-ctx.Done():
			return
		}
		u.op.Lock()
		defer u.op.Unlock()
		if ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		u.restarts++
		u.abortStart = cancel
		c.mu.Unlock()
		_ = c.launch(ctx, u)
	})
}

// stop stops a unit: an unfinished start and a pending restart are given up first.
func (c *Control) stop(ctx context.Context, u *runtimeUnit) error {
	c.mu.Lock()
	for _, give := range []context.CancelFunc{u.abortStart, u.noRetry} {
		if give != nil {
			give()
		}
	}
	c.mu.Unlock()
	u.op.Lock()
	defer u.op.Unlock()
	c.mu.Lock()
	if u.noRetry != nil {
		u.noRetry() // a start that was just given up may have asked for another
	}
	pid, gone, s := u.pid, u.gone, u.spec
	u.stopping = true
	failed := u.active == "failed"
	c.mu.Unlock()
	if filepath.Ext(u.name) == ".socket" {
		c.unlisten(u)
	}
	if pid == 0 {
		if !failed {
			c.become(u, "inactive", "dead", "success")
		}
		return nil
	}
	c.become(u, "deactivating", "stop-sigterm", "success")
	return c.endMain(ctx, u, s, pid, gone)
}

// endMain asks the main process to end and kills it when it does not.
func (c *Control) endMain(ctx context.Context, u *runtimeUnit, s *spec, pid int, gone chan struct{}) error {
	c.runExtra(ctx, u, s, s.stop, pid)
	switch s.killMode {
	case "process", "mixed":
		_ = syscall.Kill(pid, s.killSignal)
	default:
		killGroup(pid, s.killSignal)
	}
	patience := time.NewTimer(min(s.stopFor, 24*time.Hour))
	defer patience.Stop()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
	case <-patience.C:
	}
	killGroup(pid, syscall.SIGKILL)
	<-gone
	c.become(u, "failed", "failed", "timeout")
	return ctx.Err()
}

// reload runs ExecReload= of a running service.
func (c *Control) reload(ctx context.Context, u *runtimeUnit) error {
	u.op.Lock()
	defer u.op.Unlock()
	c.mu.Lock()
	s, pid, active := u.spec, u.pid, u.active
	c.mu.Unlock()
	switch {
	case active != "active":
		return fmt.Errorf("it is %s", active)
	case len(s.reload) == 0:
		return errors.New("it has no ExecReload=")
	}
	c.become(u, "reloading", "reload", "success")
	err := c.runExtra(ctx, u, s, s.reload, pid)
	c.mu.Lock()
	if u.active == "reloading" {
		u.active, u.sub = "active", "running"
		c.touch()
	}
	c.mu.Unlock()
	return err
}

// runExtra runs commands beside a main process, which they know as $MAINPID.
func (c *Control) runExtra(ctx context.Context, u *runtimeUnit, s *spec, commands []command, pid int) error {
	if len(commands) == 0 {
		return nil
	}
	p, err := c.prepare(u, s, false)
	if err != nil {
		return err
	}
	defer p.close()
	p.env = append(p.env, fmt.Sprintf("MAINPID=%d", pid))
	for _, extra := range commands {
		if err := c.runCommand(ctx, u, p, extra); err != nil {
			return err
		}
	}
	return nil
}

// runCommand runs a control command to its end.
func (c *Control) runCommand(ctx context.Context, u *runtimeUnit, p *execution, what command) error {
	cmd, err := p.command(what, nil)
	if err != nil {
		return err
	}
	if err := c.spawn.start(cmd); err != nil {
		return fmt.Errorf("cannot start %s: %w", what.path, err)
	}
	stop := context.AfterFunc(ctx, func() { killGroup(cmd.Process.Pid, syscall.SIGKILL) })
	err = cmd.Wait()
	stop()
	if what.ignoreFailure && ctx.Err() == nil {
		return nil
	}
	if err != nil {
		_, exit := outcome(err)
		c.mu.Lock()
		u.exit = exit
		c.mu.Unlock()
		return fmt.Errorf("%s: %w", what.path, err)
	}
	return nil
}

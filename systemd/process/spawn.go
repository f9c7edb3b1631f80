package process

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"syscall"
)

// spawner starts children from one thread that lives as long as the daemon: the kernel sends a parent-death signal when the
// *thread* that forked ends, and Go's threads may end.
type spawner chan spawn

type spawn struct {
	cmd  *exec.Cmd
	done chan error
}

func newSpawner() spawner {
	s := make(spawner)
	go func() {
		runtime.LockOSThread()
		for job := range s {
			job.done <- job.cmd.Start()
		}
		// The thread stays locked and waits: ending it would kill the children.
		select {}
	}()
	return s
}

// start starts cmd in its own process group, to be killed with the daemon.
func (s spawner) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	job := spawn{cmd, make(chan error, 1)}
	s <- job
	return <-job.done
}

// credential is the identity for User= and Group=. Only root may change identity: anybody else runs children as itself.
func credential(name, group string) (*syscall.Credential, []string, error) {
	if name == "" || os.Geteuid() != 0 {
		return nil, nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot become user %s: %w", name, err)
	}
	gid := u.Gid
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot become group %s: %w", group, err)
		}
		gid = g.Gid
	}
	uidN, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gidN, err2 := strconv.ParseUint(gid, 10, 32)
	if err1 != nil || err2 != nil {
		return nil, nil, fmt.Errorf("cannot become user %s: its ids are not numbers", name)
	}
	env := []string{"USER=" + name, "LOGNAME=" + name, "HOME=" + u.HomeDir}
	return &syscall.Credential{Uid: uint32(uidN), Gid: uint32(gidN)}, env, nil
}

// killGroup signals the process group that a child leads. A group that is gone is fine.
func killGroup(pid int, signal syscall.Signal) {
	if pid > 0 {
		_ = syscall.Kill(-pid, signal)
	}
}

package agent_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const isolatedEnv = "SLIPWAY_TEST_ISOLATED"

func TestMain(m *testing.M) {
	if os.Getenv(lifeEnv) == "" && os.Getuid() == 0 {
		if os.Getenv(isolatedEnv) == "" {
			os.Exit(runIsolated())
		}
		check(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		check(unix.Mount("proc", "/proc", "proc", 0, ""))
		check(unix.Mount("tmpfs", os.Getenv("TMPDIR"), "tmpfs", 0, "size=2g,mode=1777"))
	}
	code := m.Run()
	os.RemoveAll(failpointDir)
	os.Exit(code)
}

// runIsolated starts this binary again with mounts and processes of its own: whatever way it dies, the kernel takes its
// mounts and loop devices back, and pruning sees the processes of these tests only.
//
// The temporary files are in memory: thousands of syncs a run are then not felt, and a killed process loses nothing of them.
// Power cuts have disks of their own.
func runIsolated() int {
	dir, err := os.MkdirTemp("", "agent-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot isolate the tests:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), isolatedEnv+"=yes", "TMPDIR="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread() // the child dies with the thread that started it
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "cannot isolate the tests:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("small filesystems and read-only trees are changed by root only")
	}
}

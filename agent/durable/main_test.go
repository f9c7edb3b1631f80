package durable_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-deploy/slipway/agent/durable"
)

const (
	helperEnv = "SLIPWAY_TEST_HELPER"
	mountsEnv = "SLIPWAY_TEST_MOUNTS"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		if err := helpers[name](os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	enterPrivateMounts()
	code := m.Run()
	os.RemoveAll(failpointDir)
	os.Exit(code)
}

// enterPrivateMounts starts this binary again in a mount namespace of its own, so that whatever way it dies the kernel takes
// its mounts and loop devices back.
func enterPrivateMounts() {
	if os.Getuid() != 0 || os.Getenv(mountsEnv) != "" {
		return
	}
	runtime.LockOSThread()
	if unix.Unshare(unix.CLONE_NEWNS) != nil || unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") != nil {
		return
	}
	syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), mountsEnv+"=private"))
}

var helpers = map[string]func(args []string) error{
	"write":    func(a []string) error { return durable.WriteFile(a[0], []byte(a[1]), 0o644) },
	"swap":     func(a []string) error { return durable.SwapLink(a[0], a[1]) },
	"lock":     lockAndWait,
	"sequence": func(a []string) error { return sequence(a[0], os.Stdout) },
}

func helper(binary, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), helperEnv+"="+name)
	return cmd
}

func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	return exe
}

var failpointDir string

var buildFailpoints = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "durable-failpoints-")
	if err != nil {
		return "", err
	}
	failpointDir = dir
	cmd := exec.Command("go", "test", "-c", "-tags", "failpoints", "-o", filepath.Join(dir, "helper"), ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return filepath.Join(dir, "helper"), nil
})

// failpointBinary is this test binary with the failpoints in it.
func failpointBinary(t *testing.T) string {
	t.Helper()
	if durable.FailpointsBuilt {
		return self(t)
	}
	path, err := buildFailpoints()
	must(t, err)
	return path
}

// disk is a small ext4 on a loop device.
type disk struct {
	t            *testing.T
	image, mount string
}

// newDisk turns off ext4's own repair of programs that rename without fsync, which would hide the bug looked for here.
func newDisk(t *testing.T, size int64) *disk {
	t.Helper()
	needRoot(t)
	d := &disk{t, filepath.Join(t.TempDir(), "image"), t.TempDir()}
	must(t, os.WriteFile(d.image, nil, 0o600))
	must(t, os.Truncate(d.image, size))
	run(t, "mkfs.ext4", "-q", "-m", "0", d.image)
	d.attach()
	t.Cleanup(func() { unix.Unmount(d.mount, unix.MNT_DETACH) })
	return d
}

func (d *disk) attach() {
	d.t.Helper()
	run(d.t, "mount", "-o", "loop,noauto_da_alloc", d.image, d.mount)
}

// powerOn mounts again after a power cut; that replays the journal.
func (d *disk) powerOn() {
	d.t.Helper()
	must(d.t, unix.Unmount(d.mount, 0))
	d.attach()
}

func newTmpfs(t *testing.T, options string) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, options))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func fillDisk(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	must(t, err)
	defer f.Close()
	for size := 1 << 16; size >= 1; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("filling %s: %v", dir, err)
		}
	}
	if err := f.Sync(); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a small filesystem needs root")
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

// names lists dir, temporary names included.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20 s in vain: %s", what)
		}
	}
}

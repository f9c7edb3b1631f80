package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/store"
)

const (
	helperEnv   = "SLIPWAY_TEST_HELPER"
	isolatedEnv = "SLIPWAY_TEST_ISOLATED"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		if err := helpers[name](os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getuid() == 0 && os.Getenv(isolatedEnv) == "" {
		os.Exit(runIsolated())
	}
	if os.Getenv(isolatedEnv) != "" {
		check(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		check(unix.Mount("proc", "/proc", "proc", 0, ""))
	}
	code := m.Run()
	os.RemoveAll(failpointDir)
	os.Exit(code)
}

// runIsolated starts this binary again with mounts and processes of its own. Whatever way it dies, the kernel takes its
// mounts, loop devices and processes back; and LiveUsers sees the processes of these tests only, not those of a machine
// where root may not look into all of them, on which it rightly answers that it cannot tell.
func runIsolated() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), isolatedEnv+"=yes")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread() // the child dies with the thread that started it
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "cannot isolate the tests:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

var failpointDir string

var buildFailpoints = sync.OnceValues(func() (string, error) {
	if durable.FailpointsBuilt {
		return os.Executable()
	}
	dir, err := os.MkdirTemp("", "store-failpoints-")
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

// helper is this test binary with the failpoints in it.
func helper(t *testing.T, name, root string, env ...string) *exec.Cmd {
	t.Helper()
	path, err := buildFailpoints()
	must(t, err)
	cmd := exec.Command(path, root)
	cmd.Env = append(append(os.Environ(), helperEnv+"="+name), env...)
	return cmd
}

// ship is a small release of billing: what a publisher would sign.
type ship struct {
	id       release.ID
	digest   release.Digest
	stamp    store.Stamp
	manifest *release.Manifest
	archive  []byte
}

var (
	billing  = mustParse(release.ParseApp, "billing")
	platform = mustParse(release.ParsePlatform, "linux/amd64")
	v1       = sync.OnceValue(func() ship { return build("1.0.0") })
	v2       = sync.OnceValue(func() ship { return build("2.0.0") })
	v3       = sync.OnceValue(func() ship { return build("3.0.0") })
)

func mustParse[T any](parse func(string) (T, error), s string) T {
	v, err := parse(s)
	if err != nil {
		panic(err)
	}
	return v
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func build(version string) ship {
	v := mustParse(release.ParseVersion, version)
	dir, err := os.MkdirTemp("", "ship-")
	check(err)
	defer os.RemoveAll(dir)
	check(os.MkdirAll(filepath.Join(dir, "bin"), 0o755))
	check(os.MkdirAll(filepath.Join(dir, "units"), 0o755))
	check(os.WriteFile(filepath.Join(dir, "bin/billing"), []byte("#!/bin/sh\n# "+version+"\nexec sleep 1000\n"), 0o755))
	check(os.WriteFile(filepath.Join(dir, "units/billing.service"), []byte("[Service]\nUser=billing\n"), 0o644))
	check(os.Symlink("bin/billing", filepath.Join(dir, "run")))
	var archive bytes.Buffer
	m, info, err := release.Pack(context.Background(), dir, billing, v, platform, &archive)
	check(err)
	manifest, err := release.Encode(m)
	check(err)
	doc, err := release.Encode(&release.Release{
		Schema: release.ReleaseSchema, App: billing, Version: v, Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Restart: release.RestartModeRestart,
		Units:   []release.UnitFile{{Name: mustParse(release.ParseUnitName, "billing.service"), Path: "units/billing.service"}},
		Platforms: map[release.Platform]release.Artifact{platform: {
			Archive:  release.File{Path: release.ArchivePath(billing, v, platform), SHA256: info.Digest, Length: info.Length},
			Manifest: release.File{Path: release.ManifestPath(billing, v, platform), SHA256: release.Sum(manifest), Length: int64(len(manifest))},
			Unpacked: info.Unpacked, Files: info.Files,
		}},
	})
	check(err)
	digest := release.Sum(doc)
	return ship{release.NewID(v, digest), digest, store.Stamp{Digest: digest, Release: doc, Manifest: manifest}, m, archive.Bytes()}
}

func begin(a *store.App, s ship) (*store.Incoming, error) {
	in, err := a.Begin(s.id, s.digest)
	if err != nil {
		return nil, err
	}
	return in, release.Unpack(context.Background(), bytes.NewReader(s.archive), s.manifest, in.Dir, release.UnpackOptions{})
}

func stage(a *store.App, s ship) error {
	in, err := begin(a, s)
	if err != nil {
		return err
	}
	return in.Complete(s.stamp)
}

func newApp(t *testing.T, ships ...ship) *store.App {
	t.Helper()
	a := store.Open(t.TempDir()).App(billing)
	for _, s := range ships {
		must(t, stage(a, s))
	}
	return a
}

// checkPromises asserts promise 1: a link names a complete release that is what its manifest says, or does not exist; and
// the same of every release that calls itself complete.
func checkPromises(t *testing.T, a *store.App) {
	t.Helper()
	for name, read := range map[string]func() (release.ID, error){"current": a.Current, "fallback": a.Fallback} {
		id, err := read()
		if errors.Is(err, store.ErrNone) {
			continue
		}
		must(t, err)
		checkWhole(t, a, name, id)
	}
	all, err := a.List()
	must(t, err)
	for _, info := range all {
		if info.Complete {
			checkWhole(t, a, "the list", info.ID)
		}
	}
}

func checkWhole(t *testing.T, a *store.App, who string, id release.ID) {
	t.Helper()
	diffs, err := a.Verify(context.Background(), id, false)
	if err != nil || len(diffs) > 0 {
		t.Errorf("%s names %s, which is not whole: %v %v", who, id, err, diffs)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

func newTmpfs(t *testing.T, options string) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, options))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
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

func kindOf(err error) string {
	var k interface{ Kind() string }
	if errors.As(err, &k) {
		return k.Kind()
	}
	return ""
}

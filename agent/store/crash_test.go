package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/store"
)

const lastResortPoint = "store.swap.before-last-resort"

var helpers = map[string]func(root string) error{
	"life":        func(root string) error { return life(store.Open(root).App(billing)) },
	"remove":      func(root string) error { return store.Open(root).App(billing).Remove(v1().id) },
	"last resort": func(root string) error { return store.Open(root).App(billing).Swap(v1().id) },
}

// life takes a host from v1 to v2 and off again, and can be started again wherever it was killed.
func life(a *store.App) error {
	if err := a.SweepGarbage(); err != nil {
		return err
	}
	if _, _, _, err := a.Load(v2().id); err != nil {
		if err := stage(a, v2()); err != nil {
			return err
		}
	}
	current, err := a.Current()
	if err != nil && !errors.Is(err, store.ErrNone) {
		return err
	}
	steps := []func() error{}
	if current == v1().id {
		steps = append(steps, func() error { return a.SetFallback(v1().id) }, func() error { return a.Swap(v2().id) })
	}
	steps = append(steps,
		func() error { return abandon(a) },
		func() error { _, err := begin(a, v3()); return err },
		a.SweepGarbage,
		a.ClearFallback,
		func() error { _, err := a.Prune(context.Background(), store.Keep{Newest: 1}); return err },
		a.RemoveCurrent)
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func abandon(a *store.App) error {
	in, err := begin(a, v3())
	if err != nil {
		return err
	}
	return in.Abandon()
}

func prepareLife(t *testing.T, root string) *store.App {
	t.Helper()
	a := store.Open(root).App(billing)
	must(t, stage(a, v1()))
	must(t, a.Swap(v1().id))
	must(t, durable.SyncFS(root))
	return a
}

// resume is the restarted daemon: promise 1 holds, and the life goes on to its end.
func resume(t *testing.T, a *store.App) {
	t.Helper()
	checkPromises(t, a)
	if err := life(a); err != nil {
		t.Fatalf("cannot go on after the crash: %v", err)
	}
	checkPromises(t, a)
	want := v2().id.String() + " " + v2().id.String() + ".meta"
	if got := names(t, filepath.Join(a.Root(), "releases")); got != want {
		t.Errorf("at the end: %s, want %s", got, want)
	}
}

func crash(t *testing.T, name, root, arm string) {
	t.Helper()
	out, err := helper(t, name, root, "SLIPWAY_FAILPOINT="+arm).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%s was not reached: %v: %s", arm, err, out)
	}
}

// passed is every failpoint of a life in order, those of package durable included.
func passed(t *testing.T) []string {
	t.Helper()
	root, trace := t.TempDir(), filepath.Join(t.TempDir(), "trace")
	prepareLife(t, root)
	if out, err := helper(t, "life", root, "SLIPWAY_FAILPOINT_TRACE="+trace).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(trace)
	must(t, err)
	return strings.Fields(string(data))
}

func storeFailpoints() []string {
	return slices.DeleteFunc(durable.Failpoints(), func(name string) bool { return !strings.HasPrefix(name, "store.") })
}

func TestKillAtEveryStepKeepsCurrentComplete(t *testing.T) {
	points := passed(t)
	for _, name := range storeFailpoints() {
		if name != lastResortPoint && !slices.Contains(points, name) {
			t.Errorf("failpoint %s is passed by no test", name)
		}
	}
	seen := map[string]int{}
	for _, name := range points {
		seen[name]++
		arm := fmt.Sprintf("%s=kill,hit=%d", name, seen[name])
		t.Run(arm, func(t *testing.T) {
			root := t.TempDir()
			a := prepareLife(t, root)
			crash(t, "life", root, arm)
			resume(t, a)
		})
	}
	t.Logf("%d crash points, %d names", len(points), len(seen))
}

func TestKillBeforeTheLastResortKeepsCurrentComplete(t *testing.T) {
	a := lastResort(t)
	crash(t, "last resort", filepath.Dir(a.Root()), lastResortPoint+"=kill")
	checkPromises(t, a)
	if current, _ := a.Current(); current != v2().id {
		t.Errorf("current is %s", current)
	}
	must(t, a.Swap(v1().id))
	checkPromises(t, a)
}

func TestPowerCutAtEveryStoreStepKeepsCurrentComplete(t *testing.T) {
	needRoot(t)
	for _, action := range []string{"powercut", "powercut-committed"} {
		for _, name := range storeFailpoints() {
			if name == lastResortPoint {
				continue
			}
			t.Run(action+"/"+name, func(t *testing.T) {
				image, mount := filepath.Join(t.TempDir(), "image"), t.TempDir()
				attach := func() { run(t, "mount", "-o", "loop,noauto_da_alloc", image, mount) }
				must(t, os.WriteFile(image, nil, 0o600))
				must(t, os.Truncate(image, 16<<20))
				run(t, "mkfs.ext4", "-q", image)
				attach()
				t.Cleanup(func() { unix.Unmount(mount, unix.MNT_DETACH) })
				a := prepareLife(t, filepath.Join(mount, "opt"))
				crash(t, "life", filepath.Join(mount, "opt"), name+"="+action+":"+mount)
				must(t, unix.Unmount(mount, 0))
				attach()
				resume(t, a)
			})
		}
	}
}

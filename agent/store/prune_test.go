package store_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/store"
)

func prune(t *testing.T, a *store.App, k store.Keep) store.Pruned {
	t.Helper()
	got, err := a.Prune(context.Background(), k)
	must(t, err)
	checkPromises(t, a)
	return got
}

func TestPruneDeletesOnlyWhatNothingKeeps(t *testing.T) {
	for _, c := range []struct {
		name string
		keep store.Keep
		why  string
	}{
		{"by state", store.Keep{IDs: map[release.ID]bool{v1().id: true}}, "the app's state needs it"},
		{"by count", store.Keep{Newest: 3}, "it is one of the 3 newest"},
		{"by age", store.Keep{MinAge: time.Hour}, "it was staged less than 1h0m0s ago"},
		{"by nothing", store.Keep{Newest: 2}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newApp(t, v1(), v2(), v3())
			must(t, a.SetFallback(v2().id))
			must(t, a.Swap(v3().id))
			got := prune(t, a, c.keep)
			if got.Kept[v1().id] != c.why || slices.Contains(got.Removed, v1().id) != (c.why == "") {
				t.Errorf("got %+v", got)
			}
			if got.Kept[v3().id] != "it is current" || got.Kept[v2().id] != "it is fallback" {
				t.Errorf("got %+v", got)
			}
			if _, _, _, err := a.Load(v1().id); (kindOf(err) == "incomplete") != (c.why == "") {
				t.Errorf("load: %v", err)
			}
			left, _ := os.ReadDir(filepath.Join(a.Root(), "releases"))
			if want := 6 - 2*len(got.Removed); len(left) != want {
				t.Errorf("%v are left, want %d", left, want)
			}
		})
	}
}

func TestPruneKeepsWhenUnsure(t *testing.T) {
	a := newApp(t, v1())
	unsure := func([]string) (map[string]string, error) { return nil, errors.New("the processes cannot be read") }
	got, err := a.Prune(context.Background(), store.Keep{InUse: unsure})
	if err == nil || !strings.Contains(got.Kept[v1().id], "the processes cannot be read") {
		t.Errorf("got %+v, %v", got, err)
	}
	must(t, os.Symlink("elsewhere", filepath.Join(a.Root(), "current")))
	if got, err := a.Prune(context.Background(), store.Keep{}); err == nil || len(got.Removed) > 0 {
		t.Errorf("pruned with an unreadable link: %+v, %v", got, err)
	}
	must(t, a.RemoveCurrent())
	checkWhole(t, a, "the test", v1().id)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if got, err := a.Prune(ended, store.Keep{}); !errors.Is(err, context.Canceled) || len(got.Removed) > 0 {
		t.Errorf("pruned after the end: %+v, %v", got, err)
	}
}

func TestPruneDeletesWhatHasNoStampAndLeavesForeignNamesAlone(t *testing.T) {
	a := newApp(t, v1())
	must(t, os.Remove(a.ReleaseDir(v1().id)+".meta/stamp"))
	foreign := filepath.Join(a.Root(), "releases", "notes of the operator")
	must(t, os.Mkdir(foreign, 0o755))
	if got := prune(t, a, store.Keep{Newest: 5, MinAge: time.Hour}); !slices.Equal(got.Removed, []release.ID{v1().id}) {
		t.Errorf("got %+v", got)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Error(err)
	}
}

func TestRemoveRefusesALinkedRelease(t *testing.T) {
	a := newApp(t, v1(), v2())
	must(t, a.SetFallback(v1().id))
	must(t, a.Swap(v2().id))
	for id, link := range map[release.ID]string{v1().id: "fallback", v2().id: "current"} {
		if err := a.Remove(id); !errors.Is(err, store.ErrInUse) || kindOf(err) != "in-use" || !strings.HasSuffix(err.Error(), "it is "+link) {
			t.Errorf("got %v", err)
		}
	}
	checkPromises(t, a)
}

// live runs a shell inside a release until the test ends; script says "ready" and then waits on its input.
func live(t *testing.T, a *store.App, script string) {
	t.Helper()
	needRoot(t)
	cmd := exec.Command("sh", "-c", script+"; echo ready; read line")
	cmd.Env = append(os.Environ(), "DIR="+a.ReleaseDir(v1().id))
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	t.Cleanup(func() { in.Close(); io.Copy(io.Discard, out); cmd.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
}

func TestARunningProcessKeepsItsRelease(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"working directory": {`cd "$DIR/bin"`, " has it as cwd"},
		"open file":         {`exec 7<"$DIR/bin/billing"`, " has it as open file 7"},
		"program":           {`cp "$(command -v sleep)" "$DIR/prog"; "$DIR/prog" 20 & exec 0<&0; trap "kill $!" EXIT; until readlink /proc/$!/exe | grep -q prog; do :; done`, " has it as exe"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t, v1())
			live(t, a, c.script)
			err := a.Remove(v1().id)
			if !errors.Is(err, store.ErrInUse) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want one that%s", err, c.want)
			}
			if got, err := a.Prune(context.Background(), store.Keep{}); err != nil || !strings.Contains(got.Kept[v1().id], c.want) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestAMappedFileKeepsItsRelease(t *testing.T) {
	a := newApp(t, v1())
	f, err := os.Open(filepath.Join(a.ReleaseDir(v1().id), "bin/billing"))
	must(t, err)
	data, err := unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	f.Close()
	if err := a.Remove(v1().id); !errors.Is(err, store.ErrInUse) || !strings.Contains(err.Error(), " has it as mapped file") {
		t.Errorf("got %v", err)
	}
	must(t, unix.Munmap(data))
	must(t, a.Remove(v1().id))
}

// A root without CAP_SYS_PTRACE is what a careless hardening of the daemon's unit makes.
func TestAProcessThatCannotBeLookedIntoKeepsEverything(t *testing.T) {
	needRoot(t)
	a := newApp(t, v1())
	cmd := helper(t, "remove", filepath.Dir(a.Root()))
	weak := exec.Command("setpriv", "--bounding-set=-sys_ptrace", cmd.Path, cmd.Args[1])
	weak.Env = cmd.Env
	out, err := weak.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "cannot tell which files process 1 uses: ") {
		t.Errorf("%v: %s", err, out)
	}
	checkWhole(t, a, "the test", v1().id)
}

func TestAProcessThatSeesTheReleaseThroughABindMountKeepsIt(t *testing.T) {
	a := newApp(t, v1())
	needRoot(t)
	view := t.TempDir()
	cmd := exec.Command("unshare", "--mount", "sh", "-c", `mount --bind "$DIR" "$VIEW" && cd "$VIEW" && echo ready && read line`)
	cmd.Env = append(os.Environ(), "DIR="+a.ReleaseDir(v1().id), "VIEW="+view)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := a.Remove(v1().id); !errors.Is(err, store.ErrInUse) || !strings.Contains(err.Error(), "has it as mount at ") {
		t.Errorf("got %v", err)
	}
	in.Close()
	cmd.Wait()
	eventually(t, "the release can be removed once the process has ended", func() bool { return a.Remove(v1().id) == nil })
}

func TestSweepGarbageLeavesReleasesAndTrashInUse(t *testing.T) {
	a := newApp(t, v1(), v2())
	must(t, a.Swap(v2().id))
	_, err := begin(a, v3())
	must(t, err)
	releases := filepath.Join(a.Root(), "releases")
	used, unused := filepath.Join(releases, ".trash-x-0"), filepath.Join(releases, ".trash-y-0")
	must(t, os.Rename(a.ReleaseDir(v1().id), used))
	must(t, os.MkdirAll(filepath.Join(unused, "deep/er"), 0o755))
	must(t, os.Chmod(filepath.Join(unused, "deep"), 0o555))
	must(t, os.Symlink("x", filepath.Join(a.Root(), ".current.tmp-12")))
	f, err := os.Open(filepath.Join(used, "bin/billing"))
	must(t, err)
	defer f.Close()
	must(t, a.SweepGarbage())
	if got := names(t, releases); got != ".trash-x-0 "+v2().id.String()+" "+v2().id.String()+".meta" {
		t.Errorf("left: %s", got)
	}
	f.Close()
	must(t, a.SweepGarbage())
	if got := names(t, a.Root()) + " " + names(t, releases); strings.Contains(got, "trash") || strings.Contains(got, ".tmp-") {
		t.Errorf("left: %s", got)
	}
	checkPromises(t, a)
}

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

func TestCheckSpaceAddsUpWhatOneFilesystemMustHold(t *testing.T) {
	dir := newTmpfs(t, "size=8m,nr_inodes=100")
	a, b := filepath.Join(dir, "not/yet"), filepath.Join(dir, "there")
	must(t, store.CheckSpace([]store.Need{{Path: a, Bytes: 3 << 20, Inodes: 9}, {Path: b, Bytes: 3 << 20}}, 1<<20))
	for _, c := range []struct {
		needs   []store.Need
		reserve int64
		want    store.SpaceError
		text    string
	}{
		{[]store.Need{{Path: a, Bytes: 5 << 20}, {Path: b, Bytes: 5 << 20}}, 0, store.SpaceError{Path: a, What: "bytes", Need: 10 << 20, Have: 8 << 20},
			"10 MiB are needed and 0 MiB kept in reserve, 8 MiB are free; free 2 MiB more"},
		{[]store.Need{{Path: a, Bytes: 6 << 20}}, 4 << 20, store.SpaceError{Path: a, What: "bytes", Need: 6 << 20, Have: 8 << 20, Reserve: 4 << 20}, "free 2 MiB more"},
		{[]store.Need{{Path: a, Inodes: 500}}, 0, store.SpaceError{Path: a, What: "inodes", Need: 500, Have: 99}, "500 are needed, 99 are free; free 401 more"},
	} {
		err := store.CheckSpace(c.needs, c.reserve)
		var space *store.SpaceError
		if !errors.As(err, &space) || *space != c.want || !strings.Contains(err.Error(), c.text) || kindOf(err) != "no-space" {
			t.Errorf("got %v, want %s", err, c.text)
		}
	}
	must(t, store.CheckSpace([]store.Need{{Path: a, Bytes: 6 << 20}, {Path: "/proc/self"}}, 0)) // a filesystem that counts nothing
}

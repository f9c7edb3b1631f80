package durable_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-deploy/slipway/agent/durable"
)

// sequence uses every primitive once and says after each that it returned: from then on its effect must survive anything.
func sequence(dir string, said io.Writer) error {
	in := func(name string) string { return filepath.Join(dir, name) }
	full := true
	steps := []struct {
		name string
		do   func() error
	}{
		{"mkdir", func() error { return durable.MkdirAll(in("a/b"), 0o755) }},
		{"write", func() error { return durable.WriteFile(in("file"), []byte("new"), 0o600) }},
		{"swap", func() error { return durable.SwapLink(in("link"), "file") }},
		{"rename", func() error {
			if _, err := os.Stat(in("a/b/moved")); err == nil {
				return durable.SyncDir(in("a/b"))
			}
			return durable.Rename(in("from"), in("a/b/moved"))
		}},
		{"remove", func() error { return durable.Remove(in("gone")) }},
		{"unlink", func() error { return durable.RemoveLink(in("dangling")) }},
		{"reserve", func() error {
			r := &durable.Reserve{Path: in("reserve"), Size: 4096}
			if err := r.Ensure(); err != nil {
				return err
			}
			return r.Use(func() error {
				if full {
					full = false
					return unix.ENOSPC
				}
				return nil
			})
		}},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return err
		}
		fmt.Fprintln(said, "done "+s.name)
	}
	return nil
}

func prepareSequence(t *testing.T, dir string) {
	t.Helper()
	for name, content := range map[string]string{"file": "old", "from": "moved", "gone": "x"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	must(t, os.Symlink("from", filepath.Join(dir, "dangling")))
	must(t, os.Symlink("gone", filepath.Join(dir, "link")))
	must(t, durable.SyncFS(dir))
}

// checkSequence asserts old or new for each step, and new for those that returned.
func checkSequence(t *testing.T, dir, output string) {
	t.Helper()
	in := func(name string) string { return filepath.Join(dir, name) }
	absent := func(name string) bool { _, err := os.Lstat(in(name)); return errors.Is(err, fs.ErrNotExist) }
	content := func(name string) string { data, _ := os.ReadFile(in(name)); return string(data) }
	target, _ := os.Readlink(in("link"))
	for _, c := range []struct {
		step     string
		old, new bool
	}{
		{"mkdir", absent("a") || absent("a/b"), !absent("a/b")},
		{"write", content("file") == "old", content("file") == "new"},
		{"swap", target == "gone", target == "file" && content("link") == "new"},
		{"rename", content("from") == "moved", content("a/b/moved") == "moved"},
		{"remove", content("gone") == "x", absent("gone")},
		{"unlink", !absent("dangling"), absent("dangling")},
		{"reserve", true, !absent("reserve")},
	} {
		if !c.new && (!c.old || strings.Contains(output, "done "+c.step+"\n")) {
			t.Errorf("%s: old %v, new %v, after:\n%s%s", c.step, c.old, c.new, output, names(t, dir))
		}
	}
}

func crash(t *testing.T, dir, arm string) string {
	t.Helper()
	cmd := helper(failpointBinary(t), "sequence", dir)
	cmd.Env = append(cmd.Env, "SLIPWAY_FAILPOINT="+arm)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%s was not reached: %v", arm, err)
	}
	return string(out)
}

// finish runs the sequence again as the restarted program would.
func finish(t *testing.T, dir string) {
	t.Helper()
	must(t, sequence(dir, io.Discard))
	must(t, durable.SweepTemps(dir))
	checkSequence(t, dir, "done mkdir\ndone write\ndone swap\ndone rename\ndone remove\ndone unlink\ndone reserve\n")
	if got := names(t, dir); strings.Contains(got, ".tmp-") {
		t.Errorf("left behind: %s", got)
	}
}

func TestKillAtEveryFailpointLeavesOldOrNew(t *testing.T) {
	for _, name := range durable.Failpoints() {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			prepareSequence(t, dir)
			checkSequence(t, dir, crash(t, dir, name+"=kill"))
			finish(t, dir)
		})
	}
}

func TestPowerCutAtEveryFailpointLeavesOldOrNew(t *testing.T) {
	for _, action := range []string{"powercut", "powercut-committed"} {
		for _, name := range durable.Failpoints() {
			t.Run(action+"/"+name, func(t *testing.T) {
				d := newDisk(t, 16<<20)
				dir := filepath.Join(d.mount, "work")
				must(t, os.Mkdir(dir, 0o755))
				prepareSequence(t, dir)
				output := crash(t, dir, name+"="+action+":"+d.mount)
				d.powerOn()
				checkSequence(t, dir, output)
				finish(t, dir)
			})
		}
	}
}

// naive is what WriteFile and SwapLink would be without fsync.
func naive(dir string) error {
	new, link := filepath.Join(dir, "new"), filepath.Join(dir, "link")
	if err := os.WriteFile(new+".tmp", []byte("new"), 0o600); err != nil {
		return err
	}
	if err := os.Rename(new+".tmp", filepath.Join(dir, "file")); err != nil {
		return err
	}
	if err := os.Symlink("file", link+".tmp"); err != nil {
		return err
	}
	return os.Rename(link+".tmp", link)
}

// The proof that the test above can fail: the same cut after the same steps without fsync.
func TestWithoutFsyncAPowerCutLeavesAnEmptyFile(t *testing.T) {
	d := newDisk(t, 16<<20)
	dir := filepath.Join(d.mount, "work")
	must(t, os.Mkdir(dir, 0o755))
	prepareSequence(t, dir)
	must(t, naive(dir))
	cutAfterUnrelatedSync(t, d.mount)
	d.powerOn()
	if target, _ := os.Readlink(filepath.Join(dir, "link")); target != "file" {
		t.Fatalf("link names %q", target)
	}
	if got := read(t, filepath.Join(dir, "file")); got != "" {
		t.Errorf("got %q: the power cut of this test loses nothing, so it proves nothing", got)
	}
}

func TestWhatReturnedSurvivesAPowerCutRightAfter(t *testing.T) {
	d := newDisk(t, 16<<20)
	dir := filepath.Join(d.mount, "work")
	must(t, os.Mkdir(dir, 0o755))
	prepareSequence(t, dir)
	must(t, sequence(dir, io.Discard))
	cut(t, d.mount)
	d.powerOn()
	checkSequence(t, dir, "done mkdir\ndone write\ndone swap\ndone rename\ndone remove\ndone unlink\ndone reserve\n")
}

func cutAfterUnrelatedSync(t *testing.T, mount string) {
	t.Helper()
	other := filepath.Join(mount, "unrelated")
	must(t, os.WriteFile(other, []byte("x"), 0o600))
	must(t, durable.SyncFile(other))
	cut(t, mount)
}

func cut(t *testing.T, mount string) {
	t.Helper()
	f, err := os.Open(mount)
	must(t, err)
	defer f.Close()
	must(t, unix.IoctlSetPointerInt(int(f.Fd()), 0x8004587d, 2))
}

package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-deploy/slipway/agent/durable"
)

func TestWriteFileReplacesContentAndPermissions(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir := t.TempDir()
	path := filepath.Join(dir, "state.json")
	must(t, durable.WriteFile(path, []byte("one"), 0o600))
	must(t, durable.WriteFile(path, []byte("two"), 0o644))
	info, err := os.Stat(path)
	must(t, err)
	if read(t, path) != "two" || info.Mode() != 0o644 {
		t.Errorf("got %q with %v, want \"two\" with 0644 whatever the umask", read(t, path), info.Mode())
	}
	if got := names(t, dir); got != "state.json" {
		t.Errorf("left behind: %s", got)
	}
}

func TestWriteFileReplacesALinkInsteadOfFollowingIt(t *testing.T) {
	dir := t.TempDir()
	victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, "path")
	must(t, os.WriteFile(victim, []byte("untouched"), 0o600))
	must(t, os.Symlink("victim", path))
	must(t, durable.WriteFile(path, []byte("mine"), 0o600))
	if read(t, victim) != "untouched" || read(t, path) != "mine" {
		t.Errorf("victim %q, path %q", read(t, victim), read(t, path))
	}
}

func TestWriteFileNamesPathAndReasonAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	err := durable.WriteFile(filepath.Join(dir, "absent", "x"), nil, 0o600)
	if !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "cannot write "+dir+"/absent/x: ") {
		t.Errorf("got %v", err)
	}
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	if err := durable.WriteFile(filepath.Join(dir, "d"), []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced by a file")
	}
	if got := names(t, dir); got != "d" {
		t.Errorf("left behind: %s", got)
	}
}

func TestSwapLinkCreatesSwapsAndRepeats(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "current")
	for _, target := range []string{"releases/1", "releases/2", "releases/2"} {
		must(t, durable.SwapLink(link, target))
		if got, _ := os.Readlink(link); got != target {
			t.Errorf("got %s, want %s", got, target)
		}
	}
	if got := names(t, dir); got != "current" {
		t.Errorf("left behind: %s", got)
	}
}

func TestSwapLinkRefusesWhatIsNotALink(t *testing.T) {
	dir := t.TempDir()
	file, sub := filepath.Join(dir, "file"), filepath.Join(dir, "sub")
	must(t, os.WriteFile(file, []byte("mine"), 0o600))
	must(t, os.Mkdir(sub, 0o755))
	for path, word := range map[string]string{file: "a file,", sub: "a directory,"} {
		for _, err := range []error{durable.SwapLink(path, "x"), durable.RemoveLink(path)} {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("%s: got %v", path, err)
			}
		}
	}
	if err := durable.SwapLink(filepath.Join(dir, "new"), ""); err == nil {
		t.Error("an empty target was accepted")
	}
	if read(t, file) != "mine" {
		t.Error("the file was touched")
	}
}

func TestReadersOfASwappedLinkAlwaysFindATree(t *testing.T) {
	dir := t.TempDir()
	for _, tree := range []string{"1", "2"} {
		must(t, os.Mkdir(filepath.Join(dir, tree), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, tree, "bin"), []byte(tree), 0o644))
	}
	link := filepath.Join(dir, "current")
	must(t, durable.SwapLink(link, "1"))
	stop, reader := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				reader <- nil
				return
			default:
			}
			if _, err := os.ReadFile(filepath.Join(link, "bin")); err != nil {
				<-stop
				reader <- err
				return
			}
		}
	}()
	for range 50 {
		must(t, durable.SwapLink(link, "2"))
		must(t, durable.SwapLink(link, "1"))
	}
	close(stop)
	must(t, <-reader)
}

func TestRemoveIsFineWithAbsence(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "f"), filepath.Join(dir, "l")
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Symlink("nowhere", link))
	for range 2 {
		must(t, durable.Remove(path))
		must(t, durable.RemoveLink(link))
	}
	must(t, durable.Remove(filepath.Join(dir, "absent", "f")))
	if got := names(t, dir); got != "" {
		t.Errorf("left: %s", got)
	}
}

func TestRenameMovesBetweenDirectories(t *testing.T) {
	dir := t.TempDir()
	must(t, durable.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
	must(t, durable.WriteFile(filepath.Join(dir, "x"), []byte("x"), 0o600))
	must(t, durable.Rename(filepath.Join(dir, "x"), filepath.Join(dir, "a/b/y")))
	if read(t, filepath.Join(dir, "a/b/y")) != "x" {
		t.Error("content lost")
	}
	if err := durable.Rename(filepath.Join(dir, "x"), filepath.Join(dir, "z")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestMkdirAllSetsPermissionsOnlyOnWhatItMakes(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "old"), 0o700))
	for range 2 {
		must(t, durable.MkdirAll(filepath.Join(dir, "old/new/newer"), 0o755))
	}
	for path, want := range map[string]fs.FileMode{"old": 0o700, "old/new": 0o755, "old/new/newer": 0o755} {
		if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v %v, want %v", path, info.Mode(), err, want)
		}
	}
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	if err := durable.MkdirAll(filepath.Join(dir, "file"), 0o755); err == nil {
		t.Error("a file passed for a directory")
	}
}

func TestSyncsNameWhatTheyCannotSync(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600))
	must(t, durable.SyncFile(filepath.Join(dir, "f")))
	must(t, durable.SyncDir(dir))
	must(t, durable.SyncFS(dir))
	absent := filepath.Join(dir, "absent")
	for _, err := range []error{durable.SyncFile(absent), durable.SyncDir(absent), durable.SyncFS(absent)} {
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), absent) {
			t.Errorf("got %v", err)
		}
	}
	if err := durable.SyncDir(filepath.Join(dir, "f")); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("got %v", err)
	}
}

func TestSweepTempsRemovesOnlyTemporaryNames(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".a.tmp-123", ".a.tmp-x", "a.tmp-1", ".tmp-1", ".hidden", "a"} {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	must(t, os.Symlink("x", filepath.Join(dir, ".current.tmp-77")))
	must(t, durable.SweepTemps(dir))
	must(t, durable.SweepTemps(filepath.Join(dir, "absent")))
	if got, want := names(t, dir), ".a.tmp-x .hidden .tmp-1 a a.tmp-1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

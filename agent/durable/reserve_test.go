package durable_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-deploy/slipway/agent/durable"
)

func smallDisks(t *testing.T) map[string]string {
	return map[string]string{"tmpfs": newTmpfs(t, "size=4m"), "ext4": newDisk(t, 8<<20).mount}
}

func TestReserveMakesAWriteSucceedOnAFullDisk(t *testing.T) {
	for kind, dir := range smallDisks(t) {
		t.Run(kind, func(t *testing.T) {
			r := &durable.Reserve{Path: filepath.Join(dir, "reserve"), Size: 1 << 20}
			must(t, r.Ensure())
			if held, err := r.Held(); err != nil || held < r.Size {
				t.Fatalf("holds %d, %v", held, err)
			}
			fillDisk(t, dir)
			path, runs := filepath.Join(dir, "state"), 0
			content := string(make([]byte, 64<<10))
			write := func() error {
				runs++
				return durable.WriteFile(path, []byte(content), 0o600)
			}
			if err := write(); !durable.NoSpace(err) {
				t.Fatalf("the disk is not full: %v", err)
			}
			must(t, r.Use(write))
			if read(t, path) != content || runs != 3 {
				t.Errorf("%d runs", runs)
			}
			held, err := r.Held()
			must(t, err)
			if held >= r.Size || held == 0 {
				t.Errorf("the reserve was made again from what is left, so it holds less than before and more than nothing: %d", held)
			}
			must(t, os.Remove(filepath.Join(dir, "filler")))
			must(t, r.Ensure())
			if held, _ := r.Held(); held < r.Size {
				t.Errorf("holds %d after space came back", held)
			}
		})
	}
}

func TestReserveGivesAnInodeBackToo(t *testing.T) {
	dir := newTmpfs(t, "nr_inodes=8")
	r := &durable.Reserve{Path: filepath.Join(dir, "reserve"), Size: 4096}
	must(t, r.Ensure())
	link := filepath.Join(dir, "current")
	must(t, durable.SwapLink(link, "1"))
	for i := 0; ; i++ {
		err := os.Symlink("x", filepath.Join(dir, string(rune('a'+i))))
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		must(t, err)
	}
	swap := func() error { return durable.SwapLink(link, "2") }
	if err := swap(); !durable.NoSpace(err) {
		t.Fatalf("inodes are left: %v", err)
	}
	must(t, r.Use(swap))
	if held, _ := r.Held(); held < r.Size {
		t.Errorf("holds %d: the swap gave the old link's inode back", held)
	}
}

func TestReserveLeavesOtherErrorsAlone(t *testing.T) {
	r := &durable.Reserve{Path: filepath.Join(t.TempDir(), "reserve"), Size: 4096}
	must(t, r.Ensure())
	runs, boom := 0, errors.New("boom")
	if err := r.Use(func() error { runs++; return boom }); err != boom || runs != 1 {
		t.Errorf("%v after %d runs", err, runs)
	}
	if held, _ := r.Held(); held < r.Size {
		t.Errorf("holds %d", held)
	}
	var none durable.Reserve
	must(t, none.Ensure())
	if err := none.Use(func() error { return unix.EDQUOT }); err != unix.EDQUOT {
		t.Errorf("got %v", err)
	}
}

func TestReserveShrinksAndRefusesForeignFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "reserve")
	must(t, (&durable.Reserve{Path: path, Size: 1 << 20}).Ensure())
	small := &durable.Reserve{Path: path, Size: 4096}
	must(t, small.Ensure())
	if held, _ := small.Held(); held < 4096 || held > 16<<10 {
		t.Errorf("holds %d", held)
	}
	must(t, os.Remove(path))
	must(t, os.Symlink("elsewhere", path))
	if err := small.Ensure(); err == nil {
		t.Error("a link passed for a reserve")
	}
	must(t, os.Remove(path))
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, 4096))
	must(t, small.Ensure())
	if held, _ := small.Held(); held < 4096 {
		t.Errorf("a sparse file passed for a reserve: %d", held)
	}
}

func TestReserveSaysHowMuchIsMissing(t *testing.T) {
	dir := newTmpfs(t, "size=1m")
	r := &durable.Reserve{Path: filepath.Join(dir, "reserve"), Size: 2 << 20}
	err := r.Ensure()
	if !durable.NoSpace(err) {
		t.Fatalf("got %v", err)
	}
	t.Log(err)
}

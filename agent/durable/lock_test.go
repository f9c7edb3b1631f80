package durable_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
)

func lockAndWait(args []string) error {
	if _, err := durable.TryLock(args[0]); err != nil {
		return err
	}
	fmt.Println("locked")
	io.Copy(io.Discard, os.Stdin)
	return nil
}

func TestTryLockNamesTheHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	cmd := helper(self(t), "lock", path)
	in, err := cmd.StdinPipe()
	must(t, err)
	defer in.Close()
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	_, err = durable.TryLock(path)
	var locked *durable.LockedError
	if !errors.As(err, &locked) || locked.Holder != cmd.Process.Pid || locked.Path != path || !errors.Is(err, durable.ErrLocked) {
		t.Errorf("got %v, want holder %d", err, cmd.Process.Pid)
	}
	must(t, cmd.Process.Kill())
	cmd.Wait()
	lock, err := durable.TryLock(path)
	if err != nil {
		t.Fatalf("the lock outlived its holder: %v", err)
	}
	lock.Release()
}

func TestLockExcludesTheSameProcessUntilReleased(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := durable.TryLock(path)
	must(t, err)
	if _, err := durable.TryLock(path); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("got %v", err)
	}
	got := make(chan error)
	go func() {
		second, err := durable.AcquireLock(context.Background(), path)
		second.Release()
		got <- err
	}()
	first.Release()
	first.Release()
	(*durable.Lock)(nil).Release()
	must(t, <-got)
}

func TestAcquireLockEndsWithItsContextAndSaysWhoHolds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	lock, err := durable.TryLock(path)
	must(t, err)
	defer lock.Release()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err = durable.AcquireLock(ctx, path)
	var locked *durable.LockedError
	if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &locked) || locked.Holder != os.Getpid() {
		t.Errorf("got %v", err)
	}
}

func TestALockFileWithoutAHolderIsSaidToBeHeldBySomebody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	lock, err := durable.TryLock(path)
	must(t, err)
	defer lock.Release()
	must(t, os.Truncate(path, 0))
	_, err = durable.TryLock(path)
	if want := "cannot lock " + path + ": another process holds it"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

func TestARemovedLockFileDoesNotLetTwoIn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	old, err := durable.TryLock(path)
	must(t, err)
	defer old.Release()
	must(t, os.Remove(path))
	lock, err := durable.TryLock(path)
	must(t, err)
	defer lock.Release()
	if _, err := durable.TryLock(path); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("got %v", err)
	}
}

func TestLockWorksOnAFullDiskOnceItWasTaken(t *testing.T) {
	dir := newDisk(t, 8<<20).mount
	path := filepath.Join(dir, "lock")
	lock, err := durable.TryLock(path)
	must(t, err)
	lock.Release()
	fillDisk(t, dir)
	lock, err = durable.TryLock(path)
	must(t, err)
	defer lock.Release()
	var locked *durable.LockedError
	if _, err := durable.TryLock(path); !errors.As(err, &locked) || locked.Holder != os.Getpid() {
		t.Errorf("got %v", err)
	}
}

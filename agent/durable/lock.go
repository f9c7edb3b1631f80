package durable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lockPollMin = 2 * time.Millisecond
	lockPollMax = 100 * time.Millisecond
	pidWidth    = 20
)

// ErrLocked is what errors.Is finds when somebody else holds a lock; errors.As with *LockedError says who.
var ErrLocked error = &LockedError{}

// LockedError says who holds a lock. Holder is 0 if the holder could not write its process id; it is meant for messages, so
// confirm that it is the process you think before you signal it.
type LockedError struct {
	Path   string
	Holder int
}

func (e *LockedError) Error() string {
	if e.Holder == 0 {
		return fmt.Sprintf("cannot lock %s: another process holds it", e.Path)
	}
	return fmt.Sprintf("cannot lock %s: process %d holds it", e.Path, e.Holder)
}

// Kind is "locked".
func (e *LockedError) Kind() string { return "locked" }

// Is makes every LockedError an ErrLocked.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// Lock is an exclusive flock. The kernel releases it when the process ends, however it ends; the file stays, because
// removing a lock file lets two processes hold "the" lock. It excludes other Locks of the same process too.
type Lock struct{ f *os.File }

// AcquireLock waits for the lock until ctx ends; then the error is both the context's and a *LockedError. The order among
// waiters is by chance.
func AcquireLock(ctx context.Context, path string) (*Lock, error) {
	for wait := lockPollMin; ; wait = min(2*wait, lockPollMax) {
		lock, err := TryLock(path)
		if err == nil || !errors.Is(err, ErrLocked) {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", err, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// TryLock takes the lock or returns a *LockedError at once. Once the file has been locked for the first time it works on a
// full disk.
func TryLock(path string) (*Lock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fail("lock", path, err)
		}
		err = retryEINTR(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
		switch {
		case errors.Is(err, unix.EWOULDBLOCK):
			defer f.Close()
			return nil, &LockedError{Path: path, Holder: readHolder(f)}
		case err != nil:
			f.Close()
			return nil, fail("lock", path, os.NewSyscallError("flock", err))
		case !sameFile(f, path):
			f.Close() // somebody removed the file under us: what we hold protects nothing
			continue
		}
		writeHolder(f, os.Getpid())
		return &Lock{f}, nil
	}
}

// Release gives the lock up. Calling it again, or on a nil Lock, does nothing.
func (l *Lock) Release() {
	if l == nil || l.f == nil {
		return
	}
	writeHolder(l.f, 0)
	// Explicitly: a child between fork and exec shares this open file, and closing our copy would leave it locked.
	retryEINTR(func() error { return unix.Flock(int(l.f.Fd()), unix.LOCK_UN) })
	l.f.Close()
	l.f = nil
}

// writeHolder overwrites in place and never truncates: after the first time it needs no disk block. The lock is held
// without it, so its failure is none.
func writeHolder(f *os.File, pid int) {
	f.WriteAt(fmt.Appendf(nil, "%-*d\n", pidWidth, pid), 0)
}

func readHolder(f *os.File) int {
	buf := make([]byte, pidWidth)
	n, _ := f.ReadAt(buf, 0)
	pid, err := strconv.Atoi(string(bytes.TrimSpace(buf[:n])))
	if err != nil || pid < 0 {
		return 0
	}
	return pid
}

func sameFile(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(mine, there)
}

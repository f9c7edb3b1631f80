package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// SyncFile makes the content and the metadata of a file durable, not its name: that is in the directory.
func SyncFile(path string) error { return wrapSync(path, syncPath(path, unix.O_RDONLY)) }

// SyncDir makes the names in a directory durable, not what they name.
func SyncDir(path string) error { return wrapSync(path, syncDir(path)) }

// SyncFS writes back the whole filesystem that holds path and reports lost writes. It costs what everybody else has dirty
// too, and is still the cheapest way to make thousands of new files durable.
func SyncFS(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return wrapSync(path, err)
	}
	defer f.Close()
	if err := retryEINTR(func() error { return unix.Syncfs(int(f.Fd())) }); err != nil {
		return wrapSync(path, os.NewSyscallError("syncfs", err))
	}
	return nil
}

func syncDir(path string) error { return syncPath(path, unix.O_RDONLY|unix.O_DIRECTORY) }

func syncPath(path string, flag int) error {
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func wrapSync(path string, err error) error {
	if err == nil {
		return nil
	}
	return fail("sync", path, err)
}

func retryEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

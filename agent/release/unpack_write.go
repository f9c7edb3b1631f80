package release

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// flushEvery is how much of a large file is written before the kernel is asked to start writing it to disk, so that the
// sync at the end finds little left to do.
const flushEvery = 8 << 20

// write takes chunks until there are no more. After an error it goes on draining, so that the reader never blocks.
func (u *unpacker) write(fail context.CancelCauseFunc) {
	sum := sha256.New()
	for c := range u.work {
		if c.large != nil {
			if err := u.writeLarge(c.large, sum); err != nil {
				fail(err)
			}
			c.large.dir.release()
			continue
		}
		for i := range c.files {
			p := &c.files[i]
			if u.ctx.Err() == nil {
				if err := u.writeSmall(p); err != nil {
					fail(err)
				}
			}
			p.dir.release()
		}
		u.put(c)
	}
}

func (u *unpacker) writeSmall(p *piece) error {
	if sha256.Sum256(p.data) != p.entry.SHA256.sum {
		return &ArchiveError{p.entry.Path, "its content is not what the manifest says"}
	}
	fd, err := u.create(p)
	if err != nil {
		return err
	}
	err = writeAll(fd, p.data)
	if u.syncsEach() && len(p.data) > 0 && err == nil {
		err = unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE)
		if err == unix.ENOSYS || err == unix.EINVAL || err == unix.ESPIPE {
			err = nil
		}
	}
	return finishFile(fd, p.entry.Path, err)
}

func (u *unpacker) writeLarge(l *largeFile, sum hash.Hash) error {
	var fd = -1
	var err error
	if u.ctx.Err() == nil {
		fd, err = u.create(&l.piece)
	}
	sum.Reset()
	var at, flushed int64
	for c := range l.parts {
		data := c.files[0].data
		if err == nil && fd >= 0 {
			err = writeAll(fd, data)
			sum.Write(data)
			if at += int64(len(data)); at-flushed >= flushEvery && u.o.Sync != SyncNone {
				_ = unix.SyncFileRange(fd, flushed, at-flushed, unix.SYNC_FILE_RANGE_WRITE)
				flushed = at
			}
		}
		u.put(c)
		if err != nil && u.ctx.Err() == nil {
			break
		}
	}
	if fd < 0 {
		return err
	}
	if err = finishFile(fd, l.entry.Path, err); err != nil || at < l.entry.Size {
		return err
	}
	if [sha256.Size]byte(sum.Sum(nil)) != l.entry.SHA256.sum {
		return &ArchiveError{l.entry.Path, "its content is not what the manifest says"}
	}
	return nil
}

// create makes the file with its final mode: what is written through the open descriptor does not need write permission.
func (u *unpacker) create(p *piece) (int, error) {
	_, base := splitPath(p.entry.Path)
	mode, _ := parseMode(p.entry.Mode)
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(p.dir.fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		return -1, &os.PathError{Op: "cannot create", Path: p.entry.Path, Err: err}
	}
	if u.tree.masked {
		if err := unix.Fchmod(fd, mode); err != nil {
			unix.Close(fd)
			return -1, &os.PathError{Op: "cannot set the mode of", Path: p.entry.Path, Err: err}
		}
	}
	return fd, nil
}

func finishFile(fd int, path string, err error) error {
	if e := unix.Close(fd); err == nil && e != unix.EINTR {
		err = e
	}
	if err != nil {
		return &os.PathError{Op: "cannot write", Path: path, Err: err}
	}
	return nil
}

func writeAll(fd int, data []byte) error {
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

func (u *unpacker) syncsEach() bool {
	return u.o.Sync == SyncEach || u.o.Sync == SyncAuto && len(u.m.Entries) <= syncEachBelow
}

// finish makes the links, then the modes of directories from the bottom up, then everything durable.
func (u *unpacker) finish() error {
	for i := range u.m.Entries {
		if e := &u.m.Entries[i]; u.links && e.Type == TypeSymlink {
			if err := u.tree.symlink(e); err != nil {
				return err
			}
		}
	}
	for i := len(u.m.Entries) - 1; i >= 0; i-- {
		if e := &u.m.Entries[i]; e.Type == TypeDir {
			if err := u.tree.chmodDir(e); err != nil {
				return err
			}
		}
	}
	switch {
	case u.o.Sync == SyncNone:
		return nil
	case u.syncsEach():
		return u.syncEach()
	}
	if err := unix.Syncfs(u.tree.top.fd); err != nil {
		return &os.PathError{Op: "cannot sync the filesystem of", Path: u.tree.root.Name(), Err: err}
	}
	return nil
}

// syncEach syncs files, then directories. Their writing to disk was started when they were written, and the first sync
// commits the journal for all, so the many that follow are short.
func (u *unpacker) syncEach() error {
	var next atomic.Int64
	var first atomic.Pointer[error]
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for first.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(u.m.Entries) {
					return
				}
				if e := &u.m.Entries[i]; e.Type != TypeSymlink {
					if err := syncIn(u.tree.root, e.Path); err != nil {
						first.CompareAndSwap(nil, &err)
					}
				}
			}
		})
	}
	group.Wait()
	if err := first.Load(); err != nil {
		return *err
	}
	return syncIn(u.tree.root, ".")
}

func syncIn(root *os.Root, path string) error {
	f, err := root.Open(path)
	if err != nil {
		return fmt.Errorf("cannot sync: %w", err)
	}
	defer f.Close()
	return f.Sync()
}

package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

var (
	fpReserveFree     = NewFailpoint("durable.reserve.before-free")
	fpReserveRecreate = NewFailpoint("durable.reserve.before-recreate")
)

// Reserve keeps disk space back for what must not fail: a file of Size bytes at Path with real blocks under it, on the
// filesystem that will need them. Build it as a literal and use it by pointer. The zero Reserve holds nothing, and Use then
// just runs its function.
type Reserve struct {
	Path string
	Size int64

	mu sync.Mutex
}

// Ensure makes the reserve whole, or shrinks it to a Size that was lowered. It does nothing if the blocks are there. On an
// error it keeps what it got.
func (r *Reserve) Ensure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ensure()
}

func (r *Reserve) ensure() error {
	if r.Path == "" {
		return nil
	}
	held, err := r.Held()
	if err != nil {
		return err
	}
	if info, err := os.Lstat(r.Path); err == nil && info.Size() == r.Size && held >= r.Size {
		return nil
	}
	if err := r.allocate(); err != nil {
		held, _ := r.Held()
		return fail("reserve", r.Path, fmt.Errorf("%d of %d bytes are held: %w", held, r.Size, err))
	}
	if held, err = r.Held(); err == nil && held < r.Size {
		err = fail("reserve", r.Path, fmt.Errorf("the filesystem gave %d bytes of blocks for %d", held, r.Size))
	}
	return err
}

func (r *Reserve) allocate() error {
	f, err := os.OpenFile(r.Path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() > r.Size {
		if err := errors.Join(err, f.Truncate(r.Size)); err != nil {
			return err
		}
	}
	err = r.grow(f)
	return errors.Join(err, f.Sync(), syncDir(filepath.Dir(r.Path)))
}

// grow goes piece by piece, because tmpfs takes everything back when one call does not fit.
func (r *Reserve) grow(f *os.File) error {
	piece := max(r.Size/16, 64<<10)
	for at := int64(0); at < r.Size; at += piece {
		length := min(piece, r.Size-at)
		if err := retryEINTR(func() error { return unix.Fallocate(int(f.Fd()), 0, at, length) }); err != nil {
			return os.NewSyscallError("fallocate", err)
		}
	}
	return nil
}

// Held is how many bytes of real blocks the reserve has now; 0 if it is spent or was never made.
func (r *Reserve) Held() (int64, error) {
	var st unix.Stat_t
	err := retryEINTR(func() error { return unix.Lstat(r.Path, &st) })
	switch {
	case err == unix.ENOENT || r.Path == "":
		return 0, nil
	case err != nil:
		return 0, fail("reserve", r.Path, os.NewSyscallError("lstat", err))
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return 0, fail("reserve", r.Path, errors.New("it is not a regular file; move it away"))
	}
	return st.Blocks * 512, nil
}

// Use runs f, which must be safe to run twice. If f fails for want of space, the reserve is given back to the filesystem
// (its file too: that is one inode) and f runs again; the answer is then that of the second run. Afterwards the reserve is
// made again from what is left; that this may fail is no failure of f: the next Ensure says so.
func (r *Reserve) Use(f func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := f()
	if !NoSpace(err) || r.Path == "" {
		return err
	}
	if freeErr := r.free(); freeErr != nil {
		return fmt.Errorf("%w (and the reserve could not be freed: %v)", err, freeErr)
	}
	err = f()
	if fpReserveRecreate.Hit() == nil {
		r.ensure()
	}
	return err
}

// Release gives the blocks back to the filesystem, for what somebody else must write there; Ensure makes the reserve whole again.
func (r *Reserve) Release() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Path == "" {
		return nil
	}
	return r.free()
}

// free syncs because ext4 hands freed blocks out only after its journal has committed.
func (r *Reserve) free() error {
	if err := fpReserveFree.Hit(); err != nil {
		return err
	}
	if err := os.Remove(r.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(filepath.Dir(r.Path))
}

// NoSpace says whether err means a full disk, a used-up quota or no inode left.
func NoSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

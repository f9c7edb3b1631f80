package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Need is what is going to be written at or below Path, which need not exist yet.
type Need struct {
	Path          string
	Bytes, Inodes int64
}

// CheckSpace asks every filesystem that the needs touch, once, whether it has room for all of its needs and still the
// reserve afterwards. The answer is a *SpaceError for each that has not. Space that only root may use does not count.
func CheckSpace(needs []Need, reserve int64) error {
	type filesystem struct {
		need Need
		st   unix.Statfs_t
	}
	var order []uint64
	found := map[uint64]*filesystem{}
	for _, n := range needs {
		dev, st, err := statFS(n.Path)
		if err != nil {
			return err
		}
		if found[dev] == nil {
			found[dev] = &filesystem{Need{Path: n.Path}, st}
			order = append(order, dev)
		}
		found[dev].need.Bytes += n.Bytes
		found[dev].need.Inodes += n.Inodes
	}
	var errs []error
	for _, dev := range order {
		f := found[dev]
		errs = append(errs, checkFS(f.need, &f.st, reserve))
	}
	return errors.Join(errs...)
}

func checkFS(n Need, st *unix.Statfs_t, reserve int64) error {
	have := int64(st.Bavail) * int64(st.Frsize)
	if have < reserve || have-reserve < n.Bytes {
		return &SpaceError{Path: n.Path, What: "bytes", Need: n.Bytes, Have: have, Reserve: reserve}
	}
	// Filesystems that make inodes as they go report none at all.
	if st.Files > 0 && int64(st.Ffree) < n.Inodes {
		return &SpaceError{Path: n.Path, What: "inodes", Need: n.Inodes, Have: int64(st.Ffree)}
	}
	return nil
}

// statFS looks at the nearest ancestor that exists.
func statFS(path string) (uint64, unix.Statfs_t, error) {
	var st unix.Stat_t
	var vfs unix.Statfs_t
	for at := filepath.Clean(path); ; at = filepath.Dir(at) {
		err := unix.Stat(at, &st)
		if err == nil {
			err = unix.Statfs(at, &vfs)
		}
		if err == nil {
			return uint64(st.Dev), vfs, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			return 0, vfs, fmt.Errorf("cannot see how much space %s has: %w", path, err)
		}
	}
}

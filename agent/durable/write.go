package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const tempMark = ".tmp-"

var (
	fpWriteCreate = NewFailpoint("durable.write.before-create")
	fpWriteSync   = NewFailpoint("durable.write.before-sync")
	fpWriteRename = NewFailpoint("durable.write.before-rename")
	fpWriteDir    = NewFailpoint("durable.write.before-dirsync")
	fpSwapLink    = NewFailpoint("durable.swap.before-symlink")
	fpSwapRename  = NewFailpoint("durable.swap.before-rename")
	fpSwapDir     = NewFailpoint("durable.swap.before-dirsync")
)

// WriteFile replaces path with data, or creates it, with exactly the permissions perm. Readers see the old content or the
// new one. A symbolic link at path is replaced, not followed. The parent directory must exist and be durable.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	if err := writeFile(path, data, perm); err != nil {
		return fail("write", path, err)
	}
	return nil
}

func writeFile(path string, data []byte, perm os.FileMode) error {
	if err := fpWriteCreate.Hit(); err != nil {
		return err
	}
	temp, err := writeTemp(path, data, perm)
	if err != nil {
		return err
	}
	if err := fpWriteRename.before(func() error { return os.Rename(temp, path) }); err != nil {
		os.Remove(temp)
		return err
	}
	return fpWriteDir.before(func() error { return syncDir(filepath.Dir(path)) })
}

// writeTemp leaves a synced file beside path, or nothing.
func writeTemp(path string, data []byte, perm os.FileMode) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+tempMark+"*")
	if err != nil {
		return "", err
	}
	err = func() error {
		if err := f.Chmod(perm); err != nil {
			return err
		}
		if _, err := f.Write(data); err != nil {
			return err
		}
		if err := fpWriteSync.Hit(); err != nil {
			return err
		}
		return f.Sync()
	}()
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// SwapLink makes the symbolic link at link name target, atomically and whether or not it existed. Anything but a symbolic
// link at that place is refused: it was not made by us. A target of up to 59 bytes needs no disk block on ext4, so the swap
// works on a full disk as long as an inode is free.
func SwapLink(link, target string) error {
	if err := swapLink(link, target); err != nil {
		return fail("point link", link, err)
	}
	return nil
}

func swapLink(link, target string) error {
	if target == "" {
		return errors.New("the target is empty")
	}
	old, err := os.Readlink(link)
	switch {
	case err == nil && old == target:
		return fpSwapDir.before(func() error { return syncDir(filepath.Dir(link)) })
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return refuseNonLink(link, err)
	}
	if err := fpSwapLink.Hit(); err != nil {
		return err
	}
	temp, err := symlinkTemp(link, target)
	if err != nil {
		return err
	}
	if err := fpSwapRename.before(func() error { return os.Rename(temp, link) }); err != nil {
		os.Remove(temp)
		return err
	}
	return fpSwapDir.before(func() error { return syncDir(filepath.Dir(link)) })
}

func symlinkTemp(link, target string) (string, error) {
	dir, base := filepath.Split(link)
	for range 100 {
		temp := dir + "." + base + tempMark + strconv.FormatUint(rand.Uint64(), 10)
		err := os.Symlink(target, temp)
		if err == nil || !errors.Is(err, fs.ErrExist) {
			return temp, err
		}
	}
	return "", fmt.Errorf("100 temporary names in %s are taken", dir)
}

// refuseNonLink turns readlink's "invalid argument" into words.
func refuseNonLink(link string, err error) error {
	if info, e := os.Lstat(link); e == nil && info.Mode()&fs.ModeSymlink == 0 {
		return fmt.Errorf("it is a %s, not a symbolic link; move it away", typeName(info.Mode()))
	}
	return err
}

func typeName(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "directory"
	case m.IsRegular():
		return "file"
	}
	return "special file"
}

// SweepTemps removes what interrupted calls of WriteFile and SwapLink left in dir. The caller keeps other writers out.
func SweepTemps(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fail("sweep", dir, err)
	}
	for _, e := range entries {
		if !isTemp(e.Name()) || e.IsDir() {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fail("sweep", dir, err)
		}
	}
	return nil
}

func isTemp(name string) bool {
	at := strings.LastIndex(name, tempMark)
	if at < 1 || name[0] != '.' {
		return false
	}
	_, err := strconv.ParseUint(name[at+len(tempMark):], 10, 64)
	return err == nil
}

// fail gives every error of this package one shape: what, where, which system call, why. The cause stays reachable, because
// callers act on ENOSPC and EDQUOT.
func fail(verb, path string, err error) error {
	var pathErr *fs.PathError
	var linkErr *os.LinkError
	switch {
	case errors.As(err, &pathErr):
		return fmt.Errorf("cannot %s %s: %s: %w", verb, path, pathErr.Op, pathErr.Err)
	case errors.As(err, &linkErr):
		return fmt.Errorf("cannot %s %s: %s: %w", verb, path, linkErr.Op, linkErr.Err)
	}
	return fmt.Errorf("cannot %s %s: %w", verb, path, err)
}

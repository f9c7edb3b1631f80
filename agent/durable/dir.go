package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

var (
	fpRemoveUnlink = NewFailpoint("durable.remove.before-unlink")
	fpRemoveDir    = NewFailpoint("durable.remove.before-dirsync")
	fpRenameRename = NewFailpoint("durable.rename.before-rename")
	fpRenameDir    = NewFailpoint("durable.rename.before-dirsync")
	fpMkdirMkdir   = NewFailpoint("durable.mkdir.before-mkdir")
	fpMkdirDir     = NewFailpoint("durable.mkdir.before-dirsync")
)

// RemoveLink removes a symbolic link for good. An absent link is fine; anything but a link is refused.
func RemoveLink(link string) error {
	if _, err := os.Readlink(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail("remove link", link, refuseNonLink(link, err))
	}
	return Remove(link)
}

// Remove removes a file, a link or an empty directory for good. Absent is fine, and is synced too: an earlier call may have
// been killed between the two steps.
func Remove(path string) error {
	if err := fpRemoveUnlink.Hit(); err != nil {
		return fail("remove", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail("remove", path, err)
	}
	err := fpRemoveDir.before(func() error { return syncDir(filepath.Dir(path)) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail("remove", path, err)
	}
	return nil
}

// Rename is os.Rename made durable: the new parent is synced before the old one, so a power cut may show the thing twice
// but never not at all. What is inside must have been synced by the caller.
func Rename(old, new string) error {
	if err := fpRenameRename.before(func() error { return os.Rename(old, new) }); err != nil {
		return fail("rename "+old+" to", new, err)
	}
	err := fpRenameDir.before(func() error { return syncDir(filepath.Dir(new)) })
	if from := filepath.Dir(old); err == nil && from != filepath.Dir(new) {
		err = syncDir(from)
	}
	if err != nil {
		return fail("rename "+old+" to", new, err)
	}
	return nil
}

// MkdirAll creates path and what is missing above it with exactly the permissions perm, each synced into its parent. What
// exists keeps its permissions and is synced once more: whoever created it may have been killed before the sync.
func MkdirAll(path string, perm os.FileMode) error {
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.IsDir():
		return fail("create directory", path, errors.New("something else is there already"))
	case err == nil:
		err := fpMkdirDir.before(func() error { return syncDir(filepath.Dir(path)) })
		if err == nil || errors.Is(err, fs.ErrPermission) {
			return nil // a parent we may not even read was not made by us
		}
		return fail("create directory", path, err)
	case !errors.Is(err, fs.ErrNotExist):
		return fail("create directory", path, err)
	}
	parent := filepath.Dir(path)
	if err := MkdirAll(parent, perm); err != nil {
		return err
	}
	if err := fpMkdirMkdir.Hit(); err != nil {
		return fail("create directory", path, err)
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return fail("create directory", path, err)
	}
	err = os.Chmod(path, perm)
	if err == nil {
		err = fpMkdirDir.before(func() error { return syncDir(parent) })
	}
	if err != nil {
		return fail("create directory", path, err)
	}
	return nil
}

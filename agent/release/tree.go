package release

import (
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// openDirs is how many directories stay open between files. Entries come in byte order, so neighbours share parents.
const openDirs = 48

// tree is the directory being filled. Directories are opened beneath an os.Root and files are created with O_EXCL and
// O_NOFOLLOW in an open directory, so no name is ever resolved through anything that was unpacked.
// Only the reader's goroutine uses it; the handles it gives out are safe everywhere.
type tree struct {
	root   *os.Root
	top    *dirHandle
	cache  []*dirHandle // most recently used last
	masked bool         // created modes differ from those asked for: a umask or a default ACL
}

// dirHandle is an open directory shared by the cache and the files on their way to a writer.
type dirHandle struct {
	file *os.File
	fd   int
	path string
	refs atomic.Int32
}

func (d *dirHandle) release() {
	if d.refs.Add(-1) == 0 {
		d.file.Close()
	}
}

func openTree(dir string) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	t := &tree{root: root}
	if t.top, err = t.open(""); err == nil {
		err = t.probe(dir)
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// probe demands an empty directory and finds out whether modes survive creation.
func (t *tree) probe(dir string) error {
	if names, _ := t.top.file.Readdirnames(1); len(names) > 0 {
		return fmt.Errorf("%s is not empty, it holds %q: unpack into a new directory", dir, names[0])
	}
	if err := unix.Mkdirat(t.top.fd, "probe", 0o777); err != nil {
		return &os.PathError{Op: "cannot create a directory in", Path: dir, Err: err}
	}
	var st unix.Stat_t
	err := unix.Fstatat(t.top.fd, "probe", &st, unix.AT_SYMLINK_NOFOLLOW)
	t.masked = st.Mode&0o777 != 0o777
	if e := unix.Unlinkat(t.top.fd, "probe", unix.AT_REMOVEDIR); err == nil {
		err = e
	}
	return err
}

func (t *tree) close() {
	for _, d := range t.cache {
		d.release()
	}
	if t.top != nil {
		t.top.release()
	}
	t.root.Close()
}

// open opens a directory of the tree; the caller owns one reference.
func (t *tree) open(path string) (*dirHandle, error) {
	name := path
	if name == "" {
		name = "."
	}
	f, err := t.root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	d := &dirHandle{file: f, fd: int(f.Fd()), path: path}
	d.refs.Store(1)
	return d, nil
}

// dir returns an open directory with a reference for the caller.
func (t *tree) dir(path string) (*dirHandle, error) {
	if path == "" {
		t.top.refs.Add(1)
		return t.top, nil
	}
	for i := len(t.cache) - 1; i >= 0; i-- {
		if d := t.cache[i]; d.path == path {
			copy(t.cache[i:], t.cache[i+1:])
			t.cache[len(t.cache)-1] = d
			d.refs.Add(1)
			return d, nil
		}
	}
	d, err := t.open(path)
	if err != nil {
		return nil, err
	}
	if len(t.cache) == openDirs {
		t.cache[0].release()
		t.cache = append(t.cache[:0], t.cache[1:]...)
	}
	t.cache = append(t.cache, d)
	d.refs.Add(1)
	return d, nil
}

func (t *tree) parentOf(path string) (*dirHandle, error) {
	dir, _ := splitPath(path)
	return t.dir(dir)
}

// in runs f with the open parent of path and the last component.
func (t *tree) in(path, what string, f func(fd int, base string) error) error {
	dir, base := splitPath(path)
	d, err := t.dir(dir)
	if err != nil {
		return err
	}
	defer d.release()
	if err := retry(func() error { return f(d.fd, base) }); err != nil {
		return &os.PathError{Op: what, Path: path, Err: err}
	}
	return nil
}

// mkdir makes a directory that only we can enter; chmodDir opens it when all is inside.
func (t *tree) mkdir(path string) error {
	return t.in(path, "cannot create directory", func(fd int, base string) error { return unix.Mkdirat(fd, base, 0o700) })
}

func (t *tree) symlink(e *Entry) error {
	return t.in(e.Path, "cannot create symlink", func(fd int, base string) error { return unix.Symlinkat(e.Target, fd, base) })
}

func (t *tree) chmodDir(e *Entry) error {
	mode, _ := parseMode(e.Mode)
	return t.in(e.Path, "cannot set the mode of", func(fd int, base string) error { return unix.Fchmodat(fd, base, mode, 0) })
}

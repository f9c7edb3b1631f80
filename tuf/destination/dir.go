package destination

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"golang.org/x/sys/unix"
)

// Dir is a directory that a web server serves. It may be on another filesystem than the repository.
type Dir struct{ path string }

// OpenDir names a directory; it is made when the first file is created.
func OpenDir(path string) (*Dir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("cannot use destination %s: %w", path, err)
	}
	return &Dir{abs}, nil
}

func (d *Dir) String() string { return d.path }

func (d *Dir) file(name string) string { return filepath.Join(d.path, filepath.FromSlash(name)) }

// List gives the sizes of the files below folder, by name.
func (d *Dir) List(ctx context.Context, folder string) (map[string]int64, error) {
	out := map[string]int64{}
	err := filepath.WalkDir(d.file(folder), func(file string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(d.path, file)
		out[filepath.ToSlash(name)] = info.Size()
		return errors.Join(err, ctx.Err())
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot list %s: %w", d.file(folder), err)
	}
	return out, nil
}

// Open reads a file and says its size.
func (d *Dir) Open(_ context.Context, name string) (io.ReadCloser, int64, error) {
	f, err := os.Open(d.file(name))
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read destination: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, 0, fmt.Errorf("cannot read destination: %w", err)
	}
	return f, info.Size(), nil
}

// Digest is the sha256 of a file, read anew.
func (d *Dir) Digest(ctx context.Context, name string) (string, error) { return digest(ctx, d, name) }

// Create stores a file under a name that is free: whole and durable, or not at all.
func (d *Dir) Create(_ context.Context, name string, from io.Reader, size int64, sum string) error {
	file := d.file(name)
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("cannot create %s: %w", file, fs.ErrExist)
	}
	if err := durable.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	tmp, err := write(file, check(from, size, sum))
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", file, err)
	}
	if err := renameNew(tmp, file); err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("cannot create %s: %w", file, err)
	}
	return durable.SyncDir(filepath.Dir(file))
}

// write makes a synced temporary file beside file, under a name of its own: another publisher may be writing the same file.
func write(file string, from io.Reader) (tmp string, err error) {
	sweep(file)
	out, err := os.CreateTemp(filepath.Dir(file), ".part-"+filepath.Base(file)+"-*")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, from)
	// Whoever serves it reads it, whatever the umask here.
	err = errors.Join(err, out.Chmod(0o644), out.Sync(), out.Close())
	if err != nil {
		_ = os.Remove(out.Name())
	}
	return out.Name(), err
}

// abandoned is how long a temporary file must have been left alone to be nobody's.
const abandoned = time.Hour

// sweep removes what killed publishers of the same file left behind.
func sweep(file string) {
	old, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".part-"+filepath.Base(file)+"-*"))
	for _, tmp := range old {
		if info, err := os.Stat(tmp); err == nil && time.Since(info.ModTime()) > abandoned {
			_ = os.Remove(tmp)
		}
	}
}

// renameNew replaces nothing, where the filesystem can promise that.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return os.Rename(from, to)
	}
	return err
}

// Swap replaces a file that holds exactly old (nil: that is not there) and says whether it did.
func (d *Dir) Swap(ctx context.Context, name string, old, next []byte) (bool, error) {
	if err := durable.MkdirAll(filepath.Dir(d.file(name)), 0o755); err != nil {
		return false, err
	}
	lock, err := durable.AcquireLock(ctx, filepath.Join(d.path, ".slipway-publish.lock"))
	if err != nil {
		return false, err
	}
	defer lock.Release()
	have, err := os.ReadFile(d.file(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("cannot read destination: %w", err)
	}
	if (err == nil) != (old != nil) || !bytes.Equal(have, old) {
		return false, nil
	}
	return true, durable.WriteFile(d.file(name), next, 0o644)
}

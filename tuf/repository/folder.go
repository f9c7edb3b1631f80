package repository

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The bounds of a change's folder that came from somewhere. The largest honest one re-signs every role of a big repository.
const (
	maxFolderFiles = 50_000
	maxFolderBytes = 512 << 20
	maxSignature   = 64 << 10
)

// intake copies the parts of a change's folder that a signer reads into a place of our own, under limits and without following
// any link, so that nothing changes between what is verified, what is shown and what is signed. Archives stay behind: they are
// signed by their digest.
type intake struct {
	from  *os.Root
	to    string
	files int
	bytes int64
}

// takeIn copies the folder at dir to to, which must be empty. The error of a folder that is not what it must be names the
// file.
func takeIn(dir, to string) error {
	if info, err := os.Lstat(dir); err != nil {
		return fmt.Errorf("cannot read change: %w", err)
	} else if !info.IsDir() {
		return &DamagedError{Path: dir, Err: errors.New("it is not a folder")}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot read change: %w", err)
	}
	defer func() { _ = root.Close() }()
	in := &intake{from: root, to: to}
	if err := in.file(changeName, maxPayload); err != nil {
		return fmt.Errorf("cannot read change: %w", err)
	}
	for _, sub := range []struct {
		name  string
		limit int64
		skip  bool // what is larger than the limit, instead of refusing it
	}{
		{"payloads", 2 * maxPayload, false}, {"signatures", maxSignature, false}, {"files", maxDocument, true},
		{"base/metadata", 2 * maxPayload, false}, {"base/targets", maxDocument, false},
	} {
		if err := in.tree(sub.name, sub.limit, sub.skip, 0); err != nil {
			return err
		}
	}
	return nil
}

// tree copies a directory of regular files. Target paths have at most five segments; eight levels are plenty.
func (in *intake) tree(dir string, limit int64, skip bool, depth int) error {
	info, err := in.from.Lstat(filepath.FromSlash(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read change: %w", err)
	}
	if !info.IsDir() || depth > 8 {
		return in.refuse(dir, "it must be a directory, at most eight deep")
	}
	f, err := in.from.Open(filepath.FromSlash(dir))
	if err != nil {
		return fmt.Errorf("cannot read change: %w", err)
	}
	entries, err := f.ReadDir(maxFolderFiles + 1)
	_ = f.Close()
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("cannot read change: %w", err)
	}
	for _, e := range entries {
		name := dir + "/" + e.Name()
		if strings.HasPrefix(e.Name(), ".") {
			continue // what file managers and interrupted copies leave
		}
		if e.IsDir() {
			err = in.tree(name, limit, skip, depth+1)
		} else if err = in.file(name, limit); skip && errors.Is(err, errLarge) {
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

var errLarge = errors.New("it is larger than its kind may be")

func (in *intake) refuse(name, why string) error {
	return &DamagedError{Path: filepath.Join(in.from.Name(), filepath.FromSlash(name)), Err: errors.New(why)}
}

func (in *intake) file(name string, limit int64) error {
	name = filepath.FromSlash(name)
	info, err := in.from.Lstat(name)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return in.refuse(name, "it is not a regular file; links and devices have no place in a change")
	}
	if info.Size() > limit {
		return &DamagedError{Path: filepath.Join(in.from.Name(), name), Err: fmt.Errorf("%w: %d bytes, at most %d", errLarge, info.Size(), limit)}
	}
	in.files++
	in.bytes += info.Size()
	if in.files > maxFolderFiles || in.bytes > maxFolderBytes {
		return in.refuse(name, fmt.Sprintf("the folder holds more than %d files or %d bytes besides archives", maxFolderFiles, maxFolderBytes))
	}
	return in.copy(name, limit)
}

// copy reads at most limit bytes even if the file grows meanwhile.
func (in *intake) copy(name string, limit int64) (err error) {
	src, err := in.from.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	if info, err := src.Stat(); err != nil || !info.Mode().IsRegular() {
		return in.refuse(name, "it is not a regular file")
	}
	to := filepath.Join(in.to, name)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.LimitReader(src, limit))
	return errors.Join(err, out.Close())
}

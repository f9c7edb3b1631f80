package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Deleting goes in bursts with pauses, so that the journal and the disk stay usable for the services of the host: about
// 25,000 names a second at most.
const (
	deleteBurst = 256
	deletePause = 10 * time.Millisecond
)

// removeTree deletes path and what is below, never following a link. It makes read-only directories writable first, for
// hosts where Slipway is not root. Absent is fine.
func removeTree(ctx context.Context, path string) error {
	d := &deleter{ctx: ctx}
	if err := d.remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot delete %s: %w", path, err)
	}
	return nil
}

type deleter struct {
	ctx   context.Context
	count int
}

func (d *deleter) remove(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		if err := d.empty(path, info); err != nil {
			return err
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return d.pace()
}

func (d *deleter) empty(path string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o700 != 0o700 {
		if err := os.Chmod(path, 0o700); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := d.remove(filepath.Join(path, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (d *deleter) pace() error {
	if d.count++; d.count%deleteBurst != 0 {
		return nil
	}
	select {
	case <-d.ctx.Done():
		return d.ctx.Err()
	case <-time.After(deletePause):
		return nil
	}
}

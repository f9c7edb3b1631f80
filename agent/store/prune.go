package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
)

var (
	fpRemoveStamp  = durable.NewFailpoint("store.remove.before-stamp")
	fpRemoveTrash  = durable.NewFailpoint("store.remove.before-trash")
	fpRemoveMeta   = durable.NewFailpoint("store.remove.before-meta")
	fpRemoveDelete = durable.NewFailpoint("store.remove.before-delete")
	fpSweepDelete  = durable.NewFailpoint("store.sweep.before-delete")
)

// Info is one release directory as it is on disk now. Problem is why it is not complete or why that cannot be told.
type Info struct {
	ID       release.ID
	Digest   release.Digest
	Complete bool
	Problem  error
	Size     int64
	StagedAt time.Time
	LinkedAs []string
}

// List is every release directory, newest first; those without a stamp come last. Size is the stamp's: nothing is measured.
func (a *App) List() ([]Info, error) {
	entries, err := os.ReadDir(a.releases())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list %s: %w", a.releases(), cause(err))
	}
	var all []Info
	for _, e := range entries {
		id, err := release.ParseID(e.Name())
		if err != nil || !e.IsDir() {
			continue
		}
		info, err := a.info(id)
		if err != nil {
			return nil, err
		}
		all = append(all, info)
	}
	slices.SortStableFunc(all, func(x, y Info) int { return y.StagedAt.Compare(x.StagedAt) })
	return all, nil
}

func (a *App) info(id release.ID) (Info, error) {
	links, err := a.linksTo(id)
	if err != nil {
		return Info{}, err
	}
	info := Info{ID: id, LinkedAs: links}
	rec, err := a.readStamp(id)
	if err != nil {
		info.Problem = err
		return info, nil
	}
	info.Complete, info.Digest, info.Size, info.StagedAt = true, rec.Digest, rec.Size, rec.StagedAt
	return info, nil
}

// Keep says what Prune must not touch, besides what is linked or in use: the releases in IDs, the Newest complete ones, and
// everything staged less than MinAge ago. InUse replaces LiveUsers; the host never sets it.
type Keep struct {
	IDs    map[release.ID]bool
	Newest int
	MinAge time.Duration
	InUse  InUse
}

// Pruned is what Prune did, newest first, and for each release that stayed the reason.
type Pruned struct {
	Removed []release.ID
	Kept    map[release.ID]string
}

// Prune deletes the releases that are provably unused; where anything is unclear they stay. It deletes slowly and stops when
// ctx ends, leaving trash for SweepGarbage. Never call it just before staging: creating files is slow after a mass delete.
func (a *App) Prune(ctx context.Context, keep Keep) (Pruned, error) {
	pruned := Pruned{Kept: map[release.ID]string{}}
	all, err := a.List()
	if err != nil {
		return pruned, err
	}
	var candidates []release.ID
	for rank, info := range all {
		if why := keep.reason(rank, info, time.Now()); why != "" {
			pruned.Kept[info.ID] = why
		} else {
			candidates = append(candidates, info.ID)
		}
	}
	var errs []error
	for _, id := range candidates {
		err := ctx.Err()
		if err == nil {
			err = a.remove(ctx, id, keep.inUse())
		}
		if _, there := os.Lstat(a.ReleaseDir(id)); errors.Is(there, fs.ErrNotExist) {
			pruned.Removed = append(pruned.Removed, id)
		} else if err != nil {
			pruned.Kept[id] = err.Error()
		}
		if err != nil && !errors.Is(err, ErrInUse) {
			errs = append(errs, err)
		}
	}
	return pruned, errors.Join(errs...)
}

func (k Keep) inUse() InUse {
	if k.InUse != nil {
		return k.InUse
	}
	return LiveUsers
}

// reason is empty if nothing but a live process keeps the release. An age below zero (the clock went back) is young.
func (k Keep) reason(rank int, info Info, now time.Time) string {
	age := now.Sub(info.StagedAt)
	switch {
	case len(info.LinkedAs) > 0:
		return "it is " + strings.Join(info.LinkedAs, " and ")
	case k.IDs[info.ID]:
		return "the app's state needs it"
	case info.Problem != nil && !errors.As(info.Problem, &ErrIncomplete{}):
		return info.Problem.Error()
	case info.Complete && rank < k.Newest:
		return fmt.Sprintf("it is one of the %d newest", k.Newest)
	case info.Complete && age < max(k.MinAge, 1):
		return fmt.Sprintf("it was staged less than %s ago", k.MinAge)
	}
	return ""
}

// Remove deletes one release, complete or not, unless it is linked or in use: then ErrInUse. Absent is fine.
func (a *App) Remove(id release.ID) error { return a.remove(context.Background(), id, LiveUsers) }

func (a *App) remove(ctx context.Context, id release.ID, inUse InUse) error {
	if err := a.checkUnused(id, inUse); err != nil {
		return fmt.Errorf("cannot delete %s: %w", id, err)
	}
	if err := fpRemoveStamp.Hit(); err != nil {
		return err
	}
	if err := durable.Remove(a.stampPath(id)); err != nil {
		return err
	}
	if err := fpRemoveTrash.Hit(); err != nil {
		return err
	}
	trash, err := a.trash(id)
	if err != nil {
		return err
	}
	if err := fpRemoveMeta.Hit(); err != nil {
		return err
	}
	if err := a.removeMeta(id); err != nil {
		return err
	}
	if trash == "" {
		return nil
	}
	// A process may have entered the tree since the first look; then SweepGarbage deletes it when that has ended.
	if users, err := inUse([]string{trash}); err != nil || users[trash] != "" {
		return err
	}
	if err := fpRemoveDelete.Hit(); err != nil {
		return err
	}
	return removeTree(ctx, trash)
}

func (a *App) checkUnused(id release.ID, inUse InUse) error {
	links, err := a.linksTo(id)
	if err != nil {
		return err
	}
	if len(links) > 0 {
		return fmt.Errorf("%w: it is %s", ErrInUse, strings.Join(links, " and "))
	}
	dir := a.ReleaseDir(id)
	users, err := inUse([]string{dir})
	if err != nil {
		return err
	}
	if users[dir] != "" {
		return fmt.Errorf("%w: %s", ErrInUse, users[dir])
	}
	return nil
}

// trash renames the tree away, so that from now on nobody can take it for a release. Empty if there was none.
func (a *App) trash(id release.ID) (string, error) {
	for n := range 1000 {
		to := filepath.Join(a.releases(), trashPrefix+id.String()+"-"+strconv.Itoa(n))
		if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		err := durable.Rename(a.ReleaseDir(id), to)
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		return to, err
	}
	return "", fmt.Errorf("cannot delete %s: 1000 deletions of it are unfinished in %s", id, a.releases())
}

// removeMeta removes the stamp first: the other files without it mean nothing.
func (a *App) removeMeta(id release.ID) error {
	if err := durable.Remove(a.stampPath(id)); err != nil {
		return err
	}
	return removeTree(context.Background(), a.metaDir(id))
}

// SweepGarbage deletes what crashes left: staging directories, trash, metadata without a tree, temporary names. No staging
// may be under way. Trash that a process still uses stays.
func (a *App) SweepGarbage() error {
	if err := errors.Join(durable.SweepTemps(a.root), durable.SweepTemps(a.releases())); err != nil {
		return err
	}
	entries, err := os.ReadDir(a.releases())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot sweep %s: %w", a.releases(), cause(err))
	}
	var trash []string
	var errs []error
	for _, e := range entries {
		path := filepath.Join(a.releases(), e.Name())
		switch id, ok := a.orphanMeta(e.Name()); {
		case ok:
			errs = append(errs, a.removeMeta(id))
		case strings.HasPrefix(e.Name(), incomingPrefix):
			errs = append(errs, sweepOne(path))
		case strings.HasPrefix(e.Name(), trashPrefix):
			trash = append(trash, path)
		case strings.HasSuffix(e.Name(), metaSuffix):
			errs = append(errs, durable.SweepTemps(path))
		}
	}
	return errors.Join(append(errs, sweepTrash(trash))...)
}

func sweepTrash(trash []string) error {
	if len(trash) == 0 {
		return nil
	}
	users, err := LiveUsers(trash)
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range trash {
		if users[path] == "" {
			errs = append(errs, sweepOne(path))
		}
	}
	return errors.Join(errs...)
}

func sweepOne(path string) error {
	if err := fpSweepDelete.Hit(); err != nil {
		return err
	}
	return removeTree(context.Background(), path)
}

func (a *App) orphanMeta(name string) (release.ID, bool) {
	base, ok := strings.CutSuffix(name, metaSuffix)
	id, err := release.ParseID(base)
	if !ok || err != nil {
		return id, false
	}
	_, err = os.Lstat(a.ReleaseDir(id))
	return id, errors.Is(err, fs.ErrNotExist)
}

// Package store owns the versioned directories of every app and the two links that say which one runs.
//
// Nothing is cached: every call reads the disk, so a crash, an operator with a shell or a second process can never make it
// wrong. It takes no locks: whoever calls a method that changes something holds the app's lock (durable.AcquireLock).
// Every method that changes something may be killed at any instruction and called again.
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
)

const (
	releasesDir  = "releases"
	currentLink  = "current"
	fallbackLink = "fallback"
	reserveFile  = ".reserve"
	reserveSize  = 64 << 10

	metaSuffix     = ".meta"
	incomingPrefix = ".incoming-"
	trashPrefix    = ".trash-"
)

var (
	fpSwapLink     = durable.NewFailpoint("store.swap.before-link")
	fpSwapLast     = durable.NewFailpoint("store.swap.before-last-resort")
	fpSwapped      = durable.NewFailpoint("store.swap.after-link")
	fpFallbackLink = durable.NewFailpoint("store.fallback.before-link")
	fpFallbackDone = durable.NewFailpoint("store.fallback.after-link")
	fpClear        = durable.NewFailpoint("store.clear-fallback.before-unlink")
	fpRemoveCur    = durable.NewFailpoint("store.remove-current.before-unlink")
)

// Store is the directory below which every app has its own.
type Store struct{ root string }

// Open touches nothing: the root may be absent until the first release is staged.
func Open(root string) *Store { return &Store{root} }

// App is the view of one app. Its name was validated, so it cannot lead out of the root.
func (s *Store) App(app release.App) *App { return &App{app, filepath.Join(s.root, app.String())} }

// App is what one app has on disk:
//
//	<root>/<app>/
//	  current  -> releases/<id>      Swap, RemoveCurrent: what runs
//	  fallback -> releases/<id>      SetFallback, ClearFallback: what a revert goes back to
//	  .reserve                       Begin: blocks and an inode, so that Swap works on a full disk
//	  releases/
//	    <id>/                        exactly the entries of the manifest, read-only
//	    <id>.meta/release.json       the signed bytes
//	    <id>.meta/manifest.json
//	    <id>.meta/stamp              written last, removed first
//	    .incoming-<digest>/          Begin .. Complete or Abandon; garbage after a crash
//	    .trash-<id>-<n>/             Remove, Prune; garbage, deleted slowly
//
// A release is complete when its directory and its stamp exist. The metadata, the stamp last, is durable before the tree gets
// its name; deletion removes the stamp before the tree loses it. So a name without a stamp is always garbage, and
// `current` is only ever pointed at a complete release.
type App struct {
	app  release.App
	root string
}

// Root is the app's directory.
func (a *App) Root() string { return a.root }

// ReleaseDir is where the tree of a release is or would be.
func (a *App) ReleaseDir(id release.ID) string { return filepath.Join(a.releases(), id.String()) }

func (a *App) releases() string               { return filepath.Join(a.root, releasesDir) }
func (a *App) metaDir(id release.ID) string   { return a.ReleaseDir(id) + metaSuffix }
func (a *App) stampPath(id release.ID) string { return filepath.Join(a.metaDir(id), stampFile) }
func (a *App) link(name string) string        { return filepath.Join(a.root, name) }
func (a *App) reserve() *durable.Reserve {
	return &durable.Reserve{Path: filepath.Join(a.root, reserveFile), Size: reserveSize}
}

func linkTarget(id release.ID) string { return releasesDir + "/" + id.String() }

// Join is a path that a release's document names, below its tree. No text can make it lead out.
func Join(dir, path string) string { return filepath.Join(dir, filepath.Clean("/"+path)) }

// Current is the release that the link names, ErrNone without a link. It does not look at the release: Load does.
func (a *App) Current() (release.ID, error) { return a.readLink(currentLink) }

// Fallback is the release that a revert goes back to, or ErrNone.
func (a *App) Fallback() (release.ID, error) { return a.readLink(fallbackLink) }

func (a *App) readLink(name string) (release.ID, error) {
	target, err := os.Readlink(a.link(name))
	if errors.Is(err, fs.ErrNotExist) {
		return release.ID{}, fmt.Errorf("%s of %s: %w", name, a.app, ErrNone)
	}
	if err != nil {
		return release.ID{}, fmt.Errorf("cannot read link %s: %w", a.link(name), cause(err))
	}
	base, ok := strings.CutPrefix(target, releasesDir+"/")
	id, parseErr := release.ParseID(base)
	if !ok || parseErr != nil {
		return release.ID{}, &LinkError{Path: a.link(name), Target: target}
	}
	return id, nil
}

// Swap points `current` at a complete release; any other is refused and nothing changes. It works on a full disk: first
// with the reserve, then, if the fallback link already names the release, by renaming that link over `current`. After that
// last resort there is no fallback link.
func (a *App) Swap(id release.ID) error {
	if err := a.checkComplete(id); err != nil {
		return fmt.Errorf("cannot make %s current: %w", id, err)
	}
	if err := fpSwapLink.Hit(); err != nil {
		return err
	}
	current := a.link(currentLink)
	err := a.reserve().Use(func() error { return durable.SwapLink(current, linkTarget(id)) })
	if durable.NoSpace(err) {
		if fallback, e := a.Fallback(); e == nil && fallback == id {
			err = a.swapFallbackOver(current)
		}
	}
	if err != nil {
		return err
	}
	return fpSwapped.Hit()
}

// swapFallbackOver needs neither a block nor an inode: both names are there already.
func (a *App) swapFallbackOver(current string) error {
	if err := fpSwapLast.Hit(); err != nil {
		return err
	}
	return durable.Rename(a.link(fallbackLink), current)
}

// SetFallback points `fallback` at a complete release; it is durable before the caller goes on to Swap.
func (a *App) SetFallback(id release.ID) error {
	if err := a.checkComplete(id); err != nil {
		return fmt.Errorf("cannot make %s the fallback: %w", id, err)
	}
	if err := fpFallbackLink.Hit(); err != nil {
		return err
	}
	err := a.reserve().Use(func() error { return durable.SwapLink(a.link(fallbackLink), linkTarget(id)) })
	if err != nil {
		return err
	}
	return fpFallbackDone.Hit()
}

// ClearFallback removes the link; absent is fine.
func (a *App) ClearFallback() error { return a.unlink(fallbackLink, fpClear) }

// RemoveCurrent removes the link: no release runs. The caller has stopped the units. Absent is fine.
func (a *App) RemoveCurrent() error { return a.unlink(currentLink, fpRemoveCur) }

func (a *App) unlink(name string, fp *durable.Failpoint) error {
	if err := fp.Hit(); err != nil {
		return err
	}
	return durable.RemoveLink(a.link(name))
}

func (a *App) checkComplete(id release.ID) error {
	if id.IsZero() {
		return fmt.Errorf("%w: no release is named", ErrNone)
	}
	info, err := os.Lstat(a.ReleaseDir(id))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ErrIncomplete{ID: id, Reason: "it has no directory"}
	case err != nil:
		return fmt.Errorf("cannot look at %s: %w", a.ReleaseDir(id), cause(err))
	case !info.IsDir():
		return ErrIncomplete{ID: id, Reason: "its path is not a directory"}
	}
	_, err = a.readStamp(id)
	return err
}

// linksTo names the links that point at id. An unreadable link is an error, so that who deletes stops.
func (a *App) linksTo(id release.ID) ([]string, error) {
	var names []string
	for _, name := range []string{currentLink, fallbackLink} {
		there, err := a.readLink(name)
		switch {
		case errors.Is(err, ErrNone):
		case err != nil:
			return nil, err
		case there == id:
			names = append(names, name)
		}
	}
	return names, nil
}

package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
)

var (
	fpBeginClean     = durable.NewFailpoint("store.begin.before-clean")
	fpBeginCreate    = durable.NewFailpoint("store.begin.before-create")
	fpCompleteMeta   = durable.NewFailpoint("store.complete.before-meta")
	fpCompleteStamp  = durable.NewFailpoint("store.complete.before-stamp")
	fpCompleteRename = durable.NewFailpoint("store.complete.before-rename")
	fpCompleted      = durable.NewFailpoint("store.complete.after-rename")
	fpAbandon        = durable.NewFailpoint("store.abandon.before-delete")
)

// Incoming is a release being staged. Dir exists, is empty, and lies on the filesystem of the releases.
type Incoming struct {
	Dir string

	app    *App
	id     release.ID
	digest release.Digest
}

// Begin makes room to unpack a release: it clears an earlier attempt at the same digest and what an interrupted deletion left
// under the name, and makes the reserve whole. A release that is complete is ErrComplete; an incomplete one that is linked
// or has live processes is ErrInUse.
func (a *App) Begin(id release.ID, digest release.Digest) (*Incoming, error) {
	if id.Short() != digest.Short() {
		return nil, fmt.Errorf("cannot stage %s: its digest is %s", id, digest)
	}
	in := &Incoming{filepath.Join(a.releases(), incomingPrefix+digest.String()), a, id, digest}
	if err := durable.MkdirAll(a.releases(), 0o755); err != nil {
		return nil, err
	}
	if err := a.checkComplete(id); err == nil {
		return nil, fmt.Errorf("cannot stage %s: %w", id, ErrComplete)
	}
	if err := fpBeginClean.Hit(); err != nil {
		return nil, err
	}
	if err := errors.Join(removeTree(context.Background(), in.Dir), a.clearName(id)); err != nil {
		return nil, err
	}
	if err := a.reserve().Ensure(); err != nil {
		return nil, err
	}
	if err := fpBeginCreate.Hit(); err != nil {
		return nil, err
	}
	return in, durable.MkdirAll(in.Dir, 0o755)
}

// clearName moves an incomplete release out of the way.
func (a *App) clearName(id release.ID) error {
	_, err := os.Lstat(a.ReleaseDir(id))
	_, metaErr := os.Lstat(a.metaDir(id))
	if errors.Is(err, fs.ErrNotExist) && errors.Is(metaErr, fs.ErrNotExist) {
		return nil
	}
	return a.Remove(id)
}

// Complete gives the staged tree its name. The caller has synced the tree. The documents are checked against each other and
// against the digest that was announced to Begin; then the documents, the stamp and the name become durable in this order.
func (in *Incoming) Complete(s Stamp) error {
	rec, err := in.check(&s)
	if err != nil {
		return fmt.Errorf("cannot complete %s: %w", in.id, err)
	}
	if err := fpCompleteMeta.Hit(); err != nil {
		return err
	}
	meta := in.app.metaDir(in.id)
	if err := durable.MkdirAll(meta, 0o755); err != nil {
		return err
	}
	for name, data := range map[string][]byte{releaseFile: s.Release, manifestFile: s.Manifest} {
		if err := durable.WriteFile(filepath.Join(meta, name), data, 0o644); err != nil {
			return err
		}
	}
	if err := fpCompleteStamp.Hit(); err != nil {
		return err
	}
	if err := durable.WriteFile(in.app.stampPath(in.id), rec, 0o644); err != nil {
		return err
	}
	if err := fpCompleteRename.Hit(); err != nil {
		return err
	}
	if err := durable.Rename(in.Dir, in.app.ReleaseDir(in.id)); err != nil {
		return err
	}
	return fpCompleted.Hit()
}

// Abandon deletes what was staged. It is fine after Complete, and twice.
func (in *Incoming) Abandon() error {
	if err := fpAbandon.Hit(); err != nil {
		return err
	}
	err := removeTree(context.Background(), in.Dir)
	if _, e := os.Lstat(in.app.ReleaseDir(in.id)); errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, in.app.removeMeta(in.id))
	}
	return err
}

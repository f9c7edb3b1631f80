package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

const (
	releaseFile  = "release.json"
	manifestFile = "manifest.json"
	stampFile    = "stamp"
	stampSchema  = "slipway.stamp/v1"
	maxStamp     = 64 << 10
)

// Stamp says that a release is complete and what it is. Complete wants Digest, Release and Manifest, the exact bytes that
// were verified; the rest it fills in itself. Size is the sum of the files' bytes.
type Stamp struct {
	Digest            release.Digest
	Release, Manifest []byte
	StagedAt          time.Time
	Size, Files       int64
}

// stampRecord is the stamp file. With the two digests it proves the documents beside it.
type stampRecord struct {
	Schema   string         `json:"schema"`
	ID       release.ID     `json:"id"`
	Digest   release.Digest `json:"digest"`
	Manifest release.Digest `json:"manifest"`
	StagedAt time.Time      `json:"staged_at"`
	Size     int64          `json:"size"`
	Files    int64          `json:"files"`
}

// check proves that the documents belong together and to this app, and returns the stamp file.
func (in *Incoming) check(s *Stamp) ([]byte, error) {
	if s.Digest != in.digest || release.Sum(s.Release) != in.digest {
		return nil, fmt.Errorf("release.json has digest %s, want %s", release.Sum(s.Release), in.digest)
	}
	_, m, err := parseDocuments(in.app.app, in.id, s.Release, s.Manifest)
	if err != nil {
		return nil, err
	}
	s.StagedAt = time.Now().UTC()
	s.Size, s.Files = 0, 0
	for _, e := range m.Entries {
		if e.Type == release.TypeFile {
			s.Size += e.Size
			s.Files++
		}
	}
	data, err := json.MarshalIndent(stampRecord{stampSchema, in.id, s.Digest, release.Sum(s.Manifest), s.StagedAt, s.Size, s.Files}, "", "  ")
	return append(data, '\n'), err
}

func parseDocuments(app release.App, id release.ID, relBytes, manBytes []byte) (*release.Release, *release.Manifest, error) {
	rel, err := release.ParseRelease(relBytes)
	if err != nil {
		return nil, nil, err
	}
	m, err := release.ParseManifest(manBytes)
	if err != nil {
		return nil, nil, err
	}
	if rel.App != app || rel.Version != id.Version() || m.App != app || m.Version != id.Version() {
		return nil, nil, fmt.Errorf("release.json is of %s %s and the manifest of %s %s, want %s %s",
			rel.App, rel.Version, m.App, m.Version, app, id.Version())
	}
	if art := rel.Platforms[m.Platform]; art.Manifest.SHA256 != release.Sum(manBytes) {
		return nil, nil, fmt.Errorf("the manifest has digest %s, release.json wants %s for %s",
			release.Sum(manBytes), art.Manifest.SHA256, m.Platform)
	}
	return rel, m, nil
}

// readStamp is ErrIncomplete if there is no valid stamp, and another error if that cannot be known.
func (a *App) readStamp(id release.ID) (*stampRecord, error) {
	data, err := readBounded(a.stampPath(id), maxStamp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrIncomplete{ID: id, Reason: "it has no stamp"}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", a.stampPath(id), cause(err))
	}
	var rec stampRecord
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&rec); err != nil || rec.Schema != stampSchema || rec.ID != id || rec.Digest.Short() != id.Short() {
		return nil, ErrIncomplete{ID: id, Reason: "its stamp is damaged"}
	}
	return &rec, nil
}

// Load reads a complete release and proves its documents with the stamp; what does not fit is ErrIncomplete. The tree is not
// read: Verify does that.
func (a *App) Load(id release.ID) (*release.Release, *release.Manifest, Stamp, error) {
	if err := a.checkComplete(id); err != nil {
		return nil, nil, Stamp{}, err
	}
	rec, err := a.readStamp(id)
	if err != nil {
		return nil, nil, Stamp{}, err
	}
	s := Stamp{Digest: rec.Digest, StagedAt: rec.StagedAt, Size: rec.Size, Files: rec.Files}
	if s.Release, err = a.readDocument(id, releaseFile, rec.Digest); err != nil {
		return nil, nil, Stamp{}, err
	}
	if s.Manifest, err = a.readDocument(id, manifestFile, rec.Manifest); err != nil {
		return nil, nil, Stamp{}, err
	}
	rel, m, err := parseDocuments(a.app, id, s.Release, s.Manifest)
	if err != nil {
		return nil, nil, Stamp{}, ErrIncomplete{ID: id, Reason: err.Error()}
	}
	return rel, m, s, nil
}

// Release reads a complete release's own document and its digest, and leaves the manifest alone: that one may have tens of
// thousands of entries, and a revert cannot wait for it.
func (a *App) Release(id release.ID) (*release.Release, release.Digest, error) {
	if err := a.checkComplete(id); err != nil {
		return nil, release.Digest{}, err
	}
	rec, err := a.readStamp(id)
	if err != nil {
		return nil, release.Digest{}, err
	}
	data, err := a.readDocument(id, releaseFile, rec.Digest)
	if err != nil {
		return nil, release.Digest{}, err
	}
	rel, err := release.ParseRelease(data)
	if err != nil {
		return nil, release.Digest{}, ErrIncomplete{ID: id, Reason: err.Error()}
	}
	if rel.App != a.app || rel.Version != id.Version() {
		return nil, release.Digest{}, ErrIncomplete{ID: id, Reason: fmt.Sprintf("its document is about %s %s", rel.App, rel.Version)}
	}
	return rel, rec.Digest, nil
}

func (a *App) readDocument(id release.ID, name string, want release.Digest) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(a.metaDir(id), name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, ErrIncomplete{ID: id, Reason: name + " is missing"}
	case err != nil:
		return nil, fmt.Errorf("cannot read %s of %s: %w", name, id, cause(err))
	case release.Sum(data) != want:
		return nil, ErrIncomplete{ID: id, Reason: fmt.Sprintf("%s has digest %s, its stamp wants %s", name, release.Sum(data), want)}
	}
	return data, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	if info, err := os.Lstat(path); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, nil
	}
	return os.ReadFile(path)
}

// Verify compares the tree with its manifest: every byte, or with quick only types, modes, sizes and the executables' bytes.
// Differences are no error; an error means that it cannot be told.
func (a *App) Verify(ctx context.Context, id release.ID, quick bool) ([]release.Difference, error) {
	_, m, _, err := a.Load(id)
	if err != nil {
		return nil, err
	}
	if quick {
		return release.VerifyQuick(ctx, m, a.ReleaseDir(id))
	}
	return release.VerifyTree(ctx, m, a.ReleaseDir(id), nil)
}

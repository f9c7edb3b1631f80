package repository

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// LogEntry is one thing that became visible to hosts: a published change, or metadata that no published change here accounts
// for (then ID is empty).
type LogEntry struct {
	At          time.Time `json:"at"`
	ID          string    `json:"change,omitempty"`
	Kind        string    `json:"kind,omitempty"`
	Summary     string    `json:"summary,omitempty"`
	RequestedBy string    `json:"requested_by,omitempty"`
	Opened      time.Time `json:"opened,omitzero"`
	// Timestamp is the version that made it visible; 0 if that was not recorded.
	Timestamp int64     `json:"timestamp,omitempty"`
	Roles     []LogRole `json:"roles"`
	// Words are what the change did, as publish verified it.
	Words *Words `json:"words,omitempty"`
}

// LogRole is one role's version in an entry.
type LogRole struct {
	Role    string      `json:"role"`
	Version int64       `json:"version"`
	Signed  []LogSigner `json:"signed"`
}

// LogSigner is a key whose signature was published. At is the word of the signer's own clock; zero if it says nothing.
type LogSigner struct {
	Key string    `json:"key"`
	At  time.Time `json:"at,omitzero"`
}

// LogOptions select entries; zero values select all.
type LogOptions struct {
	Role  string
	Since time.Time
}

// Log tells the repository's history, newest first: what was published, who asked for it, and whose signatures it carries. Who
// signed comes from the published metadata where that is still there, and from the change's own signatures where it is not.
func (r *Repository) Log(ctx context.Context, o LogOptions) ([]LogEntry, error) {
	l := &logger{r: r, names: map[string]string{}, told: map[string]bool{}}
	if err := l.learnNames(); err != nil {
		return nil, err
	}
	if err := l.changes(ctx); err != nil {
		return nil, err
	}
	if err := l.others(ctx); err != nil {
		return nil, err
	}
	out := slices.DeleteFunc(l.out, func(e LogEntry) bool {
		return e.At.Before(o.Since) || o.Role != "" && !slices.ContainsFunc(e.Roles, func(r LogRole) bool { return r.Role == o.Role })
	})
	slices.SortStableFunc(out, func(a, b LogEntry) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.Timestamp, a.Timestamp), strings.Compare(b.ID, a.ID))
	})
	return out, nil
}

type logger struct {
	r     *Repository
	names map[string]string // key id to name
	told  map[string]bool   // metadata file names that a change accounts for
	out   []LogEntry
}

// learnNames reads who is called what from every root and every version of targets that is there.
func (l *logger) learnNames() error {
	for _, role := range []string{classRoot, classTargets} {
		files, err := filepath.Glob(filepath.Join(l.r.metadataDir(), "*."+role+".json"))
		if err != nil {
			return fmt.Errorf("cannot read history: %w", err)
		}
		for _, name := range files {
			all, err := keysIn(name, role)
			if err != nil {
				return err
			}
			for id, k := range all {
				if p, err := keys.FromTUF(id, k); err == nil && p.Name != "" {
					l.names[id] = p.String()
				}
			}
		}
	}
	return nil
}

func keysIn(name, role string) (map[string]*metadata.Key, error) {
	if role == classRoot {
		root, err := readMeta[metadata.RootType](name, role)
		if err != nil {
			return nil, err
		}
		return root.Keys, nil
	}
	t, err := readMeta[metadata.TargetsType](name, role)
	if err != nil || t.Delegations == nil {
		return nil, err
	}
	return t.Delegations.Keys, nil
}

func (l *logger) key(id string) string {
	if name := l.names[id]; name != "" {
		return name
	}
	return id
}

func (l *logger) changes(ctx context.Context) error {
	entries, err := os.ReadDir(l.r.publishedDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read history: %w", err)
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		c, err := openChange(filepath.Join(l.r.publishedDir(), e.Name()))
		if err != nil {
			return err
		}
		if err := l.change(c); err != nil {
			return err
		}
	}
	return nil
}

func (l *logger) change(c *Change) error {
	e := LogEntry{ID: c.ID, Kind: c.Kind, Summary: harmless(c.Summary), RequestedBy: harmless(c.RequestedBy), Opened: c.Created, At: c.Created, Roles: []LogRole{}, Words: c.Words}
	if c.Published != nil {
		e.At, e.Timestamp = *c.Published, c.PublishedAs
	}
	for _, role := range c.Roles() {
		v := c.Base[role] + 1
		l.told[metaName(role, v)] = true
		own, err := l.detached(c, role)
		if err != nil {
			return err
		}
		published, err := l.published(metaName(role, v))
		if err != nil {
			return err
		}
		if published == nil {
			for id := range own {
				published = append(published, id)
			}
		}
		entry := LogRole{Role: role, Version: v, Signed: []LogSigner{}}
		slices.Sort(published)
		for _, id := range published {
			entry.Signed = append(entry.Signed, LogSigner{Key: l.key(id), At: own[id]})
		}
		e.Roles = append(e.Roles, entry)
	}
	l.out = append(l.out, e)
	return nil
}

// detached are the signatures that the change kept, by key id, with the time that their signers gave.
func (l *logger) detached(c *Change, role string) (map[string]time.Time, error) {
	out := map[string]time.Time{}
	files, err := filepath.Glob(filepath.Join(c.dir, "signatures", role+".*.json"))
	if err != nil {
		return nil, fmt.Errorf("cannot read history: %w", err)
	}
	for _, name := range files {
		raw, err := readBounded(name, maxSignature)
		if err != nil {
			return nil, fmt.Errorf("cannot read history: %w", err)
		}
		var f signatureFile
		if err := json.Unmarshal(raw, &f); err != nil {
			return nil, &DamagedError{Path: name, Err: err}
		}
		if f.Role != role {
			continue // of a role whose name begins alike
		}
		out[f.KeyID] = time.Time{}
		if f.At != nil {
			out[f.KeyID] = *f.At
		}
	}
	return out, nil
}

// published are the key ids on a metadata file; nil if it is no longer there.
func (l *logger) published(name string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(l.r.metadataDir(), name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read history: %w", err)
	}
	e, err := openEnvelope(data)
	if err != nil {
		return nil, &DamagedError{Path: filepath.Join(l.r.metadataDir(), name), Err: err}
	}
	ids := []string{}
	for _, s := range e.Signatures {
		ids = append(ids, s.KeyID)
	}
	return ids, nil
}

// others are versions that came by no change that is kept here: from a repository that was taken over, or whose record was lost.
func (l *logger) others(ctx context.Context) error {
	entries, err := os.ReadDir(l.r.metadataDir())
	if err != nil {
		return fmt.Errorf("cannot read history: %w", err)
	}
	s, err := load(l.r.metadataDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		var v int64
		number, rest, _ := strings.Cut(e.Name(), ".")
		role := strings.TrimSuffix(rest, ".json")
		if _, err := fmt.Sscanf(number, "%d", &v); err != nil || metaName(role, v) != e.Name() || l.told[e.Name()] || role == classSnapshot || v > s.version(role) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return fmt.Errorf("cannot read history: %w", err)
		}
		ids, err := l.published(e.Name())
		if err != nil {
			return err
		}
		entry := LogRole{Role: role, Version: v, Signed: []LogSigner{}}
		for _, id := range ids {
			entry.Signed = append(entry.Signed, LogSigner{Key: l.key(id)})
		}
		l.out = append(l.out, LogEntry{At: info.ModTime().UTC(), Summary: "in the metadata, by no change that is kept here", Roles: []LogRole{entry}})
	}
	return nil
}

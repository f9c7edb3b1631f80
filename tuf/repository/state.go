package repository

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// state is what is published: what timestamp.json leads to, and the newest root. Files beyond that are leftovers of an
// interrupted publish and nobody reads them.
type state struct {
	dir       string
	root      *metadata.RootType
	timestamp *metadata.TimestampType
	snapshot  *metadata.SnapshotType
	targets   map[string]*metadata.TargetsType
}

// load reads the metadata directory. Before the first publish everything but dir is nil and every version is 0.
func load(dir string) (*state, error) {
	s := &state{dir: dir, targets: map[string]*metadata.TargetsType{}}
	for v := int64(1); ; v++ {
		root, err := readMeta[metadata.RootType](s.path(classRoot, v), classRoot)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, err
		}
		if root.Version != v {
			return nil, &DamagedError{Path: s.path(classRoot, v), Err: fmt.Errorf("it holds version %d", root.Version)}
		}
		s.root = root
	}
	var err error
	s.timestamp, err = readMeta[metadata.TimestampType](s.path(classTimestamp, 0), classTimestamp)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	meta := s.timestamp.Meta["snapshot.json"]
	if meta == nil || s.root == nil {
		return nil, &DamagedError{Path: s.path(classTimestamp, 0), Err: errors.New("there is no snapshot or no root beside it")}
	}
	s.snapshot, err = readMeta[metadata.SnapshotType](s.path(classSnapshot, meta.Version), classSnapshot)
	return s, err
}

func (s *state) published() bool { return s.timestamp != nil }

// timestampBytes are exactly what is published, nil before the first publish.
func (s *state) timestampBytes() ([]byte, error) {
	data, err := os.ReadFile(s.path(classTimestamp, 0))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read metadata: %w", err)
	}
	return data, nil
}

func (s *state) path(role string, version int64) string {
	return filepath.Join(s.dir, metaName(role, version))
}

func metaName(role string, version int64) string {
	if role == classTimestamp {
		return "timestamp.json"
	}
	return strconv.FormatInt(version, 10) + "." + role + ".json"
}

// version is the published version of role, 0 when it has none yet.
func (s *state) version(role string) int64 {
	switch {
	case role == classRoot:
		if s.root != nil {
			return s.root.Version
		}
	case role == classTimestamp:
		if s.timestamp != nil {
			return s.timestamp.Version
		}
	case role == classSnapshot:
		if s.snapshot != nil {
			return s.snapshot.Version
		}
	case s.snapshot != nil:
		if m := s.snapshot.Meta[role+".json"]; m != nil {
			return m.Version
		}
	}
	return 0
}

// roles lists targets and every delegated role that has been published, in order of name.
func (s *state) roles() []string {
	if s.snapshot == nil {
		return nil
	}
	var out []string
	for name := range maps.Keys(s.snapshot.Meta) {
		out = append(out, name[:len(name)-len(".json")])
	}
	slices.Sort(out)
	return out
}

// role reads the published content of targets or a delegated role; nil when it has none yet.
func (s *state) role(role string) (*metadata.TargetsType, error) {
	if t := s.targets[role]; t != nil {
		return t, nil
	}
	v := s.version(role)
	if v == 0 {
		return nil, nil
	}
	t, err := readMeta[metadata.TargetsType](s.path(role, v), role)
	if err != nil {
		return nil, err
	}
	s.targets[role] = t
	return t, nil
}

func readMeta[T metadata.Roles](path, role string) (*T, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read metadata: %w", err)
	}
	return parseSigned[T](data, path, role)
}

func parseSigned[T metadata.Roles](data []byte, path, role string) (*T, error) {
	e, err := openEnvelope(data)
	if err != nil {
		return nil, &DamagedError{Path: path, Err: err}
	}
	doc, err := decode[T](e.Signed, role)
	if err != nil {
		return nil, &DamagedError{Path: path, Err: err}
	}
	return doc, nil
}

// copyTargets makes a deep enough copy to edit: maps and slices are fresh, entries are shared and never edited in place.
func copyTargets(t *metadata.TargetsType) *metadata.TargetsType {
	c := *t
	if c.Targets = maps.Clone(t.Targets); c.Targets == nil {
		c.Targets = map[string]*metadata.TargetFiles{}
	}
	if t.Delegations != nil {
		d := *t.Delegations
		if d.Keys = maps.Clone(d.Keys); d.Keys == nil {
			d.Keys = map[string]*metadata.Key{}
		}
		d.Roles = slices.Clone(d.Roles)
		c.Delegations = &d
	}
	return &c
}

func (s *state) envelope(role string, version int64) (envelope, error) {
	data, err := os.ReadFile(s.path(role, version))
	if err != nil {
		return envelope{}, fmt.Errorf("cannot read metadata: %w", err)
	}
	e, err := openEnvelope(data)
	if err != nil {
		return e, &DamagedError{Path: s.path(role, version), Err: err}
	}
	return e, nil
}

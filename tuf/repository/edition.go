package repository

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-deploy/slipway/agent/durable"
)

// The durable steps of making an edition visible in the repository directory.
var (
	fpRoles     = durable.NewFailpoint("repository.commit.before-role")
	fpSnapshot  = durable.NewFailpoint("repository.commit.before-snapshot")
	fpRoot      = durable.NewFailpoint("repository.commit.before-root")
	fpTimestamp = durable.NewFailpoint("repository.commit.before-timestamp")
)

// edition is what leads from one published state to the next. Its files are written in order: until the timestamp, the last,
// is replaced every client sees the old state, and nothing before it replaces a file that anybody reads, but for a new root,
// which clients look for by number.
type edition struct {
	// Targets are stored names in targets/ that are new.
	Targets []string  `json:"targets"`
	Files   []newMeta `json:"metadata"`
}

// newMeta is a file of metadata/.
type newMeta struct {
	Name string `json:"name"`
	Data []byte `json:"data"`
}

func (e *edition) add(name string, data []byte) {
	e.Files = append(e.Files, newMeta{name, data})
}

func (e *edition) timestamp() []byte { return e.Files[len(e.Files)-1].Data }

func (e *edition) has(name string) bool {
	return slices.ContainsFunc(e.Files, func(f newMeta) bool { return f.Name == name })
}

// commit makes the edition what the repository directory publishes.
func (e *edition) commit(dir string) error {
	for _, f := range e.Files {
		if err := commitPoint(f.Name).Hit(); err != nil {
			return err
		}
		if err := durable.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func commitPoint(name string) *durable.Failpoint {
	switch {
	case name == metaName(classTimestamp, 0):
		return fpTimestamp
	case strings.HasSuffix(name, "."+classRoot+".json"):
		return fpRoot
	case strings.HasSuffix(name, "."+classSnapshot+".json"):
		return fpSnapshot
	}
	return fpRoles
}

// view lays metadata out in dir as it will be once the edition is committed over s.
func (e *edition) view(s *state, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, f := range e.Files {
		if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o600); err != nil {
			return err
		}
	}
	for _, name := range s.files() {
		if e.has(name) {
			continue
		}
		if err := linkOrCopy(filepath.Join(s.dir, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func linkOrCopy(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	return copyFile(from, to)
}

// files are the names of the published roles' metadata and of every root: all that clients read, but snapshot and timestamp.
func (s *state) files() []string {
	var out []string
	for _, role := range s.roles() {
		out = append(out, metaName(role, s.version(role)))
	}
	for v := int64(1); v <= s.version(classRoot); v++ {
		out = append(out, metaName(classRoot, v))
	}
	return out
}

// edition is all of what is published, as if it were new, without the files that never change.
func (s *state) edition() (*edition, error) {
	e := &edition{}
	for _, name := range []string{metaName(classSnapshot, s.version(classSnapshot)), metaName(classTimestamp, 0)} {
		data, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			return nil, fmt.Errorf("cannot read metadata: %w", err)
		}
		e.add(name, data)
	}
	return e, nil
}

package bundle

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
)

// Scheme marks a mirror that is a bundle: it stands before the file's absolute path.
const Scheme = "bundle:"

// Schema is the format that this package reads and writes.
const Schema = "slipway.bundle/v1"

// The bounds of what Read holds in memory, whatever a file claims.
const (
	maxInfo  = 1 << 20
	maxName  = 512
	maxFiles = 1 << 16
)

const (
	infoName    = "bundle.json"
	metadataDir = "metadata/"
	targetsDir  = "targets/"
)

// Info is bundle.json. It is not signed: it says what the maker meant to put in, and only Files and Bytes are checked. An
// empty list stands for all that the repository had.
type Info struct {
	Schema       string   `json:"schema"`
	Environments []string `json:"environments,omitempty"`
	Apps         []string `json:"apps,omitempty"`
	Platforms    []string `json:"platforms,omitempty"`
	// Files and Bytes count what follows bundle.json. A copy in progress may have its final length long before its content.
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

// String says what the bundle was made for, in words.
func (i Info) String() string {
	of := func(what string, names []string) string {
		if len(names) == 0 {
			return "all " + what + "s"
		}
		return what + " " + strings.Join(names, ", ")
	}
	return of("environment", i.Environments) + "; " + of("app", i.Apps) + "; " + of("platform", i.Platforms)
}

// IncompleteError says that a file is the beginning of a bundle, or a bundle with holes: it is being copied, or the copy
// broke off. Its text does not change while the file grows.
type IncompleteError struct{}

func (e *IncompleteError) Error() string {
	return "it is incomplete: still being copied, or cut short; if nobody is copying it, copy it again"
}

// Kind is "incomplete".
func (e *IncompleteError) Kind() string { return "incomplete" }

// MalformedError says that a file is no bundle of this format.
type MalformedError struct{ Reason string }

func (e *MalformedError) Error() string { return "it is not a bundle: " + e.Reason }

// Kind is "corrupt".
func (e *MalformedError) Kind() string { return "corrupt" }

func malformed(format string, args ...any) error {
	return &MalformedError{Reason: fmt.Sprintf(format, args...)}
}

// checkName refuses what would mean something else once it is unpacked, and whatever has no place in a repository.
func checkName(name string) error {
	switch {
	case len(name) > maxName:
		return malformed("a name has %d bytes, at most %d are allowed", len(name), maxName)
	case !fs.ValidPath(name) || strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == 0x7f || c == '\\' }):
		return malformed("%.80q is not a clean relative path", name)
	case !strings.HasPrefix(name, metadataDir) && !strings.HasPrefix(name, targetsDir):
		return malformed("%.80q is neither in metadata/ nor in targets/", name)
	}
	return nil
}

func parseInfo(data []byte) (Info, error) {
	var i Info
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.DisallowUnknownFields()
	if err := d.Decode(&i); err != nil {
		return i, malformed("bundle.json: %v", err)
	}
	if i.Schema != Schema {
		return i, malformed("bundle.json has schema %.40q, this version reads %s", i.Schema, Schema)
	}
	if i.Files < 0 || i.Files > maxFiles || i.Bytes < 0 {
		return i, malformed("bundle.json announces %d files of %d bytes, at most %d files are allowed", i.Files, i.Bytes, maxFiles)
	}
	return i, nil
}

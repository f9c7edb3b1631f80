package client

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// maxDepth is far above any real metadata and far below what could exhaust a parser's stack.
const maxDepth = 64

// guarded runs f, which hands outside bytes to the TUF library, and turns a panic into ErrCorrupt: the library
// dereferences before it checks, and does so before it looks at signatures.
func guarded(name string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &ErrCorrupt{Name: name, Reason: "malformed metadata"}
		}
	}()
	return f()
}

// precheck refuses, without allocating, what no parser should be asked to recurse into. A stack overflow cannot be recovered.
func precheck(name string, data []byte) error {
	depth, quoted, escaped := 0, false, false
	for _, b := range data {
		switch {
		case escaped:
			escaped = false
		case quoted && b == '\\':
			escaped = true
		case b == '"':
			quoted = !quoted
		case quoted:
		case b == '{' || b == '[':
			if depth++; depth > maxDepth {
				return &ErrCorrupt{Name: name, Reason: fmt.Sprintf("nested deeper than %d", maxDepth)}
			}
		case b == '}' || b == ']':
			depth--
		}
		if depth < 0 {
			break
		}
	}
	if depth != 0 || quoted {
		return &ErrCorrupt{Name: name, Reason: "truncated or unbalanced JSON"}
	}
	return nil
}

func vetCommon(name, spec string, version int64) error {
	if major, _, _ := strings.Cut(spec, "."); major != "1" {
		return &ErrCorrupt{Name: name, Reason: fmt.Sprintf("spec_version %q is not 1.x", spec)}
	}
	if version < 1 {
		return &ErrCorrupt{Name: name, Reason: fmt.Sprintf("version %d is below 1", version)}
	}
	return nil
}

func vetRoot(m *metadata.Metadata[metadata.RootType]) error {
	name := metadata.ROOT
	if err := vetCommon(name, m.Signed.SpecVersion, m.Signed.Version); err != nil {
		return err
	}
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		if r := m.Signed.Roles[role]; r == nil || r.Threshold < 1 {
			return &ErrCorrupt{Name: name, Reason: "role " + role + " is missing or has no threshold"}
		}
	}
	return vetKeys(name, m.Signed.Keys)
}

func vetKeys(name string, keys map[string]*metadata.Key) error {
	for id, key := range keys {
		if key == nil {
			return &ErrCorrupt{Name: name, Reason: fmt.Sprintf("key %.12q is null", id)}
		}
	}
	return nil
}

func vetMeta(name string, meta map[string]*metadata.MetaFiles, required string) error {
	if meta[required] == nil {
		return &ErrCorrupt{Name: name, Reason: "no entry for " + required}
	}
	for file, m := range meta {
		if m == nil || m.Version < 1 || m.Length < 0 {
			return &ErrCorrupt{Name: name, Reason: fmt.Sprintf("entry for %.80q has no version or a negative length", file)}
		}
	}
	return nil
}

func vetTargets(name string, m *metadata.Metadata[metadata.TargetsType]) error {
	if err := vetCommon(name, m.Signed.SpecVersion, m.Signed.Version); err != nil {
		return err
	}
	for path, target := range m.Signed.Targets {
		if target == nil || target.Length < 0 {
			return &ErrCorrupt{Name: name, Reason: fmt.Sprintf("target %.80q is null or has a negative length", path)}
		}
	}
	if m.Signed.Delegations == nil {
		return nil
	}
	if m.Signed.Delegations.Roles != nil && m.Signed.Delegations.SuccinctRoles != nil {
		return &ErrCorrupt{Name: name, Reason: "has both roles and succinct_roles"}
	}
	return vetKeys(name, m.Signed.Delegations.Keys)
}

// issuedOf reads the signed time at which a timestamp was made. Zero means that the publisher does not say.
func issuedOf(m *metadata.Metadata[metadata.TimestampType]) (time.Time, error) {
	value, ok := m.Signed.UnrecognizedFields["issued"]
	if !ok {
		return time.Time{}, nil
	}
	text, _ := value.(string)
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, &ErrCorrupt{Name: metadata.TIMESTAMP, Reason: "issued is not an RFC 3339 time"}
	}
	return at, nil
}

// entry is a target reduced to what a lookup answers. Ten thousand of them stay in a daemon's memory.
type entry struct {
	sha256, sha512 string
	length         int64
	custom         json.RawMessage
}

func entryOf(t *metadata.TargetFiles) entry {
	e := entry{length: t.Length}
	for algorithm, sum := range t.Hashes {
		switch algorithm {
		case "sha256":
			e.sha256 = hex.EncodeToString(sum)
		case "sha512":
			e.sha512 = hex.EncodeToString(sum)
		}
	}
	if t.Custom != nil {
		e.custom = *t.Custom
	}
	return e
}

// file is a digest and size of exact bytes: what the cache stores and what snapshots pin.
type file struct {
	sum  [sha256.Size]byte
	size int64
}

func fileOf(data []byte) file { return file{sha256.Sum256(data), int64(len(data))} }

// pinned reports whether a snapshot or timestamp entry still describes f. Without hashes in the entry the version decides.
func (f file) pinned(meta *metadata.MetaFiles, version int64) bool {
	if meta == nil || meta.Version != version || (meta.Length != 0 && meta.Length != f.size) {
		return false
	}
	if sum, ok := meta.Hashes["sha256"]; ok {
		return string(sum) == string(f.sum[:])
	}
	return len(meta.Hashes) == 0
}

package release

import (
	"fmt"
	"math"
	"path"
	"strings"
)

// Bounds of a tree. maxPath leaves room for the release directory in front within the kernel's 4096 bytes.
const (
	maxPath      = 2048
	maxTreeDepth = 64
)

// Modes that a manifest may hold. The tree is root's and read-only, so a mode says only who may read and what can be run.
const (
	ModeFile       = "0444"
	ModeExecutable = "0555"
	ModeDir        = "0555"
)

// Validate checks the rules that types cannot express: canonical order, no duplicates, every parent listed as a directory,
// modes, sizes within 64 bits, and links that stay inside the tree. It is linear in the number of entries.
func (m *Manifest) Validate() error {
	if err := kindManifest.schemaError(m.Schema); err != nil {
		return err
	}
	p := &problems{}
	if m.App.IsZero() || m.Version.IsZero() || m.Platform.IsZero() {
		p.add("app", "app, version and platform must be set")
	}
	p.span("entries", int64(len(m.Entries)), 1, maxEntries)
	dirs := map[string]bool{}
	var total int64
	for i := range m.Entries {
		if len(p.list) > 100 {
			break
		}
		e := &m.Entries[i]
		if why := m.entryProblem(i, dirs); why != "" {
			p.add(fmt.Sprintf("entries[%d]", i), "%s", why)
			continue
		}
		if e.Type == TypeDir {
			dirs[e.Path] = true
		}
		if e.Size > math.MaxInt64-total || total+e.Size > maxArchive {
			p.add(fmt.Sprintf("entries[%d].size", i), "the files together are above %d bytes", maxArchive)
			break
		}
		total += e.Size
	}
	return p.err("manifest")
}

func (m *Manifest) entryProblem(i int, dirs map[string]bool) string {
	e := &m.Entries[i]
	if why := treePathProblem(e.Path); why != "" {
		return why
	}
	if i > 0 && e.Path <= m.Entries[i-1].Path {
		if e.Path == m.Entries[i-1].Path {
			return fmt.Sprintf("%q appears twice", e.Path)
		}
		return fmt.Sprintf("%q is not in byte order after %q", e.Path, m.Entries[i-1].Path)
	}
	if parent, _ := path.Split(e.Path); parent != "" && !dirs[parent[:len(parent)-1]] {
		return fmt.Sprintf("the parent of %q is not listed as a directory before it", e.Path)
	}
	switch e.Type {
	case TypeFile:
		return e.fileProblem()
	case TypeDir:
		if e.Mode != ModeDir || e.Size != 0 || e.SHA256 != nil || e.Target != "" {
			return fmt.Sprintf("directory %q must have mode %s and no size, sha256 or target", e.Path, ModeDir)
		}
	case TypeSymlink:
		if e.Mode != "" || e.Size != 0 || e.SHA256 != nil {
			return fmt.Sprintf("symlink %q must have a target and nothing else", e.Path)
		}
		return linkProblem(e.Path, e.Target)
	default:
		return fmt.Sprintf("the type %q of %q is none of file, dir, symlink", e.Type, e.Path)
	}
	return ""
}

func (e *Entry) fileProblem() string {
	switch {
	case e.Mode != ModeFile && e.Mode != ModeExecutable:
		return fmt.Sprintf("file %q has mode %q: only %s and %s are allowed", e.Path, e.Mode, ModeFile, ModeExecutable)
	case e.Size < 0:
		return fmt.Sprintf("file %q has the size %d", e.Path, e.Size)
	case e.SHA256 == nil || e.SHA256.IsZero():
		return fmt.Sprintf("file %q has no sha256", e.Path)
	case e.Target != "":
		return fmt.Sprintf("file %q has a target", e.Path)
	}
	return ""
}

// linkProblem says why a symlink would leave the tree, or nothing. It is lexical, and therefore strict about "..": a ".."
// is only allowed at the start of the target. After a name it would be resolved by the kernel where that name leads, which
// may be another symlink, so "a/../../x" could climb further than it looks.
func linkProblem(at, target string) string {
	switch {
	case target == "":
		return fmt.Sprintf("symlink %q has no target", at)
	case len(target) > maxPath:
		return fmt.Sprintf("the target of symlink %q is longer than %d bytes", at, maxPath)
	case target[0] == '/':
		return fmt.Sprintf("symlink %q leads to the absolute path %q", at, target)
	case textProblem(target) != "":
		return fmt.Sprintf("the target of symlink %q %s", at, textProblem(target))
	}
	depth, named := strings.Count(at, "/"), false
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; named || depth < 0 {
				return fmt.Sprintf("symlink %q leads out of the release, to %q", at, target)
			}
		default:
			named = true
		}
	}
	return ""
}

// Totals is what an Artifact states of a manifest, so that a host can check space before it has the manifest: the bytes of
// all files and the number of entries.
func (m *Manifest) Totals() (unpacked, files int64) {
	for i := range m.Entries {
		unpacked += m.Entries[i].Size
	}
	return unpacked, int64(len(m.Entries))
}

// executable reports a file that may be run.
func (e *Entry) executable() bool { return e.Type == TypeFile && e.Mode == ModeExecutable }

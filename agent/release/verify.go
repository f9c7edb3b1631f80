package release

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Difference is one way in which a tree is not what its manifest says. What is "missing", "extra", "type", "mode", "size",
// "content", "target" or "unreadable"; Want and Got are for people.
type Difference struct {
	Path, What, Want, Got string
}

func (d Difference) String() string {
	switch d.What {
	case "missing":
		return fmt.Sprintf("%s is missing", d.Path)
	case "extra":
		return fmt.Sprintf("%s does not belong to the release", d.Path)
	}
	return fmt.Sprintf("%s: %s is %s, not %s", d.Path, d.What, d.Got, d.Want)
}

// VerifyTree compares the tree at dir with its manifest: every path, type, mode, size, link target and content, and nothing
// beside them. Differences come in order of path; an error means that the comparison itself could not be done. progress, if
// not nil, is called with the bytes hashed so far, from more than one goroutine.
func VerifyTree(ctx context.Context, m *Manifest, dir string, progress func(bytes int64)) ([]Difference, error) {
	return verify(ctx, m, dir, progress, func(*Entry) bool { return true })
}

// VerifyQuick is VerifyTree without the contents of files that cannot be executed: what the boot guardian can afford.
func VerifyQuick(ctx context.Context, m *Manifest, dir string) ([]Difference, error) {
	return verify(ctx, m, dir, nil, (*Entry).executable)
}

func verify(ctx context.Context, m *Manifest, dir string, progress func(int64), hashes func(*Entry) bool) ([]Difference, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot verify: %w", err)
	}
	defer root.Close()
	v := &verifier{ctx: ctx, m: m, root: root, progress: progress}
	todo, err := v.walk(hashes)
	if err != nil {
		return nil, fmt.Errorf("cannot verify: %w", err)
	}
	v.hashAll(todo)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot verify: %w", err)
	}
	slices.SortStableFunc(v.found, func(a, b Difference) int { return strings.Compare(a.Path, b.Path) })
	return v.found, nil
}

type verifier struct {
	ctx      context.Context
	m        *Manifest
	root     *os.Root
	progress func(int64)
	done     atomic.Int64

	mu    sync.Mutex
	found []Difference
}

func (v *verifier) differ(path, what, want, got string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.found = append(v.found, Difference{path, what, want, got})
}

// walk compares everything but contents, and returns the files whose content remains to be compared.
func (v *verifier) walk(hashes func(*Entry) bool) (todo []*Entry, err error) {
	seen := make([]bool, len(v.m.Entries))
	err = fs.WalkDir(v.root.FS(), ".", func(at string, d fs.DirEntry, err error) error {
		if v.ctx.Err() != nil {
			return v.ctx.Err()
		}
		if at == "." {
			return err
		}
		if err != nil {
			v.differ(at, "unreadable", "readable", err.Error())
			return nil
		}
		i, known := slices.BinarySearchFunc(v.m.Entries, at, func(e Entry, at string) int { return strings.Compare(e.Path, at) })
		if !known {
			v.differ(at, "extra", "", typeWord(d.Type()))
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		e := &v.m.Entries[i]
		seen[i] = true
		if v.compare(e) && e.Type == TypeFile && hashes(e) {
			todo = append(todo, e)
		}
		if d.IsDir() && e.Type != TypeDir {
			return fs.SkipDir
		}
		return nil
	})
	for i := range seen {
		if !seen[i] {
			v.differ(v.m.Entries[i].Path, "missing", string(v.m.Entries[i].Type), "nothing")
		}
	}
	return todo, err
}

// compare checks one entry and reports whether its content is still worth a look.
func (v *verifier) compare(e *Entry) bool {
	info, err := v.root.Lstat(e.Path)
	if err != nil {
		v.differ(e.Path, "unreadable", "readable", err.Error())
		return false
	}
	if got := typeWord(info.Mode()); got != string(e.Type) {
		v.differ(e.Path, "type", string(e.Type), got)
		return false
	}
	if e.Type == TypeSymlink {
		if target, err := v.root.Readlink(e.Path); err != nil || target != e.Target {
			v.differ(e.Path, "target", e.Target, target)
		}
		return false
	}
	if got := modeText(info.Mode()); got != e.Mode {
		v.differ(e.Path, "mode", e.Mode, got)
	}
	if e.Type == TypeFile && info.Size() != e.Size {
		v.differ(e.Path, "size", fmt.Sprint(e.Size), fmt.Sprint(info.Size()))
		return false
	}
	return true
}

// modeText is the mode as a manifest writes it, with the bits that no manifest allows.
func modeText(mode fs.FileMode) string {
	bits := uint32(mode.Perm())
	for bit, mask := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if mode&bit != 0 {
			bits |= mask
		}
	}
	return fmt.Sprintf("%04o", bits)
}

// hashAll reads files in two goroutines: one waits for the disk while the other hashes.
func (v *verifier) hashAll(todo []*Entry) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			buf := make([]byte, chunkSize)
			for v.ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(todo) {
					return
				}
				v.hash(todo[i], buf)
			}
		})
	}
	group.Wait()
}

func (v *verifier) hash(e *Entry, buf []byte) {
	f, err := v.root.Open(e.Path)
	if err != nil {
		v.differ(e.Path, "unreadable", "readable", err.Error())
		return
	}
	defer f.Close()
	sum := sha256.New()
	for v.ctx.Err() == nil {
		n, err := f.Read(buf)
		sum.Write(buf[:n])
		if n > 0 && v.progress != nil {
			v.progress(v.done.Add(int64(n)))
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			v.differ(e.Path, "unreadable", "readable", err.Error())
			return
		}
	}
	if got := DigestOf([sha256.Size]byte(sum.Sum(nil))); v.ctx.Err() == nil && got != *e.SHA256 {
		v.differ(e.Path, "content", e.SHA256.String(), got.String())
	}
}

package client

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

var (
	fpRoot   = durable.NewFailpoint("tuf.client.before-root")
	fpBlob   = durable.NewFailpoint("tuf.client.before-metadata")
	fpFloors = durable.NewFailpoint("tuf.client.before-floors")
	fpIndex  = durable.NewFailpoint("tuf.client.before-index")
	fpClock  = durable.NewFailpoint("tuf.client.before-clock")
	fpSweep  = durable.NewFailpoint("tuf.client.before-sweep")
	fpTarget = durable.NewFailpoint("tuf.client.before-target")
)

// cache is the directory on disk:
//
//	lock             flock of whoever refreshes
//	roots/N.root.json  every root since the pinned one, replayed at start, kept for ever
//	metadata/SHA256.json  exact bytes as served; the name is the checksum
//	index            sealed: which of those are trusted, replaced in one rename, so files always belong together
//	floors           sealed: versions that may never go back, apart from the index so that losing one loses no memory
//	clock            sealed: latest trusted time
//	targets/SHA256   what Read fetched
//
// Whatever fails its checksum is treated as absent.
type cache struct {
	dir   string
	spare func(func() error) error
}

// ref names a file in metadata/.
type ref struct {
	Version int64
	SHA256  string
}

// generation is metadata that belongs together.
type generation struct{ Timestamp, Snapshot, Targets ref }

// index is the one mutable statement of what is trusted. Timestamp and Snapshot are what rollback is measured against
// and may be ahead of Complete after a refresh that broke off; Complete is the last set in which everything belonged together.
type index struct {
	Root      int64 // the version everything below was verified under
	Timestamp ref   // newest verified
	Snapshot  ref   // newest verified
	Complete  *generation
	Roles     map[string]ref // newest verified bytes of targets and each delegated role
	At        time.Time
	Checked   time.Time
	Bundle    string `json:",omitempty"` // path of the bundle that brought Timestamp, "" if anything else did
}

// floors are versions that were trusted once. They hold under root version Root and later, until spec 5.3.11 clears them.
type floors struct {
	Root      int64
	RootSHA   string
	Timestamp int64
	Snapshot  int64
	Roles     map[string]int64
}

func (c cache) path(name ...string) string { return filepath.Join(append([]string{c.dir}, name...)...) }

func (c cache) rootPath(version int64) string {
	return c.path("roots", strconv.FormatInt(version, 10)+".root.json")
}

func (c cache) create() error {
	for _, dir := range []string{c.dir, c.path("roots"), c.path("metadata"), c.path("targets")} {
		if err := durable.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (c cache) saveRoot(version int64, data []byte) error {
	if have, err := os.ReadFile(c.rootPath(version)); err == nil && bytes.Equal(have, data) {
		return nil
	}
	if err := fpRoot.Hit(); err != nil {
		return err
	}
	return c.write(c.rootPath(version), data)
}

func (c cache) saveBlob(f file, data []byte) error {
	path := c.path("metadata", hex.EncodeToString(f.sum[:])+".json")
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) {
		return nil
	}
	if err := fpBlob.Hit(); err != nil {
		return err
	}
	return c.write(path, data)
}

// write takes the space kept back only when there is no other: many files are written at once, and they would wait for each other.
func (c cache) write(path string, data []byte) error {
	write := func() error { return durable.WriteFile(path, data, 0o644) }
	err := write()
	if durable.NoSpace(err) && c.spare != nil {
		return c.spare(write)
	}
	return err
}

// loadBlob returns nil for whatever is absent, cut short or changed.
func (c cache) loadBlob(r ref) []byte {
	if len(r.SHA256) != 2*sha256.Size || strings.ContainsAny(r.SHA256, "/.") {
		return nil
	}
	data, err := os.ReadFile(c.path("metadata", r.SHA256+".json"))
	if err != nil {
		return nil
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != r.SHA256 {
		return nil
	}
	return data
}

// seal appends a checksum line: power loss and bit rot must not look like an older truth.
func seal(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	return fmt.Appendf(data, "\nsha256 %x\n", sum), nil
}

func unseal(data []byte, v any) bool {
	body, tail, ok := bytes.Cut(data, []byte("\n"))
	return ok && string(tail) == fmt.Sprintf("sha256 %x\n", sha256.Sum256(body)) && json.Unmarshal(body, v) == nil
}

func (c cache) save(fp *durable.Failpoint, name string, v any) ([]byte, error) {
	data, err := seal(v)
	if err != nil {
		return nil, err
	}
	if err := fp.Hit(); err != nil {
		return nil, err
	}
	return data, c.write(c.path(name), data)
}

// sweep removes metadata that no index entry names. A crash before it leaves garbage that the next one takes.
func (c cache) sweep(ix *index) error {
	if err := fpSweep.Hit(); err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, r := range ix.refs() {
		keep[r.SHA256+".json"] = true
	}
	files, err := os.ReadDir(c.path("metadata"))
	for _, f := range files {
		if !keep[f.Name()] {
			err = errors.Join(err, os.Remove(c.path("metadata", f.Name())))
		}
	}
	return err
}

func (ix *index) refs() []ref {
	all := []ref{ix.Timestamp, ix.Snapshot}
	if g := ix.Complete; g != nil {
		all = append(all, g.Timestamp, g.Snapshot, g.Targets)
	}
	for _, r := range ix.Roles {
		all = append(all, r)
	}
	return all
}

func refOf(f file, version int64) ref { return ref{version, hex.EncodeToString(f.sum[:])} }

func (r ref) names(f file) bool { return r.SHA256 == hex.EncodeToString(f.sum[:]) }

func trimJSON(name string) string { return strings.TrimSuffix(name, ".json") }

// check refuses a timestamp below what was trusted before, even when the bytes that proved it are lost.
func (f *floors) checkStamp(s *stamp) error {
	if got := s.meta.Signed.Version; got < f.Timestamp {
		return &ErrRollback{Role: metadata.TIMESTAMP, Have: f.Timestamp, Got: got}
	}
	if got := s.snapshot().Version; got < f.Snapshot {
		return &ErrRollback{Role: metadata.SNAPSHOT, Have: f.Snapshot, Got: got}
	}
	return nil
}

func (f *floors) checkSnap(s *snap) error {
	for name, have := range f.Roles {
		switch meta := s.of(name); {
		case meta == nil:
			return &ErrRollback{Role: name, Have: have}
		case meta.Version < have:
			return &ErrRollback{Role: name, Have: have, Got: meta.Version}
		}
	}
	return nil
}

// raise takes over the versions of newly trusted metadata and reports whether anything moved.
func (f *floors) raise(r *root, ts *stamp, sn *snap) bool {
	moved := false
	up := func(field *int64, v int64) {
		if v > *field {
			*field, moved = v, true
		}
	}
	if r.version > f.Root {
		f.RootSHA = hex.EncodeToString(r.signed[:])
	}
	up(&f.Root, r.version)
	if ts != nil {
		up(&f.Timestamp, ts.meta.Signed.Version)
		up(&f.Snapshot, ts.snapshot().Version)
	}
	if sn == nil {
		return moved
	}
	if f.Roles == nil {
		f.Roles = map[string]int64{}
	}
	for name, meta := range sn.meta.Signed.Meta {
		name = trimJSON(name)
		if meta.Version > f.Roles[name] {
			f.Roles[name], moved = meta.Version, true
		}
	}
	return moved
}

func (f *floors) clear() { *f = floors{Root: f.Root, RootSHA: f.RootSHA} }

func readSealed(path string, v any) (data []byte, found, intact bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, !errors.Is(err, fs.ErrNotExist), false
	}
	return data, true, unseal(data, v)
}

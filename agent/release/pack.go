package release

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sort"
	"time"

	"github.com/klauspost/compress/zstd"
)

// packWindow is how far back the archive's compression looks. It is what unpacking must hold in memory.
const packWindow = 8 << 20

// PackInfo is what a release document states of an archive: digest and length of its bytes, and what it unpacks to.
type PackInfo struct {
	Digest                  Digest
	Length, Unpacked, Files int64
}

// TreeError refuses a tree that cannot be a release. Path is relative to the tree.
type TreeError struct {
	Path, Reason string
}

func (e *TreeError) Error() string {
	return fmt.Sprintf("cannot pack %q: %s", e.Path, e.Reason)
}

// Kind is the stable label of this error for metrics and the wire.
func (e *TreeError) Kind() string { return "bad-tree" }

// Pack writes the tree at dir as a tar.zst archive and returns its manifest. The same names, contents and executable bits
// give the same bytes, whatever the times, owners, creation order or number of processors; another version of the
// compressor may choose other bytes for the same tree. Hard links become separate files; set-id bits, special files, links
// that leave the tree and names that are not clean UTF-8 are refused.
//
// Entries are in the manifest's order, which Unpack demands; plain `tar --zstd -x` reads it too.
func Pack(ctx context.Context, dir string, app App, version Version, platform Platform, archive io.Writer) (*Manifest, PackInfo, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, PackInfo{}, fmt.Errorf("cannot pack: %w", err)
	}
	defer root.Close()
	m := &Manifest{Schema: ManifestSchema, App: app, Version: version, Platform: platform}
	if m.Entries, err = scanTree(ctx, root); err != nil {
		return nil, PackInfo{}, err
	}
	count := &countingHash{w: archive, sum: sha256.New()}
	z, err := zstd.NewWriter(count, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(packWindow), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, PackInfo{}, fmt.Errorf("cannot pack: %v", err)
	}
	t := tar.NewWriter(z)
	buf := make([]byte, chunkSize)
	for i := range m.Entries {
		if err := packEntry(ctx, root, t, &m.Entries[i], buf); err != nil {
			z.Close()
			return nil, PackInfo{}, err
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return nil, PackInfo{}, fmt.Errorf("cannot write archive: %w", err)
	}
	if err := m.Validate(); err != nil {
		return nil, PackInfo{}, err
	}
	info := PackInfo{Digest: DigestOf([32]byte(count.sum.Sum(nil))), Length: count.n}
	info.Unpacked, info.Files = m.Totals()
	return m, info, nil
}

// BuildManifest is Pack without an archive.
func BuildManifest(ctx context.Context, dir string, app App, version Version, platform Platform) (*Manifest, error) {
	m, _, err := Pack(ctx, dir, app, version, platform, io.Discard)
	return m, err
}

type countingHash struct {
	w   io.Writer
	sum interface {
		io.Writer
		Sum([]byte) []byte
	}
	n int64
}

func (c *countingHash) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.sum.Write(p[:n])
	c.n += int64(n)
	return n, err
}

// scanTree lists the tree in byte order of path; digests are filled while the files are packed.
func scanTree(ctx context.Context, root *os.Root) ([]Entry, error) {
	var entries []Entry
	err := fs.WalkDir(root.FS(), ".", func(at string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil || at == "." {
			return err
		}
		info, err := root.Lstat(at)
		if err != nil {
			return err
		}
		e, err := scanEntry(root, at, info)
		entries = append(entries, e)
		return err
	})
	var refused *TreeError
	if errors.As(err, &refused) {
		return nil, refused
	}
	if err != nil {
		return nil, fmt.Errorf("cannot pack: %w", err)
	}
	if len(entries) == 0 {
		return nil, &TreeError{".", "the directory is empty"}
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].Path < entries[j].Path })
	return entries, nil
}

func scanEntry(root *os.Root, at string, info fs.FileInfo) (Entry, error) {
	e := Entry{Path: at}
	refuse := func(reason string) (Entry, error) { return Entry{}, &TreeError{at, reason} }
	if why := treePathProblem(at); why != "" {
		return refuse(why)
	}
	mode := info.Mode()
	if mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 && !mode.IsDir() {
		return refuse("it has a set-user-id or set-group-id bit: clear it (chmod ug-s), releases cannot carry it")
	}
	switch {
	case mode.IsDir():
		e.Type, e.Mode = TypeDir, ModeDir
	case mode.IsRegular():
		e.Type, e.Mode, e.Size = TypeFile, ModeFile, info.Size()
		if mode&0o111 != 0 {
			e.Mode = ModeExecutable
		}
	case mode&fs.ModeSymlink != 0:
		target, err := root.Readlink(at)
		if err != nil {
			return e, err
		}
		if why := linkProblem(at, target); why != "" {
			return refuse(why + ": make it relative and keep it inside the release")
		}
		e.Type, e.Target = TypeSymlink, target
	default:
		return refuse("it is a " + typeWord(mode) + ": only files, directories and symlinks can be in a release")
	}
	return e, nil
}

func typeWord(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "dir"
	case mode.IsRegular():
		return "file"
	case mode&fs.ModeSymlink != 0:
		return "symlink"
	case mode&fs.ModeDevice != 0:
		return "device"
	case mode&fs.ModeNamedPipe != 0:
		return "fifo"
	case mode&fs.ModeSocket != 0:
		return "socket"
	}
	return "special file"
}

// tarHeader is the header of an entry. Pack writes it, and Unpack accepts nothing that differs from it.
func tarHeader(e *Entry) *tar.Header {
	h := &tar.Header{Name: e.Path, Uname: "root", Gname: "root", ModTime: time.Unix(0, 0)}
	mode, _ := parseMode(e.Mode)
	h.Mode = int64(mode)
	switch e.Type {
	case TypeDir:
		h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
	case TypeSymlink:
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.Target, 0o777
	default:
		h.Typeflag, h.Size = tar.TypeReg, e.Size
	}
	return h
}

func packEntry(ctx context.Context, root *os.Root, t *tar.Writer, e *Entry, buf []byte) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("cannot pack: %w", err)
	}
	if err := t.WriteHeader(tarHeader(e)); err != nil {
		return fmt.Errorf("cannot pack %q: %w", e.Path, err)
	}
	if e.Type != TypeFile {
		return nil
	}
	f, err := root.Open(e.Path)
	if err != nil {
		return fmt.Errorf("cannot pack: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	in := &ctxReader{ctx, io.TeeReader(f, sum)}
	n, err := io.CopyBuffer(struct{ io.Writer }{t}, struct{ io.Reader }{io.LimitReader(in, e.Size)}, buf)
	if err != nil {
		return fmt.Errorf("cannot pack %q: %w", e.Path, err)
	}
	if more, _ := f.Read(buf[:1]); n != e.Size || more != 0 {
		return &TreeError{e.Path, fmt.Sprintf("it changed while it was read, its size was %d bytes: pack a tree nobody writes to", e.Size)}
	}
	d := DigestOf([32]byte(sum.Sum(nil)))
	e.SHA256 = &d
	return nil
}

// ctxReader ends a long copy soon after ctx ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// archiveBound is the most bytes the tar stream of this manifest may have: what Pack writes, with PAX records for every
// entry. A stream that goes beyond it is a bomb, whatever it claims to hold.
func archiveBound(m *Manifest) int64 {
	const block = 512
	up := func(n int64) int64 { return (n + block - 1) / block * block }
	total := int64(2 * block)
	for i := range m.Entries {
		e := &m.Entries[i]
		total += 3*block + up(e.Size) + up(int64(len(e.Path)+len(e.Target))+64)
	}
	return total
}

// sameHeader says how a header read from an archive differs from the one the manifest demands, or nothing.
func sameHeader(got *tar.Header, e *Entry) string {
	want := tarHeader(e)
	switch {
	case got.Name != want.Name:
		return fmt.Sprintf("the archive holds %q where the manifest has %q", got.Name, want.Name)
	case got.Typeflag != want.Typeflag:
		return fmt.Sprintf("it is of tar type %q where the manifest has a %s", got.Typeflag, e.Type)
	case got.Size != want.Size:
		return fmt.Sprintf("it has %d bytes, the manifest says %d", got.Size, want.Size)
	case got.Mode != want.Mode:
		return fmt.Sprintf("it has mode %04o, the manifest says %04o", got.Mode, want.Mode)
	case got.Linkname != want.Linkname:
		return fmt.Sprintf("it leads to %q, the manifest says %q", got.Linkname, want.Linkname)
	}
	for key := range got.PAXRecords {
		if key != "path" && key != "linkpath" && key != "size" {
			return fmt.Sprintf("it carries the extended attribute %q", key)
		}
	}
	return ""
}

// splitPath separates an entry's path into its directory ("" for the top) and its name.
func splitPath(p string) (dir, base string) {
	dir, base = path.Split(p)
	return dir[:max(0, len(dir)-1)], base
}

package release

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

const (
	// maxWindow caps what an archive can make the decoder hold. Pack uses 8 MiB.
	maxWindow = 32 << 20
	// chunkSize is the unit of work between the reader and the writers.
	chunkSize = 256 << 10
	// chunks bounds the memory between them.
	chunks = 12
	// filesPerChunk bounds how many small files one writer takes at once.
	filesPerChunk = 64
	// syncEachBelow is how many files are synced one by one; above it, one sync of the whole filesystem is faster by far.
	syncEachBelow = 2000
)

// SyncMode says how Unpack makes a tree durable before it returns.
type SyncMode int

// The sync modes. SyncAuto syncs file by file up to some 2,000 files, which other writers of the filesystem cannot slow
// down, and the filesystem above. SyncNone leaves durability to the caller.
const (
	SyncAuto SyncMode = iota
	SyncEach
	SyncFilesystem
	SyncNone
)

// UnpackOptions tune Unpack; the zero value is right for hosts.
type UnpackOptions struct {
	// Writers is how many files are written at once; 0 means 2. More than 3 only contend for the filesystem's journal.
	Writers int
	Sync    SyncMode
	// Progress is called with the bytes unpacked so far, from one goroutine, never after Unpack returned.
	Progress func(bytes int64)
}

// ArchiveError refuses an archive whose content is not what the manifest says, or that is no archive.
type ArchiveError struct {
	Path, Reason string
}

func (e *ArchiveError) Error() string {
	if e.Path == "" {
		return "cannot unpack archive: " + e.Reason
	}
	return fmt.Sprintf("cannot unpack %q: %s", e.Path, e.Reason)
}

// Kind is the stable label of this error for metrics and the wire.
func (e *ArchiveError) Kind() string { return "bad-archive" }

// Unpack reads an archive made by Pack and builds the manifest's tree in dir, which must exist and be empty. When it returns
// nil, dir holds exactly the manifest's entries with their contents and modes, durable as o.Sync says. When it does not, dir
// holds garbage that the caller removes. Errors of the filesystem are wrapped (ENOSPC stays visible to errors.Is), those of
// the archive are *ArchiveError; both may be mixed with r's own error.
//
// Safety does not depend on the archive: every name, mode, size and link target that is used comes from the manifest, and
// the archive must present the same entries in the same order. Nothing is written for an entry that differs, and never more
// bytes than the manifest's size. No symlink exists until all files are written. Memory does not grow with the archive.
// r is read to its end, so a digest taken on the way covers the whole archive.
func Unpack(ctx context.Context, r io.Reader, m *Manifest, dir string, o UnpackOptions) error {
	if err := m.Validate(); err != nil {
		return err
	}
	if o.Writers <= 0 {
		o.Writers = 2
	}
	t, err := openTree(dir)
	if err != nil {
		return fmt.Errorf("cannot unpack: %w", err)
	}
	defer t.close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	u := &unpacker{ctx: ctx, m: m, tree: t, o: o, work: make(chan *chunk), free: make(chan *chunk, chunks)}
	var writers sync.WaitGroup
	for range o.Writers {
		writers.Go(func() { u.write(cancel) })
	}
	err = u.read(r)
	if err != nil {
		cancel(err)
	}
	close(u.work)
	writers.Wait()
	if u.small != nil {
		for i := range u.small.files {
			u.small.files[i].dir.release()
		}
	}
	if cause := context.Cause(ctx); errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
		return fmt.Errorf("cannot unpack: %w", cause)
	} else if cause != nil {
		return cause
	}
	if err := u.finish(); err != nil {
		return fmt.Errorf("cannot unpack: %w", err)
	}
	return nil
}

// unpacker is one run. The reader decodes and checks headers against the manifest; writers check contents against it.
type unpacker struct {
	ctx    context.Context
	m      *Manifest
	tree   *tree
	o      UnpackOptions
	source source
	work   chan *chunk
	free   chan *chunk
	small  *chunk // being filled by the reader
	made   int
	links  bool
	done   int64
}

// chunk carries the bytes of several small files, or a part of a large one, to a writer.
type chunk struct {
	buf   []byte
	used  int
	files []piece
	large *largeFile
}

type piece struct {
	entry *Entry
	dir   *dirHandle
	data  []byte
}

// largeFile is a file of more than one chunk: one writer takes it and drains parts, in order.
type largeFile struct {
	piece
	parts chan *chunk
}

func (u *unpacker) read(r io.Reader) error {
	u.source.r = r
	z, err := zstd.NewReader(&u.source, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return u.blame("", err)
	}
	defer z.Close()
	bound := &boundedReader{ctx: u.ctx, r: z, left: archiveBound(u.m)}
	t := tar.NewReader(bound)
	for i := range u.m.Entries {
		e := &u.m.Entries[i]
		if err := u.nextHeader(t, e); err != nil {
			return err
		}
		switch {
		case e.Type == TypeDir:
			err = u.tree.mkdir(e.Path)
		case e.Type == TypeSymlink:
			u.links = true
		case e.Size > chunkSize:
			err = u.readLarge(t, e)
		default:
			err = u.readSmall(t, e)
		}
		if err != nil {
			return err
		}
	}
	if err := u.flush(); err != nil {
		return err
	}
	return u.expectEnd(t, bound)
}

func (u *unpacker) nextHeader(t *tar.Reader, e *Entry) error {
	h, err := t.Next()
	if err == io.EOF {
		return &ArchiveError{e.Path, "the archive ends before it"}
	}
	if err != nil {
		return u.blame(e.Path, err)
	}
	if why := sameHeader(h, e); why != "" {
		return &ArchiveError{e.Path, why}
	}
	return nil
}

func (u *unpacker) expectEnd(t *tar.Reader, rest io.Reader) error {
	if h, err := t.Next(); err == nil {
		return &ArchiveError{h.Name, "the manifest does not have it"}
	} else if err != io.EOF {
		return u.blame("", err)
	}
	var one [1]byte
	if n, err := io.ReadFull(rest, one[:]); n > 0 {
		return &ArchiveError{"", "data follows the end of the archive"}
	} else if err != io.EOF {
		return u.blame("", err)
	}
	return nil
}

// blame decides whose fault an error of the decoders is: the source's when the source itself reported one (it is then
// wrapped as it is), else the archive's.
func (u *unpacker) blame(path string, err error) error {
	var own *ArchiveError
	switch {
	case errors.As(err, &own) || u.ctx.Err() != nil:
		return err
	case u.source.err != nil && u.source.err != io.EOF:
		return fmt.Errorf("cannot read archive: %w", u.source.err)
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		return &ArchiveError{path, "the archive is cut short"}
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return &ArchiveError{path, fmt.Sprintf("its compression window is above %d MiB", maxWindow>>20)}
	}
	return &ArchiveError{path, "the archive is damaged: " + err.Error()}
}

// source remembers the error of the reader below the decoders, which wrap or replace it.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

// get waits for an empty chunk; at most `chunks` exist.
func (u *unpacker) get() (*chunk, error) {
	select {
	case c := <-u.free:
		return c, nil
	default:
	}
	if u.made < chunks {
		u.made++
		return &chunk{buf: make([]byte, chunkSize), files: make([]piece, 0, filesPerChunk)}, nil
	}
	select {
	case c := <-u.free:
		return c, nil
	case <-u.ctx.Done():
		return nil, context.Cause(u.ctx)
	}
}

func (u *unpacker) put(c *chunk) {
	c.files, c.used, c.large = c.files[:0], 0, nil
	u.free <- c
}

func (u *unpacker) send(to chan *chunk, c *chunk) error {
	select {
	case to <- c:
		return nil
	case <-u.ctx.Done():
		return context.Cause(u.ctx)
	}
}

func (u *unpacker) progress(n int64) {
	u.done += n
	if u.o.Progress != nil {
		u.o.Progress(u.done)
	}
}

// readSmall adds the file to the chunk being filled and sends that on when it is full.
func (u *unpacker) readSmall(t io.Reader, e *Entry) (err error) {
	if c := u.small; c != nil && (c.used+int(e.Size) > chunkSize || len(c.files) == filesPerChunk) {
		if err := u.flush(); err != nil {
			return err
		}
	}
	if u.small == nil {
		if u.small, err = u.get(); err != nil {
			return err
		}
	}
	c := u.small
	data := c.buf[c.used : c.used+int(e.Size)]
	if _, err := io.ReadFull(t, data); err != nil {
		return u.blame(e.Path, err)
	}
	d, err := u.tree.parentOf(e.Path)
	if err != nil {
		return err
	}
	c.files = append(c.files, piece{e, d, data})
	c.used += len(data)
	u.progress(e.Size)
	return nil
}

func (u *unpacker) flush() error {
	if u.small == nil {
		return nil
	}
	if err := u.send(u.work, u.small); err != nil {
		return err
	}
	u.small = nil
	return nil
}

// readLarge streams the file to one writer.
func (u *unpacker) readLarge(t io.Reader, e *Entry) error {
	d, err := u.tree.parentOf(e.Path)
	if err != nil {
		return err
	}
	large := &largeFile{piece{e, d, nil}, make(chan *chunk, chunks)}
	defer close(large.parts)
	if err := u.send(u.work, &chunk{large: large}); err != nil {
		d.release()
		return err
	}
	for left := e.Size; left > 0; {
		c, err := u.get()
		if err != nil {
			return err
		}
		n := min(left, chunkSize)
		if _, err := io.ReadFull(t, c.buf[:n]); err != nil {
			return u.blame(e.Path, err)
		}
		c.files = append(c.files, piece{data: c.buf[:n]})
		if err := u.send(large.parts, c); err != nil {
			return err
		}
		left -= n
		u.progress(n)
	}
	return nil
}

// boundedReader ends a stream that is longer than its manifest allows, and one whose context is over.
type boundedReader struct {
	ctx  context.Context
	r    io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if err := context.Cause(b.ctx); err != nil {
		return 0, err
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left+1)])
	if b.left -= int64(n); b.left < 0 {
		return 0, &ArchiveError{"", "the archive unpacks to more than its manifest allows"}
	}
	return n, err
}

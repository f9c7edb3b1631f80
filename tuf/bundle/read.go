package bundle

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
)

// Index says where in a bundle each file lies. It holds names and numbers only and stays valid for as long as the file's bytes
// do.
type Index struct {
	Info  Info
	files map[string]span
	names []string
}

type span struct{ start, size int64 }

// Open opens the bundle at path and reads its index. The caller closes the file. Whatever is not a regular file is refused
// without waiting for it.
func Open(path string) (*os.File, *Index, error) {
	f, size, err := OpenFile(path)
	if err != nil {
		return nil, nil, err
	}
	x, err := Read(f, size)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, x, nil
}

// OpenFile is Open without reading the index.
func OpenFile(path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = malformed("it is not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// Find says where the content of a file begins and how long it is.
func (x *Index) Find(name string) (start, size int64, ok bool) {
	s, ok := x.files[name]
	return s.start, s.size, ok
}

// Names lists the files in their order.
func (x *Index) Names() []string { return x.names }

// Read reads the index of a bundle of size bytes.
func Read(r io.ReaderAt, size int64) (*Index, error) {
	s := &scan{in: io.NewSectionReader(r, 0, size), size: size, x: &Index{files: map[string]span{}}}
	s.tar = tar.NewReader(s.in)
	if err := s.info(); err != nil {
		return nil, err
	}
	for {
		done, err := s.next()
		if err != nil {
			return nil, err
		}
		if done {
			return s.x, s.end()
		}
	}
}

type scan struct {
	in    *io.SectionReader
	tar   *tar.Reader
	size  int64
	x     *Index
	after int64 // where the next header is
	bytes int64
}

func (s *scan) info() error {
	h, at, err := s.header()
	if errors.Is(err, io.EOF) {
		return &IncompleteError{}
	}
	if err != nil {
		return err
	}
	if h.Name != infoName || h.Size > maxInfo {
		return malformed("it does not begin with %s", infoName)
	}
	data := make([]byte, h.Size)
	if _, err := s.in.ReadAt(data, at.start); err != nil {
		return &IncompleteError{}
	}
	s.x.Info, err = parseInfo(data)
	return err
}

func (s *scan) next() (done bool, err error) {
	h, at, err := s.header()
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if err := checkName(h.Name); err != nil {
		return false, err
	}
	if _, twice := s.x.files[h.Name]; twice {
		return false, malformed("%.80q is in it twice", h.Name)
	}
	if n := len(s.x.names); n > 0 && strings.HasPrefix(h.Name, metadataDir) && strings.HasPrefix(s.x.names[n-1], targetsDir) {
		return false, malformed("%.80q comes after payloads", h.Name)
	}
	if len(s.x.names) >= s.x.Info.Files {
		return false, malformed("it holds more than the %d files that it announces", s.x.Info.Files)
	}
	s.x.files[h.Name] = at
	s.x.names = append(s.x.names, h.Name)
	s.bytes += at.size
	return false, nil
}

// header reads one header and makes sure that what it announces is there. The tar reader passes over content by seeking.
func (s *scan) header() (*tar.Header, span, error) {
	h, err := s.tar.Next()
	switch {
	case errors.Is(err, io.EOF):
		return nil, span{}, io.EOF
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, span{}, &IncompleteError{}
	case err != nil:
		return nil, span{}, malformed("%v", err)
	}
	start, err := s.in.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, span{}, malformed("%v", err)
	}
	if err := checkHeader(h); err != nil {
		return nil, span{}, err
	}
	if h.Size > s.size-start {
		return nil, span{}, &IncompleteError{}
	}
	s.after = start + (h.Size+blockSize-1)/blockSize*blockSize
	return h, span{start, h.Size}, nil
}

const blockSize = 512

// checkHeader leaves out everything that a tar can hold besides plain content: links, devices, holes, other people's fields.
func checkHeader(h *tar.Header) error {
	if h.Typeflag != tar.TypeReg || h.Linkname != "" || h.Size < 0 || h.Format != tar.FormatUSTAR && h.Format != tar.FormatPAX {
		return malformed("%.80q is not a plain file", h.Name)
	}
	for key := range h.PAXRecords {
		if !slices.Contains([]string{"path", "size"}, key) {
			return malformed("%.80q has the extended field %.40q", h.Name, key)
		}
	}
	return nil
}

func (s *scan) end() error {
	want := s.after + 2*blockSize
	switch {
	case s.size < want, len(s.x.names) < s.x.Info.Files:
		return &IncompleteError{}
	case s.size > want:
		return malformed("%d bytes follow its end", s.size-want)
	case s.bytes != s.x.Info.Bytes:
		return malformed("it holds %d bytes and announces %d", s.bytes, s.x.Info.Bytes)
	}
	return nil
}

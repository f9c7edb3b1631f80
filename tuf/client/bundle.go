package client

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/slipway-deploy/slipway/tuf/bundle"
)

// ErrAbsent says that a mirror on this machine is not there as a whole: a medium that is not mounted, a bundle that was not
// brought yet. It says nothing about what such a mirror holds.
type ErrAbsent struct{ Path string }

func (e *ErrAbsent) Error() string {
	return fmt.Sprintf("cannot read %s: it is not there; mount its medium, or copy it there", e.Path)
}

// Kind is "absent".
func (e *ErrAbsent) Kind() string { return "absent" }

// ErrTooOld says that a bundle's timestamp was issued longer ago than Config.MaxBundleAge allows. Issued is zero if the
// timestamp does not say when. The text is the same at every poll.
type ErrTooOld struct {
	Issued time.Time
	Max    time.Duration
}

func (e *ErrTooOld) Error() string {
	if e.Issued.IsZero() {
		return fmt.Sprintf("its timestamp does not say when it was issued, and at most %s of age are allowed", days(e.Max))
	}
	return fmt.Sprintf("it was issued on %s, and at most %s of age are allowed; bring a newer one", e.Issued.UTC().Format(time.RFC3339), days(e.Max))
}

// Kind is "too-old".
func (e *ErrTooOld) Kind() string { return "too-old" }

func days(d time.Duration) string {
	if day := 24 * time.Hour; d >= day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return d.String()
}

// ErrBundle names the bundle that an error is about. Its kind is that of the reason.
type ErrBundle struct {
	Path string
	Err  error
}

func (e *ErrBundle) Error() string { return fmt.Sprintf("cannot use bundle %s: %v", e.Path, e.Err) }

// Unwrap is the reason.
func (e *ErrBundle) Unwrap() error { return e.Err }

// Kind is the reason's.
func (e *ErrBundle) Kind() string { return kindOf(e.Err) }

// bundle is the path of a mirror that is one, else "".
func (m Mirror) bundle() (path string, ok bool) {
	if path, ok = strings.CutPrefix(m.Metadata, bundle.Scheme); !ok {
		return "", false
	}
	return path, true
}

// local reports a mirror that costs no network to ask.
func (m Mirror) local() bool {
	_, ok := m.bundle()
	return ok || fileDir(m.Metadata) != ""
}

func (m *Mirror) completeBundle(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
		return fmt.Errorf("%q is not bundle: and the absolute path of a file", m.Metadata)
	}
	if m.Targets != "" && m.Targets != m.Metadata {
		return fmt.Errorf("%q holds its targets itself; leave %q out", m.Metadata, m.Targets)
	}
	m.Targets = m.Metadata
	return nil
}

// named says which bundle an error is about, where the error itself does not.
func (m Mirror) named(err error) error {
	path, ok := m.bundle()
	var absent *ErrAbsent
	var already *ErrBundle
	if err == nil || !ok || errors.As(err, &absent) || errors.As(err, &already) {
		return err
	}
	return &ErrBundle{Path: path, Err: err}
}

// tooOld judges the age of what a bundle brings. Directories and servers are judged by what is signed alone.
func (c *Client) tooOld(m Mirror, s *stamp, now time.Time) error {
	bound := c.cfg.MaxBundleAge
	if _, ok := m.bundle(); !ok || bound <= 0 || !s.issued.IsZero() && now.Sub(s.issued) <= bound {
		return nil
	}
	return &ErrTooOld{Issued: s.issued, Max: bound}
}

func bundleRequest(path, name string) request {
	return request{url: bundle.Scheme + path + "/" + name, bundle: path, name: name}
}

// bundles remembers where the files in bundles lie. No bundle stays open between requests: its medium can be unmounted.
type bundles struct {
	mu    sync.Mutex
	known map[string]indexed
}

type indexed struct {
	info  os.FileInfo
	index *bundle.Index
}

// open serves a file in a bundle as a server would. As with other mounted files, everything that could hang runs apart.
func (b *bundles) open(r request, guard *stallGuard) (*answer, error) {
	type opened struct {
		a   *answer
		err error
	}
	done := make(chan opened, 1)
	go func() {
		a, err := b.find(r, guard)
		done <- opened{a, err}
	}()
	select {
	case o := <-done:
		return o.a, o.err
	case <-guard.ctx.Done():
		go func() {
			if o := <-done; o.a != nil {
				o.a.Close()
			}
		}()
		return nil, &ErrNetwork{URL: r.url, Err: guard.cause(nil)}
	}
}

func (b *bundles) find(r request, guard *stallGuard) (*answer, error) {
	f, size, err := bundle.OpenFile(r.bundle)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &ErrAbsent{Path: r.bundle}
	}
	if err != nil {
		return nil, &ErrBundle{Path: r.bundle, Err: err}
	}
	x, err := b.index(r.bundle, f, size)
	if err != nil {
		f.Close()
		return nil, &ErrBundle{Path: r.bundle, Err: err}
	}
	start, length, ok := x.Find(r.name)
	if !ok {
		f.Close()
		return nil, &ErrNetwork{URL: r.url, Status: http.StatusNotFound, Err: fmt.Errorf("it is not in this bundle, which was made for %s", x.Info)}
	}
	offset := min(max(r.offset, 0), length)
	part := struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, start+offset, length-offset), f}
	return &answer{ReadCloser: guard.body(&mountedFile{f: part, guard: guard}), start: offset, size: length}, nil
}

// index reads the headers once for each state of the file.
func (b *bundles) index(path string, f *os.File, size int64) (*bundle.Index, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if k, ok := b.known[path]; ok && os.SameFile(k.info, info) && k.info.Size() == info.Size() && k.info.ModTime().Equal(info.ModTime()) {
		return k.index, nil
	}
	x, err := bundle.Read(f, size)
	if err != nil {
		delete(b.known, path)
		return nil, err
	}
	if b.known == nil {
		b.known = map[string]indexed{}
	}
	b.known[path] = indexed{info, x}
	return x, nil
}

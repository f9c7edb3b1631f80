package client

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// mirrorOrder says which mirror to ask first. Metadata and targets are ordered apart: a poll that finds nothing new turns to
// another mirror next time, so that no single one can withhold an update for ever, while targets stay with the preferred.
type mirrorOrder struct {
	mu       sync.Mutex
	n, first int   // metadata: rotation
	faults   []int // targets: demerits
}

func newMirrorOrder(n int) *mirrorOrder { return &mirrorOrder{n: n, faults: make([]int, n)} }

func (o *mirrorOrder) metadata() []int {
	o.mu.Lock()
	defer o.mu.Unlock()
	order := make([]int, o.n)
	for i := range order {
		order[i] = (o.first + i) % o.n
	}
	return order
}

func (o *mirrorOrder) nextPoll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.first = (o.first + 1) % o.n
}

func (o *mirrorOrder) served(i int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.first = i
}

func (o *mirrorOrder) targets() []int {
	o.mu.Lock()
	defer o.mu.Unlock()
	order := make([]int, o.n)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return o.faults[a] - o.faults[b] })
	return order
}

// blame demotes a mirror for targets; a success forgives one fault at a time.
func (o *mirrorOrder) blame(i, by int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.faults[i] = max(0, o.faults[i]+by)
}

// metadataRequest names a role's file. Role names are escaped as a whole: no name can reach outside the directory.
func (m Mirror) metadataRequest(role string, version int64) request {
	name := url.PathEscape(role) + ".json"
	if version > 0 {
		name = strconv.FormatInt(version, 10) + "." + name
	}
	if path, ok := m.bundle(); ok {
		return bundleRequest(path, "metadata/"+name)
	}
	return request{url: m.Metadata + name, dir: fileDir(m.Metadata), name: name}
}

// targetRequest names a target's file. With consistent snapshots its digest is part of the name.
func (m Mirror) targetRequest(f File, consistent bool) (request, error) {
	dir, base := path.Split(f.Path)
	if !fs.ValidPath(f.Path) || f.Path == "." || strings.ContainsRune(f.Path, 0) {
		return request{}, &ErrCorrupt{Name: f.Path, Reason: "not a relative path without dots"}
	}
	if consistent {
		digest := f.SHA256
		if digest == "" {
			digest = f.SHA512
		}
		base = digest + "." + base
	}
	if path, ok := m.bundle(); ok {
		return bundleRequest(path, "targets/"+dir+base), nil
	}
	segments := strings.Split(dir+base, "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return request{url: m.Targets + strings.Join(segments, "/"), dir: fileDir(m.Targets), name: dir + base}, nil
}

func fileDir(base string) string {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "file" {
		return ""
	}
	return u.Path
}

// openFile serves a file mirror as a server would. Reads run apart, so that a hung mount cannot outlive the guard.
func openFile(r request, guard *stallGuard) (*answer, error) {
	type opened struct {
		f      *os.File
		size   int64
		err    error
		absent bool // the directory too
	}
	done := make(chan opened, 1)
	go func() {
		f, err := os.OpenInRoot(r.dir, r.name)
		if err != nil {
			_, derr := os.Stat(r.dir)
			done <- opened{err: err, absent: errors.Is(derr, fs.ErrNotExist)}
			return
		}
		info, err := f.Stat()
		if err == nil && !info.Mode().IsRegular() {
			err = errors.New("not a regular file")
		}
		if err == nil {
			_, err = f.Seek(r.offset, io.SeekStart)
		}
		if err != nil {
			f.Close()
			done <- opened{err: err}
			return
		}
		done <- opened{f: f, size: info.Size()}
	}()
	select {
	case o := <-done:
		if errors.Is(o.err, fs.ErrNotExist) && o.absent {
			return nil, &ErrAbsent{Path: r.dir}
		}
		if errors.Is(o.err, fs.ErrNotExist) {
			return nil, &ErrNetwork{URL: r.url, Status: http.StatusNotFound}
		}
		if o.err != nil {
			return nil, &ErrNetwork{URL: r.url, Err: o.err}
		}
		return &answer{ReadCloser: guard.body(&mountedFile{f: o.f, guard: guard}), start: r.offset, size: o.size}, nil
	case <-guard.ctx.Done():
		return nil, &ErrNetwork{URL: r.url, Err: guard.cause(nil)}
	}
}

type chunk struct {
	data []byte
	err  error
}

// mountedFile reads in a goroutine of its own, into its own buffer, one chunk at a time.
type mountedFile struct {
	f     io.ReadCloser
	guard *stallGuard
	rest  []byte
	err   error
	buf   []byte
}

func (m *mountedFile) Read(p []byte) (int, error) {
	if len(m.rest) == 0 && m.err == nil {
		if m.buf == nil {
			m.buf = make([]byte, 256<<10)
		}
		done := make(chan chunk, 1)
		go func() {
			n, err := m.f.Read(m.buf)
			done <- chunk{m.buf[:n], err}
		}()
		select {
		case c := <-done:
			m.rest, m.err = c.data, c.err
		case <-m.guard.ctx.Done():
			return 0, m.guard.cause(nil)
		}
	}
	n := copy(p, m.rest)
	m.rest = m.rest[n:]
	if n == 0 {
		return 0, m.err
	}
	return n, nil
}

func (m *mountedFile) Close() error { return m.f.Close() }

// limitFor is the smaller of what is configured and what signed metadata announces: a signature never raises a cap.
func limitFor(configured int64, meta *metadata.MetaFiles) int64 {
	if meta != nil && meta.Length > 0 {
		return min(configured, meta.Length)
	}
	return configured
}

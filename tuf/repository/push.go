package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"golang.org/x/sync/errgroup"
)

// The steps of bringing an edition to a destination. Until the timestamp is swapped its hosts see the old state.
var (
	fpFile    = durable.NewFailpoint("repository.push.before-file")
	fpSwap    = durable.NewFailpoint("repository.push.before-timestamp")
	fpSwapped = durable.NewFailpoint("repository.push.after-timestamp")
)

// Pushed is what was brought to a destination.
type Pushed struct {
	Destination string `json:"destination"`
	// Timestamp is the version it has now.
	Timestamp int64 `json:"timestamp"`
	// Files and Bytes are what was not there before, but for the timestamp.
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

// tally counts what was brought to one destination; files go up side by side.
type tally struct {
	mu    sync.Mutex
	files int
	bytes int64
}

func (t *tally) count(size int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.files++
	t.bytes += size
}

// upload is one file on its way, from memory or from a file of the repository.
type upload struct {
	name string
	data []byte
	path string
	size int64
	sum  string
}

func metaUpload(name string, data []byte) upload {
	return upload{name: "metadata/" + name, data: data, size: int64(len(data)), sum: release.Sum(data).String()}
}

// targetUpload is a file of targets/, whose stored name begins with its digest.
func (r *Repository) targetUpload(stored string) (upload, error) {
	path := filepath.Join(r.targetsDir(), filepath.FromSlash(stored))
	info, err := os.Stat(path)
	if err != nil {
		return upload{}, fmt.Errorf("cannot find published file: %w", err)
	}
	sum, _, _ := strings.Cut(stored[strings.LastIndexByte(stored, '/')+1:], ".")
	return upload{name: "targets/" + stored, path: path, size: info.Size(), sum: sum}, nil
}

// rank orders uploads: targets, then roles and snapshot, then roots, which hosts find without a timestamp, in their order.
func (u upload) rank() int {
	switch {
	case strings.HasPrefix(u.name, "targets/"):
		return 0
	case strings.HasSuffix(u.name, "."+classRoot+".json"):
		return 2
	}
	return 1
}

func (u upload) open() (io.ReadCloser, error) {
	if u.path == "" {
		return io.NopCloser(bytes.NewReader(u.data)), nil
	}
	return os.Open(u.path)
}

// put creates a file. One that is there is left alone if it has the same bytes, and an error if not.
func (o *outlet) put(ctx context.Context, u upload) error {
	if err := fpFile.Hit(); err != nil {
		return err
	}
	body, err := u.open()
	if err != nil {
		return fmt.Errorf("cannot read published file: %w", err)
	}
	defer func() { _ = body.Close() }()
	err = o.Create(ctx, u.name, body, u.size, u.sum)
	if err == nil {
		o.tally.count(u.size)
		return nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	sum, err := o.Digest(ctx, u.name)
	if err == nil && sum != u.sum {
		err = &DiffersError{Destination: o.String(), Name: u.name}
	}
	return err
}

// push brings an edition over s to an outlet: targets, roles and snapshot, roots, and the timestamp last, by compare and swap.
// An outlet that is not current gets everything that is published here as well.
func (r *Repository) push(ctx context.Context, s *state, o *outlet, e *edition) (*Pushed, error) {
	if o.problem != nil {
		return nil, o.problem
	}
	version, err := timestampVersion(e.timestamp())
	if err != nil {
		return nil, err
	}
	done := &Pushed{Destination: o.String(), Timestamp: version}
	if bytes.Equal(o.timestamp, e.timestamp()) {
		return done, nil
	}
	files, err := r.uploads(ctx, s, o, e)
	if err != nil {
		return nil, err
	}
	if err := r.hostsFollow(ctx, s, o, e); err != nil {
		return nil, err
	}
	if err := o.putAll(ctx, s, files); err != nil {
		return nil, err
	}
	done.Files, done.Bytes = o.tally.files, o.tally.bytes
	return done, o.swap(ctx, s, e)
}

const (
	// smallFile is what may go up together with others; larger files follow one by one, for the sake of memory.
	smallFile = 1 << 20
	together  = 8
)

// putAll puts files in the order of their ranks, those of targets/ side by side.
func (o *outlet) putAll(ctx context.Context, s *state, files []upload) error {
	small := func(u upload) bool { return u.rank() == 0 && u.size <= smallFile }
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(together)
	for _, u := range files {
		if small(u) {
			g.Go(func() error { return o.put(gctx, u) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	looked := false
	for _, u := range slices.DeleteFunc(slices.Clone(files), small) {
		// Hosts find a new root at once: a publisher who has lost already must not show one.
		if u.rank() == 2 && !looked {
			if err := o.unmoved(ctx, s); err != nil {
				return err
			}
			looked = true
		}
		if err := o.put(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

func (o *outlet) swap(ctx context.Context, s *state, e *edition) error {
	if err := fpSwap.Hit(); err != nil {
		return err
	}
	swapped, err := o.Swap(ctx, timestampName, o.timestamp, e.timestamp())
	if err != nil {
		return err
	}
	if !swapped {
		return errors.Join(o.unmoved(ctx, s), errors.New("cannot publish to "+o.String()+": its timestamp could not be swapped"))
	}
	return fpSwapped.Hit()
}

// unmoved is nil while the outlet still has the timestamp we saw; else the error says who was there.
func (o *outlet) unmoved(ctx context.Context, s *state) error {
	now, err := readTimestamp(ctx, o.Destination)
	if err != nil || bytes.Equal(now, o.timestamp) {
		return err
	}
	theirs, err := timestampVersion(now)
	if err != nil {
		return fmt.Errorf("cannot publish to %s: %w", o, err)
	}
	return &ConcurrentError{Destination: o.String(), Theirs: theirs, Ours: s.version(classTimestamp)}
}

// uploads lists what the outlet lacks, in the order it must come.
func (r *Repository) uploads(ctx context.Context, s *state, o *outlet, e *edition) ([]upload, error) {
	var out []upload
	stored := e.Targets
	if !o.current {
		more, err := r.targetsMissing(ctx, o)
		if err != nil {
			return nil, err
		}
		stored = slices.Concat(stored, more)
		for _, name := range s.files() {
			if e.has(name) {
				continue
			}
			data, err := os.ReadFile(filepath.Join(s.dir, name))
			if err != nil {
				return nil, fmt.Errorf("cannot read metadata: %w", err)
			}
			out = append(out, metaUpload(name, data))
		}
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(stored))) {
		u, err := r.targetUpload(name)
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	for _, f := range e.Files[:len(e.Files)-1] {
		out = append(out, metaUpload(f.Name, f.Data))
	}
	slices.SortStableFunc(out, func(a, b upload) int { return a.rank() - b.rank() })
	return out, nil
}

// targetsMissing lists the files of targets/ that the outlet lacks, by name and size: the name holds the digest.
func (r *Repository) targetsMissing(ctx context.Context, o *outlet) ([]string, error) {
	there, err := o.List(ctx, "targets")
	if err != nil {
		return nil, err
	}
	var out []string
	err = filepath.WalkDir(r.targetsDir(), func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), ".") {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(r.targetsDir(), file)
		if size, ok := there["targets/"+filepath.ToSlash(rel)]; !ok || size != info.Size() {
			out = append(out, filepath.ToSlash(rel))
		}
		return errors.Join(err, ctx.Err())
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list published files: %w", err)
	}
	return out, nil
}

// hostsFollow runs the client of the hosts from what the outlet publishes to the edition, if that is another state than this
// directory's. A host that cannot accept what is there now has no such step.
func (r *Repository) hostsFollow(ctx context.Context, s *state, o *outlet, e *edition) error {
	if o.current || o.timestamp == nil {
		return nil
	}
	tmp, err := r.scratch()
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	view := filepath.Join(tmp, "metadata")
	if err := e.view(s, view); err != nil {
		return fmt.Errorf("cannot check before publishing: %w", err)
	}
	root, err := r.PinnedRoot(1)
	if err != nil {
		return err
	}
	served, err := serve(o.Destination)
	if err != nil {
		return err
	}
	defer served.close()
	now, err := r.client(filepath.Join(tmp, "host"), root, served.mirror())
	if err != nil {
		return &ClientError{From: o.String(), Err: err}
	}
	if _, err := now.Refresh(ctx); err != nil {
		return ctx.Err()
	}
	then, err := r.client(filepath.Join(tmp, "host"), root, r.mirror(view))
	if err == nil {
		_, err = then.Refresh(ctx)
	}
	if err != nil {
		return &ClientError{From: "what " + o.String() + " publishes now", Err: err}
	}
	return nil
}

// sync brings outlets that are not current to what is published here. One that fails does not keep others back.
func (r *Repository) sync(ctx context.Context, s *state, all []*outlet) ([]Pushed, error) {
	if !s.published() {
		return nil, nil
	}
	e, err := s.edition()
	if err != nil {
		return nil, err
	}
	var out []Pushed
	var failed []error
	for _, o := range all {
		done, err := r.push(ctx, s, o, e)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		out = append(out, *done)
	}
	return out, errors.Join(failed...)
}

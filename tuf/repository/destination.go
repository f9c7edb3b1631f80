package repository

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Destination is a place that hosts read from, apart from the repository directory. Names are slash-separated paths below
// it, such as "metadata/3.targets.json". Errors are those of io/fs where it says so.
type Destination interface {
	// String names the place for people, without credentials. It is the same in every run.
	String() string
	// List gives the sizes of all files below folder, none if there is no such folder.
	List(ctx context.Context, folder string) (map[string]int64, error)
	// Open reads a file and says its size: fs.ErrNotExist.
	Open(ctx context.Context, name string) (io.ReadCloser, int64, error)
	// Digest is the sha256 of a file in hex: fs.ErrNotExist.
	Digest(ctx context.Context, name string) (string, error)
	// Create stores size bytes of from, whose sha256 is sum, whole or not at all; what is there stays: fs.ErrExist.
	Create(ctx context.Context, name string, from io.Reader, size int64, sum string) error
	// Swap replaces a file that holds exactly old (nil: that is not there), atomically, and says whether it did.
	Swap(ctx context.Context, name string, old, next []byte) (bool, error)
}

const timestampName = "metadata/timestamp.json"

// ConcurrentError means that somebody else has published to a destination. Nothing there was changed.
type ConcurrentError struct {
	Destination string
	// Theirs is the timestamp version there, Ours what this directory has published. They may be equal, with other content.
	Theirs, Ours int64
}

func (e *ConcurrentError) Error() string {
	what := fmt.Sprintf("timestamp %d is published there, and this directory has %d", e.Theirs, e.Ours)
	if e.Theirs == e.Ours {
		what = fmt.Sprintf("another timestamp %d than this directory's is published there", e.Theirs)
	}
	return fmt.Sprintf("cannot publish to %s: %s; another publisher was here: bring this directory up to date (git pull) and publish again", e.Destination, what)
}

// Kind is the class of the error for logs and metrics.
func (e *ConcurrentError) Kind() string { return "concurrent" }

// DiffersError means that a name that never changes its bytes holds others at a destination.
type DiffersError struct{ Destination, Name string }

func (e *DiffersError) Error() string {
	return fmt.Sprintf("cannot publish to %s: %s is there with other bytes; another publisher is at work or died there. If none is, and the timestamp there is older, delete the file",
		e.Destination, e.Name)
}

// Kind is the class of the error for logs and metrics.
func (e *DiffersError) Kind() string { return "concurrent" }

// outlet is a destination and what it published when we looked.
type outlet struct {
	Destination
	timestamp []byte
	// current means that it has exactly what this directory has published, and so every file of it: the timestamp goes last.
	current bool
	// problem is why nothing can be brought there now. Only the first destination's keeps anybody from publishing.
	problem error
	tally   tally
}

// outlets looks at every destination, and refuses to go on where somebody else has published to the first.
func outlets(ctx context.Context, s *state, all []Destination) ([]*outlet, error) {
	ours, err := s.timestampBytes()
	if err != nil {
		return nil, err
	}
	var out []*outlet
	for i, d := range all {
		o := &outlet{Destination: d}
		if o.problem = o.look(ctx, s, ours); o.problem != nil && i == 0 {
			return nil, o.problem
		}
		out = append(out, o)
	}
	return out, nil
}

func (o *outlet) look(ctx context.Context, s *state, ours []byte) (err error) {
	if o.timestamp, err = readTimestamp(ctx, o.Destination); err != nil {
		return err
	}
	theirs, err := timestampVersion(o.timestamp)
	if err != nil {
		return fmt.Errorf("cannot publish to %s: %w", o, err)
	}
	o.current = bytes.Equal(o.timestamp, ours)
	if v := s.version(classTimestamp); !o.current && theirs > 0 && theirs >= v {
		return &ConcurrentError{Destination: o.String(), Theirs: theirs, Ours: v}
	}
	return nil
}

// readTimestamp is nil where nothing was ever published.
func readTimestamp(ctx context.Context, d Destination) ([]byte, error) {
	data, err := fetch(ctx, d, timestampName, maxTimestamp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

func fetch(ctx context.Context, d Destination, name string, limit int64) ([]byte, error) {
	body, size, err := d.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	if size > limit {
		return nil, fmt.Errorf("cannot read %s of %s: it has %d bytes, at most %d are expected", name, d, size, limit)
	}
	data, err := io.ReadAll(io.LimitReader(body, limit))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s of %s: %w", name, d, err)
	}
	return data, nil
}

// timestampVersion is 0 for nothing. Nobody's signature is checked: the number only says who is ahead.
func timestampVersion(data []byte) (int64, error) {
	if data == nil {
		return 0, nil
	}
	var file struct {
		Signed struct {
			Version int64 `json:"version"`
		} `json:"signed"`
	}
	if err := json.Unmarshal(data, &file); err != nil || file.Signed.Version < 1 {
		return 0, errors.New("its metadata/timestamp.json is none; is it another bucket or directory than you mean?")
	}
	return file.Signed.Version, nil
}

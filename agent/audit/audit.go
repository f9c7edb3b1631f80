// Package audit owns the record of what happened on this host: one event per transition, non-action and command.
//
// A Sink keeps events. The file sink appends JSON lines and is durable before Append returns; what proves the record
// (tree, checkpoints, inclusion proofs) builds on the same events.
package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
)

// Event is one thing that happened, with the sentence that every other place shows too.
type Event struct {
	Time time.Time `json:"time"`
	// Type is from a small fixed set and serves as a metric label: "phase", "wait", "command", "refresh", "config",
	// "damage".
	Type     string `json:"type"`
	App      string `json:"app,omitempty"`
	Phase    string `json:"phase,omitempty"`
	Attempt  string `json:"attempt,omitempty"`
	Sequence int64  `json:"sequence,omitempty"`
	From     string `json:"from,omitempty"`
	To       string `json:"to,omitempty"`
	// Cause is the machine-readable reason: a state.Cause, a rollout rule, a gate's name or an error's kind.
	Cause   string            `json:"cause,omitempty"`
	Message string            `json:"message"`
	Fields  map[string]string `json:"fields,omitempty"`
}

// Sink keeps events. Append must be safe for concurrent use; when it returns nil the event will not be lost by this sink. A
// failing sink stops activations and never a revert: that choice is the caller's.
type Sink interface {
	Append(Event) error
}

// Multi appends to every sink and joins what failed: one full sink keeps no other from its copy.
type Multi []Sink

// Append implements Sink.
func (m Multi) Append(e Event) error {
	var errs []error
	for _, s := range m {
		errs = append(errs, s.Append(e))
	}
	return errors.Join(errs...)
}

// File is a sink of JSON lines, fsynced line by line. A line cut short by a crash is completed with a newline before the
// next one is written, so that a reader loses that line alone.
type File struct {
	mu   sync.Mutex
	path string
	f    *os.File
	// torn is set while the file may end in part of a line.
	torn bool
}

// OpenFile opens or creates the log at path.
func OpenFile(path string) (*File, error) {
	if err := durable.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("cannot open the audit log: %w", err)
	}
	_, statErr := os.Stat(path)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("cannot open the audit log: %w", err)
	}
	if errors.Is(statErr, fs.ErrNotExist) {
		if err := durable.SyncDir(filepath.Dir(path)); err != nil {
			f.Close()
			return nil, fmt.Errorf("cannot open the audit log: %w", err)
		}
	}
	return &File{path: path, f: f, torn: endsTorn(f)}, nil
}

func endsTorn(f *os.File) bool {
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return false
	}
	last := make([]byte, 1)
	_, err = f.ReadAt(last, st.Size()-1)
	return err != nil || last[0] != '\n'
}

// Append implements Sink.
func (l *File) Append(e Event) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("cannot write the audit log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.torn {
		line = append([]byte{'\n'}, line...)
	}
	if _, err := l.f.Write(append(line, '\n')); err != nil {
		l.torn = true
		return fmt.Errorf("cannot write the audit log %s: %w", l.path, err)
	}
	l.torn = false
	if err := l.f.Sync(); err != nil {
		return fmt.Errorf("cannot write the audit log %s: %w", l.path, err)
	}
	return nil
}

// Close closes the file.
func (l *File) Close() error { return l.f.Close() }

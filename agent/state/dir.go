package state

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
)

// Dir is the directory that holds the state of every app:
//
//	<dir>/
//	  reserve                 preallocated blocks, given up when a state write meets a full disk
//	  apps/<app>/
//	    state.json            App
//	    lock                  held by whoever writes anything about the app; carries the holder's pid
//	    in-trial              Marker: an untried release may be current; written before the swap, removed after the end
//	    units/<release>.json  the rendered units of a release, so that going back to it parses and decides nothing
type Dir struct {
	path    string
	reserve durable.Reserve
}

const (
	stateMax    = 4 << 20
	reserveSize = 2 << 20
)

var (
	fpBeforeSave   = durable.NewFailpoint("state.save.before")
	fpAfterSave    = durable.NewFailpoint("state.save.after")
	fpBeforeMarker = durable.NewFailpoint("state.marker.before")
	fpAfterMarker  = durable.NewFailpoint("state.marker.after")
	fpUnmarked     = durable.NewFailpoint("state.marker.removed")
)

// Open prepares the state directory. It does not make the reserve: a daemon that starts on a full disk must still be able to
// revert.
func Open(path string) (*Dir, error) {
	d := At(path)
	if err := durable.MkdirAll(filepath.Join(path, "apps"), 0o755); err != nil {
		return nil, fmt.Errorf("cannot prepare the state directory: %w", err)
	}
	return d, nil
}

// EnsureReserve makes the reserve whole. Nothing may be activated while it fails: a full disk could then block the revert.
func (d *Dir) EnsureReserve() error {
	if err := d.reserve.Ensure(); err != nil {
		return fmt.Errorf("cannot keep %d KiB in reserve for state: %w", reserveSize>>10, err)
	}
	return nil
}

// At names a state directory without touching it, for those that come when things are bad: guard, boot guardian, readers.
func At(path string) *Dir {
	return &Dir{path: path, reserve: durable.Reserve{Path: filepath.Join(path, "reserve"), Size: reserveSize}}
}

// Path returns the directory of app's files.
func (d *Dir) Path(app release.App) string { return filepath.Join(d.path, "apps", app.String()) }

// Apps lists the apps that have state, in order of name.
func (d *Dir) Apps() ([]release.App, error) {
	entries, err := os.ReadDir(filepath.Join(d.path, "apps"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list apps: %w", err)
	}
	var apps []release.App
	for _, e := range entries {
		if app, err := release.ParseApp(e.Name()); err == nil && e.IsDir() {
			apps = append(apps, app)
		}
	}
	return apps, nil
}

// DamagedError reports a state file that exists and cannot be understood. Whoever meets it decides by the marker and the
// links; the file is kept aside as state.json.damaged when a new one is saved.
type DamagedError struct {
	Path string
	Err  error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("cannot read state: %s is damaged: %v", e.Path, e.Err)
}

// Unwrap returns what was wrong with the file.
func (e *DamagedError) Unwrap() error { return e.Err }

// Kind names this error for metrics and the wire.
func (e *DamagedError) Kind() string { return "state-damaged" }

// Read returns app's state without the lock, for those who only look. An app without state is a new one: Idle, revision 0.
func (d *Dir) Read(app release.App) (*App, error) {
	path := filepath.Join(d.Path(app), "state.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &App{Schema: Schema, App: app, Phase: Idle}, nil
	}
	if err != nil {
		return nil, &DamagedError{Path: path, Err: err}
	}
	st, err := parse(app, data)
	if err != nil {
		return nil, &DamagedError{Path: path, Err: err}
	}
	return st, nil
}

func parse(app release.App, data []byte) (*App, error) {
	if len(data) > stateMax {
		return nil, fmt.Errorf("%d bytes is more than the %d allowed", len(data), stateMax)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var st App
	if err := dec.Decode(&st); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("something follows the state")
	}
	if st.Schema != Schema {
		return nil, fmt.Errorf("schema %q is not %q", st.Schema, Schema)
	}
	if st.App != app {
		return nil, fmt.Errorf("it is about %q, not %q", st.App, app)
	}
	if _, ok := Next[st.Phase]; !ok {
		return nil, fmt.Errorf("phase %q is not known", st.Phase)
	}
	armed := st.Phase == Activating || st.Phase == Trial || st.Phase == Reverting
	if armed && st.Attempt == nil {
		return nil, fmt.Errorf("phase %s has no attempt", st.Phase)
	}
	return &st, nil
}

// Tx is the right to change one app's state, held from Lock to Unlock. Damaged is set when the file could not be
// understood; State is then a new one and saving it replaces the damaged file.
type Tx struct {
	State   *App
	Damaged error

	dir  *Dir
	lock *durable.Lock
}

// Lock waits for app's lock and reads its state. The caller must Unlock.
func (d *Dir) Lock(ctx context.Context, app release.App) (*Tx, error) {
	dir := d.Path(app)
	if err := durable.MkdirAll(filepath.Join(dir, "units"), 0o755); err != nil {
		return nil, fmt.Errorf("cannot prepare the state of %s: %w", app, err)
	}
	lock, err := durable.AcquireLock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("cannot lock the state of %s: %w", app, err)
	}
	tx := &Tx{dir: d, lock: lock}
	st, err := d.Read(app)
	if err != nil {
		tx.Damaged = err
		st = &App{Schema: Schema, App: app, Phase: Idle}
	}
	tx.State = st
	return tx, nil
}

// Unlock gives the lock back. It saves nothing.
func (t *Tx) Unlock() { t.lock.Release() }

// PhaseError reports a step the state machine does not have.
type PhaseError struct{ From, To Phase }

func (e *PhaseError) Error() string {
	return fmt.Sprintf("cannot go from phase %s to %s: there is no such step", e.From, e.To)
}

// Kind names this error for metrics and the wire.
func (e *PhaseError) Kind() string { return "illegal-phase" }

// Advance sets the phase and saves. It is the only writer of Phase; an illegal step changes nothing.
func (t *Tx) Advance(to Phase) error {
	from := t.State.Phase
	if from != to && !slices.Contains(Next[from], to) {
		return &PhaseError{From: from, To: to}
	}
	t.State.Phase = to
	if err := t.Save(); err != nil {
		t.State.Phase = from
		return err
	}
	return nil
}

// Save writes the state durably: when it returns nil the new state survives a power cut. A full disk costs the reserve, not
// the save.
func (t *Tx) Save() error {
	t.State.Revision++
	data, err := json.MarshalIndent(t.State, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot save the state of %s: %w", t.State.App, err)
	}
	path := filepath.Join(t.dir.Path(t.State.App), "state.json")
	if t.Damaged != nil {
		// A second name, not a rename: until the new state is there, the damaged one must stay in its place, or a crash in
		// between would make it look as if there never was an attempt. Without room for the name it is not kept.
		_ = os.Remove(path + ".damaged")
		_ = os.Link(path, path+".damaged")
	}
	err = hitAround(fpBeforeSave, fpAfterSave, func() error { return t.dir.write(path, append(data, '\n')) })
	if err != nil {
		return fmt.Errorf("cannot save the state of %s: %w", t.State.App, err)
	}
	t.Damaged = nil
	return nil
}

func hitAround(before, after *durable.Failpoint, f func() error) error {
	if err := before.Hit(); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	return after.Hit()
}

func (d *Dir) write(path string, data []byte) error {
	return d.reserve.Use(func() error { return durable.WriteFile(path, data, 0o644) })
}

// UseReserve runs f and, if the disk is full, runs it once more with the reserve given up. Effects of a revert that need
// space on the state's filesystem go through it.
func (d *Dir) UseReserve(f func() error) error { return d.reserve.Use(f) }

// LendReserve runs f while the reserve is given up, so that others find some room on a full disk, and then makes it again from
// what is left. f may take long: other saves go on meanwhile.
func (d *Dir) LendReserve(f func() error) error {
	if err := d.reserve.Release(); err != nil {
		return err
	}
	err := f()
	_ = d.reserve.Ensure() // the next activation asks again, and says so
	return err
}

// Marker says that an untried release may be current. It repeats what a revert needs, for the case that state.json is
// damaged.
type Marker struct {
	Attempt string     `json:"attempt"`
	From    release.ID `json:"from,omitzero"`
	To      release.ID `json:"to"`
	// Sequence keeps a replay guard and a binding quarantine over the loss of state.json.
	Sequence int64 `json:"sequence,omitempty"`
}

func (d *Dir) markerPath(app release.App) string { return filepath.Join(d.Path(app), "in-trial") }

// Mark writes the marker. It must be durable before `current` moves.
func (t *Tx) Mark(m Marker) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("cannot mark the trial of %s: %w", t.State.App, err)
	}
	err = hitAround(fpBeforeMarker, fpAfterMarker, func() error { return t.dir.write(t.dir.markerPath(t.State.App), data) })
	if err != nil {
		return fmt.Errorf("cannot mark the trial of %s: %w", t.State.App, err)
	}
	return nil
}

// Unmark removes the marker, after the end of the attempt is durable. An absent marker is fine.
func (t *Tx) Unmark() error {
	if err := durable.Remove(t.dir.markerPath(t.State.App)); err != nil {
		return fmt.Errorf("cannot unmark the trial of %s: %w", t.State.App, err)
	}
	return fpUnmarked.Hit()
}

// Marker returns the marker of app, or nil if there is none. A marker that cannot be read is still a marker: it comes back
// empty.
func (d *Dir) Marker(app release.App) *Marker {
	data, err := os.ReadFile(d.markerPath(app))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var m Marker
	if err == nil {
		_ = json.Unmarshal(data, &m)
	}
	return &m
}

// SaveUnits keeps the rendered units of a release, durable before the release can become current.
func (t *Tx) SaveUnits(id release.ID, data []byte) error {
	path := filepath.Join(t.dir.Path(t.State.App), "units", id.String()+".json")
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err := t.dir.write(path, data); err != nil {
		return fmt.Errorf("cannot keep the units of %s %s: %w", t.State.App, id, err)
	}
	return nil
}

// Units returns what SaveUnits kept.
func (d *Dir) Units(app release.App, id release.ID) ([]byte, error) {
	return os.ReadFile(filepath.Join(d.Path(app), "units", id.String()+".json"))
}

// ForgetUnits drops the rendered units of releases that keep does not name.
func (t *Tx) ForgetUnits(keep func(release.ID) bool) error {
	dir := filepath.Join(t.dir.Path(t.State.App), "units")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot list kept units: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		id, err := release.ParseID(name)
		if !ok || err != nil || keep(id) {
			continue
		}
		if err := durable.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("cannot forget units: %w", err)
		}
	}
	return nil
}

// Forget removes everything kept about app, after it has been taken off the host.
func (t *Tx) Forget() error {
	dir := t.dir.Path(t.State.App)
	if err := durable.Remove(filepath.Join(dir, "state.json")); err != nil {
		return fmt.Errorf("cannot forget %s: %w", t.State.App, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot forget %s: %w", t.State.App, err)
	}
	return durable.SyncDir(filepath.Dir(dir))
}

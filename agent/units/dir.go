package units

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
)

// Dir is a unit directory. Search lists the other directories the service manager loads units from: a unit of the same name
// there is somebody else's, and is never shadowed.
type Dir struct {
	Path   string
	Search []string
}

const (
	mainDropIn  = "10-slipway.conf"
	trialDropIn = "20-slipway-trial.conf"
)

var (
	fpWrite  = durable.NewFailpoint("units.apply.before-write")
	fpWrote  = durable.NewFailpoint("units.apply.after-write")
	fpRemove = durable.NewFailpoint("units.apply.after-remove")
	fpTrial  = durable.NewFailpoint("units.trial.after")
)

// Check refuses a set that would collide with units that are not the app's own. It writes nothing.
func (d Dir) Check(set *Set) error {
	var errs []error
	for _, name := range set.Names() {
		data, err := os.ReadFile(filepath.Join(d.Path, name))
		if err == nil && owner(data) != set.App.String() {
			errs = append(errs, &RefusedError{Unit: name, Reason: "the host already has a unit of this name that is not " + set.App.String() + "'s"})
			continue
		}
		for _, dir := range d.Search {
			if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
				errs = append(errs, &RefusedError{Unit: name, Reason: "the host already has a unit of this name in " + dir})
			}
		}
	}
	return errors.Join(errs...)
}

// Apply makes the directory hold exactly set for its app: writes what differs, removes units, drop-ins and links of the app
// that the set does not have. With trial, every unit also requires the boot guardian. It reports whether anything changed;
// the caller then reloads the service manager. Apply is idempotent and may be interrupted anywhere.
func (d Dir) Apply(set *Set, trial bool) (changed bool, err error) {
	if err := d.Check(set); err != nil {
		return false, err
	}
	want := map[string]string{}
	for name, text := range set.Files {
		want[name] = text
		want[filepath.Join(name+".d", mainDropIn)] = set.DropIns[name]
		if trial {
			want[filepath.Join(name+".d", trialDropIn)] = set.trialText(name)
		}
	}
	changed, err = d.removeOthers(set.App, want, set.Links)
	if err != nil {
		return changed, err
	}
	for _, name := range dropInsFirst(want) {
		wrote, err := d.write(name, want[name])
		changed = changed || wrote
		if err != nil {
			return changed, err
		}
	}
	for _, link := range set.Links {
		made, err := d.link(link)
		changed = changed || made
		if err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// WireTrial gives the trial drop-ins to every unit that set brings and to every unit of the app that is there now. It comes
// before the swap: from the swap on whatever starts runs an untried release, the units of the release before it included. The
// caller need not reload for it: it is boots that the drop-ins are for, and Apply finds them in their place.
func (d Dir) WireTrial(set *Set) (changed bool, err error) {
	if err := d.Check(set); err != nil {
		return false, err
	}
	owned, err := d.Owned(set.App)
	if err != nil {
		return false, err
	}
	names := append(owned, set.Names()...)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		wrote, err := d.write(filepath.Join(name+".d", trialDropIn), set.trialText(name))
		changed = changed || wrote
		if err != nil {
			return changed, err
		}
	}
	return changed, fpTrial.Hit()
}

// UnwireTrial removes the trial drop-ins of app and leaves all else alone.
func (d Dir) UnwireTrial(app release.App) (changed bool, err error) {
	for _, path := range d.dropIns(app, "*"+trialDropIn+"*") {
		if err := d.drop(path); err != nil {
			return changed, fmt.Errorf("cannot end the trial wiring of %s: %w", app, err)
		}
		changed = true
	}
	return changed, fpTrial.Hit()
}

// Remove takes every unit, drop-in and link of app away.
func (d Dir) Remove(app release.App) (changed bool, err error) {
	return d.removeOthers(app, nil, nil)
}

// Owned lists the units in the directory that are app's, in order of name.
func (d Dir) Owned(app release.App) ([]string, error) {
	names, err := d.files(app)
	return slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, ".") }), err
}

// files is Owned with the temporary files that a crash left: they are no units, and nobody may be asked to stop them.
func (d Dir) files(app release.App) ([]string, error) {
	entries, err := os.ReadDir(d.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list units: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() && d.owns(app, e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (d Dir) owns(app release.App, name string) bool {
	data, err := os.ReadFile(filepath.Join(d.Path, name))
	return err == nil && owner(data) == app.String()
}

// Differences names the files of the directory that are not as set and trial say, for drift and for the boot guardian.
func (d Dir) Differences(set *Set) []string {
	var out []string
	for _, name := range set.Names() {
		if !d.same(name, set.Files[name]) {
			out = append(out, name)
		}
		if dropIn := filepath.Join(name+".d", mainDropIn); !d.same(dropIn, set.DropIns[name]) {
			out = append(out, dropIn)
		}
	}
	for _, link := range set.Links {
		if to, err := os.Readlink(filepath.Join(d.Path, link)); err != nil || to != linkTarget(link) {
			out = append(out, link)
		}
	}
	return out
}

func (d Dir) same(name, text string) bool {
	data, err := os.ReadFile(filepath.Join(d.Path, name))
	return err == nil && string(data) == text
}

func (d Dir) write(name, text string) (bool, error) {
	path := filepath.Join(d.Path, name)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, []byte(text)) {
		return false, nil
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, fmt.Errorf("cannot write unit %s: %w", name, err)
	}
	if err := fpWrite.Hit(); err != nil {
		return false, err
	}
	if err := durable.WriteFile(path, []byte(text), 0o644); err != nil {
		return false, fmt.Errorf("cannot write unit %s: %w", name, err)
	}
	return true, fpWrote.Hit()
}

func linkTarget(link string) string { return "../" + filepath.Base(link) }

func (d Dir) link(link string) (bool, error) {
	path := filepath.Join(d.Path, link)
	if to, err := os.Readlink(path); err == nil && to == linkTarget(link) {
		return false, nil
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, fmt.Errorf("cannot link unit %s: %w", link, err)
	}
	if err := durable.SwapLink(path, linkTarget(link)); err != nil {
		return false, fmt.Errorf("cannot link unit %s: %w", link, err)
	}
	return true, nil
}

// removeOthers removes app's files and links that want and links do not have. Links go first, so that an interruption never
// leaves one that names nothing, and drop-ins last: until its unit is gone, a trial's drop-in is needed.
func (d Dir) removeOthers(app release.App, want map[string]string, links []string) (bool, error) {
	owned, err := d.files(app)
	if err != nil {
		return false, err
	}
	var gone []string
	for _, name := range owned {
		gone = append(gone, d.staleLinks(name, links)...)
	}
	for _, name := range append(owned, d.dropIns(app, "*-slipway*")...) {
		if _, keep := want[name]; !keep {
			gone = append(gone, name)
		}
	}
	for _, name := range gone {
		if err := d.drop(name); err != nil {
			return true, err
		}
	}
	return len(gone) > 0, nil
}

func (d Dir) drop(name string) error {
	if err := durable.Remove(filepath.Join(d.Path, name)); err != nil {
		return fmt.Errorf("cannot remove unit file %s: %w", name, err)
	}
	if err := fpRemove.Hit(); err != nil {
		return err
	}
	if dir := filepath.Dir(name); strings.HasSuffix(dir, ".d") {
		_ = os.Remove(filepath.Join(d.Path, dir)) // stays when an administrator keeps a drop-in there
	}
	return nil
}

// dropIns lists the drop-ins of app that match, those of units that are not there included.
func (d Dir) dropIns(app release.App, pattern string) []string {
	var out []string
	found, _ := filepath.Glob(filepath.Join(d.Path, "*.d", pattern))
	for _, path := range found {
		if rel, err := filepath.Rel(d.Path, path); err == nil && d.owns(app, rel) {
			out = append(out, rel)
		}
	}
	return out
}

func (d Dir) staleLinks(name string, keep []string) []string {
	var stale []string
	for _, pattern := range []string{"*.wants/", "*.requires/"} {
		found, _ := filepath.Glob(filepath.Join(d.Path, pattern+name))
		for _, path := range found {
			rel, err := filepath.Rel(d.Path, path)
			if to, lerr := os.Readlink(path); err == nil && lerr == nil && to == linkTarget(rel) && !slices.Contains(keep, rel) {
				stale = append(stale, rel)
			}
		}
	}
	return stale
}

// dropInsFirst puts drop-ins before units: no unit is there without what binds it.
func dropInsFirst(m map[string]string) []string {
	names := slices.Sorted(maps.Keys(m))
	slices.SortStableFunc(names, func(a, b string) int { return strings.Count(b, "/") - strings.Count(a, "/") })
	return names
}

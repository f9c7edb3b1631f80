package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/slipway-deploy/slipway/agent/health"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
)

// rehearsal is what a revert was proven to go back to. Print is the tree's fingerprint from before its bytes were read.
type rehearsal struct {
	target release.ID
	print  string
}

// rehearse proves that the release a revert would go back to is there, complete, unchanged and can be put into the unit
// directory. A first install has nothing to go back to.
func (m *Machine) rehearse(ctx context.Context, w *wish, from release.ID) (rehearsal, error) {
	if err := m.guardianWorks(ctx); err != nil {
		return rehearsal{}, err
	}
	if from.IsZero() {
		return rehearsal{}, nil
	}
	st, err := m.State.Read(m.app)
	if err != nil {
		return rehearsal{}, err
	}
	target := m.fallbackFor(st, w, from)
	if target.IsZero() {
		return rehearsal{}, fmt.Errorf("no release that runs or ran here may be gone back to from %s", w.id.Version())
	}
	// The fingerprint comes first: what changes while it is being read no longer has it.
	print, err := m.fingerprint(ctx, target)
	if err != nil {
		return rehearsal{}, err
	}
	diffs, err := m.verify(ctx, target)
	if err != nil {
		return rehearsal{}, fmt.Errorf("fallback %s: %w", target, err)
	}
	if len(diffs) > 0 {
		return rehearsal{}, &DamagedTreeError{ID: target, Differences: diffs}
	}
	set, err := m.unitsOf(target)
	if err != nil {
		return rehearsal{}, err
	}
	return rehearsal{target, print}, m.Units.Check(set)
}

// verify reads every byte of a release, which may take long.
func (m *Machine) verify(ctx context.Context, id release.ID) ([]release.Difference, error) {
	if rel, _, err := m.tree.Release(id); err == nil {
		defer m.pulse.busy(treePatience(rel), "verifying "+id.String())()
	}
	return m.tree.Verify(ctx, id, false)
}

// bootGuardian is the unit that settles a trial at boot; during a trial every unit of the app requires it.
const bootGuardian = "slipway-boot.service"

// guardianWorks refuses to begin a trial that a reboot would not settle. The trial's units require the guardian, so they would
// not even start, and the release would get the blame.
func (m *Machine) guardianWorks(ctx context.Context) error {
	st, err := m.Manager.Unit(ctx, bootGuardian)
	if err != nil || st.Active != "failed" {
		return nil // who cannot ask cannot arm the guard either
	}
	return &RefusedError{Rule: "boot-guardian", Reason: fmt.Sprintf("the boot guardian %s failed on this host (result %s, exit status %d): find out why with journalctl -u %s, then systemctl restart slipwayd runs it again",
		bootGuardian, st.Result, st.ExecStatus, bootGuardian)}
}

// DamagedTreeError says that a release on disk is not what its manifest says.
type DamagedTreeError struct {
	ID          release.ID
	Differences []release.Difference
}

func (e *DamagedTreeError) Error() string {
	d := e.Differences[0]
	return fmt.Sprintf("release %s is damaged: %d differences from its manifest, first %s (%s); `slipway verify` lists them", e.ID, len(e.Differences), d.Path, d.What)
}

// Kind names this error for metrics and the wire.
func (e *DamagedTreeError) Kind() string { return "tree-damaged" }

// fallbackFor picks what a revert from w goes back to: the signed fallback if it passed its trial here, else what runs, else the
// newest known good; never a revoked one, never one below the floor of w. What was deployed before, which is what signers name
// by default, may be the very release that this host had to go back from: a revert is no second trial of it.
func (m *Machine) fallbackFor(st *state.App, w *wish, from release.ID) release.ID {
	var candidates []release.ID
	if f := w.deployment.Fallback; f != nil && w.deployment.State != release.StateRevert {
		if _, v, err := release.ParseReleasePath(f.Path); err == nil {
			candidates = append(candidates, release.NewID(v, f.SHA256))
		}
	}
	candidates = slices.DeleteFunc(candidates, func(id release.ID) bool { return !proven(st, id) })
	candidates = append(candidates, from)
	for i := len(st.KnownGood) - 1; i >= 0; i-- {
		candidates = append(candidates, st.KnownGood[i].ID)
	}
	for _, id := range candidates {
		if id != w.id && m.mayGoBackTo(st, id, w.rel.RollbackFloor) {
			return id
		}
	}
	return release.ID{}
}

// proven reports whether a release passed its trial on this host and nothing is held against it since.
func proven(st *state.App, id release.ID) bool {
	_, good := st.Good(id)
	return good && !slices.ContainsFunc(st.Quarantine, func(q state.Quarantine) bool { return q.ID == id })
}

func (m *Machine) mayGoBackTo(st *state.App, id release.ID, floor *release.Version) bool {
	_, digest, err := m.tree.Release(id)
	if err != nil || m.revoked(st, digest) {
		return false
	}
	return floor == nil || id.Version().Compare(*floor) >= 0
}

// baseline is the health of what runs now, so that a trial is not blamed for what was already broken.
func (m *Machine) baseline(ctx context.Context, from release.ID) string {
	if from.IsZero() {
		return "none"
	}
	probes, _, err := m.probes(from, nil)
	if err != nil {
		return health.CannotTell.String()
	}
	defer m.pulse.busy(baselinePatience(probes), "the baseline")()
	return health.Baseline(ctx, probes).Answer.String()
}

// servesPatience bounds one look at what runs beside everything else.
const servesPatience = 30 * time.Second

// serves reports whether what runs is not known to be unhealthy; what cannot be told in time is not.
func (m *Machine) serves(ctx context.Context, id release.ID) bool {
	ctx, cancel := context.WithTimeout(ctx, servesPatience)
	defer cancel()
	probes, _, err := m.probes(id, nil)
	return err != nil || health.Baseline(ctx, probes).Answer != health.Unhealthy
}

// fingerprint sums up what the kernel says about every entry of a tree, without reading a byte of content: device, inode, mode,
// size, and the times of the last change of content and of inode. Within one boot an equal fingerprint means equal bytes: no
// call sets an inode's change time, and every write, truncation, exchange or change of mode moves it; an entry more or less
// moves its directory's. What it cannot see is a disk that answers otherwise than it was written, or somebody who writes below
// the filesystem or turns the clock to the nanosecond. The boot belongs to it because a power cut is such a writer.
func (m *Machine) fingerprint(ctx context.Context, id release.ID) (string, error) {
	dir := m.tree.ReleaseDir(id)
	sum := sha256.New()
	fmt.Fprintf(sum, "%s %s\n", m.Clock.BootID(), id)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return orElse(err, ctx.Err())
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("cannot tell the inode of %s", path)
		}
		_, err = fmt.Fprintf(sum, "%q %d %d %o %d %d %d\n", path, st.Dev, st.Ino, st.Mode, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
		return err
	})
	if err != nil {
		return "", fmt.Errorf("cannot look at %s: %w", id, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// whole reports whether a release may be gone back to. The rehearsal before the swap read every byte of the fallback; if not an
// inode of it has changed since, that still holds and a revert need not read it again: it would cost a second for each GiB while
// the app is down. Whatever differs, and every other release, has its executables read.
func (m *Machine) whole(ctx context.Context, a *state.Attempt, id release.ID) bool {
	if a.Rehearsed != "" && id == a.Fallback {
		if now, err := m.fingerprint(ctx, id); err == nil && now == a.Rehearsed {
			return true
		}
	}
	diffs, err := m.tree.Verify(ctx, id, true)
	return err == nil && len(diffs) == 0
}

package agent_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
)

// fill leaves no block free below dir.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	must(t, err)
	defer f.Close()
	for size := 1 << 20; size >= 1; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
}

// smallHost runs f on a host whose whole disk has size bytes.
func smallHost(t *testing.T, size string, f func(w *world)) {
	t.Helper()
	needRoot(t)
	prebuild()
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir, "")
		defer w.halt()
		f(w)
	})
}

func TestADiskThatFillsUpDuringATrialDoesNotStopTheRevert(t *testing.T) {
	smallHost(t, "16m", func(w *world) {
		w.temper(v11(), temper{DiesAfter: 10 * time.Second})
		w.inTrial()
		fill(t, w.dir)
		w.until("it is reverted", w.ended("reverted"))
		w.settledOn(v10())
	})
}

func TestADiskThatIsTooSmallRefusesToStageWithNumbers(t *testing.T) {
	smallHost(t, "16m", func(w *world) {
		w.installed(1, v10())
		w.settings.SpaceReserve = 15 << 20
		w.machine.SetSettings(w.settings)
		w.deploy(2, v11())
		w.until("it is refused", w.told1("cannot stage billing 1.1.0"))
		if w.src.staged != 1 {
			t.Error("bytes were fetched")
		}
		w.settledOn(v10())
		w.settings.SpaceReserve = 0
		w.machine.SetSettings(w.settings)
		w.until("it is staged later", w.rests(v11()))
	})
}

func TestNothingIsActivatedWithoutTheReserveForState(t *testing.T) {
	smallHost(t, "16m", func(w *world) {
		w.installed(1, v10())
		opens := time.Now().Add(10 * time.Minute)
		w.deploy(2, v11(), func(d *release.Deployment) { d.NotBefore = &opens })
		w.until("it is staged and waits", w.phase(state.Waiting))
		must(t, os.Remove(filepath.Join(w.dir, "var", "reserve")))
		fill(t, w.dir)
		w.pass(time.Hour)
		w.settledOn(v10())
		if n := len(w.read().History); n != 1 {
			t.Errorf("history %+v", w.read().History)
		}
		must(t, os.Remove(filepath.Join(w.dir, "filler")))
		w.until("there is room again", w.rests(v11()))
	})
}

func TestAServiceManagerThatFindsNoRoomForTheFallbackIsLentTheReserve(t *testing.T) {
	smallHost(t, "16m", func(w *world) {
		w.temper(v11(), temper{DiesAfter: 10 * time.Second})
		w.inTrial()
		fill(t, w.dir)
		w.sup.set(func(s *supervisor) { s.tmp = w.dir })
		w.until("it is reverted", w.ended("reverted"))
		w.settledOn(v10())
		w.mustTell("could not be started for want of resources")
	})
}

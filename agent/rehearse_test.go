package agent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
)

// bytesRead is how much this process has read so far, from files and everything else.
func bytesRead(t *testing.T) (n int64) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/io")
	must(t, err)
	if _, err := fmt.Sscanf(string(data), "rchar: %d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

const bigProgram = 64 << 20

func withBigProgram(dir string, _ *release.Release) {
	check(os.WriteFile(filepath.Join(dir, "bin", "big"), make([]byte, bigProgram), 0o755))
}

func TestARevertReadsNoProgramThatDidNotChangeSinceItsRehearsal(t *testing.T) {
	for name, touch := range map[string]func(path string){
		"unchanged": nil,
		"touched":   func(path string) { check(os.Chtimes(path, built, built)) },
	} {
		t.Run(name, func(t *testing.T) {
			big := build(billing, "2.0.0", withBigProgram)
			story(t, func(w *world) {
				w.installed(1, big)
				w.temper(v11(), temper{DiesAfter: 5 * time.Second})
				w.deploy(2, v11())
				w.until("in trial", w.phase(state.Trial))
				if touch != nil {
					touch(filepath.Join(w.tree.ReleaseDir(big.id), "bin", "big"))
				}
				before := bytesRead(t)
				w.until("it is reverted", w.ended("reverted"))
				if read := bytesRead(t) - before; (read > bigProgram) != (touch != nil) {
					t.Errorf("the revert read %d bytes", read)
				}
				w.settledOn(big)
			})
		})
	}
}

func TestAFallbackThatIsChangedDuringTheTrialIsNotGoneBackTo(t *testing.T) {
	for name, change := range map[string]func(dir string) error{
		"a byte of a program": func(dir string) error {
			path := filepath.Join(dir, "bin", "billing")
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			data[len(data)-1] ^= 1
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			if _, err := f.WriteAt(data, 0); err != nil {
				return err
			}
			return os.Chtimes(path, info.ModTime(), info.ModTime()) // hides nothing
		},
		"a file more":  func(dir string) error { return os.WriteFile(filepath.Join(dir, "bin", "more"), nil, 0o755) },
		"a file less":  func(dir string) error { return os.Remove(filepath.Join(dir, "README")) },
		"another mode": func(dir string) error { return os.Chmod(filepath.Join(dir, "README"), 0o666) },
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			needRoot(t) // the tree is read-only
			story(t, func(w *world) {
				w.installed(1, v10())
				w.installed(2, v11())
				w.temper(v12(), temper{DiesAfter: 5 * time.Second})
				w.deploy(3, v12())
				w.until("in trial", w.phase(state.Trial))
				must(t, change(w.tree.ReleaseDir(v11().id)))
				w.until("it is reverted", w.ended("reverted"))
				w.settledOn(v10())
				w.mustTell("is not intact")
			})
		})
	}
}

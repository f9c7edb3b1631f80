package fleet_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/fleet"
)

const crashJournal = "SLIPWAY_TEST_JOURNAL"

// TestTheProcessThatIsKilled is the child of the crash table and nothing by itself: it saves the second record over the first.
func TestTheProcessThatIsKilled(t *testing.T) {
	path := os.Getenv(crashJournal)
	if path == "" {
		return
	}
	if err := (fleet.FileJournal{Path: path}).Save(fleet.Record{Fence: 2}); err != nil {
		t.Fatal(err)
	}
}

func TestAKillAtAnyStepOfASaveLeavesTheOldRecordOrTheNew(t *testing.T) {
	child := filepath.Join(t.TempDir(), "child")
	if out, err := exec.Command("go", "test", "-c", "-tags", "failpoints", "-o", child, ".").CombinedOutput(); err != nil {
		t.Fatalf("cannot build the child: %v\n%s", err, out)
	}
	kills := 0
	for _, point := range durable.Failpoints() {
		path := filepath.Join(t.TempDir(), "journal")
		damaged := func(err error) { t.Errorf("killed at %s: %v", point, err) }
		if err := (fleet.FileJournal{Path: path}).Save(fleet.Record{Fence: 1}); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(child, "-test.run=^TestTheProcessThatIsKilled$")
		cmd.Env = append(os.Environ(), crashJournal+"="+path, "SLIPWAY_FAILPOINT="+point+"=kill")
		err := cmd.Run()
		var exit *exec.ExitError
		switch {
		case err == nil && !strings.HasPrefix(point, "fleet."):
			continue // a step that a save does not take
		case !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL:
			t.Fatalf("%s was not reached: %v", point, err)
		}
		kills++
		got, err := fleet.FileJournal{Path: path, Damaged: damaged}.Load()
		if err != nil || got.Fence != 1 && got.Fence != 2 {
			t.Errorf("killed at %s: %+v, %v", point, got, err)
		}
	}
	t.Logf("crash table: %d kills", kills)
}

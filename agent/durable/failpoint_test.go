package durable_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/agent/durable"
)

func TestFailpointsAreSortedAndNamedByPackageOperationStep(t *testing.T) {
	all := durable.Failpoints()
	if !slices.IsSorted(all) || len(all) < 10 {
		t.Errorf("got %v", all)
	}
	for _, name := range all {
		if len(strings.Split(name, ".")) != 3 {
			t.Errorf("%s is not <package>.<operation>.<step>", name)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("one name was given twice")
		}
	}()
	durable.NewFailpoint(all[0])
}

func TestAnOrdinaryBinaryIgnoresTheEnvironment(t *testing.T) {
	if durable.FailpointsBuilt {
		t.Skip("this binary has the failpoints built in")
	}
	path := filepath.Join(t.TempDir(), "f")
	cmd := helper(self(t), "write", path, "x")
	cmd.Env = append(cmd.Env, "SLIPWAY_FAILPOINT=durable.write.before-rename=kill")
	must(t, cmd.Run())
	if read(t, path) != "x" {
		t.Error("not written")
	}
}

func TestErrorActionStopsBeforeTheStepAndLeavesNothing(t *testing.T) {
	for _, step := range []string{"before-create", "before-sync", "before-rename"} {
		dir := t.TempDir()
		cmd := helper(failpointBinary(t), "write", filepath.Join(dir, "f"), "x")
		cmd.Env = append(cmd.Env, "SLIPWAY_FAILPOINT=durable.write."+step+"=error")
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "failpoint durable.write."+step+" is armed") {
			t.Errorf("%v: %s", err, out)
		}
		if got := names(t, dir); got != "" {
			t.Errorf("%s left %s", step, got)
		}
	}
	var injected error = &durable.InjectedError{Name: "x"}
	var kind interface{ Kind() string }
	if !errors.As(injected, &kind) || kind.Kind() != "failpoint" {
		t.Error("an injected error has no kind")
	}
}

func TestPauseHoldsTheProcessUntilTheFileExists(t *testing.T) {
	dir := t.TempDir()
	gate, path, trace := filepath.Join(dir, "go"), filepath.Join(dir, "f"), filepath.Join(dir, "trace")
	cmd := helper(failpointBinary(t), "write", path, "x")
	cmd.Env = append(cmd.Env, "SLIPWAY_FAILPOINT=durable.write.before-rename=pause:"+gate, "SLIPWAY_FAILPOINT_TRACE="+trace)
	must(t, cmd.Start())
	eventually(t, "the helper reaches the failpoint", func() bool { _, err := os.Stat(gate + ".reached"); return err == nil })
	if _, err := os.Stat(path); err == nil {
		t.Error("renamed before the pause ended")
	}
	must(t, os.WriteFile(gate, nil, 0o600))
	must(t, cmd.Wait())
	want := "durable.write.before-create durable.write.before-sync durable.write.before-rename durable.write.before-dirsync"
	if got := strings.Join(strings.Fields(read(t, trace)), " "); got != want {
		t.Errorf("passed %s", got)
	}
}

func TestAMisspeltArmingIsRefused(t *testing.T) {
	for _, arm := range []string{"nonsense", "a=explode", "a=kill,hit=0", "a=kill,hit=x", "a=pause", "a=kill:x", "a=powercut:"} {
		cmd := helper(failpointBinary(t), "write", filepath.Join(t.TempDir(), "f"), "x")
		cmd.Env = append(cmd.Env, "SLIPWAY_FAILPOINT="+arm)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.HasPrefix(string(out), "cannot arm SLIPWAY_FAILPOINT="+arm+": ") {
			t.Errorf("%s: %v: %s", arm, err, out)
		}
	}
}

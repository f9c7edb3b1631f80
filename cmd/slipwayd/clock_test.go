package main

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestEveryProcessOfABootSeesTheSameBootID(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() { ids[i] = bootID(run) })
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("several IDs for one boot: %q", ids)
		}
	}
	if left, err := os.ReadDir(run); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := os.RemoveAll(run); err != nil {
		t.Fatal(err)
	}
	if bootID(run) == ids[0] {
		t.Error("a boot with an empty directory has the ID of the one before")
	}
}

func TestARunDirectoryThatCannotBeWrittenLeavesTheKernelsBootID(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	if got := bootID(filepath.Join(file, "run")); got+"\n" != string(want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

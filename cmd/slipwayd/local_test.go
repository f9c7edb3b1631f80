package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent/config"
)

// watcher runs localMirrors over one mirror; each state that lasts comes through the channel.
func watcher(t *testing.T, mirror string) <-chan struct{} {
	t.Helper()
	told := make(chan struct{}, 64)
	l := newLocalMirrors(hclog.NewNullLogger(), func() { told <- struct{}{} })
	l.settle = 100 * time.Millisecond
	l.use([]config.Mirror{{Metadata: "https://x/metadata", Targets: "https://x/targets"}, {Metadata: mirror, Targets: mirror}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); l.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return told
}

func expectTold(t *testing.T, told <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-told:
	case <-time.After(20 * time.Second):
		t.Fatal("not noticed: " + what)
	}
}

func expectQuiet(t *testing.T, told <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-told:
		t.Error("told of " + what)
	case <-time.After(400 * time.Millisecond):
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestABundleThatArrivesGrowsIsReplacedOrGoesIsNoticed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "media", "usb", "in.bundle")
	told := watcher(t, "bundle:"+path)
	expectQuiet(t, told, "a bundle that is not there")
	put(t, path, "one")
	expectTold(t, told, "its arrival, in directories that were made with it")
	put(t, filepath.Join(dir, "media", "usb", "other"), "x")
	put(t, filepath.Join(dir, "media", "more", "other"), "x")
	expectQuiet(t, told, "another file")
	put(t, path+".new", "two")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	expectTold(t, told, "its replacement")
	if err := os.RemoveAll(filepath.Join(dir, "media")); err != nil {
		t.Fatal(err)
	}
	expectTold(t, told, "that it is gone")
	put(t, path, "three")
	expectTold(t, told, "that it is back")
}

func TestABundleIsToldOfOnceItsCopyIsQuiet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "in.bundle")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	told := watcher(t, "bundle:"+path)
	expectTold(t, told, "what is there at start")
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 60 {
		<-tick.C
		if _, err := f.WriteString("more"); err != nil {
			t.Fatal(err)
		}
	}
	expectTold(t, told, "the whole copy")
	if n := len(told); n > 2 { // a busy machine may pause a copy for longer than it takes to settle
		t.Errorf("told %d times more of one copy", n)
	}
}

func TestADirectoryIsNoticedByItsTimestampAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a repo")
	told := watcher(t, "file://"+filepath.Dir(dir)+"/a%20repo/metadata")
	put(t, filepath.Join(dir, "metadata", "timestamp.json"), "1")
	expectTold(t, told, "its first timestamp")
	put(t, filepath.Join(dir, "metadata", "2.snapshot.json"), "x")
	put(t, filepath.Join(dir, "targets", "x"), "x")
	expectQuiet(t, told, "files that no timestamp names yet")
	put(t, filepath.Join(dir, "metadata", "timestamp.json"), "22")
	expectTold(t, told, "its next timestamp")
}

func TestAMediumThatIsMountedOverAWatchedDirectoryIsNoticedAndItsGoingToo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting takes root")
	}
	mount := t.TempDir()
	told := watcher(t, "bundle:"+filepath.Join(mount, "in.bundle"))
	expectQuiet(t, told, "an empty directory")
	if err := syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("this machine lets nobody mount:", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(mount, syscall.MNT_DETACH) })
	put(t, filepath.Join(mount, "in.bundle"), "one")
	expectTold(t, told, "a bundle on what was mounted")
	if err := syscall.Unmount(mount, 0); err != nil {
		t.Fatal("a watched medium cannot be unmounted:", err)
	}
	expectTold(t, told, "that the medium is gone")
}

func TestAnEditOfTheMirrorsIsFollowed(t *testing.T) {
	dir := t.TempDir()
	told := make(chan struct{}, 64)
	l := newLocalMirrors(hclog.NewNullLogger(), func() { told <- struct{}{} })
	l.settle = 50 * time.Millisecond
	go l.run(t.Context())
	l.use([]config.Mirror{{Metadata: "bundle:" + filepath.Join(dir, "a")}})
	l.use([]config.Mirror{{Metadata: "bundle:" + filepath.Join(dir, "b")}})
	put(t, filepath.Join(dir, "b"), "x")
	expectTold(t, told, "the bundle of the new configuration")
	put(t, filepath.Join(dir, "a"), "x")
	expectQuiet(t, told, "the bundle of the old one")
}

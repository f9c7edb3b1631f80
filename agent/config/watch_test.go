package config

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

type change struct {
	host *Host
	err  error
}

func watch(t *testing.T, dir string) <-chan change {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	changes, done := make(chan change, 100), make(chan struct{})
	go func() {
		defer close(done)
		Watch(ctx, dir, hclog.NewNullLogger(), func(h *Host, err error) { changes <- change{h, err} })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return changes
}

func next(t *testing.T, c <-chan change) change {
	t.Helper()
	select {
	case got := <-c:
		return got
	case <-time.After(20 * time.Second):
		t.Fatal("no change was reported in 20 s")
		return change{}
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	tmp := path + ".tmp~"
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

func TestWatchReportsAnInvalidEditAndTheReturnToTheOldText(t *testing.T) {
	dir := write(t, map[string]string{"slipway.toml": smallest})
	changes := watch(t, dir)
	if got := next(t, changes); got.err != nil || got.host.Environment != "production" {
		t.Fatalf("first = %+v", got)
	}
	put(t, filepath.Join(dir, "slipway.toml"), smallest+"nonsense = 1\n")
	if got := next(t, changes); got.host != nil || !strings.Contains(got.err.Error(), "slipway.toml:4:1: ") {
		t.Fatalf("after a bad edit = %+v", got)
	}
	put(t, filepath.Join(dir, "slipway.toml"), smallest)
	if got := next(t, changes); got.err != nil || got.host == nil {
		t.Fatalf("after the way back = %+v", got)
	}
}

func TestWatchSeesDirectoriesThatAppearLaterAndComeBack(t *testing.T) {
	dir := write(t, map[string]string{"slipway.toml": smallest})
	changes := watch(t, dir)
	next(t, changes)
	put(t, filepath.Join(dir, "apps.d", "web.toml"), "")
	if got := next(t, changes); got.err != nil || len(got.host.Apps) != 1 {
		t.Fatalf("a new apps.d = %+v", got)
	}
	put(t, filepath.Join(dir, "apps.d", "db.toml"), "")
	if got := next(t, changes); got.err != nil || len(got.host.Apps) != 2 {
		t.Fatalf("a second app = %+v", got)
	}
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	if got := next(t, changes); got.err == nil {
		t.Fatalf("without the directory = %+v", got)
	}
	if err := os.Rename(dir+".gone", dir); err != nil {
		t.Fatal(err)
	}
	if got := next(t, changes); got.err != nil || len(got.host.Apps) != 2 {
		t.Fatalf("with the directory back = %+v", got)
	}
	put(t, filepath.Join(dir, "apps.d", "third.toml"), "")
	if got := next(t, changes); got.err != nil || len(got.host.Apps) != 3 {
		t.Fatalf("after it came back = %+v", got)
	}
}

func TestWatchIsSilentAboutEditsThatChangeNothing(t *testing.T) {
	dir := write(t, map[string]string{"slipway.toml": smallest})
	changes := watch(t, dir)
	next(t, changes)
	put(t, filepath.Join(dir, "slipway.toml"), "# a comment\n"+smallest)
	put(t, filepath.Join(dir, "README"), "x")
	put(t, filepath.Join(dir, "slipway.d", "10.toml"), "[log]\nlevel = \"debug\"\n")
	if got := next(t, changes); got.err != nil || got.host.Log.Level != "debug" {
		// The comment alone would have arrived first, with the old level.
		t.Fatalf("got %+v", got)
	}
}

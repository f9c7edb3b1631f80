package config

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/hashicorp/go-hclog"
)

// settle is how long the directory must be quiet before it is read: editors and package tools write in several steps.
const settle = 250 * time.Millisecond

// pollEvery is how often the files are read when the kernel gives no notifications.
const pollEvery = 30 * time.Second

// Watch calls changed with every new effective configuration below dir until ctx ends, one call at a time. The first call comes
// right after the watches are in place, so no edit can fall between a Load at start and the watch. After an invalid edit changed
// is called with the Problems and no Host: the caller keeps what it has, and the next valid edit (also one back to the old text)
// is reported again. Edits that change nothing are not reported.
func Watch(ctx context.Context, dir string, log hclog.Logger, changed func(*Host, error)) {
	w := &watcher{dir: filepath.Clean(dir), log: log, changed: changed}
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("cannot watch the configuration; reading it at intervals instead", "dir", dir, "every", pollEvery, "error", err)
		w.poll(ctx)
		return
	}
	defer fs.Close()
	w.run(ctx, fs)
}

type watcher struct {
	dir     string
	log     hclog.Logger
	changed func(*Host, error)
	last    string
}

func (w *watcher) run(ctx context.Context, fs *fsnotify.Watcher) {
	w.arm(fs)
	w.reload()
	quiet := time.NewTimer(time.Hour)
	quiet.Stop()
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-fs.Events:
			if w.matters(e.Name) {
				quiet.Reset(settle)
			}
		case err := <-fs.Errors:
			w.log.Warn("notifications about the configuration were lost; reading it again", "error", err)
			quiet.Reset(settle)
		case <-quiet.C:
			w.arm(fs)
			w.reload()
		}
	}
}

func (w *watcher) poll(ctx context.Context) {
	w.reload()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.reload()
		}
	}
}

// arm watches the three directories and the parent, by which a removed directory is seen to come back. It is repeated after every
// change, because a directory that was replaced takes its watch with it; watching twice is harmless.
func (w *watcher) arm(fs *fsnotify.Watcher) {
	for _, d := range []string{filepath.Dir(w.dir), w.dir, filepath.Join(w.dir, "slipway.d"), filepath.Join(w.dir, "apps.d")} {
		_ = fs.Add(d) // absent is normal; it is added when it appears
	}
}

// matters drops the noise of the parent directory (all of /etc) and of other files.
func (w *watcher) matters(name string) bool {
	if name == w.dir {
		return true
	}
	rest, inside := strings.CutPrefix(name, w.dir+"/")
	return inside && !strings.HasSuffix(rest, "~") && !strings.HasSuffix(rest, ".swp")
}

func (w *watcher) reload() {
	h, err := Load(w.dir)
	text := ""
	if err != nil {
		text = "error: " + err.Error()
	} else {
		var b strings.Builder
		_ = Print(&b, h) // a strings.Builder takes everything
		text = b.String()
	}
	if text == w.last {
		return
	}
	w.last = text
	w.changed(h, err)
}

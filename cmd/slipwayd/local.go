package main

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/slipway-deploy/slipway/agent/config"
)

// localSettle is how long a bundle or a directory must be quiet before it counts: a copy writes in many steps.
const localSettle = 500 * time.Millisecond

// localMirrors notices when a mirror on this machine changes: a bundle that arrives, a directory whose timestamp is replaced, a
// medium that is mounted or goes. It calls changed once for each state that lasts.
//
// It watches the directory of each file and all directories above it, so that one that is yet to be made is seen to come. The
// kernel does not tell watchers of a directory that something is mounted over it; the table of mounts says so.
type localMirrors struct {
	log     hclog.Logger
	changed func()
	settle  time.Duration
	edited  chan struct{}

	mu    sync.Mutex
	files []string
}

func newLocalMirrors(log hclog.Logger, changed func()) *localMirrors {
	return &localMirrors{log: log, changed: changed, settle: localSettle, edited: make(chan struct{}, 1)}
}

// use replaces what is watched.
func (l *localMirrors) use(mirrors []config.Mirror) {
	var files []string
	for _, m := range mirrors {
		if file := localFile(m.Metadata); file != "" {
			files = append(files, file)
		}
	}
	l.mu.Lock()
	l.files = files
	l.mu.Unlock()
	select {
	case l.edited <- struct{}{}:
	default:
	}
}

// localFile is the file whose change is news of a mirror; "" if the mirror is elsewhere.
func localFile(mirror string) string {
	if bundle, ok := strings.CutPrefix(mirror, "bundle:"); ok {
		return bundle
	}
	u, err := url.Parse(mirror)
	if err != nil || u.Scheme != "file" && u.Scheme != "" || !filepath.IsAbs(u.Path) {
		return ""
	}
	return filepath.Join(u.Path, "timestamp.json")
}

func (l *localMirrors) watched() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.files
}

func (l *localMirrors) run(ctx context.Context) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		l.log.Warn("bundles and local repositories are polled only", "error", err)
		return
	}
	defer w.Close()
	mounts := mountChanges(ctx, l.log)
	seen := map[string]sight{}
	quiet := time.NewTimer(l.settle)
	quiet.Stop()
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.edited:
			l.arm(w)
			quiet.Reset(l.settle)
		case <-mounts:
			l.rearm(w)
			quiet.Reset(l.settle)
		case e := <-w.Events:
			if l.matters(e.Name) {
				quiet.Reset(l.settle)
			}
		case err := <-w.Errors:
			l.log.Warn("notifications about local repositories were lost; looking again", "error", err)
			quiet.Reset(l.settle)
		case <-quiet.C:
			l.arm(w)
			if l.look(seen) {
				l.changed()
			}
		}
	}
}

// arm is repeated after every change: a directory that was made, or replaced, has no watch yet. Watching twice is harmless, and
// what is absent is seen to come by the directory above it.
func (l *localMirrors) arm(w *fsnotify.Watcher) {
	for _, dir := range l.dirs() {
		if err := w.Add(dir); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			l.log.Warn("a local repository is polled only", "directory", dir, "error", err)
		}
	}
}

// rearm lets go of the directories that a mount hides now.
func (l *localMirrors) rearm(w *fsnotify.Watcher) {
	for _, dir := range l.dirs() {
		_ = w.Remove(dir) // not watched is as good
	}
	l.arm(w)
}

func (l *localMirrors) dirs() []string {
	var dirs []string
	for _, file := range l.watched() {
		for dir := filepath.Dir(file); ; dir = filepath.Dir(dir) {
			dirs = append(dirs, dir)
			if dir == "/" {
				break
			}
		}
	}
	return dirs
}

// matters drops the noise of the directories above.
func (l *localMirrors) matters(name string) bool {
	for _, file := range l.watched() {
		if name == file || strings.HasPrefix(file, strings.TrimSuffix(name, "/")+"/") {
			return true
		}
	}
	return false
}

// sight is what tells one state of a file from the next without reading it; zero if there is none.
type sight struct {
	dev, ino uint64
	size     int64
	changed  time.Time
}

// look reports whether a file is not as it was at the last look.
func (l *localMirrors) look(seen map[string]sight) (news bool) {
	for _, file := range l.watched() {
		var now sight
		if info, err := os.Stat(file); err == nil {
			now = sight{size: info.Size(), changed: info.ModTime()}
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				now.dev, now.ino = st.Dev, st.Ino
			}
		}
		if now != seen[file] {
			seen[file], news = now, true
		}
	}
	return news
}

// mountChanges tells when something is mounted or unmounted in this process's view, until ctx ends. It is nil where the kernel
// does not say.
func mountChanges(ctx context.Context, log hclog.Logger) <-chan struct{} {
	// The kernel tells of each change once for each open file. An os.File would be in the runtime's own poller, which takes it.
	table, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		log.Warn("mounts are noticed at the next poll only", "error", err)
		return nil
	}
	stop, stopped, err := os.Pipe()
	if err != nil {
		unix.Close(table)
		log.Warn("mounts are noticed at the next poll only", "error", err)
		return nil
	}
	changes := make(chan struct{}, 1)
	context.AfterFunc(ctx, func() { stopped.Close() })
	go func() {
		defer unix.Close(table)
		defer stop.Close()
		for {
			fds := []unix.PollFd{{Fd: int32(table), Events: unix.POLLPRI}, {Fd: int32(stop.Fd()), Events: unix.POLLIN}}
			if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) || fds[1].Revents != 0 {
				return
			}
			if fds[0].Revents != 0 {
				select {
				case changes <- struct{}{}:
				default:
				}
			}
		}
	}()
	return changes
}

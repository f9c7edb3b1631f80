//go:build failpoints

package durable

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// FailpointsBuilt says whether this binary honours SLIPWAY_FAILPOINT. A release build must not.
const FailpointsBuilt = true

const (
	fsIocShutdown           = 0x8004587d
	shutdownWithoutLogFlush = 2
)

type armed struct {
	name, action, arg string
	hit, seen         int64
}

var arm = sync.OnceValue(func() *armed {
	text := os.Getenv("SLIPWAY_FAILPOINT")
	if text == "" {
		return &armed{}
	}
	a, err := parseArmed(text)
	if err != nil {
		fmt.Fprintf(os.Stderr, "cannot arm SLIPWAY_FAILPOINT=%s: %v\n", text, err)
		os.Exit(2)
	}
	return a
})

func parseArmed(text string) (*armed, error) {
	a := &armed{hit: 1}
	if head, n, ok := strings.Cut(text, ",hit="); ok {
		hit, err := strconv.ParseInt(n, 10, 64)
		if err != nil || hit < 1 {
			return nil, fmt.Errorf("hit=%s is not a positive number", n)
		}
		text, a.hit = head, hit
	}
	var ok bool
	if a.name, a.action, ok = strings.Cut(text, "="); !ok {
		return nil, fmt.Errorf("want NAME=ACTION")
	}
	a.action, a.arg, ok = strings.Cut(a.action, ":")
	switch a.action {
	case "kill", "error":
		if ok {
			return nil, fmt.Errorf("%s takes no argument", a.action)
		}
	case "powercut", "powercut-committed", "pause":
		if a.arg == "" {
			return nil, fmt.Errorf("%s needs a path", a.action)
		}
	default:
		return nil, fmt.Errorf("unknown action %q: want kill, powercut:MOUNT, error or pause:FILE", a.action)
	}
	return a, nil
}

// Hit stops here if this failpoint is armed.
func (f *Failpoint) Hit() error {
	trace(f.name)
	a := arm()
	if a.name != f.name || atomic.AddInt64(&a.seen, 1) != a.hit {
		return nil
	}
	switch a.action {
	case "error":
		return &InjectedError{f.name}
	case "pause":
		pause(a.arg)
		return nil
	case "powercut", "powercut-committed":
		for mount := range strings.SplitSeq(a.arg, ":") {
			cutPower(mount, a.action == "powercut-committed")
		}
	}
	unix.Kill(os.Getpid(), unix.SIGKILL)
	select {}
}

func cutPower(mount string, commit bool) {
	f, err := os.Open(mount)
	if err == nil && commit {
		err = commitJournal(mount)
	}
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), fsIocShutdown, shutdownWithoutLogFlush)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "cannot cut the power of %s: %v\n", mount, err)
		os.Exit(2)
	}
}

// commitJournal syncs an unrelated file: every change of names becomes durable with it, unsynced content does not.
func commitJournal(mount string) error {
	path := filepath.Join(mount, ".slipway-powercut")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		return err
	}
	return syncPath(path, unix.O_WRONLY)
}

func pause(file string) {
	os.WriteFile(file+".reached", nil, 0o600)
	for {
		if _, err := os.Stat(file); err == nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func trace(name string) {
	file := os.Getenv("SLIPWAY_FAILPOINT_TRACE")
	if file == "" {
		return
	}
	if f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err == nil {
		fmt.Fprintln(f, name)
		f.Close()
	}
}

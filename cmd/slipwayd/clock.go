package main

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-deploy/slipway/agent/config"
)

func readClock(id int32) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

func bootClock() time.Duration      { return readClock(unix.CLOCK_BOOTTIME) }
func monotonicClock() time.Duration { return readClock(unix.CLOCK_MONOTONIC) }

// clock is the host's time. With plain processes a start of the daemon counts as a boot: nothing outlives it.
type clock struct {
	bootID string
	unsafe bool
}

func newClock(cfg *config.Host) clock {
	c := clock{bootID: bootID(cfg.Paths.Run) + "-" + startOf(1), unsafe: cfg.Clock.UnsafeUnsynchronised}
	if cfg.Supervisor == config.SupervisorProcess {
		c.bootID += "-" + startOf(os.Getpid())
	}
	return c
}

// bootID names this boot by a file in a directory that does not outlive it. The kernel's own ID will not do: a container
// shares it with its machine, and the one that a container manager puts over it is hidden from a sandboxed unit, so that the
// daemon and the boot guardian would see different boots.
func bootID(run string) string {
	path := filepath.Join(run, "boot-id")
	for range 3 {
		if data, err := os.ReadFile(path); err == nil && len(data) > 0 {
			return strings.TrimSpace(string(data))
		}
		if err := newBootID(run, path); err != nil && !errors.Is(err, os.ErrExist) {
			break
		}
	}
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
}

// newBootID links a whole file into place: whoever comes second finds the first one's.
func newBootID(run, path string) error {
	if err := os.MkdirAll(run, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(run, ".boot-id-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(rand.Text() + "\n")
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}

// startOf returns when a process began, in clock ticks since the kernel's boot: field 22 of proc(5) stat, counted after the
// command, which may hold anything.
func startOf(pid int) string {
	data, err := os.ReadFile("/proc/" + itoa(pid) + "/stat")
	if err != nil {
		return "0"
	}
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return "0"
	}
	return fields[19]
}

func (c clock) Now() time.Time      { return time.Now() }
func (c clock) Boot() time.Duration { return bootClock() }
func (c clock) BootID() string      { return c.bootID }

// Synchronised asks the kernel, as timedatectl does. A kernel that does not say (a container without the right) is believed:
// the client still refuses a clock that is behind the latest time it ever trusted.
func (c clock) Synchronised() bool {
	if c.unsafe {
		return true
	}
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return err != nil || state != unix.TIME_ERROR || t.Maxerror < 16_000_000
}

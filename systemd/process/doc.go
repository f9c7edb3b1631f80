// Package process runs units as plain child processes, with the methods of systemd.Control: for the demo, for development and
// for containers without systemd. It is not a service manager and survives nothing:
//
//   - children die with the daemon (parent-death signal, own process group), so a daemon that restarts interrupts every app;
//   - a guard is a timer in the daemon itself: it helps against a failed trial, not against a dead or stopped daemon;
//   - there is no sandbox and no resource limit: such settings in a unit file are read and ignored. User= counts only as root.
//
// What it does follow: .service of Type=simple, exec, notify and oneshot with ExecStartPre=, ExecStart=, ExecReload=, ExecStop=,
// Restart=, start limits, KillSignal=, timeouts, Environment=, EnvironmentFile=, WorkingDirectory=, LoadCredential=,
// SetCredential=, StateDirectory= and RuntimeDirectory=; .socket with ListenStream=, passing and keeping listeners. Drop-ins are
// read. Everything that would need more (Type=forking, Accept=yes, datagram sockets, timers) is refused by name.
package process

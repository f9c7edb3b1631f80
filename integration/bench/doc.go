// Package bench measures the daemon as it is installed against the tools it replaces, in the same run and against the same
// server process: staging against curl, zstd and tar and against cp, memory, program size, and how fast a bad release is off
// the air. It holds benchmarks only; docs/benchmarks.md has figures.
//
// The daemon is the real program with its plain-process supervisor, on a host directory of its own for every round. Staging is
// timed between two of its own events: the one that says that staging begins and the next one, which says that the staged
// release waits (the deployment is signed as paused). That includes reading the manifest, the stamp, all syncs and the check
// of units, which the peers do not do.
//
// What was staged is deleted after the last benchmark only, except for releases of few files: creating many files is slower
// just after a mass deletion, which is a benchmark of its own here.
package bench

// Package lab boots real systemd hosts on one machine, for tests and for people.
//
//	l := lab.New(t)                              // own namespaces; gone when the test ends
//	repo := l.Serve(t, dir)                      // http://10.77.0.1:PORT, reachable by the lab's hosts only
//	h := l.Host(t, "web1", lab.HostOptions{})    // made and booted
//	h.Run(t, "systemctl", "is-active", "slipwayd")
//
// What a lab is made of:
//
//	machine ── netns slab-RUN        bridge lab0 10.77.0.1/24: repository servers listen here
//	             ├─ netns slab-RUN-web1   host0 10.77.0.11 ── systemd-nspawn, own systemd as PID 1
//	             └─ netns slab-RUN-db1    host0 10.77.0.12
//
//	CACHE/base-KEY.tar.zst           Debian as debootstrap left it, named by a hash of its recipe
//	CACHE/base-KEY/                  the same, unpacked: the lower layer of every host, never written
//	CACHE/runs/RUN/owner             flock held by the process that owns the run
//	CACHE/runs/RUN/HOST/{up,work,root,disk,disk.img,console.log}
//
// No address, bridge or rule appears on the machine's own network, so two labs at once never meet.
// A run that dies without cleaning up (kill -9, a test timeout) is torn down by a small watcher
// process, and failing that by the next lab that starts: a run whose owner lock is free is dead.
//
// What a lab cannot show: MemoryMax, CPUQuota and TasksMax are accepted and not enforced inside, and
// commands started with Exec bypass the container's seccomp filter. Anything about sandboxing has to
// run as a unit.
package lab

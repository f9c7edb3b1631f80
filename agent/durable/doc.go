// Package durable changes files so that a crash at any instruction leaves either the old thing or the new thing, and so that
// a change that returned nil is still there after the power was cut.
//
// # Manual
//
// WriteFile and SwapLink replace a file or a symbolic link. Both work on a temporary name in the same directory, so the
// final rename never crosses a filesystem and security labels are inherited from the right directory. Rename, Remove,
// RemoveLink and MkdirAll are the os functions followed by an fsync of every directory they changed. All are idempotent: a
// caller that does not know whether the last attempt got through calls again, and nil then means "durable now", also when
// there was nothing left to do.
//
// An error means "perhaps not": the change may have happened, or may undo itself at a power cut, but a half-written thing is
// never visible. A failed fsync is reported and never retried: the kernel may have dropped the dirty pages, and a second
// fsync would lie.
//
// A process killed in the middle leaves a temporary name of the form ".NAME.tmp-N" behind. SweepTemps removes them; call it
// while holding whatever lock keeps other writers out of that directory.
//
// These are the system calls of the two central functions, in order; a test compares this text with strace.
//
// WriteFile("d/name", data, perm):
//
//	openat    d/.name.tmp-N, O_CREAT|O_EXCL
//	fchmod    perm, whatever the umask
//	write     data
//	fsync     data and inode, before a name that matters points at them
//	close
//	renameat  d/.name.tmp-N over d/name: the one visible change
//	openat    d
//	fsync     the rename
//	close
//
// SwapLink("d/current", "releases/2"):
//
//	readlinkat  d/current: if it already says so only the directory is synced
//	symlinkat   d/.current.tmp-N
//	renameat    d/.current.tmp-N over d/current
//	openat      d
//	fsync       the rename
//	close
//
// SwapLink syncs the link, not what the link names. Who swaps a link to a new tree syncs that tree first.
//
// # Full disks
//
// A Reserve is a file whose only content is disk blocks. What must not fail on a full disk runs inside Reserve.Use, which
// gives the blocks (and one inode) back to the filesystem for a second attempt.
//
// # Failpoints
//
// Every durable step of this package and of its callers has a named Failpoint. In a normal build they do nothing; a binary
// built with the tag `failpoints` kills itself, cuts the power of a filesystem, pauses or fails at the one named in
// SLIPWAY_FAILPOINT. See Failpoint.
//
// # What is not promised
//
// Drives that acknowledge a flush and lose it; filesystems mounted with barriers off; network filesystems.
//
// BUG(slipway): the kernel reports a lost write to syncfs once per filesystem, not once per caller. If another process
// collected the error first, SyncFS cannot see it. Linux before 5.8 never reports it.
package durable

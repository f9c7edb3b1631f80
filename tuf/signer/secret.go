package signer

import (
	"io/fs"
	"syscall"
)

// Exposed reports whether others than its owner and root may read a file that holds a secret. It knows the way in which systemd hands
// credentials to a service: root's file, with an access list for the service's user, which shows as root's group being allowed.
func Exposed(info fs.FileInfo) bool {
	mode := info.Mode().Perm()
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid == 0 && st.Gid == 0 {
		mode &^= 0o040
	}
	return mode&0o077 != 0
}

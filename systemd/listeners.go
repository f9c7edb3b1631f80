package systemd

import (
	"fmt"
	"net"

	"github.com/coreos/go-systemd/v22/activation"
)

// Listeners are the sockets the service manager opened for this process, by FileDescriptorName=. Call it once: the
// environment that names them is removed, so that no child believes they are its own. No sockets, no error.
func Listeners() (map[string]net.Listener, error) {
	named, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("cannot take over the sockets of the service manager: %w", err)
	}
	listeners := make(map[string]net.Listener, len(named))
	for name, group := range named {
		if len(group) != 1 {
			return nil, fmt.Errorf("cannot take over the sockets of the service manager: %d are named %q, want 1", len(group), name)
		}
		if group[0] == nil {
			return nil, fmt.Errorf("cannot take over the sockets of the service manager: %q is not a stream socket", name)
		}
		listeners[name] = group[0]
	}
	return listeners, nil
}

package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"
)

// HostOptions say what is special about a host; the zero value is an ordinary one.
type HostOptions struct {
	// Loop puts everything the host writes on an ext4 file system of its own, so that PowerCut and a
	// full disk are real. The file system itself is at DiskMount inside the host.
	Loop bool
	// DiskMiB is the size of that file system; 0 means 1200. Setting it implies Loop.
	DiskMiB int
	// Nspawn are further arguments of systemd-nspawn, such as --bind=… or --capability=….
	Nspawn []string
}

// DiskMount is where a host with its own disk finds that disk inside: the argument for a power-cut
// failpoint, because the overlay that is the host's root does not take the shutdown ioctl.
const DiskMount = "/mnt/disk"

// bootTimeout bounds every wait for a boot or a shutdown whose context has no earlier deadline.
const bootTimeout = 90 * time.Second

var hostName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// Host is one machine of the lab: a Debian with systemd as PID 1. Its disk, name, address and
// machine id survive reboots, crashes and power cuts; it goes away with its lab.
type Host struct {
	Name string
	// Address is the host's IPv4 address on the lab's network.
	Address string

	lab   *Lab
	ns    string
	link  string // the bridge's end of the host's cable
	dir   string
	disk  bool
	extra []string

	mu       sync.Mutex
	boots    int           // containers started so far
	nspawn   int           // pid of the running container's systemd-nspawn, 0 between boots
	leader   *leader       // PID 1 of the current boot, once it answers
	stopping bool          // a reboot is not to be followed by a boot
	gone     chan struct{} // closed when the host is off; nil before the first boot
	exit     int           // how the last systemd-nspawn ended
}

// NewHost makes a host with its disk and cable, switched off.
func (l *Lab) NewHost(ctx context.Context, name string, o HostOptions) (*Host, error) {
	if !hostName.MatchString(name) {
		return nil, fmt.Errorf("cannot make host %q: want lower-case letters, digits and '-', at most 31", name)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("cannot make host %s: the lab is closed", name)
	}
	for _, h := range l.hosts {
		if h.Name == name {
			return nil, fmt.Errorf("cannot make host %s: there is one already", name)
		}
	}
	index := len(l.hosts) + 1
	h := &Host{
		Name:    name,
		Address: fmt.Sprintf("%s%d", subnet, 10+index),
		lab:     l,
		ns:      l.ns + "-" + name,
		link:    fmt.Sprintf("v%d", index),
		dir:     filepath.Join(l.dir, name),
		disk:    o.Loop || o.DiskMiB > 0,
		extra:   o.Nspawn,
	}
	l.hosts = append(l.hosts, h)
	if err := h.makeDisk(ctx, o); err != nil {
		return nil, fmt.Errorf("cannot make host %s: %w", name, err)
	}
	if err := h.makeCable(ctx); err != nil {
		return nil, fmt.Errorf("cannot make host %s: %w", name, err)
	}
	return h, nil
}

func (h *Host) makeCable(ctx context.Context) error {
	in, out := "-n "+h.ns+" ", "-n "+h.lab.ns+" "
	return ipAll(ctx,
		"netns add "+h.ns,
		out+"link add "+h.link+" type veth peer name host0 netns "+h.ns,
		out+"link set "+h.link+" master lab0 up",
		in+"addr add "+h.Address+"/24 dev host0",
		in+"link set host0 up",
		in+"link set lo up",
		in+"route add default via "+ServerAddress,
	)
}

// makeDisk prepares the layers of the host's root and gives it a name and an identity of its own.
func (h *Host) makeDisk(ctx context.Context, o HostOptions) error {
	for _, dir := range []string{"root", "journal"} {
		if err := os.MkdirAll(filepath.Join(h.dir, dir), 0o755); err != nil {
			return err
		}
	}
	if h.disk {
		size := o.DiskMiB
		if size == 0 {
			size = 1200
		}
		image := filepath.Join(h.dir, "disk.img")
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			return err
		}
		if err := os.Truncate(image, int64(size)<<20); err != nil {
			return err
		}
		if _, err := run(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", image); err != nil {
			return err
		}
		if err := os.Mkdir(filepath.Join(h.dir, "disk"), 0o755); err != nil {
			return err
		}
	}
	if err := h.mount(ctx); err != nil {
		return err
	}
	var id [16]byte
	rand.Read(id[:])
	files := map[string]string{
		"etc/hostname":   h.Name + "\n",
		"etc/machine-id": hex.EncodeToString(id[:]) + "\n",
		"etc/hosts":      "127.0.0.1 localhost\n127.0.1.1 " + h.Name + "\n" + ServerAddress + " repo.lab\n",
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(h.root(), name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) root() string { return filepath.Join(h.dir, "root") }

// layers is the directory that holds the writable layers: the host's own disk if it has one.
func (h *Host) layers() string {
	if h.disk {
		return filepath.Join(h.dir, "disk")
	}
	return h.dir
}

// mount puts the host's root together; the host must be off.
func (h *Host) mount(ctx context.Context) error {
	if h.disk {
		if _, err := run(ctx, "mount", "-o", "loop", filepath.Join(h.dir, "disk.img"), filepath.Join(h.dir, "disk")); err != nil {
			return err
		}
	}
	up, work := filepath.Join(h.layers(), "up"), filepath.Join(h.layers(), "work")
	for _, dir := range []string{up, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	options := "lowerdir=" + h.lab.base + ",upperdir=" + up + ",workdir=" + work
	_, err := run(ctx, "mount", "-t", "overlay", h.ns, "-o", options, h.root())
	return err
}

// unmount takes the root of a host without power apart again. Its disk may be mounted anew afterwards.
func (h *Host) unmount(ctx context.Context) error {
	points := []string{h.root()}
	if h.disk {
		points = append(points, filepath.Join(h.dir, "disk"))
	}
	for _, point := range points {
		var last error
		err := poll(ctx, func() (bool, error) {
			_, last = run(ctx, "umount", point)
			return last == nil, nil
		})
		if err != nil {
			return errors.Join(err, last)
		}
	}
	if !h.disk {
		return nil
	}
	return h.freeDisk(ctx)
}

// freeDisk sees to it that no loop device holds the disk's image: a mount made while another namespace still had the old one
// would put two file systems on one image. Every host, and every test with mounts of its own, that started meanwhile has a copy
// of the machine's mounts and may keep it for long. Then the host goes on with a copy of the image: the file system was shut
// down, so nobody writes to it any more.
func (h *Host) freeDisk(ctx context.Context) error {
	image := filepath.Join(h.dir, "disk.img")
	soon, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err := poll(soon, func() (bool, error) {
		out, err := run(ctx, "losetup", "-j", image)
		return out == "", err
	})
	if err == nil || soon.Err() == nil {
		return err
	}
	if _, err := run(ctx, "cp", "--sparse=always", image, image+".copy"); err != nil {
		return err
	}
	return os.Rename(image+".copy", image)
}

func bounded(ctx context.Context, most time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, most, fmt.Errorf("not done after %s", most))
}

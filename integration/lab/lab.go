package lab

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed teardown.sh
var teardownScript string

const (
	// ServerAddress is the lab's own address, where repositories are served. It exists only in the
	// lab's namespace, so every lab can use the same one.
	ServerAddress = "10.77.0.1"
	subnet        = "10.77.0."
)

// Options of a lab; the zero value is fine.
type Options struct {
	// Logf receives what a person waiting for the lab wants to read. Nil discards it.
	Logf func(format string, args ...any)
}

// Lab is one set of hosts on a network of their own. Close gives everything back to the machine.
type Lab struct {
	run     string
	dir     string
	ns      string
	base    string
	logf    func(string, ...any)
	owner   *os.File
	watcher io.Closer

	mu      sync.Mutex
	hosts   []*Host
	servers []*Server
	closed  bool
}

// Open makes a lab without hosts: tools and base are installed when missing, leftovers of dead runs
// are removed, and the lab's namespace and bridge exist when it returns. It needs root.
func Open(ctx context.Context, o Options) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("cannot open a lab: it needs root for namespaces and mounts")
	}
	l := &Lab{logf: o.Logf}
	if l.logf == nil {
		l.logf = func(string, ...any) {}
	}
	if err := InstallTools(ctx); err != nil {
		return nil, err
	}
	Sweep(ctx, l.logf)
	var err error
	if l.base, err = Base(ctx, l.logf); err != nil {
		return nil, err
	}
	if err := l.claim(); err != nil {
		return nil, err
	}
	if err := l.makeNetwork(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// claim takes a run name, its directory and the owner lock, and starts the watcher.
func (l *Lab) claim() error {
	var salt [3]byte
	rand.Read(salt[:])
	l.run = fmt.Sprintf("%d-%s", os.Getpid(), hex.EncodeToString(salt[:]))
	l.ns = "slab-" + l.run
	l.dir = filepath.Join(CacheDir(), "runs", l.run)
	if err := os.MkdirAll(filepath.Dir(l.dir), 0o755); err != nil {
		return err
	}
	// Locked before it has the name a janitor looks for, and named before the directory exists:
	// a janitor never sees a free lock or an unowned directory of a living run.
	owner, err := os.OpenFile(l.dir+".claim", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cannot claim run %s: %w", l.run, err)
	}
	l.owner = owner
	if err := unix.Flock(int(owner.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("cannot claim run %s: %w", l.run, err)
	}
	if err := os.Rename(l.dir+".claim", l.dir+".owner"); err != nil {
		return fmt.Errorf("cannot claim run %s: %w", l.run, err)
	}
	if err := os.Mkdir(l.dir, 0o755); err != nil {
		return err
	}
	return l.startWatcher()
}

// startWatcher starts the process that tears the run down when this one dies without doing so.
func (l *Lab) startWatcher() error {
	cmd := exec.Command("/bin/sh", "-c", teardownScript, "slab-watcher", "watch", l.run, l.dir, "0")
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	// Not in our group: Ctrl-C must reach us and not it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start the watcher: %w", err)
	}
	l.watcher = closerFunc(func() error {
		stdin.Close()
		return cmd.Wait()
	})
	return nil
}

type closerFunc func() error

func (f closerFunc) Close() error { return f() }

// makeNetwork makes the lab's namespace with the bridge in it.
func (l *Lab) makeNetwork(ctx context.Context) error {
	return ipAll(ctx,
		"netns add "+l.ns,
		"-n "+l.ns+" link set lo up",
		"-n "+l.ns+" link add lab0 type bridge",
		"-n "+l.ns+" addr add "+ServerAddress+"/24 dev lab0",
		"-n "+l.ns+" link set lab0 up",
	)
}

// ipAll runs ip(8) commands in order and stops at the first that fails.
func ipAll(ctx context.Context, commands ...string) error {
	for _, command := range commands {
		if _, err := run(ctx, "ip", strings.Fields(command)...); err != nil {
			return err
		}
	}
	return nil
}

// Scratch is a directory of the machine that goes away with the lab.
func (l *Lab) Scratch() (string, error) {
	dir := filepath.Join(l.dir, "scratch")
	return dir, os.MkdirAll(dir, 0o755)
}

// Run is the name that everything this lab makes on the machine carries.
func (l *Lab) Run() string { return l.run }

// Namespace is the lab's own network namespace, for processes of the machine that shall be on the hosts' network.
func (l *Lab) Namespace() string { return l.ns }

// Close kills the hosts and removes every process, mount, namespace and file of the run. A second
// call does nothing.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	hosts, servers := l.hosts, l.servers
	l.mu.Unlock()
	for _, s := range servers {
		s.close()
	}
	for _, h := range hosts {
		h.abandon()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := teardown(ctx, l.run, l.dir, os.Getpid())
	if l.watcher != nil {
		l.watcher.Close()
	}
	l.owner.Close()
	return err
}

func teardown(ctx context.Context, runName, dir string, owner int) error {
	_, err := run(ctx, "sh", "-c", teardownScript, "slab-teardown", "now", runName, dir, fmt.Sprint(owner))
	if err != nil {
		return fmt.Errorf("cannot tear down lab run %s: %w", runName, err)
	}
	return nil
}

// Sweep tears down the runs whose owner is dead and returns how many there were. Runs of living
// processes are left alone.
func Sweep(ctx context.Context, logf func(string, ...any)) int {
	owners, _ := filepath.Glob(filepath.Join(CacheDir(), "runs", "*.owner"))
	swept := 0
	for _, path := range owners {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			dir := strings.TrimSuffix(path, ".owner")
			logf("removing what lab run %s left behind", filepath.Base(dir))
			if err := teardown(ctx, filepath.Base(dir), dir, 0); err != nil {
				logf("%v", err)
			}
			os.Remove(path)
			swept++
		}
		f.Close()
	}
	return swept
}

// Package etcdtest runs etcd clusters of real processes on the loopback, for tests that stop and kill their members.
package etcdtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// made lists the temporary directories of this process. Tests end before Clean reads it.
var made []string

// scratch makes a directory that Clean removes.
func scratch() (string, error) {
	dir, err := os.MkdirTemp("", "slipway-etcd-")
	making.Lock()
	defer making.Unlock()
	made = append(made, dir)
	return dir, err
}

var making sync.Mutex

var debian = sync.OnceValues(func() (string, error) {
	if path, err := exec.LookPath("etcd"); err == nil {
		return path, nil
	}
	dir, err := scratch()
	if err != nil {
		return "", err
	}
	// Unpacked, not installed: the package would start a server.
	script := "apt-get download -q etcd-server || { apt-get update -qq && apt-get download -q etcd-server; }; dpkg-deb -x etcd-server_*.deb ."
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot get Debian's etcd-server: %w\n%s", err, out)
	}
	return filepath.Join(dir, "usr", "bin", "etcd"), nil
})

// Debian returns the path of the etcd that Debian packages: an installed one, or its package unpacked into a temporary
// directory, which Clean removes. Where neither can be had, the test is skipped and says so.
func Debian(t testing.TB) string {
	t.Helper()
	path, err := debian()
	if err == nil {
		return path
	}
	if os.Getenv("SLIPWAY_TEST_NOTHING_SKIPPED") != "" {
		t.Fatal(err)
	}
	t.Skipf("SKIPPED, needs Debian's packages: %v", err)
	return ""
}

var built = sync.OnceValues(func() (string, error) {
	dir, err := scratch()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "etcd")
	cmd := exec.Command("go", "build", "-o", path, "github.com/slipway-deploy/slipway/agent/hub/etcd/etcdtest/member")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

// Built returns the path of an etcd of the version in go.mod, built once a process. Clean removes it.
func Built(t testing.TB) string {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatal("cannot build etcd: ", err)
	}
	return path
}

// Clean removes what Built and Debian made; TestMain calls it last.
func Clean() {
	for _, dir := range made {
		os.RemoveAll(dir)
	}
}

// Cluster is a running cluster. Its processes end with the test.
type Cluster struct {
	// Endpoints are the members' client addresses, host:port, in order.
	Endpoints []string

	t       testing.TB
	place   Place
	scheme  string
	binary  string
	extra   []string
	peers   []string
	dirs    []string
	initial string
	members []*exec.Cmd
	output  []*bytes.Buffer
}

// Place is where members listen. The zero value is the loopback, on ports that are free now.
type Place struct {
	// Address is an IP address, FirstPort the first of two ports for each member.
	Address   string
	FirstPort int
	// Enter is put before a member's command line, such as "ip", "netns", "exec", "NAME".
	Enter []string
	// Dial connects to an address there; nil is the usual way.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// addresses are n of them, host:port.
func (p Place) addresses(t testing.TB, n int) (all []string) {
	t.Helper()
	if p.Address == "" {
		return freePorts(t, n)
	}
	for i := range n {
		all = append(all, net.JoinHostPort(p.Address, strconv.Itoa(p.FirstPort+i)))
	}
	return all
}

// Start runs n members of a new cluster and waits until it answers. Extra arguments are for every member; with TLS files for clients
// among them, the test makes its own client and Start does not wait.
func Start(t testing.TB, binary string, n int, extra ...string) *Cluster {
	t.Helper()
	return StartAt(t, Place{}, binary, n, extra...)
}

// StartAt is Start at a place.
func StartAt(t testing.TB, p Place, binary string, n int, extra ...string) *Cluster {
	t.Helper()
	c := prepare(t, p, binary, n, extra)
	for i := range n {
		c.Start(i)
	}
	if c.scheme == "http" {
		c.wait()
	}
	return c
}

// Restored runs a cluster whose members' data a test makes itself: restore is given each member's data directory, name, peer URL and
// the whole cluster as for etcd's --initial-cluster.
func Restored(t testing.TB, binary string, n int, restore func(dir, name, peer string, cluster []string)) *Cluster {
	t.Helper()
	c := prepare(t, Place{}, binary, n, nil)
	all := strings.Split(c.initial, ",")
	for i := range n {
		restore(c.dirs[i], name(i), c.peers[i], all)
	}
	for i := range n {
		c.Start(i)
	}
	c.wait()
	return c
}

func prepare(t testing.TB, p Place, binary string, n int, extra []string) *Cluster {
	t.Helper()
	c := &Cluster{t: t, place: p, scheme: "http", binary: binary, extra: extra, members: make([]*exec.Cmd, n), output: make([]*bytes.Buffer, n)}
	for _, arg := range extra {
		if strings.HasPrefix(arg, "--cert-file") {
			c.scheme = "https"
		}
	}
	dir, ports := t.TempDir(), p.addresses(t, 2*n)
	var all []string
	for i := range n {
		c.Endpoints = append(c.Endpoints, ports[2*i])
		c.peers = append(c.peers, "http://"+ports[2*i+1])
		c.dirs = append(c.dirs, filepath.Join(dir, name(i)))
		all = append(all, name(i)+"="+c.peers[i])
	}
	c.initial = strings.Join(all, ",")
	t.Cleanup(func() {
		for i := range c.members {
			c.Kill(i)
		}
		if t.Failed() {
			for i, out := range c.output {
				t.Logf("member %d ended with: %s", i, tail(out))
			}
		}
	})
	return c
}

func name(i int) string { return fmt.Sprintf("m%d", i) }

func tail(out *bytes.Buffer) string {
	if out == nil {
		return ""
	}
	return string(out.Bytes()[max(0, out.Len()-1500):])
}

func freePorts(t testing.TB, n int) (addrs []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}

// Start runs member i on its data, for the first time or again.
func (c *Cluster) Start(i int) {
	c.t.Helper()
	url := c.scheme + "://" + c.Endpoints[i]
	args := append([]string{
		"--name", name(i), "--data-dir", c.dirs[i], "--listen-client-urls", url, "--advertise-client-urls", url,
		"--listen-peer-urls", c.peers[i], "--initial-advertise-peer-urls", c.peers[i], "--initial-cluster", c.initial,
	}, c.extra...)
	words := slices.Concat(c.place.Enter, []string{c.binary}, args)
	cmd := exec.Command(words[0], words[1:]...)
	c.output[i] = &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = c.output[i], c.output[i]
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.members[i] = cmd
}

// Kill ends member i at once; its data stays.
func (c *Cluster) Kill(i int) {
	if cmd := c.members[i]; cmd != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		c.members[i] = nil
	}
}

// Pid is the process id of member i.
func (c *Cluster) Pid(i int) int { return c.members[i].Process.Pid }

// wait asks until the cluster answers a linearizable read.
func (c *Cluster) wait() {
	c.t.Helper()
	cfg := clientv3.Config{Endpoints: c.Endpoints, Logger: zap.NewNop()}
	if c.place.Dial != nil {
		cfg.DialOptions = []grpc.DialOption{grpc.WithContextDialer(c.place.Dial)}
	}
	client, err := clientv3.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		once, done := context.WithTimeout(ctx, 2*time.Second)
		_, err := client.Get(once, "ready")
		done()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			c.t.Fatal("the cluster does not answer: ", err)
		}
	}
}

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/integration/lab"
)

const (
	serveEnv = "SLIPWAY_BENCH_SERVE"
	module   = "github.com/slipway-deploy/slipway"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(serveEnv); dir != "" {
		serve(dir)
	}
	code := m.Run()
	if the.dir != "" {
		the.server.Process.Kill()
		the.server.Wait()
		os.RemoveAll(the.dir)
	}
	printSummary()
	os.Exit(code)
}

// serve is the static server, in a process of its own so that it counts for nobody.
func serve(dir string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go func() {
		io.Copy(io.Discard, os.Stdin) // ends when the benchmarks end, however they do
		os.Exit(0)
	}()
	fmt.Println("http://" + l.Addr().String())
	fmt.Println(http.Serve(l, http.FileServer(http.Dir(dir))))
	os.Exit(1)
}

// world is what all benchmarks share: programs, a signed repository and its server.
type world struct {
	dir    string
	url    string
	server *exec.Cmd
	once   sync.Once
	err    error
	rounds int
}

var the world

func shared(b *testing.B) *world {
	b.Helper()
	the.once.Do(func() { the.err = the.make() })
	if the.err != nil {
		b.Fatal(the.err)
	}
	return &the
}

func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.dir}, parts...)...)
}

func (w *world) make() (err error) {
	if w.dir, err = os.MkdirTemp("", "slipway-bench-"); err != nil {
		return err
	}
	if err := w.startServer(); err != nil {
		return err
	}
	for _, pkg := range []string{"cmd/slipwayd", "cmd/slipway-repo", "integration/apps/harbor"} {
		if err := lab.GoBuild(context.Background(), module+"/"+pkg, w.path("bin", filepath.Base(pkg))); err != nil {
			return err
		}
	}
	return w.ceremony()
}

func (w *world) startServer() error {
	if err := os.MkdirAll(w.path("repo"), 0o755); err != nil {
		return err
	}
	w.server = exec.Command(os.Args[0])
	w.server.Env = append(os.Environ(), serveEnv+"="+w.path("repo"))
	if _, err := w.server.StdinPipe(); err != nil {
		return err
	}
	out, err := w.server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := w.server.Start(); err != nil {
		return err
	}
	line := make([]byte, 100)
	n, err := out.Read(line)
	w.url = strings.TrimSpace(string(line[:n]))
	return err
}

func (w *world) ceremony() error {
	for _, k := range []string{"root", "app", "approver", "online"} {
		if err := w.repo("key", "gen", w.path("keys", k), "--unencrypted"); err != nil {
			return err
		}
	}
	const spare = "--allow-no-spare"
	steps := [][]string{
		{"init", "--root-key", w.pub("root"), spare, "bench", "--online-key", w.pub("online"), "--use-online", w.key("online"), "--sign", w.key("root")},
		{"publish"},
		{"env", "add", "production", "--key", w.pub("approver"), spare, "bench", "--sign", w.key("root")},
		{"publish"},
	}
	return w.all(steps)
}

func (w *world) key(name string) string { return w.path("keys", name) }
func (w *world) pub(name string) string { return w.path("keys", name+".pub") }

func (w *world) all(steps [][]string) error {
	for _, s := range steps {
		if err := w.repo(s...); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) repo(args ...string) error {
	if args[0] == "key" {
		if err := os.MkdirAll(w.path("keys"), 0o700); err != nil {
			return err
		}
	}
	c := exec.Command(w.path("bin", "slipway-repo"), append([]string{"-C", w.path("repo")}, args...)...)
	c.Dir = w.dir
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("slipway-repo %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (w *world) addApp(app string) error {
	return w.all([][]string{
		{"app", "add", app, "--key", w.pub("app"), "--allow-no-spare", "bench", "--sign", w.key("root")}, {"publish"},
	})
}

// release packs, publishes and deploys a tree; state is the deployment's.
func (w *world) release(app, version, toml, tree, state string) error {
	conf := w.path("toml", app+"-"+version)
	if err := writeFile(conf, toml); err != nil {
		return err
	}
	out := w.path("packed", app+"-"+version)
	return w.all([][]string{
		{"release", "pack", tree, "--app", app, "--version", version, "--config", conf, "--out", out},
		{"release", "publish", out, "--sign", w.key("app")},
		{"publish"},
		{"deploy", "new", "--env", "production", "--app", app, "--release", version, "--state", state,
			"--min-healthy", "1s", "--deadline", "30s", "--sign", w.key("approver")},
		{"publish"},
	})
}

// archiveURL is where the peers fetch the archive of an app's version from.
func (w *world) archiveURL(app, version string) (string, error) {
	dir := filepath.Join("targets", "releases", app, version)
	all, err := filepath.Glob(w.path("repo", dir, "*.tar.zst"))
	if err != nil || len(all) != 1 {
		return "", fmt.Errorf("want one archive in %s, found %q: %v", dir, all, err)
	}
	return w.url + "/" + filepath.Join(dir, filepath.Base(all[0])), nil
}

func writeFile(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// binaryLike compresses like a stripped executable: words from a small set, with noise between.
func binaryLike(size int, seed int64) []byte {
	rnd := rand.New(rand.NewSource(seed))
	words := make([][]byte, 4096)
	for i := range words {
		words[i] = make([]byte, 3+rnd.Intn(12))
		rnd.Read(words[i])
	}
	out := make([]byte, 0, size+16)
	for len(out) < size {
		out = append(out, words[rnd.Intn(len(words))]...)
		if rnd.Intn(3) == 0 {
			out = append(out, byte(rnd.Intn(256)), byte(rnd.Intn(256)))
		}
	}
	return out[:size]
}

func oneBinary(dir string) error {
	if err := os.MkdirAll(filepath.Join(lab.CacheDir(), "bin"), 0o755); err != nil {
		return err
	}
	binary, err := lab.BuildModule(context.Background(), "github.com/nats-io/nats-server/v2", "v2.15.2")
	if err != nil {
		return err
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "nats-server"), data, 0o755)
}

// manyFiles is a tree of the shape of installed packages: 30,000 files of 0.5 to 9 KB in 3,000 directories.
func manyFiles(dir string) error {
	text := strings.Repeat("module.exports = function () { return require('./lib') }\n", 200)
	for i := range 3000 {
		sub := filepath.Join(dir, fmt.Sprintf("package-%02d", i%60), fmt.Sprintf("lib-%04d", i))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		for j := range 10 {
			body := fmt.Sprintf("// %d %d\n", i, j) + text[:500+(i*37+j*911)%8500]
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("file-%d.js", j)), []byte(body), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// oneGigabyte is half random bytes and half binary-like ones, in 96 files.
func oneGigabyte(dir string) error {
	rnd := rand.New(rand.NewSource(7))
	part := make([]byte, 16<<20)
	for i := range 32 {
		rnd.Read(part)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("random-%02d", i)), part, 0o644); err != nil {
			return err
		}
	}
	for i := range 64 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("code-%02d", i)), binaryLike(8<<20, int64(i)), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// timed runs a bash script and returns how long it took and, for what bash waits for, the processor time.
func timed(b *testing.B, script string, args ...string) (wall, cpu time.Duration) {
	b.Helper()
	var out bytes.Buffer
	c := exec.Command("bash", append([]string{"-ec", script, "bash"}, args...)...)
	c.Stdout, c.Stderr = io.Discard, &out
	start := time.Now()
	if err := c.Run(); err != nil {
		b.Fatalf("%v: %s", err, out.String())
	}
	return time.Since(start), c.ProcessState.UserTime() + c.ProcessState.SystemTime()
}

var summary = struct {
	sync.Mutex
	values map[string][]float64
}{values: map[string][]float64{}}

// report gives a metric to the benchmark and remembers it for the medians that TestMain prints.
func report(b *testing.B, value float64, unit string) {
	b.ReportMetric(value, unit)
	summary.Lock()
	defer summary.Unlock()
	name := strings.TrimSuffix(b.Name(), fmt.Sprintf("-%d", runtime.GOMAXPROCS(0))) + " " + unit
	summary.values[name] = append(summary.values[name], value)
}

func printSummary() {
	for _, name := range slices.Sorted(maps.Keys(summary.values)) {
		v := slices.Sorted(slices.Values(summary.values[name]))
		fmt.Printf("median of %d: %-60s %8.2f  (%.2f to %.2f)\n", len(v), name, v[len(v)/2], v[0], v[len(v)-1])
	}
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// until polls a condition.
func until(b *testing.B, what string, patience, every time.Duration, ok func() (bool, error)) {
	b.Helper()
	var last error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(every) {
		done, err := ok()
		if done {
			return
		}
		last = err
	}
	b.Fatalf("this did not happen within %s: %s: %v", patience, what, errors.Join(last))
}

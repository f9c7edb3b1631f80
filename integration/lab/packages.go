package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// PackageSet is the paths of what packaging/build.sh made for this machine's architecture.
type PackageSet struct {
	Version                    string
	Deb, RPM                   string
	PublisherDeb, PublisherRPM string
	HubDeb, HubRPM             string
}

// Build says what packages to make.
type Build struct {
	// Root is the repository's root directory; empty means the one around the working directory.
	Root string
	// Version of the packages; empty means what packaging/build.sh takes by itself.
	Version string
	// Tags are Go build tags, for example "failpoints".
	Tags string
	// Out receives the packages.
	Out string
	// Env is added to the environment of the build.
	Env []string
}

// Make runs packaging/build.sh for this machine's architecture.
func (b Build) Make(ctx context.Context) (PackageSet, error) {
	root := b.Root
	if root == "" {
		var err error
		if root, err = repositoryRoot(); err != nil {
			return PackageSet{}, err
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, "packaging", "build.sh"))
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "ARCHES="+runtime.GOARCH, "OUT="+b.Out, "BUILD_TAGS="+b.Tags)
	if b.Version != "" {
		cmd.Env = append(cmd.Env, "VERSION="+b.Version)
	}
	cmd.Env = append(cmd.Env, b.Env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return PackageSet{}, fmt.Errorf("cannot build the packages: %w: %s", err, tail(string(out), 3000))
	}
	return FindPackages(b.Out)
}

var debName = regexp.MustCompile(`^slipway_(.+)-1_[a-z0-9]+\.deb$`)

// FindPackages names the packages for this machine's architecture in a directory, the newest version
// by the time it was built.
func FindPackages(dir string) (PackageSet, error) {
	debs, _ := filepath.Glob(filepath.Join(dir, "slipway_*-1_"+runtime.GOARCH+".deb"))
	newest := ""
	var built int64
	for _, deb := range debs {
		if info, err := os.Stat(deb); err == nil && (newest == "" || info.ModTime().UnixNano() > built) {
			newest, built = deb, info.ModTime().UnixNano()
		}
	}
	if newest == "" {
		return PackageSet{}, fmt.Errorf("cannot find slipway_*-1_%s.deb in %s: make it with packaging/build.sh", runtime.GOARCH, dir)
	}
	version := debName.FindStringSubmatch(filepath.Base(newest))[1]
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	return PackageSet{
		Version:      version,
		Deb:          newest,
		RPM:          filepath.Join(dir, "slipway-"+version+"-1."+arch+".rpm"),
		PublisherDeb: filepath.Join(dir, "slipway-repo_"+version+"-1_"+runtime.GOARCH+".deb"),
		PublisherRPM: filepath.Join(dir, "slipway-repo-"+version+"-1."+arch+".rpm"),
		HubDeb:       filepath.Join(dir, "slipway-hub_"+version+"-1_"+runtime.GOARCH+".deb"),
		HubRPM:       filepath.Join(dir, "slipway-hub-"+version+"-1."+arch+".rpm"),
	}, nil
}

func repositoryRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	root := filepath.Dir(strings.TrimSpace(string(out)))
	if err != nil || !exists(filepath.Join(root, "packaging", "build.sh")) {
		return "", fmt.Errorf("cannot find the repository around the working directory: start from inside it")
	}
	return root, nil
}

var built struct {
	sync.Mutex
	sets  map[string]PackageSet
	dir   string
	owner *os.File
}

// Packages builds the packages at a version with build tags, once per test process, and returns them.
// Main removes them when the tests are over.
func Packages(t testing.TB, version, tags string) PackageSet {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	key := version + "," + tags
	if set, ok := built.sets[key]; ok {
		return set
	}
	if built.dir == "" {
		if err := claimPackageDir(); err != nil {
			t.Fatal(err)
		}
		built.sets = map[string]PackageSet{}
	}
	set, err := Build{Version: version, Tags: tags, Out: filepath.Join(built.dir, strings.Trim(key, ","))}.Make(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	built.sets[key] = set
	return set
}

// claimPackageDir takes a directory for this process and removes those of dead ones.
func claimPackageDir() error {
	all := filepath.Join(CacheDir(), "packages")
	if err := os.MkdirAll(all, 0o755); err != nil {
		return err
	}
	owners, _ := filepath.Glob(filepath.Join(all, "*.owner"))
	for _, path := range owners {
		if f, err := os.OpenFile(path, os.O_RDWR, 0); err == nil {
			if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
				os.RemoveAll(strings.TrimSuffix(path, ".owner"))
				os.Remove(path)
			}
			f.Close()
		}
	}
	dir, err := os.MkdirTemp(all, fmt.Sprintf("%d-", os.Getpid()))
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	built.owner, err = os.OpenFile(dir+".claim", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(built.owner.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return err
	}
	built.dir = dir
	return os.Rename(dir+".claim", dir+".owner")
}

// Main runs a test binary that uses Packages and cleans up behind it:
//
//	func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }
func Main(m *testing.M) int {
	defer func() {
		built.Lock()
		defer built.Unlock()
		if built.dir != "" {
			os.RemoveAll(built.dir)
			os.Remove(built.dir + ".owner")
		}
	}()
	return m.Run()
}

// InstallDeb copies a Debian package of the machine into the host and installs or upgrades it with
// dpkg, the way an administrator does.
func (h *Host) InstallDeb(ctx context.Context, deb string) (Result, error) {
	return h.pushAndRun(ctx, deb, "dpkg", "--install")
}

// InstallRPM does the same with rpm; upgrade is true for -U, false for -i. Dependencies are not
// checked, because the host's own packages are Debian's.
func (h *Host) InstallRPM(ctx context.Context, rpm string, upgrade bool) (Result, error) {
	how := "--install"
	if upgrade {
		how = "--upgrade"
	}
	return h.pushAndRun(ctx, rpm, "rpm", how, "--nodeps", "--nosignature")
}

func (h *Host) pushAndRun(ctx context.Context, file string, command ...string) (Result, error) {
	inside := "/root/" + filepath.Base(file)
	if err := h.Push(file, inside); err != nil {
		return Result{Command: command, Exit: -1}, err
	}
	r, err := h.Exec(ctx, append(command, inside)...)
	if err == nil {
		err = r.Err()
	}
	return r, err
}

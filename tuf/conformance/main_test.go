package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// These tests play the public suite's part of the contract: they run the program as the suite does and look at what the suite
// looks at. That the client behind it is right is what package client's own tests show.

// suite is a repository and the two directories that the suite gives a client.
type suite struct {
	t                   *testing.T
	bin                 string
	repo                *tuftest.Repository
	metadata, downloads string
}

func newSuite(t *testing.T) *suite {
	t.Helper()
	s := &suite{t: t, bin: filepath.Join(t.TempDir(), "conformance"), repo: tuftest.New(t), metadata: t.TempDir(), downloads: t.TempDir()}
	if out, err := exec.Command("go", "build", "-o", s.bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.repo.Publish()
	return s
}

// run returns the program's exit code.
func (s *suite) run(args ...string) int {
	s.t.Helper()
	cmd := exec.Command(s.bin, append([]string{"--metadata-dir", s.metadata}, args...)...)
	cmd.Env = append(os.Environ(), "NO_PROXY=127.0.0.1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	s.t.Logf("%s: %d %s", strings.Join(args, " "), cmd.ProcessState.ExitCode(), out)
	return cmd.ProcessState.ExitCode()
}

func (s *suite) must(code int, args ...string) {
	s.t.Helper()
	if got := s.run(args...); got != code {
		s.t.Fatalf("%s: exit code %d, want %d", strings.Join(args, " "), got, code)
	}
}

func (s *suite) initialise() {
	s.t.Helper()
	root := filepath.Join(s.t.TempDir(), "root.json")
	if err := os.WriteFile(root, s.repo.Root(), 0o644); err != nil {
		s.t.Fatal(err)
	}
	s.must(0, "init", root)
}

func (s *suite) refresh(code int) {
	s.t.Helper()
	s.must(code, "--metadata-url", s.repo.URL()+"/metadata", "refresh")
}

func (s *suite) download(code int, names ...string) {
	s.t.Helper()
	args := []string{"--metadata-url", s.repo.URL() + "/metadata", "--target-base-url", s.repo.URL() + "/targets", "--target-dir", s.downloads}
	for _, name := range names {
		args = append(args, "--target-name", name)
	}
	s.must(code, append(args, "download")...)
}

// trusted is the version of every metadata file in the directory, by role: what the suite compares.
func (s *suite) trusted() map[string]int {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.metadata, "*.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	found := map[string]int{}
	for _, path := range files {
		data, err := os.ReadFile(path)
		var doc struct{ Signed struct{ Version int } }
		if err = errors.Join(err, json.Unmarshal(data, &doc)); err != nil {
			s.t.Fatal(err)
		}
		found[strings.TrimSuffix(filepath.Base(path), ".json")] = doc.Signed.Version
	}
	return found
}

func (s *suite) wantTrusted(want map[string]int) {
	s.t.Helper()
	got := s.trusted()
	for role, version := range want {
		if got[role] != version {
			s.t.Errorf("%s: version %d, want %d (all: %v)", role, got[role], version, got)
		}
	}
	if len(got) != len(want) {
		s.t.Errorf("trusted is %v, want %v", got, want)
	}
}

func (s *suite) wantDownloaded(content string) {
	s.t.Helper()
	var all []string
	err := filepath.WalkDir(s.downloads, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			data, rerr := os.ReadFile(path)
			all, err = append(all, string(data)), rerr
		}
		return err
	})
	if err != nil || !slices.Contains(all, content) {
		s.t.Errorf("downloaded %q, want %q (%v)", all, content, err)
	}
}

func TestRefreshShowsTheTrustedMetadataByRole(t *testing.T) {
	s := newSuite(t)
	s.initialise()
	s.wantTrusted(map[string]int{"root": 1})
	s.refresh(0)
	first := s.trusted()
	if len(first) != 4 || first["root"] != 1 || first["timestamp"] == 0 || first["snapshot"] == 0 || first["targets"] == 0 {
		t.Fatalf("trusted is %v", first)
	}
	s.repo.Rotate(metadata.ROOT, 1, tuftest.NewKey(t))
	s.repo.Publish()
	s.refresh(0)
	if got := s.trusted(); got["root"] != 2 || got["timestamp"] <= first["timestamp"] {
		t.Errorf("trusted is %v, was %v", got, first)
	}
}

func TestARefreshThatIsRefusedExitsWith1AndKeepsWhatWasTrusted(t *testing.T) {
	s := newSuite(t)
	s.initialise()
	s.refresh(0)
	before := s.trusted()
	bent := slices.Clone(s.repo.Get("metadata/timestamp.json"))
	bent[len(bent)/2] ^= 1
	s.repo.Put("metadata/timestamp.json", bent)
	s.refresh(1)
	s.wantTrusted(before)
}

func TestAClientWithoutAUsableRootExitsWith1(t *testing.T) {
	s := newSuite(t)
	s.refresh(1)
	bad := filepath.Join(t.TempDir(), "root.json")
	if err := os.WriteFile(bad, []byte(`{"signed":{}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	s.run("init", bad) // the suite lets a client notice it here or at the refresh
	s.refresh(1)
}

func TestDownloadRefreshesFirstAndBringsTheTargets(t *testing.T) {
	s := newSuite(t)
	s.initialise()
	s.repo.Delegate("../delegated role?", "targets", []string{"dir/*"}, 1, tuftest.NewKey(t))
	s.repo.AddTarget(metadata.TARGETS, "a file", []byte("top"))
	s.repo.AddTarget("../delegated role?", "dir/file", []byte("below"))
	s.repo.Publish()
	s.download(0, "a file", "dir/file")
	s.wantDownloaded("top")
	s.wantDownloaded("below")
	if _, err := os.Stat(filepath.Join(filepath.Dir(s.metadata), "delegated role?.json")); err == nil {
		t.Error("a role's name led out of the metadata directory")
	}
	s.download(1, "dir/none")
	s.repo.Put("targets/a file", []byte("other bytes"))
	os.RemoveAll(s.downloads)
	if err := os.Mkdir(s.downloads, 0o755); err != nil {
		t.Fatal(err)
	}
	s.repo.AddTarget(metadata.TARGETS, "a file", []byte("newer"))
	s.repo.Publish()
	s.download(0, "a file")
	s.wantDownloaded("newer")
}

func TestAWrongCommandLineExitsWith1AndSaysWhy(t *testing.T) {
	for _, args := range [][]string{nil, {"refresh"}, {"--metadata-dir"}, {"--metadata-dir", t.TempDir(), "--colour", "red", "refresh"}, {"--metadata-dir", t.TempDir(), "dance"}} {
		if err := run(t.Context(), args); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
}

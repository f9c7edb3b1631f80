package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/integration/lab"
	"github.com/slipway-deploy/slipway/integration/s3"
)

// maxRSS is what the program may hold whatever the size of a payload, in bytes.
const maxRSS = 64_000_000

// TestMemoryIsBoundedWhateverThePayload runs the real program on a payload several times as large as the memory it may take.
// The bound is on the program itself; the race detector would only measure the race detector.
func TestMemoryIsBoundedWhateverThePayload(t *testing.T) {
	for step, peak := range publishPayload(t, 256<<20, nil) {
		t.Logf("%s: peak RSS %.1f MB", step, float64(peak)/1e6)
		if peak > maxRSS {
			t.Errorf("%s took %d MB, at most %d are allowed", step, peak/1_000_000, maxRSS/1_000_000)
		}
	}
}

// BenchmarkFiveGigabytePayload takes a release of 5 GB from the packed directory to a directory and a bucket.
func BenchmarkFiveGigabytePayload(b *testing.B) {
	for b.Loop() {
		for step, peak := range publishPayload(b, 5_000_000_000, func(step string, took, cpu time.Duration) {
			b.ReportMetric(took.Seconds(), step+"-s")
			b.ReportMetric(cpu.Seconds(), step+"-cpu-s")
		}) {
			b.ReportMetric(float64(peak)/1e6, step+"-peak-MB")
			if peak > maxRSS {
				b.Errorf("%s took %d MB", step, peak/1_000_000)
			}
		}
	}
}

// publishPayload takes a release with one archive of size bytes through every step that reads all of it, each a process of its
// own, and returns their peak memory.
func publishPayload(t testing.TB, size int64, report func(step string, took, cpu time.Duration)) map[string]int64 {
	program := filepath.Join(t.TempDir(), "slipway-repo")
	if err := lab.GoBuild(t.Context(), ".", program); err != nil {
		t.Fatal(err)
	}
	ref, _ := s3.Start(t).Bucket(t)
	s := newShell(t)
	s.published()
	s.write("build/data/large", "")
	s.tree()
	if err := os.Truncate("build/data/large", size); err != nil {
		t.Fatal(err)
	}
	peaks := map[string]int64{}
	for _, step := range []struct{ name, line string }{
		{"pack", "release pack build --app billing --version 1.0.0"},
		{"release", "release publish billing 1.0.0 --sign ci"},
		{"publish", "publish"},
		{"directory", "publish --to www"},
		{"bucket", "publish --to " + ref},
		{"verify", "verify --payloads --from " + ref},
	} {
		start := time.Now()
		cmd := exec.Command(program, strings.Fields(step.line)...)
		peaks[step.name] = peakRSS(t, cmd)
		if report != nil {
			report(step.name, time.Since(start), cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		}
		if step.name == "pack" {
			inflate(t, size)
		}
	}
	return peaks
}

// inflate gives the packed release an archive of size bytes, which the publisher only hashes, names and carries.
func inflate(t testing.TB, size int64) {
	t.Helper()
	archive := filepath.Join("billing-1.0.0", archiveIn(t))
	if err := os.Truncate(archive, size); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.Copy(h, in); err != nil {
		t.Fatal(err)
	}
	doc := filepath.Join("billing-1.0.0", "release.json")
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	pin := regexp.MustCompile(`("path":\s*"[^"]*\.tar\.zst",\s*"sha256":\s*)"[0-9a-f]+"(,\s*"length":\s*)[0-9]+`)
	next := pin.ReplaceAllString(string(text), fmt.Sprintf(`${1}"%s"${2}%d`, hex.EncodeToString(h.Sum(nil)), size))
	if next == string(text) {
		t.Fatalf("no archive in %s", text)
	}
	if err := os.WriteFile(doc, []byte(next), 0o644); err != nil {
		t.Fatal(err)
	}
}

func archiveIn(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("billing-1.0.0/*.tar.zst")
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	return filepath.Base(found[0])
}

// peakRSS runs the command and watches its high-water mark. The kernel's own figure for a child that ended begins with the
// memory of the process that started it.
func peakRSS(t testing.TB, cmd *exec.Cmd) int64 {
	t.Helper()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	var peak int64
	for {
		peak = max(peak, highWater(cmd.Process.Pid))
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("%v: %v\n%s", cmd.Args, err, out.String())
			}
			if peak == 0 {
				t.Fatalf("%v: its memory was never seen", cmd.Args)
			}
			return peak
		case <-tick.C:
		}
	}
}

func highWater(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kb, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return 0
	}
	return kb * 1024
}

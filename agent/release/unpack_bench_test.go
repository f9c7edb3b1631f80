package release

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// binaryLike is data that compresses like a stripped executable: words from a small set, with noise between.
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

func benchTree(b *testing.B, name string) string {
	b.Helper()
	dir := b.TempDir()
	if name == "one-30MB-file" {
		check(b, os.WriteFile(filepath.Join(dir, "server"), binaryLike(30<<20, 1), 0o755))
		return dir
	}
	text := strings.Repeat("module.exports = function () { return require('./lib') }\n", 200)
	for i := range 3000 {
		sub := filepath.Join(dir, fmt.Sprintf("package-%02d", i%60), fmt.Sprintf("lib-%04d", i))
		check(b, os.MkdirAll(sub, 0o755))
		for j := range 9 {
			body := fmt.Sprintf("// %d %d\n", i, j) + text[:500+(i*37+j*911)%9000]
			check(b, os.WriteFile(filepath.Join(sub, fmt.Sprintf("file-%d.js", j)), []byte(body), 0o644))
		}
	}
	return dir
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func shell(b *testing.B, script string, args ...string) time.Duration {
	b.Helper()
	start := time.Now()
	out, err := exec.Command("sh", append([]string{"-ec", script, "sh"}, args...)...).CombinedOutput()
	if err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return time.Since(start)
}

func median(times []time.Duration) float64 {
	slices.Sort(times)
	return times[len(times)/2].Seconds()
}

// BenchmarkUnpackAgainstShell runs both peers and Unpack in turn, in a changing order, and reports the ratios of their
// medians. The peers sync the whole filesystem, Unpack by default only its files when they are few: own-syncfs compares
// like with like. Nothing is deleted between runs: creating files is slow just after a mass delete.
func BenchmarkUnpackAgainstShell(b *testing.B) {
	for _, name := range []string{"one-30MB-file", "30000-small-files"} {
		b.Run(name, func(b *testing.B) {
			src, work := benchTree(b, name), b.TempDir()
			archive := filepath.Join(work, "a.tar.zst")
			var packed bytes.Buffer
			m, _, err := Pack(context.Background(), src, must(ParseApp("billing")), must(ParseVersion("1")), must(ParsePlatform("linux/amd64")), &packed)
			check(b, err)
			check(b, os.WriteFile(archive, packed.Bytes(), 0o644))
			n := 0
			fresh := func() string {
				n++
				dir := filepath.Join(work, fmt.Sprint(n))
				check(b, os.Mkdir(dir, 0o755))
				shell(b, `sync -f "$1"`, work)
				return dir
			}
			var own, alike, tar, cp []time.Duration
			unpack := func(mode SyncMode) time.Duration {
				dir := fresh()
				start := time.Now()
				f, err := os.Open(archive)
				check(b, err)
				defer f.Close()
				check(b, Unpack(context.Background(), f, m, dir, UnpackOptions{Sync: mode}))
				return time.Since(start)
			}
			peers := []func(){
				func() { tar = append(tar, shell(b, `zstd -dc "$1" | tar -x -C "$2"; sync -f "$2"`, archive, fresh())) },
				func() { own = append(own, unpack(SyncAuto)) },
				func() { cp = append(cp, shell(b, `cp -a "$1" "$2"; sync -f "$2"`, src, fresh())) },
				func() { alike = append(alike, unpack(SyncFilesystem)) },
			}
			for round := 0; b.Loop(); round++ {
				for i := range peers {
					peers[(round+i)%len(peers)]()
				}
			}
			b.ReportMetric(median(own), "own-s")
			b.ReportMetric(median(own)/median(tar), "own/tar")
			b.ReportMetric(median(own)/median(cp), "own/cp")
			b.ReportMetric(median(alike)/median(tar), "own-syncfs/tar")
		})
	}
}

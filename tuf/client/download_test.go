package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
)

func archive(t testing.TB, repo *tuftest.Repository, size int) (File, []byte) {
	data := make([]byte, size)
	source := rand.NewChaCha8([32]byte{1})
	source.Read(data)
	sum := repo.AddFile("archives/app.tar.zst", data)
	return File{Path: "archives/app.tar.zst", SHA256: hex.EncodeToString(sum[:]), Length: int64(size)}, data
}

func ranges(s *tuftest.Server) (all []string) {
	for _, r := range s.Requests() {
		if strings.HasPrefix(r.Path, "targets/") {
			all = append(all, r.Header.Get("Range"))
		}
	}
	return all
}

func TestABrokenTransferGoesOnWhereItStopped(t *testing.T) {
	repo, _ := billing(t)
	file, data := archive(t, repo, 1<<20)
	s := repo.Serve(tuftest.BreakAfter("app.tar.zst", 300<<10))
	c := newClient(t, repo, mirrors(s))
	var out bytes.Buffer
	last := int64(0)
	err := c.Fetch(context.Background(), file, &out, func(done int64) {
		if done <= last {
			t.Error("progress went back")
		}
		last = done
	})
	if err != nil || !bytes.Equal(out.Bytes(), data) || last != file.Length {
		t.Fatal(err, out.Len(), last)
	}
	if got := ranges(s); len(got) != 4 || got[0] != "" || !strings.HasPrefix(got[1], "bytes=") {
		t.Fatal(got)
	}
}

func TestABrokenTransferGoesOnAtAnotherMirror(t *testing.T) {
	repo, _ := billing(t)
	file, data := archive(t, repo, 1<<20)
	for name, second := range map[string]*tuftest.Server{"with ranges": repo.Serve(), "without ranges": repo.Serve(tuftest.NoRanges("app.tar.zst"))} {
		first := repo.Serve(tuftest.BreakAfter("app.tar.zst", 300<<10))
		c := newClient(t, repo, mirrors(first, second))
		var out bytes.Buffer
		if err := c.Fetch(context.Background(), file, &out, nil); err != nil || !bytes.Equal(out.Bytes(), data) {
			t.Fatal(name, err)
		}
		if got := ranges(second); len(got) != 1 || got[0] == "" {
			t.Fatal(name, got)
		}
	}
}

func TestAMirrorThatBreaksOffAfterEachByteIsGivenUp(t *testing.T) {
	repo, _ := billing(t)
	file, _ := archive(t, repo, 1<<20)
	s := repo.Serve(tuftest.BreakAfter("app.tar.zst", 1))
	refused[*ErrNetwork](t, newClient(t, repo, mirrors(s)).Fetch(context.Background(), file, io.Discard, nil))
	if n := len(s.Requests()); n > 4 {
		t.Fatal(n)
	}
}

func TestADownloadContinuesAPartLeftByAnEarlierRun(t *testing.T) {
	repo, _ := billing(t)
	file, data := archive(t, repo, 1<<20)
	dest := filepath.Join(t.TempDir(), "app")
	write(t, dest+".part", data[:700<<10])
	c := newClient(t, repo)
	if err := c.Download(context.Background(), file, dest, nil); err != nil {
		t.Fatal(err)
	}
	if got := ranges(repo.Server()); len(got) != 1 || got[0] != "bytes=716800-" {
		t.Fatal(got)
	}
	if got, err := os.ReadFile(dest); err != nil || !bytes.Equal(got, data) {
		t.Fatal(err)
	}
	if err := c.Download(context.Background(), file, dest, nil); err != nil || len(ranges(repo.Server())) != 0 {
		t.Fatal("a file that is there was fetched again", err)
	}
}

func TestADownloadWithAWrongPartOrAWrongMirrorStartsAnewAndNeverShowsWrongBytes(t *testing.T) {
	repo, _ := billing(t)
	file, data := archive(t, repo, 1<<20)
	evil := repo.Serve(tuftest.Replace("app.tar.zst", bytes.Repeat([]byte("e"), 1<<20)))
	for name, part := range map[string][]byte{"foreign": bytes.Repeat([]byte("x"), 1000), "too long": make([]byte, 2<<20), "complete but wrong": make([]byte, 1<<20), "none": nil} {
		dest := filepath.Join(t.TempDir(), "app")
		write(t, dest+".part", part)
		c := newClient(t, repo, mirrors(evil, repo.Server()))
		if err := c.Download(context.Background(), file, dest, nil); err != nil {
			t.Fatal(name, err)
		}
		if got, err := os.ReadFile(dest); err != nil || !bytes.Equal(got, data) {
			t.Fatal(name, err)
		}
	}
	dest := filepath.Join(t.TempDir(), "app")
	refused[*ErrCorrupt](t, newClient(t, repo, mirrors(evil)).Download(context.Background(), file, dest, nil))
	if left, _ := os.ReadDir(filepath.Dir(dest)); len(left) != 0 {
		t.Fatal("a refused download left files", left)
	}
}

func TestAFullDiskIsNotBlamedOnTheMirror(t *testing.T) {
	repo, _ := billing(t)
	file, _ := archive(t, repo, 1<<20)
	c := newClient(t, repo)
	full := errors.New("no space left on device")
	if err := c.Fetch(context.Background(), file, failing{full}, nil); !errors.Is(err, full) {
		t.Fatal(err)
	}
	if c.mirrors.faults[0] != 0 {
		t.Fatal("the mirror was demoted")
	}
}

type failing struct{ error }

func (f failing) Write([]byte) (int, error) { return 0, f.error }

func TestATransferIsRetriedOnlyWhereThatCanHelp(t *testing.T) {
	repo, _ := billing(t)
	file, _ := archive(t, repo, 1000)
	for status, want := range map[int]int{http.StatusServiceUnavailable: 2, http.StatusTooManyRequests: 2, http.StatusNotFound: 1, http.StatusUnauthorized: 1} {
		s := repo.Serve(tuftest.Hide("app.tar.zst", status))
		e := refused[*ErrNetwork](t, newClient(t, repo, mirrors(s)).Fetch(context.Background(), file, io.Discard, nil))
		if n := len(s.Requests()); n != want || e.Status != status {
			t.Errorf("%d: %d requests, %v", status, n, e)
		}
	}
	s := repo.Serve(tuftest.Fails("app.tar.zst", 1, 503))
	if err := newClient(t, repo, mirrors(s)).Fetch(context.Background(), file, io.Discard, nil); err != nil {
		t.Fatal(err)
	}
}

func TestADigestThatCannotBeCheckedIsRefused(t *testing.T) {
	repo, _ := billing(t)
	for _, f := range []File{{Path: "a", Length: 1}, {Path: "a", SHA256: "00", Length: 1}} {
		refused[*ErrCorrupt](t, newClient(t, repo).Fetch(context.Background(), f, io.Discard, nil))
	}
}

// zeroes is a target too large to hold, as a function of the offset.
type zeroes struct{ size, at int64 }

func (z *zeroes) Read(p []byte) (int, error) {
	if z.at >= z.size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.size-z.at)
	clear(p[:n])
	z.at += n
	return int(n), nil
}

func TestABigTargetStaysUnderAMemoryCeiling(t *testing.T) {
	const size = 512 << 20
	sum := sha256.New()
	if _, err := io.Copy(sum, &zeroes{size: size}); err != nil {
		t.Fatal(err)
	}
	file := File{Path: "big", SHA256: hex.EncodeToString(sum.Sum(nil)), Length: size}
	repo, _ := billing(t)
	s := repo.Serve(tuftest.On("big", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "536870912")
		if _, err := io.Copy(w, &zeroes{size: size}); err != nil {
			t.Log(err)
		}
	}))
	c := newClient(t, repo, mirrors(s))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := c.Download(context.Background(), file, filepath.Join(t.TempDir(), "big"), nil); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if total := after.TotalAlloc - before.TotalAlloc; total > 4<<20 {
		t.Fatalf("%d bytes were allocated for a target of %d", total, size)
	}
}

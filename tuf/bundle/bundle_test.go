package bundle

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func file(name, content string) File {
	return File{name, int64(len(content)), func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }}
}

func made(t testing.TB, files ...File) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, Info{Environments: []string{"production"}}, files); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func small(t testing.TB) []byte {
	long := "targets/releases/billing/1.0.0/" + strings.Repeat("ab", 100) + ".json" // needs an extended header
	return made(t, file("metadata/1.root.json", "root"), file("metadata/timestamp.json", "stamp"), file(long, strings.Repeat("payload", 300)))
}

func read(data []byte) (*Index, error) { return Read(bytes.NewReader(data), int64(len(data))) }

func TestWhatWasWrittenIsFoundWhereItLies(t *testing.T) {
	data := small(t)
	x, err := read(data)
	if err != nil {
		t.Fatal(err)
	}
	if len(x.Names()) != 3 || x.Info.String() != "environment production; all apps; all platforms" {
		t.Error(x.Names(), x.Info)
	}
	start, size, ok := x.Find("metadata/timestamp.json")
	if !ok || string(data[start:start+size]) != "stamp" {
		t.Error(start, size, ok)
	}
	if start, size, _ = x.Find(x.Names()[2]); string(data[start:start+size]) != strings.Repeat("payload", 300) {
		t.Error("another payload")
	}
	if _, _, ok := x.Find("metadata/2.root.json"); ok {
		t.Error("found what is not there")
	}
	if !bytes.Equal(data, small(t)) {
		t.Error("the same content gives other bytes")
	}
}

func TestEveryBeginningOfABundleIsIncompleteAndNeverAnythingElse(t *testing.T) {
	data := small(t)
	for n := range len(data) {
		var incomplete *IncompleteError
		if _, err := read(data[:n]); !errors.As(err, &incomplete) {
			t.Fatalf("the first %d of %d bytes: %v", n, len(data), err)
		}
	}
}

func TestACopyThatHasItsFinalLengthBeforeItsContentIsIncomplete(t *testing.T) {
	data := small(t)
	for n := 0; n < len(data)-2*blockSize; n += blockSize {
		copied := append(slices.Clone(data[:n]), make([]byte, len(data)-n)...)
		x, err := read(copied)
		if err == nil && len(x.Names()) == 3 {
			continue // only content is missing, which its digest shows
		}
		var incomplete *IncompleteError
		torn := bytes.HasPrefix(data[max(0, n-blockSize):], []byte("bundle.json")) || bytes.Contains(data[max(0, n-blockSize):n], []byte("PaxHeaders"))
		if err == nil || !errors.As(err, &incomplete) && !torn { // torn: zeros where a text must be
			t.Fatalf("%d bytes copied: %v", n, err)
		}
	}
}

// forged is a tar by the standard library with whatever headers a test wants.
func forged(t testing.TB, announced int, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	info := `{"schema":"slipway.bundle/v1","files":` + string(rune('0'+announced)) + `,"bytes":0}`
	headers = append([]*tar.Header{{Name: infoName, Size: int64(len(info)), Mode: 0o644}}, headers...)
	for i, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			io.WriteString(w, info)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHostileBundlesAreRefusedByName(t *testing.T) {
	plain := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeReg, Name: name} }
	good := small(t)
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"upward":         {forged(t, 1, plain("metadata/../../etc/passwd")), "clean relative path"},
		"absolute":       {forged(t, 1, plain("/etc/passwd")), "clean relative path"},
		"not clean":      {forged(t, 1, plain("metadata//x")), "clean relative path"},
		"a control byte": {forged(t, 1, plain("metadata/a\nb")), "clean relative path"},
		"elsewhere":      {forged(t, 1, plain("etc/passwd")), "neither in metadata/ nor in targets/"},
		"twice":          {forged(t, 2, plain("metadata/a"), plain("metadata/a")), "twice"},
		"out of order":   {forged(t, 2, plain("targets/a"), plain("metadata/a")), "after payloads"},
		"more":           {forged(t, 1, plain("metadata/a"), plain("metadata/b")), "more than the 1 files"},
		"a link":         {forged(t, 1, &tar.Header{Typeflag: tar.TypeSymlink, Name: "metadata/a", Linkname: "/etc/passwd"}), "not a plain file"},
		"a hard link":    {forged(t, 1, &tar.Header{Typeflag: tar.TypeLink, Name: "metadata/a", Linkname: "bundle.json"}), "not a plain file"},
		"a directory":    {forged(t, 1, &tar.Header{Typeflag: tar.TypeDir, Name: "metadata/a/"}), "not a plain file"},
		"a device":       {forged(t, 1, &tar.Header{Typeflag: tar.TypeChar, Name: "metadata/a"}), "not a plain file"},
		"foreign fields": {forged(t, 1, &tar.Header{Typeflag: tar.TypeReg, Name: "metadata/a", PAXRecords: map[string]string{"VENDOR.x": "y"}}), "extended field"},
		"holes":          {bytes.Replace(forged(t, 1, plain("metadata/a")), []byte("metadata/a"), []byte("\x00etadata/a"), 1), "not a bundle"},
		"a long name":    {forged(t, 1, plain("targets/"+strings.Repeat("a/", 300)+"a")), "at most 512"},
		"GNU's form":     {forged(t, 1, &tar.Header{Typeflag: tar.TypeReg, Name: "metadata/a", Format: tar.FormatGNU}), "not a plain file"},
		"more bytes":     {append(slices.Clone(good), 0), "1 bytes follow its end"},
		"another length": {bytes.Replace(good, []byte(`"bytes":2109`), []byte(`"bytes":2108`), 1), "announces 2108"},
		"another file":   {[]byte(strings.Repeat("an ordinary text\n", 100)), "not a bundle"},
		"another schema": {bytes.Replace(good, []byte("bundle/v1"), []byte("bundle/v9"), 1), "this version reads"},
		"another key":    {bytes.Replace(good, []byte(`"files"`), []byte(`"fiels"`), 1), "unknown field"},
		"another start":  {bytes.Replace(good, []byte("bundle.json"), []byte("bundle.jsox"), 1), "not a bundle"},
	} {
		_, err := read(c.data)
		var bad *MalformedError
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestAPipeOrADirectoryIsRefusedWithoutWaitingForIt(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, pipe} {
		var bad *MalformedError
		if _, _, err := Open(path); !errors.As(err, &bad) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestAFileThatShrinksWhileItIsPackedIsAnError(t *testing.T) {
	short := file("metadata/1.root.json", "root")
	short.Size++
	if err := Write(io.Discard, Info{}, []File{short}); err == nil {
		t.Error("no error")
	}
	if err := Write(io.Discard, Info{}, []File{file("../x", "")}); err == nil {
		t.Error("no error for a name that leads out")
	}
}

// FuzzRead hands arbitrary bytes to the reader. Whatever it accepts lies inside the file, under clean names, none overlapping.
func FuzzRead(f *testing.F) {
	good := small(f)
	f.Add(good)
	for _, n := range []int{0, 100, blockSize, 2 * blockSize, len(good) / 2, len(good) - blockSize} {
		f.Add(good[:n])
	}
	f.Add(forged(f, 2, &tar.Header{Typeflag: tar.TypeReg, Name: "metadata/a"}, &tar.Header{Typeflag: tar.TypeReg, Name: "metadata/a"}))
	f.Add(forged(f, 1, &tar.Header{Typeflag: tar.TypeSymlink, Name: "metadata/a", Linkname: "../b"}))
	f.Add(forged(f, 1, &tar.Header{Typeflag: tar.TypeReg, Name: "targets/../../a"}))
	f.Add(bytes.Replace(good, []byte("00000000004\x00"), []byte("77777777777\x00"), -1))
	f.Add(bytes.Replace(good, []byte("path="), []byte("size="), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := read(data)
		if err != nil {
			var incomplete *IncompleteError
			var bad *MalformedError
			if !errors.As(err, &incomplete) && !errors.As(err, &bad) {
				t.Fatalf("%T %v", err, err)
			}
			return
		}
		end := int64(0)
		for _, name := range x.Names() {
			start, size, ok := x.Find(name)
			if !ok || checkName(name) != nil || start < end+blockSize || size < 0 || start+size > int64(len(data)) {
				t.Fatal(name, start, size, end)
			}
			end = start + size
		}
	})
}

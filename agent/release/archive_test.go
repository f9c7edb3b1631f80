package release

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// treeFiles is a small tree: names ending in / are directories, values starting with -> are links.
var treeFiles = map[string]string{
	"bin/": "", "bin/server": "#!/bin/true\n", "a": "1", "a-b/": "", "a-b/x": "2", "empty": "", "units/": "", "units/billing.service": "[Service]\n",
	"lib/": "", "lib/deep/": "", "lib/deep/big": strings.Repeat("0123456789abcdef", 80<<10/4), "lib/cur": "->deep/big", "top": "->bin/server", "lib/deep/up": "->../../empty",
}

func writeTree(t testing.TB, dir string, order []string, mtime time.Time) {
	t.Helper()
	for _, name := range order {
		body := treeFiles[name]
		at := filepath.Join(dir, name)
		check(t, os.MkdirAll(filepath.Dir(at), 0o755))
		target, link := strings.CutPrefix(body, "->")
		switch {
		case strings.HasSuffix(name, "/"):
			check(t, os.MkdirAll(at, 0o755))
		case link:
			check(t, os.Symlink(target, at))
		default:
			mode := os.FileMode(0o640)
			if strings.HasPrefix(name, "bin/") {
				mode = 0o755
			}
			check(t, os.WriteFile(at, []byte(body), mode))
			check(t, os.Chtimes(at, mtime, mtime))
		}
	}
}

func treeNames() []string {
	var names []string
	for name := range treeFiles {
		names = append(names, name)
	}
	return names
}

func pack(t testing.TB, dir string) (*Manifest, PackInfo, []byte) {
	t.Helper()
	var out bytes.Buffer
	m, info, err := Pack(context.Background(), dir, testApp, testVersion, testAMD64, &out)
	check(t, err)
	return m, info, out.Bytes()
}

func samplePack(t testing.TB) (*Manifest, PackInfo, []byte) {
	t.Helper()
	dir := t.TempDir()
	writeTree(t, dir, treeNames(), testTime)
	return pack(t, dir)
}

func TestTheSameTreePacksToTheSameBytes(t *testing.T) {
	m, info, first := samplePack(t)
	for seed := range int64(3) {
		names := treeNames()
		rand.New(rand.NewSource(seed)).Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		dir := t.TempDir()
		writeTree(t, dir, names, testTime.Add(time.Duration(seed)*time.Hour))
		old := runtime.GOMAXPROCS(int(seed) + 1)
		_, again, data := pack(t, dir)
		runtime.GOMAXPROCS(old)
		if !bytes.Equal(first, data) || again != info {
			t.Fatal("another order of creation gives other bytes")
		}
	}
	if info.Digest != Sum(first) || info.Length != int64(len(first)) || info.Files != int64(len(m.Entries)) {
		t.Errorf("info %+v", info)
	}
}

func TestPlainTarReadsWhatPackWrites(t *testing.T) {
	m, _, data := samplePack(t)
	dir := t.TempDir()
	cmd := exec.Command("tar", "--zstd", "-x", "-p", "-C", dir)
	cmd.Stdin = bytes.NewReader(data)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if found, err := VerifyTree(context.Background(), m, dir, nil); err != nil || len(found) > 0 {
		t.Errorf("%v %v", found, err)
	}
}

func TestPackRefusesWhatAReleaseCannotHold(t *testing.T) {
	for want, make := range map[string]func(dir string) error{
		"is a fifo":   func(dir string) error { return syscall.Mkfifo(dir+"/x", 0o644) },
		"is a socket": func(dir string) error { return syscall.Mknod(dir+"/x", syscall.S_IFSOCK|0o644, 0) },
		"set-user-id": func(dir string) error {
			return errors.Join(os.WriteFile(dir+"/x", nil, 0o755), os.Chmod(dir+"/x", 0o755|os.ModeSetuid))
		},
		"absolute path":      func(dir string) error { return os.Symlink("/etc/passwd", dir+"/x") },
		"leads out":          func(dir string) error { return os.Symlink("../x", dir+"/x") },
		"control character":  func(dir string) error { return os.WriteFile(dir+"/a\nb", nil, 0o644) },
		"not UTF-8":          func(dir string) error { return os.WriteFile(dir+"/a\xff", nil, 0o644) },
		"directory is empty": func(string) error { return nil },
	} {
		dir := t.TempDir()
		check(t, make(dir))
		_, _, err := Pack(context.Background(), dir, testApp, testVersion, testAMD64, io.Discard)
		var refused *TreeError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestUnpackRebuildsTheTreeWhateverTheUmask(t *testing.T) {
	m, info, data := samplePack(t)
	for _, mask := range []int{0o022, 0o077, 0} {
		for _, mode := range []SyncMode{SyncAuto, SyncFilesystem, SyncNone} {
			dir := t.TempDir()
			old := syscall.Umask(mask)
			var last int64
			err := Unpack(context.Background(), bytes.NewReader(data), m, dir, UnpackOptions{Sync: mode, Progress: func(n int64) { last = n }})
			syscall.Umask(old)
			check(t, err)
			if found, err := VerifyTree(context.Background(), m, dir, nil); err != nil || len(found) > 0 {
				t.Errorf("umask %o: %v %v", mask, found, err)
			}
			if last != info.Unpacked {
				t.Errorf("progress ended at %d of %d", last, info.Unpacked)
			}
		}
	}
}

// hostile is an archive written entry by entry, with headers as they come.
func hostile(t testing.TB, build func(w *tar.Writer)) []byte {
	t.Helper()
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	build(w)
	check(t, w.Close())
	return compress(t, raw.Bytes())
}

func compress(t testing.TB, raw []byte, o ...zstd.EOption) []byte {
	t.Helper()
	var out bytes.Buffer
	z := must(zstd.NewWriter(&out, o...))
	must(z.Write(raw))
	check(t, z.Close())
	return out.Bytes()
}

func put(w *tar.Writer, h tar.Header, body string) {
	if h.Typeflag == 0 {
		h.Typeflag = tar.TypeReg
	}
	if h.Size == 0 {
		h.Size = int64(len(body))
	}
	if err := w.WriteHeader(&h); err != nil {
		panic(err)
	}
	_, _ = io.WriteString(w, body)
}

// oneFile is the manifest that every hostile archive pretends to fulfil: directory d with file d/f of five bytes.
func oneFile() *Manifest {
	sum := Sum([]byte("hello"))
	return &Manifest{Schema: ManifestSchema, App: testApp, Version: testVersion, Platform: testAMD64, Entries: []Entry{
		{Path: "d", Type: TypeDir, Mode: ModeDir}, {Path: "d/f", Type: TypeFile, Mode: ModeFile, Size: 5, SHA256: &sum},
	}}
}

func TestUnpackRefusesHostileArchives(t *testing.T) {
	d := tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o555}
	f := tar.Header{Name: "d/f", Mode: 0o444}
	with := func(h tar.Header, change func(*tar.Header)) tar.Header { change(&h); return h }
	second := func(h tar.Header, body string) func(w *tar.Writer) {
		return func(w *tar.Writer) { put(w, d, ""); put(w, h, body) }
	}
	named := func(name string) func(w *tar.Writer) {
		return second(with(f, func(h *tar.Header) { h.Name = name }), "hello")
	}
	typed := func(kind byte, link string) func(w *tar.Writer) {
		return func(w *tar.Writer) {
			put(w, d, "")
			check(t, w.WriteHeader(&tar.Header{Typeflag: kind, Name: "d/f", Mode: 0o444, Linkname: link}))
		}
	}
	for what, c := range map[string]struct {
		build func(w *tar.Writer)
		want  string
	}{
		"absolute":       {named("/etc/cron.d/x"), "where the manifest has"},
		"climbing":       {named("d/../../f"), "where the manifest has"},
		"dot":            {named("./d/f"), "where the manifest has"},
		"extra in front": {named("d/e"), "where the manifest has"},
		"symlink out":    {typed(tar.TypeSymlink, "/etc/passwd"), "of tar type"},
		"write through a symlink": {func(w *tar.Writer) {
			check(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "d", Linkname: "/tmp"}))
			put(w, f, "hello")
		}, "where the manifest has"},
		"hard link":   {typed(tar.TypeLink, "/etc/shadow"), "of tar type"},
		"device":      {typed(tar.TypeChar, ""), "of tar type"},
		"fifo":        {typed(tar.TypeFifo, ""), "of tar type"},
		"setuid":      {second(with(f, func(h *tar.Header) { h.Mode = 0o4444 }), "hello"), "mode 4444"},
		"writable":    {second(with(f, func(h *tar.Header) { h.Mode = 0o666 }), "hello"), "mode 0666"},
		"longer":      {second(f, "hello!"), "has 6 bytes, the manifest says 5"},
		"shorter":     {second(f, "hell"), "has 4 bytes"},
		"other bytes": {second(f, "HELLO"), "content is not what"},
		"attributes": {second(with(f, func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "x"}
			h.Format = tar.FormatPAX
		}), "hello"), "extended attribute"},
		"missing": {func(w *tar.Writer) { put(w, d, "") }, "ends before it"},
		"twice":   {func(w *tar.Writer) { put(w, d, ""); put(w, f, "hello"); put(w, f, "hello") }, "manifest does not have it"},
		"extra": {func(w *tar.Writer) {
			put(w, d, "")
			put(w, f, "hello")
			put(w, with(f, func(h *tar.Header) { h.Name = "z" }), "x")
		}, "manifest does not have it"},
		"global header": {func(w *tar.Writer) {
			check(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "x"}}))
		}, "where the manifest has"},
	} {
		refusesArchive(t, what, hostile(t, c.build), c.want)
	}
}

func refusesArchive(t *testing.T, what string, data []byte, want string) {
	t.Helper()
	parent := t.TempDir()
	dir := filepath.Join(parent, "in")
	check(t, os.Mkdir(dir, 0o755))
	err := Unpack(context.Background(), bytes.NewReader(data), oneFile(), dir, UnpackOptions{})
	var refused *ArchiveError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: want %q, got %v", what, want, err)
	}
	if names := must(os.ReadDir(parent)); len(names) != 1 {
		t.Errorf("%s: something was written beside the directory", what)
	}
	check(t, filepath.Walk(dir, func(p string, info os.FileInfo, err error) error {
		if rel, _ := filepath.Rel(dir, p); rel != "." && rel != "d" && rel != "d/f" {
			t.Errorf("%s: %s was written", what, rel)
		}
		return err
	}))
}

func goodTar(t testing.TB) []byte {
	t.Helper()
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	put(w, tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o555}, "")
	put(w, tar.Header{Name: "d/f", Mode: 0o444}, "hello")
	check(t, w.Close())
	return raw.Bytes()
}

func TestUnpackRefusesHostileStreams(t *testing.T) {
	raw := goodTar(t)
	good := compress(t, raw)
	check(t, Unpack(context.Background(), bytes.NewReader(good), oneFile(), t.TempDir(), UnpackOptions{}))
	refusesArchive(t, "cut", good[:len(good)/2], "cut short")
	refusesArchive(t, "empty", nil, "the archive ends before it")
	refusesArchive(t, "no zstd", raw, "damaged")
	refusesArchive(t, "data after the end", compress(t, append(bytes.Clone(raw), "more"...)), "follows the end")
	refusesArchive(t, "zeros after the end", compress(t, append(bytes.Clone(raw), make([]byte, 64<<20)...)), "data follows the end")
	refusesArchive(t, "second frame", append(bytes.Clone(good), good...), "follows the end")
	refusesArchive(t, "huge window", compress(t, append(bytes.Clone(raw), make([]byte, 200<<20)...), zstd.WithWindowSize(128<<20)), "window is above")
	refusesArchive(t, "pax bomb", compress(t, paxBomb(900<<10)), "more than its manifest allows")
	refusesArchive(t, "sparse", compress(t, sparseTar(t)), "d/f")
	flipped := bytes.Clone(good)
	flipped[len(flipped)-2] ^= 1
	refusesArchive(t, "broken checksum", flipped, "damaged")
}

// paxBomb is an extended header that names nothing but is long.
func paxBomb(size int) []byte {
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o555, Format: tar.FormatPAX,
		PAXRecords: map[string]string{"SLIPWAY.bomb": strings.Repeat("x", size)}})
	_ = w.Close()
	return raw.Bytes()
}

// sparseTar says by a GNU extension that d/f is sparse.
func sparseTar(t *testing.T) []byte {
	t.Helper()
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	put(w, tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o555}, "")
	at := raw.Len()
	put(w, tar.Header{Name: "d/f", Mode: 0o444, Format: tar.FormatGNU}, "hello")
	check(t, w.Close())
	block := raw.Bytes()[at : at+512]
	block[156] = tar.TypeGNUSparse
	copy(block[483:], "00000000005\x00")
	copy(block[386:], "00000000000\x0000000000005\x00")
	copy(block[148:156], "        ")
	sum := 0
	for _, b := range block {
		sum += int(b)
	}
	copy(block[148:], []byte(strings.Repeat("0", 6-len(octal(sum)))+octal(sum)+"\x00 "))
	return raw.Bytes()
}

func octal(n int) string {
	s := ""
	for ; n > 0; n /= 8 {
		s = string(rune('0'+n%8)) + s
	}
	return s
}

func TestUnpackWantsAnEmptyDirectoryAndAnUnbrokenReader(t *testing.T) {
	m, _, data := samplePack(t)
	dir := t.TempDir()
	check(t, os.WriteFile(dir+"/x", nil, 0o644))
	if err := Unpack(context.Background(), bytes.NewReader(data), m, dir, UnpackOptions{}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Error(err)
	}
	broken := errors.New("the network is gone")
	err := Unpack(context.Background(), io.MultiReader(bytes.NewReader(data[:len(data)/2]), &failing{broken}), m, t.TempDir(), UnpackOptions{})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	err = Unpack(ctx, bytes.NewReader(data), m, t.TempDir(), UnpackOptions{Progress: func(int64) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func TestAFullDiskIsVisibleToTheCaller(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=256k"); err != nil {
		if os.Geteuid() == 0 && !errors.Is(err, syscall.EPERM) {
			t.Fatal(err)
		}
		t.Skipf("cannot mount a small filesystem here: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	check(t, os.Mkdir(dir+"/in", 0o755))
	m, _, data := samplePack(t)
	if err := Unpack(context.Background(), bytes.NewReader(data), m, dir+"/in", UnpackOptions{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
}

func TestVerifyNamesEveryDifference(t *testing.T) {
	m, _, data := samplePack(t)
	dir := t.TempDir()
	check(t, Unpack(context.Background(), bytes.NewReader(data), m, dir, UnpackOptions{}))
	at := func(p string) string { return filepath.Join(dir, p) }
	check(t, filepath.Walk(dir, func(p string, info os.FileInfo, err error) error {
		if info.IsDir() {
			return os.Chmod(p, 0o755)
		}
		return err
	}))
	check(t, errors.Join(
		os.Remove(at("empty")), os.WriteFile(at("extra"), nil, 0o644), os.Chmod(at("a"), 0o4755), os.Remove(at("top")), os.Symlink("bin", at("top")),
		os.Chmod(at("bin/server"), 0o755), os.WriteFile(at("bin/server"), []byte("#!/bin/evil\n"), 0o755), os.Remove(at("units/billing.service")),
		os.Symlink("../a", at("units/billing.service")), os.Chmod(at("a-b/x"), 0o644), os.WriteFile(at("a-b/x"), []byte("22"), 0o644)))
	found, err := VerifyTree(context.Background(), m, dir, nil)
	check(t, err)
	got := map[string]string{}
	for _, d := range found {
		if d.What != "mode" {
			got[d.Path] = d.What
		}
	}
	want := map[string]string{"empty": "missing", "extra": "extra", "top": "target", "bin/server": "content", "units/billing.service": "type", "a-b/x": "size"}
	if len(got) != len(want) {
		t.Errorf("got %v", found)
	}
	for path, what := range want {
		if got[path] != what {
			t.Errorf("%s: got %q, want %q", path, got[path], what)
		}
	}
	quick := must(VerifyQuick(context.Background(), m, dir))
	if len(quick) != len(found) {
		t.Errorf("the quick look missed something: %v against %v", quick, found)
	}
}

func TestUnpackMemoryDoesNotGrowWithTheArchive(t *testing.T) {
	const size = 192 << 20
	var raw bytes.Buffer
	z := must(zstd.NewWriter(&raw, zstd.WithWindowSize(packWindow)))
	w := tar.NewWriter(z)
	check(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o444, Size: size}))
	sum, block := sha256.New(), make([]byte, 1<<20)
	for i := range size >> 20 {
		binary.LittleEndian.PutUint64(block, uint64(i))
		sum.Write(block)
		must(w.Write(block))
	}
	check(t, errors.Join(w.Close(), z.Close()))
	digest := DigestOf([32]byte(sum.Sum(nil)))
	m := oneFile()
	m.Entries = []Entry{{Path: "f", Type: TypeFile, Mode: ModeFile, Size: size, SHA256: &digest}}
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var peak uint64
	check(t, Unpack(context.Background(), &raw, m, t.TempDir(), UnpackOptions{Sync: SyncNone, Progress: func(n int64) {
		if n%(16<<20) == 0 {
			runtime.ReadMemStats(&now)
			peak = max(peak, now.HeapAlloc)
		}
	}}))
	if grown := int64(peak) - int64(before.HeapAlloc); grown > 48<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

func FuzzUnpack(f *testing.F) {
	raw := goodTar(f)
	f.Add(raw, true)
	f.Add(compress(f, raw), false)
	f.Fuzz(func(t *testing.T, data []byte, wrap bool) {
		if wrap {
			data = compress(t, data)
		}
		dir := t.TempDir()
		if Unpack(context.Background(), bytes.NewReader(data), oneFile(), dir, UnpackOptions{Sync: SyncNone}) != nil {
			return
		}
		if found, err := VerifyTree(context.Background(), oneFile(), dir, nil); err != nil || len(found) > 0 {
			t.Fatalf("accepted, yet %v %v", found, err)
		}
	})
}

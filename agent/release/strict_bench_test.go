package release

import (
	"fmt"
	"testing"
)

// manyEntries is a manifest shaped like a node_modules tree.
func manyEntries(tb testing.TB, n int) *Manifest {
	tb.Helper()
	m := &Manifest{Schema: ManifestSchema, App: must(ParseApp("billing")), Version: must(ParseVersion("1.0.0")), Platform: must(ParsePlatform("linux/amd64"))}
	for i := 0; len(m.Entries) < n; i++ {
		dir := fmt.Sprintf("package-%05d", i)
		m.Entries = append(m.Entries, Entry{Path: dir, Type: TypeDir, Mode: ModeDir})
		for j := 0; j < 40 && len(m.Entries) < n; j++ {
			path := fmt.Sprintf("%s/module-with-a-name-%02d.js", dir, j)
			sum := Sum([]byte(path))
			m.Entries = append(m.Entries, Entry{Path: path, Type: TypeFile, Mode: ModeFile, Size: int64(j), SHA256: &sum})
		}
	}
	return m
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func BenchmarkParseManifestOf30000Entries(b *testing.B) {
	data := must(Encode(manyEntries(b, 30000)))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseManifest(data); err != nil {
			b.Fatal(err)
		}
	}
}

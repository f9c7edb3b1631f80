package main

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"math/rand"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func noise(n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(1)).Read(b)
	return b
}

func zipOf(t *testing.T, method uint16) string {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.CreateHeader(&zip.FileHeader{Name: "x", Method: method})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(noise(adviceFrom)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestReleasesAreCheckedForWhatMakesLaterUpdatesLarge(t *testing.T) {
	s := newShell(t)
	s.tree()
	s.expect(0, "release check build", "nothing to warn of")

	s.write("go.mod", "module x\n\ngo 1.24\n")
	s.write("x.go", "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println() }\n")
	for name, flags := range map[string]string{"packed": "-compressdwarf=true", "plain": "-compressdwarf=false"} {
		cmd := exec.Command("go", "build", "-ldflags="+flags, "-o", "build/bin/"+name, "x.go")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	if _, err := w.Write(noise(adviceFrom)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s.write("build/data.gz", gz.String())
	s.write("build/small.gz", gz.String()[:100])
	s.write("build/app.jar", zipOf(t, zip.Deflate))
	s.write("build/stored.jar", zipOf(t, zip.Store))
	s.write("build/upx", "\x7fELF"+strings.Repeat("\x00", 100)+"UPX!"+string(noise(adviceFrom)))

	want := []string{"bin/packed (", "compressed debug sections of ", "-ldflags=-compressdwarf=false", "data.gz (", "is packed with gzip",
		"app.jar (", "is a zip with 1 packed entries", "upx (", "is packed with UPX"}
	s.expect(1, "release check build", append(want, "4 files make later updates larger")...)
	for _, fine := range []string{"bin/plain", "small.gz", "stored.jar", "bin/billing"} {
		if strings.Contains(s.out, fine) {
			t.Errorf("it warns of %s:\n%s", fine, s.out)
		}
	}
	s.expect(0, "release pack build --app billing --version 1.0.0", append(want, "warning: later updates will be large: ")...)
	s.expect(1, "release check billing-1.0.0", append(want, "linux/")...)
	s.expect(1, "release check nowhere", "cannot check nowhere")
}

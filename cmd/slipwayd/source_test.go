package main

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/client"
	"github.com/slipway-deploy/slipway/tuf/tuftest"
)

// A flipped bit shows itself in a file of the archive long before the archive's end, yet it is the mirror's doing and not the
// publisher's, and the next attempt asks another mirror.
func TestAMirrorThatBendsAnArchiveIsBlamedAndTheNextAttemptAsksAnother(t *testing.T) {
	tree := t.TempDir()
	// What does not compress packs to the same length when a bit flips.
	data := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{1}).Read(data)
	for _, name := range []string{"bent", "long/after/it"} {
		path := filepath.Join(tree, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	app, aerr := release.ParseApp("harbor")
	version, verr := release.ParseVersion("1.0.0")
	platform, perr := release.ParsePlatform("linux/amd64")
	if err := errors.Join(aerr, verr, perr); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	m, _, err := release.Pack(t.Context(), tree, app, version, platform, &archive)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := release.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	r := tuftest.New(t)
	artifact := release.Artifact{Unpacked: 1 << 30, Files: 1 << 10}
	for path, f := range map[string]struct {
		data []byte
		to   *release.File
	}{"harbor/tree.tar.zst": {archive.Bytes(), &artifact.Archive}, "harbor/tree.manifest.json": {manifest, &artifact.Manifest}} {
		*f.to = release.File{Path: path, Length: int64(len(f.data)), SHA256: release.Sum(f.data)}
		r.AddFile(path, f.data)
	}
	r.Publish()
	// Another valid archive of the same shape: only its content is wrong.
	data[1000] ^= 1
	if err := os.WriteFile(filepath.Join(tree, "bent"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	var bent bytes.Buffer
	if _, _, err := release.Pack(t.Context(), tree, app, version, platform, &bent); err != nil {
		t.Fatal(err)
	}
	if bent.Len() != archive.Len() {
		t.Fatalf("the bent archive has %d bytes, the signed one %d: the mirror would be found out by that", bent.Len(), archive.Len())
	}
	liar := r.Serve(tuftest.Replace("tar.zst", bent.Bytes()))
	mirror := func(url string) client.Mirror {
		return client.Mirror{Metadata: url + "/metadata/", Targets: url + "/targets/"}
	}
	c, err := client.Open(client.Config{Dir: t.TempDir(), Root: r.Root(), Mirrors: []client.Mirror{mirror(liar.URL), mirror(r.URL())}})
	if err != nil {
		t.Fatal(err)
	}
	s := &source{}
	s.use(c)
	stage := func() error {
		_, err := s.Stage(t.Context(), artifact, t.TempDir(), func(agent.Progress) {})
		return err
	}
	var corrupt *client.ErrCorrupt
	if err := stage(); !errors.As(err, &corrupt) {
		t.Errorf("from the bent mirror: %v; want *client.ErrCorrupt", err)
	}
	if err := stage(); err != nil {
		t.Errorf("the second attempt: %v; want the honest mirror's archive", err)
	}
}

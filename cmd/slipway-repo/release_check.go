package main

import (
	"archive/zip"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/spf13/cobra"
)

// A file below this size costs less than the advice is worth.
const adviceFrom = 64 << 10

// advice is something about a release that works and costs more than it needs to: hosts transfer what differs between two
// releases, and in compressed data everything after the first difference differs.
type advice struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	What   string `json:"what"`
	Remedy string `json:"remedy"`
}

func (a advice) String() string {
	return fmt.Sprintf("%s (%d bytes) %s; %s", a.Path, a.Size, a.What, a.Remedy)
}

func (t *tool) releaseCheck() *cobra.Command {
	return &cobra.Command{
		Use: "check DIR", Short: "Warn of what makes later updates of a release large", Args: cobra.ExactArgs(1),
		Long: `DIR is a tree as for release pack, or what release pack wrote. Compressed debug sections and files that are packed already change
from end to end with every build, so that the difference to the release before is as large as the whole file. release pack gives
the same warnings. Exits with 1 if there are any.`,
		Example: "  slipway-repo release check ./build\n  slipway-repo release check ./billing-2.4.1",
		RunE: t.do(func(ctx context.Context, args []string) error {
			found, err := checkRelease(ctx, args[0])
			if err != nil {
				return err
			}
			if err := t.answer(found, func(w io.Writer) {
				for _, a := range found {
					fmt.Fprintln(w, a)
				}
			}); err != nil {
				return err
			}
			if len(found) > 0 {
				return &attention{fmt.Sprintf("%d files make later updates larger than they need to be", len(found))}
			}
			t.say("nothing to warn of")
			return nil
		}),
	}
}

// checkRelease looks at a tree, or at every tree of a packed release.
func checkRelease(ctx context.Context, dir string) ([]advice, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "release.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return adviseTree(ctx, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read release: %w", err)
	}
	doc, err := release.ParseRelease(raw)
	if err != nil {
		return nil, err
	}
	out := []advice{}
	for pl, artifact := range doc.Platforms {
		found, err := checkArchive(ctx, dir, artifact)
		if err != nil {
			return nil, err
		}
		for _, a := range found {
			a.Path = pl.String() + ": " + a.Path
			out = append(out, a)
		}
	}
	return out, nil
}

func checkArchive(ctx context.Context, dir string, artifact release.Artifact) ([]advice, error) {
	raw, err := os.ReadFile(filepath.Join(dir, filepath.Base(artifact.Manifest.Path)))
	if err != nil {
		return nil, fmt.Errorf("cannot read manifest: %w", err)
	}
	m, err := release.ParseManifest(raw)
	if err != nil {
		return nil, err
	}
	archive, err := os.Open(filepath.Join(dir, filepath.Base(artifact.Archive.Path)))
	if err != nil {
		return nil, fmt.Errorf("cannot read archive: %w", err)
	}
	defer func() { _ = archive.Close() }()
	tree, err := os.MkdirTemp("", "slipway-check-")
	if err != nil {
		return nil, fmt.Errorf("cannot check release: %w", err)
	}
	defer removeTree(tree)
	if err := release.Unpack(ctx, archive, m, tree, release.UnpackOptions{Sync: release.SyncNone}); err != nil {
		return nil, err
	}
	return adviseTree(ctx, tree)
}

// removeTree also removes the read-only directories of a release.
func removeTree(dir string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}

// adviseTree looks at every regular file. It follows no links.
func adviseTree(ctx context.Context, dir string) ([]advice, error) {
	out := []advice{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Size() < adviceFrom {
			return err
		}
		a, err := advise(path, info.Size())
		if err != nil || a == nil {
			return err
		}
		if a.Path, err = filepath.Rel(dir, path); err != nil {
			return err
		}
		a.Size = info.Size()
		out = append(out, *a)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot check %s: %w", dir, err)
	}
	return out, nil
}

// packings are told by how their files begin.
var packings = []struct{ magic, name string }{
	{"\x1f\x8b", "gzip"}, {"\xfd7zXZ\x00", "xz"}, {"\x28\xb5\x2f\xfd", "zstd"}, {"BZh", "bzip2"},
	{"\x04\x22\x4d\x18", "lz4"}, {"7z\xbc\xaf\x27\x1c", "7z"}, {"hsqs", "squashfs"},
}

func advise(path string, size int64) (*advice, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 4<<10)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		return adviseELF(f, head), nil
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		return adviseZip(f, size), nil
	}
	for _, p := range packings {
		if bytes.HasPrefix(head, []byte(p.magic)) {
			return &advice{What: "is packed with " + p.name, Remedy: "ship it unpacked: archives are compressed as a whole"}, nil
		}
	}
	return nil, nil
}

// adviseELF leaves what the library cannot read alone: whether a program runs is not asked here.
func adviseELF(f io.ReaderAt, head []byte) *advice {
	if bytes.Contains(head, []byte("UPX!")) {
		return &advice{What: "is packed with UPX", Remedy: "ship the program as the linker made it: archives are compressed as a whole"}
	}
	e, err := elf.NewFile(f)
	if err != nil {
		return nil
	}
	sections, size := 0, uint64(0)
	for _, s := range e.Sections {
		if s.Flags&elf.SHF_COMPRESSED != 0 || strings.HasPrefix(s.Name, ".zdebug") {
			sections++
			size += s.FileSize
		}
	}
	if sections == 0 {
		return nil
	}
	return &advice{What: fmt.Sprintf("has %d compressed debug sections of %d bytes", sections, size),
		Remedy: "build with -ldflags=-compressdwarf=false (Go) or -gz=none (C, Rust), strip it, or run objcopy --decompress-debug-sections"}
}

// adviseZip also sees jars and wheels.
func adviseZip(f io.ReaderAt, size int64) *advice {
	z, err := zip.NewReader(f, size)
	if err != nil {
		return nil
	}
	packed := 0
	for _, entry := range z.File {
		if entry.Method != zip.Store {
			packed++
		}
	}
	if packed == 0 {
		return nil
	}
	return &advice{What: fmt.Sprintf("is a zip with %d packed entries", packed), Remedy: "store its entries without compression (jar --no-compress, zip -0), or ship them unpacked"}
}

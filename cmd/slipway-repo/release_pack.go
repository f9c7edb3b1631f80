package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/spf13/cobra"
)

// packing is one run of release pack.
type packing struct {
	app, version, platform, config, out string
	trees                               []string
	source, commit                      string
	allowRoot                           bool
}

// tree is one platform's directory.
type tree struct {
	platform release.Platform
	dir      string
}

func (t *tool) releasePack() *cobra.Command {
	var p packing
	c := &cobra.Command{
		Use: "pack [DIR]", Short: "Pack directories into a release", Args: cobra.MaximumNArgs(1),
		Long: `Packs the tree in DIR for one platform, or several trees with --tree, and writes release.json, archives and manifests to
./APP-VERSION. What the release ships and needs is written by you in release.toml, in DIR or beside it: units, users,
directories, checks, hooks, restart, rollback_floor (docs/publishing.md). The same trees pack to the same archives.`,
		Example: `  slipway-repo release pack ./build --app billing --version 2.4.1
  slipway-repo release pack --app billing --version 2.4.1 --config release.toml \
      --tree linux/amd64=build/amd64 --tree linux/arm64=build/arm64`,
	}
	f := c.Flags()
	f.StringVar(&p.app, "app", "", "`app` (default: app in release.toml)")
	f.StringVar(&p.version, "version", "", "`version` (default: version in release.toml)")
	f.StringVar(&p.platform, "platform", "linux/"+runtime.GOARCH, "platform of DIR")
	f.StringArrayVar(&p.trees, "tree", nil, "`PLATFORM=DIR`, instead of DIR (repeatable)")
	f.StringVar(&p.config, "config", "", "the release.toml `file`")
	f.StringVar(&p.out, "out", "", "`directory` to write (default: ./APP-VERSION)")
	f.StringVar(&p.source, "source", "", "where the source lives, for people")
	f.StringVar(&p.commit, "commit", "", "the source's commit, for people")
	f.BoolVar(&p.allowRoot, "allow-root", false, "do not refuse units that run as root; every host must allow it too")
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		trees, err := p.platformTrees(args)
		if err != nil {
			return err
		}
		return t.pack(ctx, &p, trees)
	})
	return c
}

func (p *packing) platformTrees(args []string) ([]tree, error) {
	specs := p.trees
	if len(args) == 1 {
		specs = append(specs, p.platform+"="+args[0])
	}
	if len(specs) == 0 {
		return nil, usage("name the directory to pack: DIR, or --tree PLATFORM=DIR")
	}
	var out []tree
	seen := map[release.Platform]bool{}
	for _, s := range specs {
		name, dir, ok := strings.Cut(s, "=")
		platform, err := release.ParsePlatform(name)
		if err != nil || !ok || dir == "" {
			return nil, usage("--tree %q: want PLATFORM=DIR such as linux/amd64=build", s)
		}
		if seen[platform] {
			return nil, usage("platform %s is named twice", platform)
		}
		seen[platform] = true
		out = append(out, tree{platform, dir})
	}
	return out, nil
}

type packAnswer struct {
	Dir      string         `json:"dir"`
	App      string         `json:"app"`
	Version  string         `json:"version"`
	Digest   release.Digest `json:"release_sha256"`
	Archives []packedTree   `json:"archives"`
}

type packedTree struct {
	Platform string `json:"platform"`
	Path     string `json:"file"`
	Length   int64  `json:"length"`
	Files    int64  `json:"files"`
	Unpacked int64  `json:"unpacked"`
}

func (t *tool) pack(ctx context.Context, p *packing, trees []tree) error {
	path, err := findTOML(p.config, trees[0].dir)
	if err != nil {
		return err
	}
	doc, err := p.read(path, trees)
	if err != nil {
		return err
	}
	for _, tr := range trees {
		if err := checkUnits(doc, tr.dir, p.allowRoot); err != nil {
			return fmt.Errorf("in %s: %w", tr.dir, err)
		}
	}
	if p.out == "" {
		p.out = doc.App.String() + "-" + doc.Version.String()
	}
	if _, err := os.Stat(filepath.Join(p.out, "release.json")); err == nil {
		return fmt.Errorf("cannot pack into %s: it holds a release; remove it or choose --out", p.out)
	}
	for _, tr := range trees {
		found, err := adviseTree(ctx, tr.dir)
		if err != nil {
			return err
		}
		for _, a := range found {
			t.warn("later updates will be large: %s", a)
		}
	}
	if err := durable.MkdirAll(p.out, 0o755); err != nil {
		return err
	}
	a := packAnswer{Dir: p.out, App: doc.App.String(), Version: doc.Version.String()}
	for _, tr := range trees {
		artifact, packed, err := packTree(ctx, doc, tr, p.out)
		if err != nil {
			return err
		}
		doc.Platforms[tr.platform] = *artifact
		a.Archives = append(a.Archives, *packed)
	}
	raw, err := release.Encode(doc)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(p.out, "release.json"), raw, 0o644); err != nil {
		return err
	}
	a.Digest = release.Sum(raw)
	return t.answer(a, func(w io.Writer) {
		fmt.Fprintf(w, "%s  %s %s  %s\n", a.Dir, a.App, a.Version, a.Digest.Short())
		for _, x := range a.Archives {
			fmt.Fprintf(w, "  %s  %d files, %d bytes, packed %d\n", x.Platform, x.Files, x.Unpacked, x.Length)
		}
	})
}

// read turns release.toml into the document, judged with stand-ins for the artifacts before anything is packed.
func (p *packing) read(path string, trees []tree) (*release.Release, error) {
	file, err := readTOML(path)
	if err != nil {
		return nil, err
	}
	if err := file.refuse("schema", "created", "platforms", "patches"); err != nil {
		return nil, err
	}
	for key, flag := range map[string]*string{"app": &p.app, "version": &p.version} {
		s, err := file.text(key)
		if err != nil {
			return nil, err
		}
		if *flag == "" {
			*flag = s
		}
		if *flag == "" {
			return nil, usage("name the %s: --%s, or %s in %s", key, key, key, path)
		}
	}
	app, err := release.ParseApp(p.app)
	if err != nil {
		return nil, usage("%v", err)
	}
	version, err := release.ParseVersion(p.version)
	if err != nil {
		return nil, usage("%v", err)
	}
	data, err := file.with(p.standIns(file, app, version, trees))
	if err != nil {
		return nil, err
	}
	doc, err := release.ParseRelease(data)
	if err != nil {
		return nil, file.locate(err)
	}
	doc.Platforms = map[release.Platform]release.Artifact{}
	return doc, nil
}

func (p *packing) standIns(file *written, app release.App, version release.Version, trees []tree) map[string]any {
	add := map[string]any{"schema": release.ReleaseSchema, "app": app, "version": version, "created": created().Format(time.RFC3339)}
	if _, ok := file.doc["restart"]; !ok {
		add["restart"] = release.RestartModeRestart
	}
	if _, ok := file.doc["units"]; !ok {
		add["units"] = []any{}
	}
	nameUnits(file.doc["units"])
	if p.source != "" {
		add["source"] = release.Source{Repository: p.source, Commit: p.commit}
	}
	platforms := map[string]release.Artifact{}
	for _, tr := range trees {
		platforms[tr.platform.String()] = release.Artifact{
			Archive:  release.File{Path: release.ArchivePath(app, version, tr.platform), SHA256: release.Sum([]byte("a")), Length: 1},
			Manifest: release.File{Path: release.ManifestPath(app, version, tr.platform), SHA256: release.Sum([]byte("m")), Length: 1},
			Unpacked: 1, Files: 1,
		}
	}
	add["platforms"] = platforms
	return add
}

// nameUnits lets a unit leave its name out: it is the file's.
func nameUnits(units any) {
	list, _ := units.([]any)
	for _, u := range list {
		unit, _ := u.(map[string]any)
		path, _ := unit["path"].(string)
		if _, ok := unit["name"]; !ok && path != "" {
			unit["name"] = path[strings.LastIndexByte(path, '/')+1:]
		}
	}
}

// created is now, or SOURCE_DATE_EPOCH for builds that must come out the same.
func created() time.Time {
	var epoch int64
	if _, err := fmt.Sscan(os.Getenv("SOURCE_DATE_EPOCH"), &epoch); err == nil {
		return time.Unix(epoch, 0).UTC()
	}
	return time.Now().UTC().Truncate(time.Second)
}

func packTree(ctx context.Context, doc *release.Release, tr tree, out string) (*release.Artifact, *packedTree, error) {
	target := release.ArchivePath(doc.App, doc.Version, tr.platform)
	name := filepath.Join(out, filepath.Base(target))
	archive, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot write archive: %w", err)
	}
	manifest, info, err := release.Pack(ctx, tr.dir, doc.App, doc.Version, tr.platform, archive)
	if e := archive.Close(); err == nil {
		err = e
	}
	if err != nil {
		_ = os.Remove(name)
		return nil, nil, err
	}
	raw, err := release.Encode(manifest)
	if err != nil {
		return nil, nil, err
	}
	mpath := release.ManifestPath(doc.App, doc.Version, tr.platform)
	if err := durable.WriteFile(filepath.Join(out, filepath.Base(mpath)), raw, 0o644); err != nil {
		return nil, nil, err
	}
	return &release.Artifact{
			Archive:  release.File{Path: target, SHA256: info.Digest, Length: info.Length},
			Manifest: release.File{Path: mpath, SHA256: release.Sum(raw), Length: int64(len(raw))},
			Unpacked: info.Unpacked, Files: info.Files,
		}, &packedTree{Platform: tr.platform.String(), Path: name, Length: info.Length, Files: info.Files, Unpacked: info.Unpacked},
		nil
}

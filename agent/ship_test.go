package agent_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

var (
	billing    = mustParse(release.ParseApp, "billing")
	shop       = mustParse(release.ParseApp, "shop")
	production = mustParse(release.ParseEnvironment, "production")
	staging    = mustParse(release.ParseEnvironment, "staging")
	platform   = mustParse(release.ParsePlatform, runtime.GOOS+"/"+runtime.GOARCH)
)

func mustParse[T any](parse func(string) (T, error), s string) T {
	v, err := parse(s)
	check(err)
	return v
}

// ship is a release as its publisher would sign it.
type ship struct {
	id       release.ID
	digest   release.Digest
	app      release.App
	version  release.Version
	doc      []byte
	manifest []byte
	archive  []byte
	art      release.Artifact
}

func (s *ship) ref() *release.Reference {
	return &release.Reference{Path: release.ReleasePath(s.app, s.version), SHA256: s.digest}
}

// built is long before any test's time, and fixed: a release built twice has one digest.
var built = time.Date(1999, 12, 1, 0, 0, 0, 0, time.UTC)

const serviceText = `[Unit]
Description=Billing

[Service]
User=billing
ExecStart=@current@/bin/billing

[Install]
WantedBy=multi-user.target
`

// The releases of the stories. They are built once, outside of any bubble of fake time.
var (
	v10     = sync.OnceValue(func() *ship { return build(billing, "1.0.0", withTimer) })
	v11     = sync.OnceValue(func() *ship { return build(billing, "1.1.0") })
	v12     = sync.OnceValue(func() *ship { return build(billing, "1.2.0") })
	v13     = sync.OnceValue(func() *ship { return build(billing, "1.3.0", withFloor("1.3.0")) })
	vHooks  = sync.OnceValue(func() *ship { return build(billing, "1.4.0", withHooks) })
	vForbid = sync.OnceValue(func() *ship {
		return build(billing, "1.5.0", withUnit("billing.service", "[Service]\nExecStart=/bin/sh\n"))
	})
	vAlien  = sync.OnceValue(func() *ship { return build(billing, "1.6.0", withUnit("billing-web.service", serviceText)) })
	vSocket = sync.OnceValue(func() *ship { return build(billing, "1.7.0", withSocket) })
	vShop   = sync.OnceValue(func() *ship { return build(shop, "7.0.0") })
	vMany   = sync.OnceValue(func() *ship { return build(billing, "1.8.0", withWorkers) })
	vMany2  = sync.OnceValue(func() *ship { return build(billing, "1.9.0", withWorkers) })
	vShop2  = sync.OnceValue(func() *ship { return build(shop, "7.1.0") })
)

func prebuild() {
	for _, f := range []func() *ship{v10, v11, v12, v13, vHooks, vForbid, vAlien, vSocket, vMany, vMany2, vShop, vShop2} {
		f()
	}
}

type shipOption func(dir string, r *release.Release)

func withUnit(name, text string) shipOption {
	return func(dir string, r *release.Release) {
		check(os.WriteFile(filepath.Join(dir, "units", name), []byte(text), 0o644))
		unit := mustParse(release.ParseUnitName, name)
		for _, u := range r.Units {
			if u.Name == unit {
				return
			}
		}
		r.Units = append(r.Units, release.UnitFile{Name: unit, Path: "units/" + name})
	}
}

func withTimer(dir string, r *release.Release) {
	withUnit("billing-nightly.timer", "[Timer]\nOnCalendar=daily\nUnit=billing.service\n\n[Install]\nWantedBy=timers.target\n")(dir, r)
}

func withSocket(dir string, r *release.Release) {
	withUnit("billing.socket", "[Socket]\nListenStream=8080\n\n[Install]\nWantedBy=sockets.target\n")(dir, r)
	withUnit("billing.service", "[Service]\nUser=billing\nExecStart=@current@/bin/billing\n")(dir, r)
	r.Restart = release.RestartModeSocket
}

func withWorkers(dir string, r *release.Release) {
	withUnit("billing-worker@.service", "[Service]\nUser=billing\nExecStart=@current@/bin/billing %i\n")(dir, r)
}

func withFloor(version string) shipOption {
	return func(_ string, r *release.Release) {
		v := mustParse(release.ParseVersion, version)
		r.RollbackFloor = &v
	}
}

func withHooks(_ string, r *release.Release) {
	command := func(arg string) *release.Command { return &release.Command{Command: []string{"bin/billing", arg}} }
	r.Hooks = &release.Hooks{PreActivate: command("migrate"), PostCommit: command("announce"), PostRevert: command("regret")}
	r.Hooks.PreActivate.Timeout = release.Duration(time.Hour)
}

func build(app release.App, version string, options ...shipOption) *ship {
	v := mustParse(release.ParseVersion, version)
	dir, err := os.MkdirTemp("", "ship-")
	check(err)
	defer os.RemoveAll(dir)
	for _, sub := range []string{"bin", "units"} {
		check(os.MkdirAll(filepath.Join(dir, sub), 0o755))
	}
	name := app.String()
	text := bytes.ReplaceAll([]byte(serviceText), []byte("billing"), []byte(name))
	check(os.WriteFile(filepath.Join(dir, "bin", name), []byte("#!/bin/sh\n# "+version+"\nexec sleep 1000\n"), 0o755))
	check(os.WriteFile(filepath.Join(dir, "units", name+".service"), text, 0o644))
	check(os.WriteFile(filepath.Join(dir, "README"), []byte(version+"\n"), 0o644))
	rel := &release.Release{
		Schema: release.ReleaseSchema, App: app, Version: v, Created: built, Restart: release.RestartModeRestart,
		Units: []release.UnitFile{{Name: mustParse(release.ParseUnitName, name+".service"), Path: "units/" + name + ".service"}},
	}
	for _, o := range options {
		o(dir, rel)
	}
	var archive bytes.Buffer
	m, info, err := release.Pack(context.Background(), dir, app, v, platform, &archive)
	check(err)
	manifest, err := release.Encode(m)
	check(err)
	art := release.Artifact{
		Archive:  release.File{Path: release.ArchivePath(app, v, platform), SHA256: info.Digest, Length: info.Length},
		Manifest: release.File{Path: release.ManifestPath(app, v, platform), SHA256: release.Sum(manifest), Length: int64(len(manifest))},
		Unpacked: info.Unpacked, Files: info.Files,
	}
	rel.Platforms = map[release.Platform]release.Artifact{platform: art}
	doc, err := release.Encode(rel)
	check(err)
	digest := release.Sum(doc)
	return &ship{release.NewID(v, digest), digest, app, v, doc, manifest, archive.Bytes(), art}
}

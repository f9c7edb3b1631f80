package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/client"
)

// look lets a host read a repository with the hosts' own client, whose memory lives on from one look to the next. It has pinned the
// first root of the first repository that it looked into.
func (c *ceremony) look(name, repo string) {
	c.t.Helper()
	dir, from := filepath.Join(c.dir, "host-"+name), filepath.Join(c.dir, repo)
	pinned := filepath.Join(dir, "pinned.json")
	if _, err := os.Stat(pinned); err != nil {
		root, err := os.ReadFile(filepath.Join(from, "metadata", "1.root.json"))
		c.must(err)
		c.must(os.MkdirAll(dir, 0o755))
		c.must(os.WriteFile(pinned, root, 0o644))
	}
	root, err := os.ReadFile(pinned)
	c.must(err)
	host, err := client.Open(client.Config{Dir: filepath.Join(dir, "tuf"), Root: root, RootProbe: -1,
		Mirrors: []client.Mirror{{Metadata: filepath.Join(from, "metadata"), Targets: filepath.Join(from, "targets")}}})
	c.must(err)
	c.out, c.pos, c.code, c.codeSeen = "", 0, 0, false
	trusted, err := host.Refresh(c.t.Context())
	if err == nil {
		c.out, err = c.believes(host, trusted)
	}
	if err != nil {
		c.code, c.out = 1, err.Error()+"\n"
	}
}

// believes says what a host that has looked would run of billing, and what stops it.
func (c *ceremony) believes(host *client.Client, trusted client.Trusted) (string, error) {
	out := fmt.Sprintf("root %d\n", trusted.Root)
	read := func(path string) ([]byte, error) {
		t, err := host.Lookup(c.t.Context(), path)
		if err != nil {
			return nil, err
		}
		return host.Read(c.t.Context(), t)
	}
	raw, err := read(billingPath)
	if err != nil {
		return "", err
	}
	d, err := release.ParseDeployment(raw)
	if err != nil {
		return "", err
	}
	version := "absent"
	if d.Release != nil {
		_, v, err := release.ParseReleasePath(d.Release.Path)
		if err != nil {
			return "", err
		}
		version = v.String()
	}
	out += fmt.Sprintf("billing %s, sequence %d, %s\n", version, d.Sequence, d.State)
	if raw, err = read("emergency/production.json"); err != nil {
		return out, nil // there is none
	}
	e, err := release.ParseEmergency(raw)
	if err != nil {
		return "", err
	}
	for _, entry := range e.Entries {
		out += fmt.Sprintf("%s: %s\n", entry.Kind, entry.Reason)
	}
	return out, nil
}

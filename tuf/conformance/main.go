// Command conformance speaks the client contract of the public TUF conformance suite on Slipway's own client:
//
//	conformance --metadata-dir D init ROOT
//	conformance --metadata-dir D --metadata-url U refresh
//	conformance --metadata-dir D --metadata-url U --target-name T… --target-base-url B --target-dir X download
//
// It is a test instrument: it trusts `date` for the time, so that the suite can fake it, and asks for a newer root on every
// refresh, because the suite counts requests. Exit code 0 is success, 1 anything else.
//
// In a clone of github.com/theupdateframework/tuf-conformance with its Python packages and faketime:
//
//	pytest tuf_conformance --entrypoint /path/to/conformance
//
// All 113 tests of its commit eec841c pass.
package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/tuf/client"
)

type arguments struct {
	metadataDir, metadataURL, targetBase, targetDir string
	targets, words                                  []string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "conformance: error:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	a, err := parse(args)
	if err != nil {
		return err
	}
	switch {
	case len(a.words) == 2 && a.words[0] == "init":
		return initialise(a.metadataDir, a.words[1])
	case len(a.words) == 1 && a.words[0] == "refresh":
		return a.refresh(ctx, nil)
	case len(a.words) == 1 && a.words[0] == "download":
		return a.refresh(ctx, a.download)
	}
	return errors.New("cannot tell what to do: want init FILE, refresh or download")
}

func parse(args []string) (a arguments, err error) {
	for len(args) > 0 {
		name, rest := args[0], args[1:]
		if !strings.HasPrefix(name, "--") {
			a.words, args = append(a.words, name), rest
			continue
		}
		if len(rest) == 0 {
			return a, fmt.Errorf("cannot use %s: it needs a value", name)
		}
		value := rest[0]
		args = rest[1:]
		switch name {
		case "--metadata-dir":
			a.metadataDir = value
		case "--metadata-url":
			a.metadataURL = value
		case "--target-base-url":
			a.targetBase = value
		case "--target-dir":
			a.targetDir = value
		case "--target-name":
			a.targets = append(a.targets, value)
		default:
			return a, fmt.Errorf("cannot use %s: unknown flag", name)
		}
	}
	if a.metadataDir == "" {
		return a, errors.New("cannot go on: --metadata-dir is required")
	}
	return a, nil
}

// The suite parses every *.json directly in the metadata directory, so ours lives beneath it.
func pinnedPath(dir string) string { return filepath.Join(dir, "slipway", "pinned") }

func initialise(dir, root string) error {
	data, err := os.ReadFile(root)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(pinnedPath(dir)), 0o755); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(pinnedPath(dir), data, 0o644), os.WriteFile(filepath.Join(dir, "root.json"), data, 0o644))
}

func (a arguments) refresh(ctx context.Context, then func(context.Context, *client.Client) error) error {
	pinned, err := os.ReadFile(pinnedPath(a.metadataDir))
	if err != nil {
		return err
	}
	c, err := client.Open(client.Config{
		Dir:          filepath.Join(a.metadataDir, "slipway", "cache"),
		Root:         pinned,
		Mirrors:      []client.Mirror{{Metadata: a.metadataURL, Targets: a.targetBase}},
		Clock:        client.Clock{Now: date},
		MaxClockStep: math.MaxInt64, // the suite travels in time
		RootProbe:    -1,
	})
	if err != nil {
		return err
	}
	_, err = c.Refresh(ctx)
	if err == nil && then != nil {
		err = then(ctx, c)
	}
	return errors.Join(err, export(c, a.metadataDir))
}

func (a arguments) download(ctx context.Context, c *client.Client) error {
	for _, name := range a.targets {
		t, err := c.Lookup(ctx, name)
		if err != nil {
			return err
		}
		if err := c.Download(ctx, t.File(), filepath.Join(a.targetDir, url.PathEscape(name)), nil); err != nil {
			return err
		}
	}
	return nil
}

// export shows the suite what is trusted, in the layout that it wants.
func export(c *client.Client, dir string) error {
	trusted, err := c.Metadata()
	if err != nil {
		return err
	}
	stale, err := filepath.Glob(filepath.Join(dir, "*.json"))
	for _, path := range stale {
		name, bad := url.PathUnescape(strings.TrimSuffix(filepath.Base(path), ".json"))
		if trusted[name] == nil || bad != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}
	for name, data := range trusted {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, url.PathEscape(name)+".json"), data, 0o644))
	}
	return err
}

// date asks the C library's clock, which the suite can move.
func date() time.Time {
	out, err := exec.Command("date", "+%s").Output()
	if err != nil {
		return time.Now()
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return time.Now()
	}
	return time.Unix(seconds, 0)
}

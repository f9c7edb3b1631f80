package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/config"
)

// maxRoot bounds a root.json; real ones have a few kilobytes.
const maxRoot = 1 << 20

func (c *cli) initHost() *cobra.Command {
	var rootFile, environment string
	var mirrors []string
	var force bool
	cmd := &cobra.Command{
		Use:   "init --root FILE --environment ENV --repository URL",
		Short: "Pin the root of trust and the environment of this host",
		Long: `Init writes root.json and slipway.toml into the configuration directory. Everything this host will ever trust follows from that
root, so compare the fingerprint it prints with the one your release engineers publish. It starts nothing.`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if rootFile == "" || environment == "" {
				return usageError{"init needs --root FILE and --environment ENV", `slipway init --root root.json --environment production --repository https://…`}
			}
			root, err := readRoot(rootFile)
			if err != nil {
				return err
			}
			if c.configDir, err = filepath.Abs(c.configDir); err != nil {
				return failure{"cannot tell where " + c.configDir + " is: " + err.Error(), ""}
			}
			text := hostConfig(environment, filepath.Join(c.configDir, "root.json"), mirrors)
			if err := checkHostConfig(text); err != nil {
				return err
			}
			files := []newFile{{filepath.Join(c.configDir, "root.json"), root.data}, {filepath.Join(c.configDir, "slipway.toml"), []byte(text)}}
			if err := writeNew(files, force); err != nil {
				return err
			}
			return c.initDone(root, environment)
		},
	}
	cmd.Flags().StringVar(&rootFile, "root", "", "the repository's root.json, obtained over a way you trust (required)")
	cmd.Flags().StringVar(&environment, "environment", "", "the one environment this host obeys (required)")
	cmd.Flags().StringArrayVar(&mirrors, "repository", nil, "URL under which metadata/ and targets/ are served; repeat for mirrors")
	cmd.Flags().BoolVar(&force, "force", false, "overwrite what is there")
	_ = cmd.MarkFlagFilename("root", "json") // fails only for a flag that is not defined
	return cmd
}

func (c *cli) initDone(root rootInfo, environment string) error {
	if c.json {
		return c.printJSON(map[string]any{
			"environment": environment, "root_version": root.version, "root_expires": root.expires, "fingerprint": root.fingerprint(),
		})
	}
	fmt.Fprintf(c.out, "pinned root version %d, valid until %s\nfingerprint %s\n", root.version, root.expires.Format("2006-01-02"), root.fingerprint())
	if !root.expires.After(c.now()) {
		c.hint("this root has expired; the repository must serve a newer one that it leads to")
	}
	c.hint("compare the fingerprint with your release engineers' (sha256sum of the root.json they keep)\n" +
		"then: slipway add APP, and systemctl enable --now slipwayd (restart it if it runs)")
	return nil
}

// rootInfo is what can be said about a root.json without trusting it.
type rootInfo struct {
	data    []byte
	version int64
	expires time.Time
}

// fingerprint is the SHA-256 of the file, grouped for reading aloud; without the spaces it is sha256sum's.
func (r rootInfo) fingerprint() string {
	hex := fmt.Sprintf("%x", sha256.Sum256(r.data))
	var groups []string
	for i := 0; i < len(hex); i += 8 {
		groups = append(groups, hex[i:i+8])
	}
	return strings.Join(groups, " ")
}

func readRoot(file string) (rootInfo, error) {
	info, err := os.Stat(file)
	if err != nil {
		return rootInfo{}, failure{"cannot read the root: " + err.Error(), ""}
	}
	if info.Size() > maxRoot {
		return rootInfo{}, failure{fmt.Sprintf("%s has %d bytes: that is no root.json", file, info.Size()), ""}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return rootInfo{}, failure{"cannot read the root: " + err.Error(), ""}
	}
	return parseRoot(file, data)
}

func parseRoot(file string, data []byte) (rootInfo, error) {
	var m struct {
		Signed struct {
			Type    string    `json:"_type"`
			Version int64     `json:"version"`
			Expires time.Time `json:"expires"`
		} `json:"signed"`
		Signatures []json.RawMessage `json:"signatures"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return rootInfo{}, failure{fmt.Sprintf("%s is no root.json: %v", file, err), ""}
	}
	if m.Signed.Type != "root" || m.Signed.Version < 1 || len(m.Signatures) == 0 {
		return rootInfo{}, failure{fmt.Sprintf("%s is no root.json: its type is %q, its version %d, and it has %d signatures", file, m.Signed.Type, m.Signed.Version, len(m.Signatures)),
			"it is metadata/1.root.json (or a newer one) of the repository"}
	}
	return rootInfo{data: data, version: m.Signed.Version, expires: m.Signed.Expires}, nil
}

func hostConfig(environment, root string, mirrors []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Written by slipway init. All options: /usr/share/doc/slipway/examples/slipway.toml.\nenvironment = %s\n", tomlText(environment))
	if root != filepath.Join(config.DefaultDir, "root.json") {
		fmt.Fprintf(&b, "\n[repository]\nroot = %s\n", tomlText(root))
	}
	for _, m := range mirrors {
		fmt.Fprintf(&b, "\n[[repository.mirrors]]\nurl = %s\n", tomlText(m))
	}
	return b.String()
}

// tomlText quotes like JSON, which TOML's basic strings understand.
func tomlText(s string) string {
	data, err := json.Marshal(s)
	if err != nil {
		return `""`
	}
	return string(bytes.ReplaceAll(data, []byte{0x7f}, []byte(`\u007f`)))
}

// checkHostConfig reads the text back as the daemon will, before anything is written.
func checkHostConfig(text string) error {
	dir, err := os.MkdirTemp("", "slipway-init-")
	if err != nil {
		return failure{"cannot check the configuration: " + err.Error(), ""}
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "slipway.toml"), []byte(text), 0o644); err != nil {
		return failure{"cannot check the configuration: " + err.Error(), ""}
	}
	_, err = config.Load(dir)
	var problems config.Problems
	if !errors.As(err, &problems) {
		return err
	}
	var words []string
	for _, p := range problems {
		words = append(words, p.Key+": "+p.Message)
	}
	hint := ""
	if strings.Contains(words[0], "repository.mirrors") {
		hint = "say where the repository is served: --repository https://…"
	}
	return usageError{"cannot write a valid configuration: " + strings.Join(words, "; "), hint}
}

type newFile struct {
	path string
	data []byte
}

// writeNew writes all files or, if one of them exists with other content, none.
func writeNew(files []newFile, force bool) error {
	for _, f := range files {
		old, err := os.ReadFile(f.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return writeFailed(f.path, err)
		case !force && !bytes.Equal(old, f.data):
			return failure{f.path + " exists already and says something else", "look at it first; --force overwrites it"}
		}
	}
	for _, f := range files {
		if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
			return writeFailed(f.path, err)
		}
		if err := replaceFile(f.path, f.data); err != nil {
			return writeFailed(f.path, err)
		}
	}
	return nil
}

func writeFailed(path string, err error) error {
	hint := ""
	if errors.Is(err, fs.ErrPermission) {
		hint = "run it as root"
	}
	return failure{fmt.Sprintf("cannot write %s: %v", path, err), hint}
}

// replaceFile makes the new content appear whole or not at all: the daemon watches this directory.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already after the rename
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

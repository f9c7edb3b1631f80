package repository

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

const memorySchema = "slipway.signer-memory/v1"

// Trust is a signer's own directory:
//
//	roots/<name>.json  the roots that the signer has pinned, one per repository
//	seen.json          the newest versions this signer has seen of each, and what they have signed
//
// The zero value of *Trust, nil, pins and remembers nothing.
type Trust struct{ dir string }

// OpenTrust is the signer's directory at dir. It is made when something is pinned or remembered.
func OpenTrust(dir string) *Trust { return &Trust{dir: filepath.Clean(dir)} }

// Pin is one pinned root.
type Pin struct {
	Name    string         `json:"name"`
	File    string         `json:"file"`
	Version int64          `json:"version"`
	Expires time.Time      `json:"expires"`
	SHA256  release.Digest `json:"sha256"`
	Keys    []string       `json:"keys"`

	root []byte
}

// Root is the pinned file's content.
func (p Pin) Root() []byte { return p.root }

var pinName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// ReadRoot reads a root that somebody is about to trust. It must carry its own signatures.
func ReadRoot(raw []byte) (Pin, error) {
	e, err := openEnvelope(raw)
	if err != nil {
		return Pin{}, fmt.Errorf("cannot use root: %w", err)
	}
	p, err := parse[metadata.RootType](e.Signed, classRoot)
	if err != nil {
		return Pin{}, fmt.Errorf("cannot use root: %w", err)
	}
	by, err := rootSigners(p.doc, classRoot)
	if err != nil {
		return Pin{}, err
	}
	if progress := by.progress(p.canonical, e.Signatures); !progress.Done() {
		return Pin{}, refuse("a root is signed by its own keys", "cannot use root: "+progress.String(), "get metadata/N.root.json of the repository, as it is published")
	}
	out := Pin{Version: p.doc.Version, Expires: p.doc.Expires, SHA256: release.Sum(raw), root: raw}
	for _, k := range by.keys {
		out.Keys = append(out.Keys, marked([]keys.Public{k}))
	}
	return out, nil
}

// Pins lists what is pinned, by name.
func (t *Trust) Pins() ([]Pin, error) {
	if t == nil {
		return nil, nil
	}
	names, err := filepath.Glob(filepath.Join(t.dir, "roots", "*.json"))
	if err != nil {
		return nil, fmt.Errorf("cannot list pinned roots: %w", err)
	}
	var out []Pin
	for _, name := range names {
		raw, err := readBounded(name, maxRoot)
		if err != nil {
			return nil, fmt.Errorf("cannot read pinned root: %w", err)
		}
		p, err := ReadRoot(raw)
		if err != nil {
			return nil, &DamagedError{Path: name, Err: err}
		}
		p.Name, p.File = strings.TrimSuffix(filepath.Base(name), ".json"), name
		out = append(out, p)
	}
	return out, nil
}

// Add pins a root under a name. Another root under a name in use is refused: replacing trust is done in two steps.
func (t *Trust) Add(name string, raw []byte) (Pin, error) {
	if !pinName.MatchString(name) {
		return Pin{}, fmt.Errorf("cannot pin root as %q: want a-z, 0-9, - and _, at most 63", name)
	}
	p, err := ReadRoot(raw)
	if err != nil {
		return p, err
	}
	p.Name, p.File = name, filepath.Join(t.dir, "roots", name+".json")
	if have, err := os.ReadFile(p.File); err == nil && bytes.Equal(have, raw) {
		return p, nil
	} else if err == nil {
		return p, refuse("trust is replaced knowingly", "cannot pin root as "+name+": another root is pinned there", "compare the fingerprints, run trust forget "+name+", and add it again")
	}
	if err := durable.MkdirAll(filepath.Dir(p.File), 0o700); err != nil {
		return p, err
	}
	return p, durable.WriteFile(p.File, raw, 0o644)
}

// Forget removes a pinned root, and what was remembered with it.
func (t *Trust) Forget(name string) (Pin, error) {
	pins, err := t.Pins()
	if err != nil {
		return Pin{}, err
	}
	i := slices.IndexFunc(pins, func(p Pin) bool { return p.Name == name })
	if i < 0 {
		return Pin{}, fmt.Errorf("cannot find a pinned root named %q; run trust list", name)
	}
	m, err := t.recall()
	if err != nil {
		return Pin{}, err
	}
	m.Repositories = slices.DeleteFunc(m.Repositories, func(k *known) bool { return slices.Contains(k.Roots, pins[i].SHA256) })
	if err := t.store(m); err != nil {
		return Pin{}, err
	}
	return pins[i], durable.Remove(pins[i].File)
}

// RootFor finds the pinned root of the repository that the change in dir belongs to: the one whose very bytes its base holds
// under the same version. A single pinned root is taken as it is; the review then says what does not fit.
func (t *Trust) RootFor(dir string) ([]byte, error) {
	pins, err := t.Pins()
	if err != nil {
		return nil, err
	}
	for _, p := range pins {
		raw, err := readBounded(filepath.Join(dir, baseName, "metadata", metaName(classRoot, p.Version)), maxRoot)
		if err == nil && bytes.Equal(raw, p.root) {
			return p.root, nil
		}
	}
	switch len(pins) {
	case 0:
		return nil, nil
	case 1:
		return pins[0].root, nil
	}
	return nil, refuse("a signer trusts their own root", fmt.Sprintf("cannot review the change in %s: none of your %d pinned roots is in its base", dir, len(pins)), "name the one you mean with --root FILE")
}

// memory is seen.json.
type memory struct {
	Schema       string   `json:"schema"`
	Repositories []*known `json:"repositories"`
}

// known is one repository, recognised by any root that was verified for it.
type known struct {
	Roots    []release.Digest    `json:"roots"`
	Versions map[string]int64    `json:"versions"`
	Signed   map[string]signedBy `json:"signed"`
}

// signedBy is the last payload of a role that this signer has signed.
type signedBy struct {
	Version int64          `json:"version"`
	Payload release.Digest `json:"payload_sha256"`
	Change  string         `json:"change"`
	At      time.Time      `json:"at"`
}

func (t *Trust) path() string { return filepath.Join(t.dir, "seen.json") }

func (t *Trust) recall() (*memory, error) {
	m := &memory{Schema: memorySchema}
	data, err := readBounded(t.path(), maxPayload)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read what this signer has seen: %w", err)
	}
	if err := json.Unmarshal(data, m); err != nil || m.Schema != memorySchema {
		return nil, &DamagedError{Path: t.path(), Err: fmt.Errorf("it is not %s (%v); restore it, or move it away and compare versions with the other signers", memorySchema, err)}
	}
	return m, nil
}

func (t *Trust) store(m *memory) error {
	data, err := indent(m)
	if err != nil {
		return fmt.Errorf("cannot encode what this signer has seen: %w", err)
	}
	if err := durable.MkdirAll(t.dir, 0o700); err != nil {
		return err
	}
	return durable.WriteFile(t.path(), data, 0o600)
}

// of finds the repository, or starts to know it.
func (m *memory) of(roots []release.Digest) *known {
	for _, k := range m.Repositories {
		if slices.ContainsFunc(k.Roots, func(d release.Digest) bool { return slices.Contains(roots, d) }) {
			return k
		}
	}
	k := &known{}
	m.Repositories = append(m.Repositories, k)
	return k
}

// remember refuses a base that is older than what this signer has seen, and keeps what is new. Versions count only for role
// files that the role's own keys have signed: an online key cannot make a signer refuse honest changes.
func (v *Review) remember() error {
	t := v.o.Trust
	if t == nil || len(v.roots) == 0 {
		return nil
	}
	m, err := t.recall()
	if err != nil {
		return err
	}
	k := m.of(v.roots)
	if k.Versions == nil {
		k.Versions = map[string]int64{}
	}
	for _, role := range append([]string{classRoot, classTargets}, v.carried()...) {
		have := v.s.version(role)
		if seen := k.Versions[role]; have < seen {
			return &SwappedError{Change: v.Change.ID, Reason: fmt.Sprintf("it holds version %d of %s, and you have seen version %d", have, role, seen),
				Remedy: "get the change's folder again from the maintainer; if the repository really went back, run trust forget and pin its root again"}
		}
		k.Versions[role] = have
	}
	for _, d := range v.roots {
		if !slices.Contains(k.Roots, d) {
			k.Roots = append(k.Roots, d)
		}
	}
	if err := v.noteSigned(k); err != nil {
		return err
	}
	return t.store(m)
}

// noteSigned tells of another payload that this signer has signed for a version in this change: of the two one can be published.
func (v *Review) noteSigned(k *known) error {
	for _, role := range v.Change.Roles() {
		text, err := v.Change.canonicalOf(role)
		if err != nil {
			return err
		}
		if s, ok := k.Signed[role]; ok && s.Version == v.Change.Base[role]+1 && s.Payload != release.Sum(text) {
			v.Notes = append(v.Notes, fmt.Sprintf("on %s you signed another version %d of %s, in change %s; only one of them can be published", s.At.Format(time.DateOnly), s.Version, role, harmless(s.Change)))
		}
	}
	return nil
}

// signed remembers what a signer has just signed.
func (t *Trust) signed(v *Review, roles []string) error {
	if t == nil || len(v.roots) == 0 {
		return nil
	}
	m, err := t.recall()
	if err != nil {
		return err
	}
	k := m.of(v.roots)
	if k.Signed == nil {
		k.Signed = map[string]signedBy{}
	}
	for _, role := range roles {
		text, err := v.Change.canonicalOf(role)
		if err != nil {
			return err
		}
		k.Signed[role] = signedBy{Version: v.Change.Base[role] + 1, Payload: release.Sum(text), Change: v.Change.ID, At: v.o.Now().UTC().Truncate(time.Second)}
	}
	return t.store(m)
}

// Fingerprint is a root's SHA-256 in groups, as people read it to each other.
func (p Pin) Fingerprint() string {
	sum := p.SHA256.Bytes()
	text := hex.EncodeToString(sum[:])
	var groups []string
	for len(text) > 0 {
		groups = append(groups, text[:8])
		text = text[8:]
	}
	return strings.Join(groups, " ")
}

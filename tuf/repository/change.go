package repository

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
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

var changeID = regexp.MustCompile(`^[0-9]{8}-[0-9]{6}-[a-z0-9.-]{1,90}$`)

const (
	changeSchema  = "slipway.change/v1"
	changeName    = "change.json"
	publishedName = "published"
	// maxPayload is the largest signed part a client accepts for targets and delegated roles.
	maxPayload = 5_000_000 // go-tuf's default
)

// Origin says who asks for a change. It is shown to the signers; the keys decide.
type Origin struct {
	RequestedBy string
	// Into adds to the open change of this id instead of opening one. Roles edited again lose their signatures.
	Into string
}

// Change is one folder under changes/, open until it is published or abandoned:
//
//	change.json                     what it is, from which versions it was made, and what it does in words
//	payloads/<role>.json            the new signed part of each role it touches, without signatures
//	signatures/<role>.<keyid>.json  detached signatures, one per key
//	files/<target path>             new target files under their plain names
//	base/                           what it was made from, laid out as a repository: enough to verify it without one
//
// Everything in the folder may have come by mail: it is checked when it is read (Review) and again when it is published.
type Change struct {
	ID          string           `json:"id"`
	Kind        string           `json:"kind"`
	Summary     string           `json:"summary"`
	Base        map[string]int64 `json:"base"`
	RequestedBy string           `json:"requested_by,omitempty"`
	Created     time.Time        `json:"created"`
	// Policy is what publishing the change adds to policy.json.
	Policy *Policy `json:"policy,omitempty"`
	// Promotions say where the releases that it deploys come from.
	Promotions []*PromotionRecord `json:"promotions,omitempty"`
	// Words are what whoever made the change saw. A signer's own tool makes them again and compares.
	Words *Words `json:"words,omitempty"`
	// Published is when it was, and PublishedAs the timestamp's version that made it visible, among the published ones.
	Published   *time.Time `json:"published,omitempty"`
	PublishedAs int64      `json:"published_as,omitempty"`

	dir string
	// parsed remembers the last reading of a payload; it counts only while the file's bytes are the same.
	parsed map[string]any
}

type changeFile struct {
	Schema string `json:"schema"`
	Change
}

type signatureFile struct {
	Role    string         `json:"role"`
	KeyID   string         `json:"keyid"`
	Payload release.Digest `json:"payload_sha256"`
	Sig     hexBytes       `json:"sig"`
	At      *time.Time     `json:"signed,omitempty"`
}

// Roles lists the roles the change touches, in the order they are best read: root, targets, then by name.
func (c *Change) Roles() []string {
	return slices.SortedFunc(maps.Keys(c.Base), func(a, b string) int {
		return strings.Compare(roleOrder(a), roleOrder(b))
	})
}

func roleOrder(role string) string {
	switch role {
	case classRoot:
		return "0"
	case classTargets:
		return "1"
	}
	return "2" + role
}

// Empty reports a change that nothing was added to yet. One that only changes policy.json needs no signature and is not empty.
func (c *Change) Empty() bool { return len(c.Base) == 0 && c.Policy == nil }

// Dir is the change's folder: what travels to signers and back.
func (c *Change) Dir() string { return c.dir }

// Changes lists the open changes, oldest first.
func (r *Repository) Changes() ([]*Change, error) {
	entries, err := os.ReadDir(r.changesDir())
	if err != nil {
		return nil, fmt.Errorf("cannot list changes: %w", err)
	}
	var out []*Change
	for _, e := range entries {
		if !e.IsDir() || e.Name() == publishedName || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		c, err := openChange(filepath.Join(r.changesDir(), e.Name()))
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b *Change) int {
		if d := a.Created.Compare(b.Created); d != 0 {
			return d
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out, nil
}

// Change opens one open change; an unambiguous beginning or end of its id is enough.
func (r *Repository) Change(id string) (*Change, error) {
	all, err := r.Changes()
	if err != nil {
		return nil, err
	}
	var found []*Change
	for _, c := range all {
		if c.ID == id {
			return c, nil
		}
		if id != "" && (strings.HasPrefix(c.ID, id) || strings.HasSuffix(c.ID, id)) {
			found = append(found, c)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	return nil, fmt.Errorf("cannot find change %q: %d of %d open changes match; run change list", id, len(found), len(all))
}

// Abandon deletes an open change. Nothing of it was published.
func (r *Repository) Abandon(ctx context.Context, id string) (*Change, error) {
	lock, err := r.edit(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	c, err := r.Change(id)
	if err != nil {
		return nil, err
	}
	begun, err := r.pending()
	if err != nil {
		return nil, err
	}
	if begun != nil && slices.Contains(begun.Changes, c.ID) {
		return nil, refuse("what is begun is finished", "cannot abandon "+c.ID+": its publish was interrupted and may have got through", "run publish again")
	}
	return c, discard(c.dir)
}

// discard renames first, so that a folder is listed whole or not at all.
func discard(dir string) error {
	gone := filepath.Join(filepath.Dir(dir), ".gone-"+filepath.Base(dir))
	if err := durable.Rename(dir, gone); err != nil {
		return err
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("cannot delete change folder: %w", err)
	}
	return nil
}

func openChange(dir string) (*Change, error) {
	c, err := readChange(dir)
	if err == nil && c.ID != filepath.Base(dir) {
		err = &DamagedError{Path: filepath.Join(dir, changeName), Err: fmt.Errorf("it says id %q, want the name of its folder", c.ID)}
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// readChange reads a change's folder under whatever name it has travelled.
func readChange(dir string) (*Change, error) {
	path := filepath.Join(dir, changeName)
	data, err := readBounded(path, maxPayload)
	if err != nil {
		return nil, fmt.Errorf("cannot read change: %w", err)
	}
	var f changeFile
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, &DamagedError{Path: path, Err: err}
	}
	c := &f.Change
	c.dir = dir
	if f.Schema != changeSchema || !changeID.MatchString(c.ID) {
		return nil, &DamagedError{Path: path, Err: fmt.Errorf("it says schema %q and id %q, want %q and an id such as 20260102-150405-deploy-3fa2", f.Schema, c.ID, changeSchema)}
	}
	for role, version := range c.Base {
		if version < 0 {
			return nil, &DamagedError{Path: path, Err: fmt.Errorf("it says version %d of %s", version, role)}
		}
		if role == classSnapshot || role == classTimestamp {
			return nil, &DamagedError{Path: path, Err: fmt.Errorf("role %s is not signed in changes", role)}
		}
		if _, err := rolePattern(role); err != nil && !topLevel(role) {
			return nil, &DamagedError{Path: path, Err: err}
		}
	}
	if c.Policy != nil {
		if err := c.Policy.check(); err != nil {
			return nil, &DamagedError{Path: path, Err: err}
		}
	}
	return c, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s is not a regular file of at most %d bytes", path, limit)
	}
	return os.ReadFile(path)
}

func (c *Change) payloadPath(role string) string {
	return filepath.Join(c.dir, "payloads", role+".json")
}

func (c *Change) filePath(target string) string {
	return filepath.Join(c.dir, "files", filepath.FromSlash(target))
}

// root reads the change's root, nil if it has none.
func (c *Change) root() (*payload[metadata.RootType], error) {
	return readPayload[metadata.RootType](c, classRoot)
}

// targets reads the change's version of targets or a delegated role, nil if it has none.
func (c *Change) targets(role string) (*payload[metadata.TargetsType], error) {
	return readPayload[metadata.TargetsType](c, role)
}

func readPayload[T metadata.Roles](c *Change, role string) (*payload[T], error) {
	if _, ok := c.Base[role]; !ok {
		return nil, nil
	}
	raw, err := readBounded(c.payloadPath(role), 2*maxPayload)
	if err != nil {
		return nil, fmt.Errorf("cannot read payload: %w", err)
	}
	if known, ok := c.parsed[role].(*payload[T]); ok && bytes.Equal(known.raw, raw) {
		return known, nil
	}
	p, err := parse[T](raw, role)
	if err != nil {
		return nil, &DamagedError{Path: c.payloadPath(role), Err: err}
	}
	if c.parsed == nil {
		c.parsed = map[string]any{}
	}
	c.parsed[role] = &p
	return &p, nil
}

// canonicalOf reads only what is needed to check or make signatures.
func (c *Change) canonicalOf(role string) ([]byte, error) {
	if role == classRoot {
		p, err := c.root()
		if err != nil {
			return nil, err
		}
		return p.canonical, nil
	}
	p, err := c.targets(role)
	if err != nil {
		return nil, err
	}
	return p.canonical, nil
}

// signatures reads the detached signatures of role that were made over exactly this payload, each under its key's own name.
// Others are left alone: they may belong to an earlier state of the change.
func (c *Change) signatures(role string, canonical []byte) ([]signature, error) {
	names, err := filepath.Glob(filepath.Join(c.dir, "signatures", role+".*.json"))
	if err != nil {
		return nil, fmt.Errorf("cannot list signatures: %w", err)
	}
	want := release.Sum(canonical)
	var out []signature
	for _, name := range names {
		data, err := readBounded(name, 64<<10)
		if err != nil {
			return nil, fmt.Errorf("cannot read signature: %w", err)
		}
		var f signatureFile
		if err := json.Unmarshal(data, &f); err != nil {
			return nil, &DamagedError{Path: name, Err: err}
		}
		if f.Role != role || f.Payload != want || filepath.Base(name) != role+"."+f.KeyID+".json" {
			continue
		}
		out = append(out, signature{KeyID: f.KeyID, Sig: f.Sig})
	}
	return out, nil
}

// encodeSignature is a detached signature's file. When it was made is the signer's own word, for the log.
func encodeSignature(role string, key keys.Public, canonical, sig []byte, at time.Time) (name string, data []byte, err error) {
	now := at.UTC().Truncate(time.Second)
	data, err = indent(signatureFile{Role: role, KeyID: key.ID, Payload: release.Sum(canonical), Sig: sig, At: &now})
	if err != nil {
		return "", nil, fmt.Errorf("cannot encode signature: %w", err)
	}
	return role + "." + key.ID + ".json", data, nil
}

func (c *Change) write() error {
	data, err := indent(changeFile{Schema: changeSchema, Change: *c})
	if err != nil {
		return fmt.Errorf("cannot encode change: %w", err)
	}
	return durable.WriteFile(filepath.Join(c.dir, changeName), data, 0o644)
}

func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }

package repository

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// draft is a change while it is being made: what is published, what an open change it adds to already says, and the edits.
type draft struct {
	r      *Repository
	state  *state
	policy *Policy
	open   []*Change
	into   *Change

	docs  map[string]any
	files map[string]source
	add   *Policy

	promoted *PromotionRecord
}

// source is where the bytes of a new target file come from: memory, or a file that is linked or copied.
type source struct {
	data []byte
	path string
}

// begin needs the repository's lock.
func (r *Repository) begin(o Origin) (*draft, error) {
	d := &draft{r: r, docs: map[string]any{}, files: map[string]source{}}
	var err error
	if d.policy, err = r.Policy(); err != nil {
		return nil, err
	}
	if d.state, err = load(r.metadataDir()); err != nil {
		return nil, err
	}
	if d.open, err = r.Changes(); err != nil {
		return nil, err
	}
	if o.Into != "" {
		if d.into, err = r.Change(o.Into); err != nil {
			return nil, err
		}
		d.policy.merge(d.into.Policy)
		d.add = d.into.Policy
	} else if !d.state.published() {
		return nil, refuse("the first change comes first", "cannot change the repository: nothing is published yet",
			"sign and publish its first change, or add to it with --change init")
	}
	return d, nil
}

// change runs build on a fresh draft under the lock and saves the result as a change.
func (r *Repository) change(ctx context.Context, kind string, o Origin, build func(*draft) (summary string, err error)) (*Change, error) {
	lock, err := r.edit(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	d, err := r.begin(o)
	if err != nil {
		return nil, err
	}
	summary, err := build(d)
	if err != nil {
		return nil, err
	}
	return d.save(kind, summary, o)
}

// peek reads role as this draft would find it, without editing it: nil if it has no version yet.
func (d *draft) peek(role string) (*metadata.TargetsType, error) {
	if doc, ok := d.docs[role].(*metadata.TargetsType); ok {
		return doc, nil
	}
	if d.into != nil {
		p, err := d.into.targets(role)
		if err != nil || p != nil {
			return docOf(p), err
		}
	}
	return d.state.role(role)
}

func docOf(p *payload[metadata.TargetsType]) *metadata.TargetsType {
	if p == nil {
		return nil
	}
	return p.doc
}

// edit gives role's next version, with a fresh expiry, to be changed in place. A role that has none yet starts empty, if it
// is delegated.
func (d *draft) edit(role string) (*metadata.TargetsType, error) {
	if doc, ok := d.docs[role].(*metadata.TargetsType); ok {
		return doc, nil
	}
	for _, c := range d.open {
		if _, ok := c.Base[role]; ok && (d.into == nil || c.ID != d.into.ID) {
			return nil, &ConflictError{Role: role, Change: c.ID}
		}
	}
	if role != classTargets {
		targets, err := d.peek(classTargets)
		if err != nil {
			return nil, err
		}
		if delegation(targets, role) == nil {
			return nil, &UnknownRoleError{Role: role}
		}
	}
	old, err := d.peek(role)
	if err != nil {
		return nil, err
	}
	expires := d.r.expires(d.policy, role)
	var doc *metadata.TargetsType
	if old == nil {
		fresh := metadata.Targets(expires).Signed
		doc = &fresh
	} else {
		doc = copyTargets(old)
	}
	doc.Version, doc.Expires, doc.SpecVersion = d.state.version(role)+1, expires, metadata.SPECIFICATION_VERSION
	d.docs[role] = doc
	return doc, nil
}

// put lists a target file in role and takes its bytes along.
func (d *draft) put(role, path string, sum release.Digest, length int64, src source) error {
	doc, err := d.edit(role)
	if err != nil {
		return err
	}
	if !ownsPath(role, path) {
		return refuse("a role signs its own paths", fmt.Sprintf("cannot list %s in role %s: it is not the role's to sign", path, role), "name another app or environment")
	}
	raw := sum.Bytes()
	doc.Targets[path] = &metadata.TargetFiles{Length: length, Hashes: metadata.Hashes{"sha256": raw[:]}}
	d.files[path] = src
	return nil
}

// save writes the change's folder. A new one is made under a hidden name and renamed, so that it is listed whole.
func (d *draft) save(kind, summary string, o Origin) (*Change, error) {
	if err := d.checkDuties(); err != nil {
		return nil, err
	}
	c := d.into
	if c == nil {
		suffix := make([]byte, 2)
		if _, err := rand.Read(suffix); err != nil {
			return nil, fmt.Errorf("cannot name change: %w", err)
		}
		now := d.r.utc()
		id := now.Format("20060102-150405") + "-" + slug(kind+" "+summary) + "-" + hex.EncodeToString(suffix)
		c = &Change{ID: id, Kind: kind, Summary: summary, Base: map[string]int64{}, RequestedBy: o.RequestedBy, Created: now,
			dir: filepath.Join(d.r.changesDir(), ".new-"+id)}
	} else {
		c.Summary += "; " + summary
	}
	c.Policy = d.add
	c.record(d.promoted)
	for role, doc := range d.docs {
		if err := d.writePayload(c, role, doc); err != nil {
			return nil, err
		}
		c.Base[role] = d.state.version(role)
	}
	for path, src := range d.files {
		if err := placeFile(src, c.filePath(path)); err != nil {
			return nil, fmt.Errorf("cannot put %s into the change: %w", path, err)
		}
	}
	if err := durable.MkdirAll(c.dir, 0o755); err != nil {
		return nil, err
	}
	if err := c.describe(d.r, d.state); err != nil {
		return nil, err
	}
	if err := c.write(); err != nil {
		return nil, err
	}
	if d.into == nil {
		final := filepath.Join(d.r.changesDir(), c.ID)
		if err := durable.Rename(c.dir, final); err != nil {
			return nil, err
		}
		c.dir = final
	}
	return c, nil
}

func (d *draft) checkDuties() error {
	if t, ok := d.docs[classTargets].(*metadata.TargetsType); ok {
		return checkDuties(t)
	}
	return nil
}

func (d *draft) writePayload(c *Change, role string, doc any) error {
	raw, err := encode(doc)
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", role, err)
	}
	if err := durable.MkdirAll(filepath.Join(c.dir, "payloads"), 0o755); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(c.dir, "signatures", role+".*.json"))
	if err != nil {
		return fmt.Errorf("cannot list signatures: %w", err)
	}
	for _, name := range old {
		if err := durable.Remove(name); err != nil {
			return err
		}
	}
	if err := durable.WriteFile(c.payloadPath(role), raw, 0o644); err != nil {
		return err
	}
	return c.remember(role, raw, doc)
}

// remember spares the reading of what was just written, for whoever signs it at once.
func (c *Change) remember(role string, raw []byte, doc any) error {
	text, err := canonical(raw)
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", role, err)
	}
	if c.parsed == nil {
		c.parsed = map[string]any{}
	}
	switch d := doc.(type) {
	case *metadata.RootType:
		c.parsed[role] = &payload[metadata.RootType]{doc: d, raw: raw, clean: raw, canonical: text}
	case *metadata.TargetsType:
		c.parsed[role] = &payload[metadata.TargetsType]{doc: d, raw: raw, clean: raw, canonical: text}
	}
	return nil
}

// placeFile puts src at path: written, hard-linked, or copied where links do not reach.
func placeFile(src source, path string) error {
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if src.path == "" {
		return durable.WriteFile(path, src.data, 0o644)
	}
	if err := durable.Remove(path); err != nil {
		return err
	}
	if err := os.Link(src.path, path); err == nil {
		return durable.SyncDir(filepath.Dir(path))
	}
	return copyFile(src.path, path)
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	tmp := filepath.Join(filepath.Dir(to), ".part-"+filepath.Base(to))
	out, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	if e := out.Close(); err == nil {
		err = e
	}
	if err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return durable.Rename(tmp, to)
}

func slug(s string) string {
	var b strings.Builder
	for _, c := range []byte(strings.ToLower(s)) {
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.':
			b.WriteByte(c)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
		if b.Len() >= 40 {
			break
		}
	}
	return strings.Trim(b.String(), "-.")
}

package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// The durable steps of a publish around those of its edition.
var (
	fpFiles   = durable.NewFailpoint("repository.publish.before-target-file")
	fpPolicy  = durable.NewFailpoint("repository.publish.before-policy")
	fpArchive = durable.NewFailpoint("repository.publish.before-archive")
	fpDone    = durable.NewFailpoint("repository.publish.after-archive")
)

// PublishOptions selects what to publish and who signs snapshot and timestamp.
type PublishOptions struct {
	// Changes are ids; none means every open change that has all its signatures.
	Changes []string
	// Online are the signers of snapshot and timestamp.
	Online []keys.Signer
	// To are the places hosts read from, if that is not this directory itself. The first decides whether a publish happened;
	// the others follow it.
	To []Destination
}

// Published is what a publish did.
type Published struct {
	Changes   []string         `json:"changes"`
	Roles     map[string]int64 `json:"roles"`
	Snapshot  int64            `json:"snapshot"`
	Timestamp int64            `json:"timestamp"`
	// Waiting are open changes left out because signatures are missing.
	Waiting []string `json:"waiting,omitempty"`
	// Behind says which open changes could not be given the new state as their base, and why: whoever has seen it will not
	// sign them. What was published is not affected.
	Behind []string `json:"behind,omitempty"`
	Pushed []Pushed `json:"pushed,omitempty"`
}

// Publish checks complete changes, puts their files and roles in place and makes them visible by replacing the timestamp. It
// may be interrupted anywhere and run again: the repository is then as before or as after, and the second run completes it.
// A *LaggingError comes with a result: it is published, and one destination lacks it.
func (r *Repository) Publish(ctx context.Context, o PublishOptions) (*Published, error) {
	shipped, err := r.ship(ctx, o.Changes, o.To)
	if err != nil {
		return nil, err
	}
	lock, err := r.exclusive()
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	s, outs, err := r.take(ctx, o.To, shipped)
	if err != nil {
		return nil, err
	}
	out := &Published{Roles: map[string]int64{}, Snapshot: s.version(classSnapshot), Timestamp: s.version(classTimestamp)}
	ready, err := r.selectChanges(s, o.Changes, out)
	if err != nil {
		return nil, err
	}
	if len(ready) == 0 {
		out.Pushed, err = r.sync(ctx, s, outs)
		return out, err
	}
	p := &plan{r: r, before: s, changes: ready, targets: map[string]*metadata.TargetsType{}, metas: map[string][]byte{}}
	if err := p.build(ctx, o.Online); err != nil {
		return nil, err
	}
	if err := p.verify(ctx); err != nil {
		return nil, err
	}
	out.Pushed, err = p.write(ctx, outs)
	var lagging *LaggingError
	if err != nil && !errors.As(err, &lagging) {
		return nil, err
	}
	p.describe(out)
	out.Behind = p.rebase()
	return out, err
}

// take finishes what was interrupted, then looks at what is published here and at each destination, where payloads may have
// been shipped already. It needs the lock.
func (r *Repository) take(ctx context.Context, to []Destination, shipped map[string]*outlet) (*state, []*outlet, error) {
	if err := r.settle(ctx, to); err != nil {
		return nil, nil, err
	}
	s, err := load(r.metadataDir())
	if err != nil {
		return nil, nil, err
	}
	outs, err := outlets(ctx, s, to)
	for _, o := range outs {
		if before := shipped[o.String()]; before != nil {
			o.tally.files, o.tally.bytes = before.tally.files, before.tally.bytes
		}
	}
	return s, outs, err
}

func (p *plan) describe(out *Published) {
	for _, c := range p.changes {
		out.Changes = append(out.Changes, c.ID)
		for role, base := range c.Base {
			out.Roles[role] = base + 1
		}
	}
	out.Snapshot, out.Timestamp = p.snapshotVersion, p.timestampVersion
}

// selectChanges leaves out what waits for signatures, unless it was asked for by name.
func (r *Repository) selectChanges(s *state, ids []string, out *Published) ([]*Change, error) {
	var all []*Change
	var err error
	if len(ids) == 0 {
		all, err = r.Changes()
	}
	for _, id := range ids {
		c, e := r.Change(id)
		if e != nil {
			return nil, e
		}
		all = append(all, c)
	}
	if err != nil {
		return nil, err
	}
	return r.ready(s, all, len(ids) > 0, out)
}

// ready drops what waits until nothing more does: a change whose signers are named by one that waits must wait too.
func (r *Repository) ready(s *state, all []*Change, named bool, out *Published) ([]*Change, error) {
	for {
		var done []*Change
		for _, c := range all {
			progress, err := r.progress(s, all, c)
			var unknown *UnknownRoleError
			var refused *RefusedError
			if err != nil && (named || !errors.As(err, &unknown) && !errors.As(err, &refused)) {
				return nil, err
			}
			waiting := slices.DeleteFunc(progress, Progress.Done)
			switch {
			case err == nil && len(waiting) == 0 && !c.Empty():
				done = append(done, c)
			case named && c.Empty():
				return nil, refuse("a change changes something", "cannot publish "+c.ID+": nothing is in it yet", "add to it with --change "+c.ID+", or abandon it")
			case named:
				return nil, &UnsignedError{Change: c.ID, Waiting: waiting}
			default:
				out.Waiting = append(out.Waiting, c.ID)
			}
		}
		if len(done) == len(all) {
			return done, nil
		}
		all = done
	}
}

// plan is one publish: everything is computed and checked in memory before the first file is written.
type plan struct {
	r       *Repository
	before  *state
	changes []*Change

	root    *metadata.RootType
	rootRaw []byte
	targets map[string]*metadata.TargetsType
	// metas are the new role files by name; files the new target files.
	metas map[string][]byte
	files []newFile
	links []string
	// stored are the names of the change's files in targets/.
	stored []string

	policy                            *Policy
	snapshot, timestamp               []byte
	snapshotVersion, timestampVersion int64
}

// newFile is a target file on its way from a change into targets/.
type newFile struct {
	from, to string
	file     release.File
}

func (p *plan) build(ctx context.Context, online []keys.Signer) error {
	var err error
	if p.policy, err = p.r.Policy(); err != nil {
		return err
	}
	p.root = p.before.root
	for _, c := range p.changes {
		if err := p.take(c); err != nil {
			return fmt.Errorf("cannot publish %s: %w", c.ID, err)
		}
		p.policy.merge(c.Policy)
	}
	if p.root == nil {
		return refuse("the first change comes first", "cannot publish: there is no root yet", "publish the repository's first change")
	}
	if err := p.checkStructure(); err != nil {
		return err
	}
	for _, c := range p.changes {
		if err := p.collectFiles(c); err != nil {
			return fmt.Errorf("cannot publish %s: %w", c.ID, err)
		}
		if err := p.retell(c); err != nil {
			return err
		}
	}
	return p.signOnline(ctx, online)
}

// take assembles the role files of a change.
func (p *plan) take(c *Change) error {
	for _, role := range c.Roles() {
		if err := p.takeRole(c, role); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) takeRole(c *Change, role string) error {
	var raw, canonical []byte
	var version int64
	if role == classRoot {
		root, err := c.root()
		if err != nil {
			return err
		}
		raw, canonical, version = root.clean, root.canonical, root.doc.Version
		p.root = root.doc
	} else {
		t, err := c.targets(role)
		if err != nil {
			return err
		}
		raw, canonical, version = t.clean, t.canonical, t.doc.Version
		if p.targets[role] != nil {
			return &ConflictError{Role: role, Change: c.ID}
		}
		p.targets[role] = t.doc
	}
	if version != c.Base[role]+1 {
		return fmt.Errorf("version %d of %s does not follow version %d", version, role, c.Base[role])
	}
	sigs, err := c.signatures(role, canonical)
	if err != nil {
		return err
	}
	data, err := p.assemble(role, version, raw, canonical, sigs, c)
	if err != nil {
		return err
	}
	if v := p.before.version(role); v != c.Base[role] && !p.alreadyThere(role, version, v, raw) {
		return &StaleError{Change: c.ID, Role: role, Base: c.Base[role], Published: v}
	}
	if role == classRoot {
		p.rootRaw = data
		return nil
	}
	p.metas[role] = data
	return nil
}

// alreadyThere recognises a role that an interrupted publish of the same change has made visible.
func (p *plan) alreadyThere(role string, version, published int64, raw []byte) bool {
	if version != published {
		return false
	}
	data, err := os.ReadFile(p.before.path(role, version))
	if err != nil {
		return false
	}
	e, err := openEnvelope(data)
	if err != nil {
		return false
	}
	have, err := canonical(e.Signed)
	if err != nil {
		return false
	}
	want, err := canonical(raw)
	return err == nil && bytes.Equal(have, want)
}

// assemble keeps only good signatures of keys that count, one per key.
func (p *plan) assemble(role string, version int64, raw, text []byte, sigs []signature, c *Change) ([]byte, error) {
	authorities, err := p.r.authorities(p.before, p.changes, c, role)
	if err != nil {
		return nil, err
	}
	e := envelope{Signed: raw}
	for _, sig := range sigs {
		good := slices.ContainsFunc(authorities, func(s signers) bool {
			return slices.ContainsFunc(s.valid(text, sigs), func(k keys.Public) bool { return k.ID == sig.KeyID })
		})
		if good {
			e.Signatures = append(e.Signatures, sig)
		}
	}
	slices.SortFunc(e.Signatures, func(a, b signature) int { return strings.Compare(a.KeyID, b.KeyID) })
	data, err := e.bytes()
	if err != nil {
		return nil, fmt.Errorf("cannot encode %s: %w", metaName(role, version), err)
	}
	limit := maxPayload
	if role == classRoot {
		limit = maxRoot
	}
	if len(data) > limit {
		return nil, refuse("clients bound what they read", fmt.Sprintf("%s has %d bytes, clients accept %d", metaName(role, version), len(data), limit),
			"retire old releases of the app")
	}
	return data, nil
}

// edition orders what the plan makes.
func (p *plan) edition() *edition {
	e := &edition{Targets: p.stored}
	for _, role := range sortedKeys(p.metas) {
		e.add(metaName(role, p.targets[role].Version), p.metas[role])
	}
	e.add(metaName(classSnapshot, p.snapshotVersion), p.snapshot)
	if p.rootRaw != nil && p.before.version(classRoot) < p.root.Version {
		e.add(metaName(classRoot, p.root.Version), p.rootRaw)
	}
	e.add(metaName(classTimestamp, 0), p.timestamp)
	return e
}

// write makes the plan durable: files that nobody refers to yet first, then the edition, then the bookkeeping. A destination
// that lags keeps no other back.
func (p *plan) write(ctx context.Context, outs []*outlet) ([]Pushed, error) {
	for _, f := range p.files {
		if err := fpFiles.Hit(); err != nil {
			return nil, err
		}
		if err := p.placeTarget(f); err != nil {
			return nil, err
		}
	}
	var ids []string
	for _, c := range p.changes {
		ids = append(ids, c.ID)
	}
	pushed, err := p.r.publishTo(ctx, p.before, outs, p.edition(), ids)
	var lagging *LaggingError
	if err != nil && !errors.As(err, &lagging) {
		return nil, err
	}
	return pushed, errors.Join(err, p.finish())
}

// finish does what a second run repeats harmlessly.
func (p *plan) finish() error {
	if err := fpPolicy.Hit(); err != nil {
		return err
	}
	if err := writePolicy(p.r.policyPath(), p.policy); err != nil {
		return err
	}
	for _, c := range p.changes {
		if err := fpArchive.Hit(); err != nil {
			return err
		}
		if err := p.archive(c); err != nil {
			return err
		}
	}
	return fpDone.Hit()
}

// archive moves a change among the published ones and drops what metadata/ and targets/ hold from now on.
func (p *plan) archive(c *Change) error {
	to := filepath.Join(p.r.publishedDir(), c.ID)
	now := p.r.utc()
	c.Published, c.PublishedAs = &now, p.timestampVersion
	if err := c.write(); err != nil {
		return err
	}
	if err := durable.Rename(c.dir, to); err != nil {
		return err
	}
	for _, sub := range []string{"payloads", "files", baseName} {
		if err := os.RemoveAll(filepath.Join(to, sub)); err != nil {
			return fmt.Errorf("cannot tidy up published change: %w", err)
		}
	}
	return nil
}

// placeTarget puts a file under its stored name; a name that exists holds the same bytes, since it was hashed before it
// got there.
func (p *plan) placeTarget(f newFile) error {
	if info, err := os.Stat(f.to); err == nil && info.Size() == f.file.Length {
		return nil
	}
	return placeFile(source{path: f.from}, f.to)
}

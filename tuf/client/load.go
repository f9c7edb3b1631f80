package client

import (
	"bytes"
	"encoding/hex"
	"os"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// load brings memory level with the directory. It costs one small read when nothing moved there. Nothing damaged is an
// error: what cannot be proved from the pinned root is forgotten, and the next refresh fetches it again.
//
// Trusted calls it without the directory's lock, so another process may sweep a file between our reading the index and that
// file; the index has moved on by then and is read again.
func (c *Client) load() {
	for range 5 {
		if c.loadOnce() || c.set != nil || c.index.Complete == nil {
			return
		}
	}
}

// loadOnce reports whether memory was level already.
func (c *Client) loadOnce() bool {
	var ix index
	raw, found, intact := readSealed(c.cache.path("index"), &ix)
	if c.loaded && bytes.Equal(raw, c.rawIndex) {
		return true
	}
	if found && !intact {
		c.log.Warn("the metadata index is damaged and will be rebuilt", "file", c.cache.path("index"))
	}
	c.loadFloors()
	if !c.loaded && c.otherRepository() {
		c.log.Warn("the cache belongs to another repository than the pinned root and is dropped", "dir", c.cfg.Dir)
		raw, ix, c.floors = nil, index{}, floors{}
	}
	c.loadClock()
	before := c.root()
	c.replay()
	if !c.loaded || before != c.root() || raw == nil {
		c.stamp, c.snap, c.set = nil, nil, nil
	}
	c.rawIndex, c.index, c.loaded = raw, ix, true
	if ix.Checked.After(c.checked) {
		c.checked = ix.Checked
	}
	c.adopt()
	return false
}

// otherRepository says whether the directory was filled from another root of the pinned root's version. A damaged file is
// not that: it proves nothing.
func (c *Client) otherRepository() bool {
	pinned := c.chain[0]
	data, err := os.ReadFile(c.cache.rootPath(pinned.version))
	if err != nil {
		return false
	}
	stored, err := firstRoot(data)
	return err == nil && stored.signed != pinned.signed
}

func (c *Client) loadFloors() {
	var f floors
	_, found, intact := readSealed(c.cache.path("floors"), &f)
	switch {
	case intact && f.Root >= c.floors.Root:
		c.floors = f
	case found && !intact:
		c.log.Warn("the version memory is damaged and will be rebuilt from the metadata", "file", c.cache.path("floors"))
	}
}

func (c *Client) loadClock() {
	var at time.Time
	_, found, intact := readSealed(c.cache.path("clock"), &at)
	if found && !intact {
		c.log.Warn("the latest trusted time is damaged and starts anew", "file", c.cache.path("clock"))
	}
	if intact {
		c.latestDisk = at
		if !c.loaded || at.After(c.latest) {
			c.latest = at
		}
	}
}

// replay extends the chain with every root on disk that verifies, from the pinned one on. Each step applies spec 5.3.11, so
// a crash between storing a root and clearing what it invalidates is made good here.
func (c *Client) replay() {
	for {
		last := c.root()
		data, err := os.ReadFile(c.cache.rootPath(last.version + 1))
		if err != nil {
			break
		}
		next, err := last.next(data)
		if err != nil {
			c.log.Warn("a stored root does not follow from the pinned one and is ignored", "version", last.version+1, "error", err)
			break
		}
		c.step(next)
	}
	c.foreign()
}

// step makes next the root. Spec 5.3.11: if a timestamp or snapshot key was rotated out, both trusted files go, and with
// them every version memory that came through them, or a fast-forward attack could never be undone.
func (c *Client) step(next *root) {
	last := c.root()
	c.chain = append(c.chain, next)
	if !rotated(last.view, next.view, metadata.TIMESTAMP) && !rotated(last.view, next.view, metadata.SNAPSHOT) {
		return
	}
	if next.version > c.floors.Root {
		c.log.Info("online keys were rotated: versions of timestamp, snapshot and targets may start anew", "root", next.version)
		c.floors.clear()
	}
	c.stamp, c.snap, c.set = nil, nil, nil
}

// foreign drops version memory that another repository left in this directory: at the version it was taken under, this
// chain has a different root.
func (c *Client) foreign() {
	for _, r := range c.chain {
		if r.version == c.floors.Root && c.floors.RootSHA != hex.EncodeToString(r.signed[:]) {
			c.log.Warn("the version memory belongs to another repository and is dropped", "root", r.version)
			c.floors = floors{}
		}
	}
}

// adopt verifies what the index names, under the current root, and keeps what holds. Objects already verified under the same
// root are kept without a second look.
func (c *Client) adopt() {
	ix := &c.index
	if ix.Root > c.root().version || c.rotatedSince(ix.Root) {
		*ix = index{Roles: ix.Roles}
	}
	stamps, snaps, old := []*stamp{c.stamp}, []*snap{c.snap}, c.set
	var targets *role
	if old != nil {
		stamps, snaps, targets = append(stamps, old.stamp), append(snaps, old.snap), old.targets
	}
	c.stamp = c.loadStamp(ix.Timestamp, stamps)
	c.snap = c.loadSnap(ix.Snapshot, snaps)
	c.set = nil
	g := ix.Complete
	if g == nil {
		return
	}
	s := &set{stamp: c.loadStamp(g.Timestamp, append(stamps, c.stamp)), snap: c.loadSnap(g.Snapshot, append(snaps, c.snap)), roles: map[pair]*role{}}
	if s.stamp == nil || s.snap == nil {
		return
	}
	if s.targets = c.loadTargets(g.Targets, s, targets); s.targets != nil {
		s.carry(old)
		c.set = s
	}
}

func (c *Client) rotatedSince(version int64) bool {
	for i := 1; i < len(c.chain); i++ {
		last, next := c.chain[i-1].view, c.chain[i].view
		if c.chain[i].version > version && (rotated(last, next, metadata.TIMESTAMP) || rotated(last, next, metadata.SNAPSHOT)) {
			return true
		}
	}
	return false
}

func (c *Client) loadStamp(r ref, have []*stamp) *stamp {
	for _, s := range have {
		if s != nil && r.names(s.file) {
			return s
		}
	}
	data := c.cache.loadBlob(r)
	if data == nil {
		return nil
	}
	s, err := verifyStamp(c.root(), nil, data, noExpiry)
	return kept(c, metadata.TIMESTAMP, s, err)
}

func (c *Client) loadSnap(r ref, have []*snap) *snap {
	for _, s := range have {
		if s != nil && r.names(s.file) {
			return s
		}
	}
	data := c.cache.loadBlob(r)
	if data == nil {
		return nil
	}
	var s *snap
	err := guarded(metadata.SNAPSHOT, func() error {
		m, err := metadata.Snapshot().FromBytes(data)
		if err != nil {
			return malformed(metadata.SNAPSHOT, err)
		}
		s = &snap{fileOf(data), m}
		if err := vetMeta(metadata.SNAPSHOT, m.Signed.Meta, "targets.json"); err != nil {
			return err
		}
		return c.root().view.VerifyDelegate(metadata.SNAPSHOT, m)
	})
	return kept(c, metadata.SNAPSHOT, s, err)
}

func (c *Client) loadTargets(r ref, s *set, have *role) *role {
	if have != nil && r.names(have.file) && have.pinned(s.snap.of(metadata.TARGETS), have.version) {
		return have
	}
	data := c.cache.loadBlob(r)
	if data == nil {
		return nil
	}
	t, err := verifyRole(c.root(), s.stamp, s.snap, nil, metadata.TARGETS, data, noExpiry)
	return kept(c, metadata.TARGETS, t, err)
}

func kept[T any](c *Client, name string, v *T, err error) *T {
	if err != nil {
		c.log.Debug("stored metadata no longer verifies and will be fetched again", "role", name, "error", err)
		return nil
	}
	return v
}

// carry keeps the delegated roles of an older set that are still exactly what this one's snapshot and delegators name.
func (s *set) carry(old *set) {
	if old == nil {
		return
	}
	kept := map[*role]bool{s.targets: true}
	for range old.roles {
		before := len(kept)
		for key, r := range old.roles {
			if kept[r.delegator] && r.pinned(s.snap.of(r.name), r.version) {
				s.roles[key], kept[r] = r, true
			}
		}
		if len(kept) == before {
			return
		}
	}
}

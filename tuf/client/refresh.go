package client

import (
	"context"
	"errors"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Refresh brings the top-level metadata up to date from the first mirror that can. With nothing new it costs one conditional
// request, and a look at each mirror on this machine: a bundle that arrived counts at once, whatever a server says. On an error everything trusted before stays trusted until it lapses; whether to act on it is the caller's rule.
func (c *Client) Refresh(ctx context.Context) (Trusted, error) {
	if err := c.awaitClock(ctx); err != nil {
		return Trusted{}, err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return Trusted{}, err
	}
	defer unlock()
	now, err := c.now()
	if err != nil {
		return Trusted{}, err
	}
	var errs []error
	answered, from := -1, c.index.Bundle
	for _, i := range c.mirrors.metadata() {
		if answered >= 0 && !c.cfg.Mirrors[i].local() {
			continue
		}
		changed, err := c.cycle(ctx, i, now)
		c.blame(i, err)
		if err == nil && changed {
			return c.refreshed(i, now, true, c.commit)
		}
		if err == nil {
			answered = i
			continue
		}
		if errs = append(errs, err); ctx.Err() != nil {
			break
		}
	}
	switch {
	case answered < 0:
		return Trusted{}, errors.Join(join(errs), c.commit())
	case len(errs) > 0 || from != c.index.Bundle:
		return c.refreshed(answered, now, false, c.commit)
	}
	return c.refreshed(answered, now, false, c.settle)
}

// blame logs a mirror's failure once, not at every poll: a medium that is not there and a bundle that was overtaken are
// ordinary.
func (c *Client) blame(mirror int, err error) {
	if err == nil {
		delete(c.blamed, mirror)
		return
	}
	if text := err.Error(); c.blamed[mirror] != text {
		c.blamed[mirror] = text
		c.log.Warn("a mirror could not refresh the metadata", "mirror", c.cfg.Mirrors[mirror].Metadata, "error", err)
	}
}

func (c *Client) refreshed(mirror int, now time.Time, changed bool, store func() error) (Trusted, error) {
	c.checked = now
	c.keepTime(now, changed)
	if changed {
		c.mirrors.served(mirror)
	} else {
		c.mirrors.nextPoll()
	}
	if err := store(); err != nil {
		return Trusted{}, err
	}
	return c.trusted(changed)
}

// cycle is the client workflow of the specification (5.3 to 5.6) against one mirror. Whatever it verified stays in memory for
// the next mirror, which can only be asked to go further.
func (c *Client) cycle(ctx context.Context, mirror int, now time.Time) (changed bool, err error) {
	m := c.cfg.Mirrors[mirror]
	defer func() { err = m.named(err) }()
	probed := false
	if c.set == nil || now.Sub(c.probed) >= c.cfg.RootProbe || now.Before(c.probed) || now.After(c.root().expires) {
		if changed, err = c.walkRoots(ctx, m, now); err != nil {
			return false, err
		}
		probed = true
	}
	data, err := c.fetchStamp(ctx, m)
	if err != nil {
		return false, err
	}
	if data == nil && c.set != nil && c.set.stamp == c.stamp {
		if _, ok := m.bundle(); !ok {
			c.index.Bundle = ""
		}
		if err := c.lapsed(now); err != nil {
			return changed, err
		}
		return changed, c.tooOld(m, c.stamp, now)
	}
	if data != nil && !probed {
		if changed, err = c.walkRoots(ctx, m, now); err != nil {
			return false, err
		}
	}
	moved, err := c.advance(ctx, m, data, now)
	return changed || moved, err
}

// walkRoots follows the chain of roots to its end. A missing next version is how a server says that there is none.
func (c *Client) walkRoots(ctx context.Context, m Mirror, now time.Time) (changed bool, err error) {
	for range c.cfg.Limits.Roots {
		version := c.root().version + 1
		data, err := c.fetch.readAll(ctx, c.timed(m.metadataRequest(metadata.ROOT, version)), c.cfg.Limits.Root)
		if missing(err) {
			c.probed = now
			return changed, c.settleRoot(now, changed)
		}
		if err != nil {
			return changed, err
		}
		next, err := c.root().next(data)
		if err != nil {
			return changed, errors.Join(err, c.resettle(changed))
		}
		if err := c.cache.saveRoot(version, data); err != nil {
			return changed, err
		}
		c.step(next)
		changed = true
	}
	return changed, errors.Join(&ErrTooManyRoots{Limit: c.cfg.Limits.Roots, At: c.root().version}, c.resettle(changed))
}

// settleRoot judges the root that the walk ended at: it must be no older than what was trusted once, and not lapsed.
func (c *Client) settleRoot(now time.Time, changed bool) error {
	if err := c.resettle(changed); err != nil {
		return err
	}
	if r := c.root(); r.version < c.floors.Root {
		return &ErrRollback{Role: metadata.ROOT, Have: c.floors.Root, Got: r.version}
	}
	if now.After(c.root().expires) {
		return &ErrExpired{Role: metadata.ROOT, At: c.root().expires}
	}
	return nil
}

// resettle verifies what is held under a root that changed.
func (c *Client) resettle(changed bool) error {
	c.foreign()
	if !changed {
		return nil
	}
	if err := c.settle(); err != nil {
		return err
	}
	c.stamp, c.snap, c.set = nil, nil, nil
	c.adopt()
	return nil
}

func (c *Client) timed(r request) request {
	r.timeout = c.cfg.HTTP.MetadataTimeout
	return r
}

// fetchStamp returns nil if the mirror still has the very bytes that were verified last. It compares bytes and never asks
// conditionally: Last-Modified, and the ETags that web servers make of it, are the same for two timestamps of one second, and
// the second one would go unnoticed. A timestamp is not much longer than the headers that come with it.
func (c *Client) fetchStamp(ctx context.Context, m Mirror) ([]byte, error) {
	r := c.timed(m.metadataRequest(metadata.TIMESTAMP, 0))
	data, err := c.fetch.readAll(ctx, r, c.cfg.Limits.Timestamp)
	if err != nil || c.stamp != nil && fileOf(data) == c.stamp.file {
		return nil, err
	}
	return data, nil
}

// advance takes a newly fetched timestamp (nil: the one held) and completes the set under it.
func (c *Client) advance(ctx context.Context, m Mirror, data []byte, now time.Time) (changed bool, err error) {
	if data != nil {
		if changed, err = c.acceptStamp(m, data, now); err != nil {
			return false, err
		}
	}
	if !changed && c.set != nil && c.set.stamp == c.stamp {
		return false, c.lapsed(now)
	}
	if now.After(c.stamp.meta.Signed.Expires) {
		return false, &ErrExpired{Role: metadata.TIMESTAMP, At: c.stamp.meta.Signed.Expires}
	}
	if err := c.acceptSnap(ctx, m, now); err != nil {
		return false, err
	}
	next := &set{stamp: c.stamp, snap: c.snap, roles: map[pair]*role{}}
	next.targets, err = c.reuseTargets(next, now)
	if next.targets == nil {
		next.targets, err = c.obtain(ctx, m, next, nil, metadata.TARGETS, now)
	}
	if err != nil {
		return false, err
	}
	next.carry(c.set)
	c.set = next
	c.index.At = now
	c.index.Complete = &generation{c.index.Timestamp, c.index.Snapshot, refOf(next.targets.file, next.targets.version)}
	return true, nil
}

func (c *Client) acceptStamp(m Mirror, data []byte, now time.Time) (changed bool, err error) {
	s, err := verifyStamp(c.root(), c.stamp, data, now)
	if err != nil {
		return false, err
	}
	if s == c.stamp {
		return false, nil
	}
	if err := errors.Join(c.floors.checkStamp(s), c.plausible(s.issued, now), c.tooOld(m, s, now)); err != nil {
		return false, err
	}
	c.inBackground(func() error { return c.cache.saveBlob(s.file, data) })
	c.stamp = s
	c.index.Timestamp = refOf(s.file, s.meta.Signed.Version)
	c.index.Bundle, _ = m.bundle()
	return true, nil
}

func (c *Client) acceptSnap(ctx context.Context, m Mirror, now time.Time) error {
	want := c.stamp.snapshot()
	if c.snap != nil && c.snap.meta.Signed.Version == want.Version && !now.After(c.snap.meta.Signed.Expires) {
		return nil
	}
	r := m.metadataRequest(metadata.SNAPSHOT, c.versioned(want.Version))
	data, err := c.fetch.readAll(ctx, c.timed(r), limitFor(c.cfg.Limits.Snapshot, want))
	if err != nil {
		return err
	}
	s, err := verifySnap(c.root(), c.stamp, c.snap, data, now)
	if err != nil {
		return err
	}
	if err := c.floors.checkSnap(s); err != nil {
		return err
	}
	c.inBackground(func() error { return c.cache.saveBlob(s.file, data) })
	c.snap = s
	c.index.Snapshot = refOf(s.file, s.meta.Signed.Version)
	return nil
}

func (c *Client) reuseTargets(next *set, now time.Time) (*role, error) {
	if c.set == nil || !c.set.targets.pinned(next.snap.of(metadata.TARGETS), c.set.targets.version) {
		return nil, nil
	}
	if t := c.set.targets; !now.After(t.expires) {
		return t, nil
	}
	return nil, nil
}

func (c *Client) versioned(version int64) int64 {
	if c.root().consistent {
		return version
	}
	return 0
}

// obtain gets a targets role as by delegates it (nil: root): from the cache if those bytes still verify, else from the mirror.
func (c *Client) obtain(ctx context.Context, m Mirror, s *set, by *role, name string, now time.Time) (*role, error) {
	meta := s.snap.of(name)
	if meta == nil && by != nil {
		return nil, &ErrUnpublished{Role: name}
	}
	if meta == nil {
		return nil, &ErrCorrupt{Name: name, Reason: "not in the snapshot"}
	}
	if held := c.index.Roles[name]; held.Version == meta.Version {
		if data := c.cache.loadBlob(held); data != nil {
			if r, err := verifyRole(c.root(), s.stamp, s.snap, by, name, data, now); err == nil {
				return r, nil
			}
		}
	}
	r := m.metadataRequest(name, c.versioned(meta.Version))
	data, err := c.fetch.readAll(ctx, c.timed(r), limitFor(c.cfg.Limits.Targets, meta))
	if err != nil {
		return nil, err
	}
	// Storing overlaps with verifying. If the bytes are refused, nothing ever names the file and it is swept.
	if f := fileOf(data); meta.VerifyLengthHashes(data) == nil {
		c.inBackground(func() error { return c.cache.saveBlob(f, data) })
	}
	verified, err := verifyRole(c.root(), s.stamp, s.snap, by, name, data, now)
	if err != nil {
		return nil, err
	}
	if c.index.Roles == nil {
		c.index.Roles = map[string]ref{}
	}
	c.index.Roles[name] = refOf(verified.file, verified.version)
	return verified, nil
}

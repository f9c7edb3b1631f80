package client

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Client follows one repository from one pinned root. It is safe for concurrent use, and several processes may share Dir.
type Client struct {
	cfg   Config
	log   hclog.Logger
	cache cache
	fetch *fetcher

	told atomic.Pointer[told] // what Trusted answers while the gate is taken
	once sync.Once
	any  chan struct{} // closed once there is an answer in told

	gate chan struct{} // a mutex that a context can give up on; guards everything below
	known
	mirrors *mirrorOrder
	blamed  map[int]string // what was last said of a mirror that failed
	saves   []chan error   // writes under way
}

// known is what this process has verified. It mirrors the cache and is reloaded when another process moved that on.
type known struct {
	loaded     bool
	rawIndex   []byte // as last read or written, to notice other writers
	index      index
	floors     floors
	latest     time.Time // latest trusted time
	latestDisk time.Time // as persisted
	probed     time.Time // when a newer root was last asked for
	chain      []*root   // from the pinned root on; the last one counts
	stamp      *stamp    // newest verified
	snap       *snap     // newest verified
	checked    time.Time
	set        *set // last complete
}

// set is metadata that belongs together: one timestamp, its snapshot, its targets and the delegated roles under those.
type set struct {
	stamp   *stamp
	snap    *snap
	targets *role
	roles   map[pair]*role
}

// pair keys a role by who delegated it: the same name under another delegator may have other keys.
type pair struct{ delegator, role string }

// Trusted describes the complete set of metadata that this host has verified.
type Trusted struct {
	Root, Timestamp, Snapshot, Targets int64

	// Issued is the signed time at which the timestamp was made; zero if the publisher does not say. Rules about age
	// ("issued less than freshness ago") look at nothing else: a server can repeat old bytes for ever.
	Issued time.Time
	// At is when this host first verified that timestamp. A poll that finds the same bytes, or a 304, moves neither.
	At time.Time
	// Checked is when a mirror last confirmed it. It proves that the mirror answers, not that it is fresh.
	Checked time.Time

	Expires map[string]time.Time // by role: the top-level ones and those delegated roles that were looked up
	// Bundle is the file that brought the newest timestamp; "" once a server or directory has brought or confirmed it.
	Bundle  string
	Changed bool // by the Refresh that returned this
}

// Open verifies the pinned root and prepares the cache directory. It makes no request, and a damaged cache is no error.
func Open(cfg Config) (*Client, error) {
	if err := cfg.complete(); err != nil {
		return nil, errors.Join(errors.New("cannot open the repository client"), err)
	}
	pinned, err := firstRoot(cfg.Root)
	if err != nil {
		return nil, errors.Join(errors.New("cannot use the pinned root"), err)
	}
	fetch, err := newFetcher(cfg.HTTP, cfg.Stall)
	if err != nil {
		return nil, err
	}
	c := &Client{
		cfg: cfg, log: cfg.Logger, cache: cache{cfg.Dir, cfg.Spare}, fetch: fetch,
		gate: make(chan struct{}, 1), any: make(chan struct{}), mirrors: newMirrorOrder(len(cfg.Mirrors)),
		blamed: map[int]string{},
	}
	c.chain = []*root{pinned}
	return c, c.cache.create()
}

// lock takes the process's own gate, then the directory's. The caller must call the returned function.
func (c *Client) lock(ctx context.Context) (func(), error) {
	release, err := c.lockMemory(ctx)
	if err != nil {
		return nil, err
	}
	held, err := durable.AcquireLock(ctx, c.cache.path("lock"))
	if err != nil {
		release()
		return nil, err
	}
	c.load()
	c.tell()
	return func() {
		if err := c.settle(); err != nil {
			c.log.Warn("cannot store metadata", "error", err)
		}
		c.tell()
		held.Release()
		release()
	}, nil
}

// inBackground syncs something to disk while verification goes on. Nothing may name it before settle.
func (c *Client) inBackground(save func() error) {
	done := make(chan error, 1)
	c.saves = append(c.saves, done)
	go func() { done <- save() }()
}

// settle waits until everything is durable.
func (c *Client) settle() (err error) {
	for _, done := range c.saves {
		err = errors.Join(err, <-done)
	}
	c.saves = nil
	return err
}

func (c *Client) lockMemory(ctx context.Context) (func(), error) {
	select {
	case c.gate <- struct{}{}:
		return func() { <-c.gate }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (c *Client) root() *root { return c.chain[len(c.chain)-1] }

// told is an answer of Trusted.
type told struct {
	trusted Trusted
	err     error
}

// tell keeps what is trusted now for those who ask while the gate is taken. The caller holds it, and no set is half made.
func (c *Client) tell() told {
	t, err := c.trusted(false)
	c.told.Store(&told{t, err})
	c.once.Do(func() { close(c.any) })
	return told{t, err}
}

// Trusted tells what the cache proves, without any request, lapsed or not: for the boot guardian and for status. While a
// refresh is under way, which may take as long as a mirror likes, it answers what was trusted before it.
func (c *Client) Trusted() (Trusted, error) {
	select {
	case c.gate <- struct{}{}:
	default:
		select {
		case c.gate <- struct{}{}:
		case <-c.any:
			last := *c.told.Load()
			last.trusted.Expires = maps.Clone(last.trusted.Expires)
			return last.trusted, last.err
		}
	}
	defer func() { <-c.gate }()
	c.load()
	now := c.tell()
	now.trusted.Expires = maps.Clone(now.trusted.Expires)
	return now.trusted, now.err
}

func (c *Client) trusted(changed bool) (Trusted, error) {
	if c.set == nil {
		return Trusted{}, &ErrNoTrust{Dir: c.cfg.Dir}
	}
	s := c.set
	t := Trusted{
		Root: c.root().version, Timestamp: s.stamp.meta.Signed.Version, Snapshot: s.snap.meta.Signed.Version,
		Targets: s.targets.version, Issued: s.stamp.issued, At: c.index.At, Checked: c.checked, Bundle: c.index.Bundle, Changed: changed,
		Expires: map[string]time.Time{
			metadata.ROOT: c.root().expires, metadata.TIMESTAMP: s.stamp.meta.Signed.Expires,
			metadata.SNAPSHOT: s.snap.meta.Signed.Expires, metadata.TARGETS: s.targets.expires,
		},
	}
	for key, r := range s.roles {
		t.Expires[key.role] = r.expires
	}
	return t, nil
}

// Metadata returns the exact bytes of the newest trusted metadata by role, from the cache: for inspection and for bundles.
func (c *Client) Metadata() (map[string][]byte, error) {
	release, err := c.lockMemory(context.Background())
	if err != nil {
		return nil, err
	}
	defer release()
	c.load()
	all := map[string][]byte{metadata.ROOT: c.cfg.Root}
	if r := c.root(); r != c.chain[0] {
		if all[metadata.ROOT], err = os.ReadFile(c.cache.rootPath(r.version)); err != nil {
			return nil, err
		}
	}
	add := func(name string, held bool, r ref) {
		if data := c.cache.loadBlob(r); held && data != nil {
			all[name] = data
		}
	}
	add(metadata.TIMESTAMP, c.stamp != nil, c.index.Timestamp)
	add(metadata.SNAPSHOT, c.snap != nil, c.index.Snapshot)
	for name, r := range c.index.Roles {
		add(name, true, r)
	}
	return all, nil
}

// Expiries tells how long each known role stays valid, negative once it has lapsed. Empty if nothing is trusted yet.
func (c *Client) Expiries() map[string]time.Duration {
	left := map[string]time.Duration{}
	t, err := c.Trusted()
	if err != nil {
		return left
	}
	now := c.cfg.Clock.Now()
	for role, at := range t.Expires {
		left[role] = at.Sub(now)
	}
	return left
}

// lapsed finds the first top-level role of the complete set that is no longer valid.
func (c *Client) lapsed(now time.Time) error {
	s := c.set
	for _, r := range []struct {
		name string
		at   time.Time
	}{
		{metadata.ROOT, c.root().expires}, {metadata.TIMESTAMP, s.stamp.meta.Signed.Expires},
		{metadata.SNAPSHOT, s.snap.meta.Signed.Expires}, {metadata.TARGETS, s.targets.expires},
	} {
		if now.After(r.at) {
			return &ErrExpired{Role: r.name, At: r.at}
		}
	}
	return nil
}

// commit writes floors and index if they moved; a poll that found nothing new does not call it. Floors and files go first: a
// crash in between leaves an index that is merely older.
func (c *Client) commit() error {
	pinned := c.chain[0].version
	c.inBackground(func() error { return c.cache.saveRoot(pinned, c.cfg.Root) }) // says later whose cache this is
	if c.floors.raise(c.root(), c.stamp, c.snap) {
		floors := c.floors
		c.inBackground(func() error {
			_, err := c.cache.save(fpFloors, "floors", floors)
			return err
		})
	}
	if err := c.settle(); err != nil {
		return err
	}
	c.index.Root, c.index.Checked = c.root().version, c.checked
	data, err := seal(c.index)
	if err != nil || bytes.Equal(data, c.rawIndex) {
		return err
	}
	if c.rawIndex, err = c.cache.save(fpIndex, "index", c.index); err != nil {
		c.rawIndex = nil
		return err
	}
	if err := c.cache.sweep(&c.index); err != nil {
		c.log.Debug("cannot sweep the metadata cache", "error", err)
	}
	return nil
}

// Package tuftest is a TUF repository in memory, served over HTTP, that can misbehave on purpose. It is for tests only.
//
//	repo := tuftest.New(t)
//	key := tuftest.NewKey(t)
//	repo.Delegate("app.billing", "targets", []string{"releases/billing/*/*"}, 1, key)
//	repo.AddTarget("app.billing", "releases/billing/1.0.0/release.json", data)
//	repo.Publish()
//	… repo.URL(), repo.Root()
//
// What the builder makes is correct: consistent snapshots, hashes and lengths in the snapshot, a signed time of issue. Wrong
// things are asked for by name: see Edit for what a publisher or a thief of keys can do, Misbehaviour for what a server can.
package tuftest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http/httptest"
	"net/url"
	"path"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Key is an ed25519 pair with its TUF identity.
type Key struct {
	ID      string
	Public  *metadata.Key
	private ed25519.PrivateKey
}

// NewKey makes a fresh pair.
func NewKey(t testing.TB) Key {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	id, err := key.ID()
	if err != nil {
		t.Fatal(err)
	}
	return Key{id, key, private}
}

// Repository is the publisher and the files that it published. Methods fail the test instead of returning errors.
type Repository struct {
	t testing.TB

	mu      sync.Mutex
	now     func() time.Time
	files   map[string][]byte // by path below URL
	signers map[string][]Key
	root    *metadata.Metadata[metadata.RootType]
	stamp   *metadata.Metadata[metadata.TimestampType]
	snap    *metadata.Metadata[metadata.SnapshotType]
	roles   map[string]*metadata.Metadata[metadata.TargetsType]
	dirty   map[string]bool
	first   []byte
	server  *Server
	life    time.Duration
}

// New makes a repository with one key per top-level role, publishes it at version 1 and serves it until the test ends.
func New(t testing.TB) *Repository { return NewAt(t, time.Now) }

// NewAt is New with a clock of the caller's.
func NewAt(t testing.TB, now func() time.Time) *Repository {
	t.Helper()
	r := &Repository{t: t, now: now, files: map[string][]byte{}, signers: map[string][]Key{}, dirty: map[string]bool{}, life: 30 * 24 * time.Hour,
		roles: map[string]*metadata.Metadata[metadata.TargetsType]{}}
	expires := r.expiry(r.life)
	r.root, r.snap, r.stamp = metadata.Root(expires), metadata.Snapshot(expires), metadata.Timestamp(expires)
	r.roles[metadata.TARGETS] = metadata.Targets(expires)
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		key := NewKey(t)
		r.signers[role] = []Key{key}
		r.check(r.root.Signed.AddKey(key.Public, role))
		r.dirty[role] = true
	}
	r.root.Signed.Version, r.snap.Signed.Version, r.stamp.Signed.Version, r.roles[metadata.TARGETS].Signed.Version = 0, 0, 0, 0
	r.Publish()
	r.first = r.files["metadata/1.root.json"]
	r.server = r.Serve()
	return r
}

func (r *Repository) expiry(d time.Duration) time.Time {
	return r.now().UTC().Add(d).Truncate(time.Second)
}

func (r *Repository) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// URL is the base of the repository's own server; metadata/ and targets/ lie beneath it.
func (r *Repository) URL() string { return r.server.URL }

// Server is the one behind URL.
func (r *Repository) Server() *Server { return r.server }

// Root is the first root, to be pinned.
func (r *Repository) Root() []byte { return r.first }

// Delegate makes delegator (usually "targets") delegate paths to role, terminating, with these keys. The role's metadata is
// made on first use; calling again replaces the delegation and its signers.
func (r *Repository) Delegate(role, delegator string, paths []string, threshold int, keys ...Key) {
	r.t.Helper()
	r.DelegateAs(delegator, metadata.DelegatedRole{Name: role, Paths: paths, Threshold: threshold, Terminating: true}, keys...)
}

// DelegateAs is Delegate for every other shape of delegation. KeyIDs are filled in.
func (r *Repository) DelegateAs(delegator string, d metadata.DelegatedRole, keys ...Key) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	by := r.roles[delegator]
	if by == nil {
		r.t.Fatalf("no role %q that could delegate", delegator)
	}
	if by.Signed.Delegations == nil {
		by.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}, Roles: []metadata.DelegatedRole{}}
	}
	for _, key := range keys {
		by.Signed.Delegations.Keys[key.ID] = key.Public
		d.KeyIDs = append(d.KeyIDs, key.ID)
	}
	roles := slices.DeleteFunc(by.Signed.Delegations.Roles, func(old metadata.DelegatedRole) bool { return old.Name == d.Name })
	by.Signed.Delegations.Roles = append(roles, d)
	r.signers[d.Name] = keys
	if r.roles[d.Name] == nil {
		r.roles[d.Name] = metadata.Targets(r.expiry(r.life))
		r.roles[d.Name].Signed.Version = 0
	}
	r.dirty[delegator], r.dirty[d.Name] = true, true
}

// AddTarget signs data at path by role and serves it under its hash-prefixed name, at once; the metadata follows on Publish.
func (r *Repository) AddTarget(role, path string, data []byte) {
	r.t.Helper()
	r.AddTargetCustom(role, path, data, nil)
}

// AddTargetCustom is AddTarget with a custom object, as JSON.
func (r *Repository) AddTargetCustom(role, target string, data, custom []byte) {
	r.t.Helper()
	sum := sha256.Sum256(data)
	r.Edit(role, func(m *metadata.TargetsType) {
		file := &metadata.TargetFiles{Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}, Path: target}
		if custom != nil {
			file.Custom = (*jsonRaw)(&custom)
		}
		m.Targets[target] = file
	})
	r.Put("targets/"+HashedName(target, sum), data)
}

// AddFile serves data under its hash-prefixed name without any role naming it, as archives are.
func (r *Repository) AddFile(target string, data []byte) [sha256.Size]byte {
	sum := sha256.Sum256(data)
	r.Put("targets/"+HashedName(target, sum), data)
	return sum
}

// HashedName is where consistent snapshots keep a target.
func HashedName(target string, sum [sha256.Size]byte) string {
	dir, base := path.Split(target)
	return dir + hex.EncodeToString(sum[:]) + "." + base
}

// RemoveTarget takes a path out of a role. Its file stays served.
func (r *Repository) RemoveTarget(role, path string) {
	r.Edit(role, func(m *metadata.TargetsType) { delete(m.Targets, path) })
}

// Edit changes a targets role by hand and marks it for the next Publish.
func (r *Repository) Edit(role string, f func(*metadata.TargetsType)) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.roles[role] == nil {
		r.t.Fatalf("no role %q", role)
	}
	f(&r.roles[role].Signed)
	r.dirty[role] = true
}

// EditRoot changes the root and marks it.
func (r *Repository) EditRoot(f func(*metadata.RootType)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.root.Signed)
	r.dirty[metadata.ROOT] = true
}

// EditOnline changes snapshot and timestamp in place, for the next Publish to sign.
func (r *Repository) EditOnline(f func(*metadata.SnapshotType, *metadata.TimestampType)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.snap.Signed, &r.stamp.Signed)
}

// Rotate replaces a top-level role's keys. A new root is signed by the old root keys as well.
func (r *Repository) Rotate(role string, threshold int, keys ...Key) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.signers[role]
	for _, id := range slices.Clone(r.root.Signed.Roles[role].KeyIDs) {
		r.check(r.root.Signed.RevokeKey(id, role))
	}
	for _, key := range keys {
		r.check(r.root.Signed.AddKey(key.Public, role))
	}
	r.root.Signed.Roles[role].Threshold = threshold
	r.signers[role] = keys
	r.dirty[metadata.ROOT] = true
	if role != metadata.ROOT {
		r.dirty[role] = true
		return
	}
	r.signers[role] = slices.Concat(old, keys)
	r.publish()
	r.signers[role] = keys
}

// SignWith changes who signs a role from now on, whatever its delegation says.
func (r *Repository) SignWith(role string, keys ...Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.signers[role] = keys
	r.dirty[role] = true
}

// Signers are the keys that sign a role: what a thief would have.
func (r *Repository) Signers(role string) []Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.signers[role])
}

// Publish signs what changed at the next version, then snapshot and timestamp, and serves all of it.
func (r *Repository) Publish() {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.publish()
}

func (r *Repository) publish() {
	r.t.Helper()
	if r.dirty[metadata.ROOT] {
		r.root.Signed.Version++
		sign(r, metadata.ROOT, r.root)
		r.files[fmt.Sprintf("metadata/%d.root.json", r.root.Signed.Version)] = bytesOf(r, r.root)
	}
	for _, name := range slices.Sorted(maps.Keys(r.roles)) {
		if !r.dirty[name] {
			continue
		}
		m := r.roles[name]
		m.Signed.Version++
		sign(r, name, m)
		data := bytesOf(r, m)
		r.files[fmt.Sprintf("metadata/%d.%s.json", m.Signed.Version, url.PathEscape(name))] = data
		r.snap.Signed.Meta[name+".json"] = metaFile(m.Signed.Version, data)
	}
	r.snap.Signed.Version++
	sign(r, metadata.SNAPSHOT, r.snap)
	data := bytesOf(r, r.snap)
	r.files[fmt.Sprintf("metadata/%d.snapshot.json", r.snap.Signed.Version)] = data
	r.stamp.Signed.Meta["snapshot.json"] = metaFile(r.snap.Signed.Version, data)
	r.publishStamp()
	r.dirty = map[string]bool{}
}

// PublishTimestamp signs a new timestamp over the same snapshot, as the re-signer does.
func (r *Repository) PublishTimestamp() {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.publishStamp()
}

func (r *Repository) publishStamp() {
	r.stamp.Signed.Version++
	if r.stamp.Signed.UnrecognizedFields == nil {
		r.stamp.Signed.UnrecognizedFields = map[string]any{}
	}
	r.stamp.Signed.UnrecognizedFields["issued"] = r.now().UTC().Truncate(time.Second).Format(time.RFC3339)
	r.signStamp()
}

// SignTimestampAsIs signs the timestamp without touching version or time of issue.
func (r *Repository) SignTimestampAsIs() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.signStamp()
}

func (r *Repository) signStamp() {
	sign(r, metadata.TIMESTAMP, r.stamp)
	r.files["metadata/timestamp.json"] = bytesOf(r, r.stamp)
}

// Put serves arbitrary bytes at a path below URL; nil removes it.
func (r *Repository) Put(path string, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if data == nil {
		delete(r.files, path)
		return
	}
	r.files[path] = data
}

// Files is a copy of everything served now, by path below URL.
func (r *Repository) Files() map[string][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.files)
}

// Get is what is served at a path, nil if nothing.
func (r *Repository) Get(path string) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.files[path]
}

// Serve starts another server of the same files, for instance as a mirror that misbehaves.
func (r *Repository) Serve(how ...Misbehaviour) *Server {
	return serve(r.t, r.Get, httptest.NewServer, how)
}

// ServeTLS is Serve over TLS with a certificate of httptest's.
func (r *Repository) ServeTLS(how ...Misbehaviour) *Server {
	return serve(r.t, r.Get, httptest.NewTLSServer, how)
}

// Frozen serves the files as they are now, whatever is published later: a replay.
func (r *Repository) Frozen(how ...Misbehaviour) *Server {
	files := r.Files()
	return serve(r.t, func(path string) []byte { return files[path] }, httptest.NewServer, how)
}

func metaFile(version int64, data []byte) *metadata.MetaFiles {
	sum := sha256.Sum256(data)
	return &metadata.MetaFiles{Version: version, Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

func sign[T metadata.Roles](r *Repository, role string, m *metadata.Metadata[T]) {
	payload, err := cjson.EncodeCanonical(m.Signed)
	r.check(err)
	m.Signatures = []metadata.Signature{}
	seen := map[string]bool{}
	for _, key := range r.signers[role] {
		if !seen[key.ID] {
			m.Signatures = append(m.Signatures, metadata.Signature{KeyID: key.ID, Signature: ed25519.Sign(key.private, payload)})
			seen[key.ID] = true
		}
	}
}

func bytesOf[T metadata.Roles](r *Repository, m *metadata.Metadata[T]) []byte {
	data, err := m.ToBytes(false)
	r.check(err)
	return data
}

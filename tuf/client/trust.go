package client

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// noExpiry is the reference time for bytes that this host verified before: whether they have lapsed since is asked apart.
var noExpiry time.Time

// root, stamp, snap and role are verified metadata. They are never changed once made.
type root struct {
	file
	signed     [sha256.Size]byte // of the signed part: another signature does not make another root
	version    int64
	expires    time.Time
	consistent bool
	view       *metadata.Metadata[metadata.RootType]
}

type stamp struct {
	file
	meta   *metadata.Metadata[metadata.TimestampType]
	issued time.Time
}

func (s *stamp) snapshot() *metadata.MetaFiles { return s.meta.Signed.Meta["snapshot.json"] }

type snap struct {
	file
	meta *metadata.Metadata[metadata.SnapshotType]
}

func (s *snap) of(role string) *metadata.MetaFiles { return s.meta.Signed.Meta[role+".json"] }

// role is one targets role as one delegator authorised it.
type role struct {
	file
	name        string
	delegator   *role // nil: root
	version     int64
	expires     time.Time
	targets     map[string]entry
	delegations *metadata.Delegations // without unusable keys
	keyIDs      []string
	mayIDs      []string // the keys that may sign it now
}

// firstRoot verifies the pinned root, which only has itself to vouch for it.
func firstRoot(data []byte) (*root, error) {
	return parseRoot(data, func(_, own *metadata.Metadata[metadata.RootType]) error { return nil })
}

// next verifies data as the root that follows r: signed by r's keys and by its own, and exactly one version on.
func (r *root) next(data []byte) (*root, error) {
	return parseRoot(data, func(m, own *metadata.Metadata[metadata.RootType]) error {
		if err := r.view.VerifyDelegate(metadata.ROOT, m); err != nil {
			return unsigned(err, rootDelegation(r.view, metadata.ROOT), m)
		}
		switch got := m.Signed.Version; {
		case got <= r.version:
			return &ErrRollback{Role: metadata.ROOT, Have: r.version, Got: got}
		case got != r.version+1:
			return &ErrCorrupt{Name: metadata.ROOT, Reason: fmt.Sprintf("version %d where %d is next", got, r.version+1)}
		}
		return nil
	})
}

func parseRoot(data []byte, check func(m, own *metadata.Metadata[metadata.RootType]) error) (*root, error) {
	if err := precheck(metadata.ROOT, data); err != nil {
		return nil, err
	}
	var r *root
	err := guarded(metadata.ROOT, func() error {
		m, err := metadata.Root().FromBytes(data)
		if err != nil {
			return malformed(metadata.ROOT, err)
		}
		if err := vetRoot(m); err != nil {
			return err
		}
		own := rootView(m)
		if err := check(m, own); err != nil {
			return err
		}
		if err := own.VerifyDelegate(metadata.ROOT, m); err != nil {
			return unsigned(err, rootDelegation(own, metadata.ROOT), m)
		}
		payload, err := cjson.EncodeCanonical(m.Signed)
		r = &root{fileOf(data), sha256.Sum256(payload), m.Signed.Version, m.Signed.Expires, m.Signed.ConsistentSnapshot, own}
		return err
	})
	return r, err
}

// verifyStamp verifies a timestamp under r. old may be nil; an equal version returns old itself.
func verifyStamp(r *root, old *stamp, data []byte, now time.Time) (*stamp, error) {
	const name = metadata.TIMESTAMP
	if err := precheck(name, data); err != nil {
		return nil, err
	}
	set := &trustedmetadata.TrustedMetadata{Root: r.view, RefTime: now}
	if old != nil {
		set.Timestamp = old.meta
	}
	s := old
	err := guarded(name, func() error {
		m, err := set.UpdateTimestamp(data)
		if errors.Is(err, &metadata.ErrEqualVersionNumber{}) {
			return nil
		}
		if err != nil {
			return explainStamp(err, r, old, set, data)
		}
		if err := errors.Join(vetCommon(name, m.Signed.SpecVersion, m.Signed.Version), vetMeta(name, m.Signed.Meta, "snapshot.json")); err != nil {
			return err
		}
		issued, err := issuedOf(m)
		s = &stamp{fileOf(data), m, issued}
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// verifySnap verifies a snapshot as the one that ts names. old, if any, is what must not be rolled back.
func verifySnap(r *root, ts *stamp, old *snap, data []byte, now time.Time) (*snap, error) {
	const name = metadata.SNAPSHOT
	if err := precheck(name, data); err != nil {
		return nil, err
	}
	set := &trustedmetadata.TrustedMetadata{Root: r.view, Timestamp: ts.meta, RefTime: now}
	if old != nil {
		set.Snapshot = old.meta
	}
	var s *snap
	err := guarded(name, func() error {
		m, err := set.UpdateSnapshot(data, false)
		if err != nil {
			return explainSnap(err, r, ts, old, data)
		}
		if err := errors.Join(vetCommon(name, m.Signed.SpecVersion, m.Signed.Version), vetMeta(name, m.Signed.Meta, "targets.json")); err != nil {
			return err
		}
		s = &snap{fileOf(data), m}
		return nil
	})
	return s, err
}

// verifyRole verifies a targets role as by delegates it; by nil is the root. It makes the checks of the library's
// UpdateDelegatedTargets in the same order, on the library's types and signature check. Only the parsing is our own: the
// library decodes the whole file twice more, which at ten thousand targets costs more than all of the rest.
func verifyRole(r *root, ts *stamp, sn *snap, by *role, name string, data []byte, now time.Time) (*role, error) {
	meta := sn.of(name)
	switch want := ts.snapshot().Version; {
	case sn.meta.Signed.IsExpired(now):
		return nil, &ErrExpired{Role: metadata.SNAPSHOT, At: sn.meta.Signed.Expires}
	case sn.meta.Signed.Version != want:
		return nil, &ErrCorrupt{Name: metadata.SNAPSHOT, Reason: fmt.Sprintf("version %d where the timestamp names %d", sn.meta.Signed.Version, want)}
	case meta == nil:
		return nil, &ErrCorrupt{Name: name, Reason: "delegated to, but not in the snapshot"}
	case meta.VerifyLengthHashes(data) != nil:
		return nil, &ErrCorrupt{Name: name, Reason: "not the bytes that the snapshot names"}
	}
	if err := precheck(name, data); err != nil {
		return nil, err
	}
	var verified *role
	err := guarded(name, func() error {
		m, err := parseTargets(name, data)
		if err != nil {
			return err
		}
		who, err := signedFor(r, by, name, m)
		if err != nil {
			return err
		}
		switch {
		case m.Signed.Version != meta.Version:
			return &ErrCorrupt{Name: name, Reason: fmt.Sprintf("version %d where the snapshot names %d", m.Signed.Version, meta.Version)}
		case m.Signed.IsExpired(now):
			return &ErrExpired{Role: name, At: m.Signed.Expires}
		}
		if err := vetTargets(name, m); err != nil {
			return err
		}
		verified = &role{
			file: fileOf(data), name: name, delegator: by, version: m.Signed.Version, expires: m.Signed.Expires,
			targets:     make(map[string]entry, len(m.Signed.Targets)),
			delegations: delegationsView(m.Signed.Delegations), keyIDs: who.signers(m, true), mayIDs: who.ids,
		}
		for path, target := range m.Signed.Targets {
			verified.targets[path] = entryOf(target)
		}
		return nil
	})
	return verified, err
}

// signedFor checks the signatures on a role under the keys and threshold of whoever delegates it.
func signedFor(r *root, by *role, name string, m *metadata.Metadata[metadata.TargetsType]) (delegation, error) {
	who, err := rootDelegation(r.view, name), error(nil)
	if by == nil {
		err = r.view.VerifyDelegate(name, m)
	} else {
		who = targetsDelegation(by.delegations, name)
		delegator := &metadata.Metadata[metadata.TargetsType]{Signed: metadata.TargetsType{Delegations: by.delegations}}
		err = delegator.VerifyDelegate(name, m)
	}
	if err != nil {
		return who, unsigned(err, who, m)
	}
	return who, nil
}

func parseTargets(name string, data []byte) (*metadata.Metadata[metadata.TargetsType], error) {
	var envelope struct {
		Signed     json.RawMessage      `json:"signed"`
		Signatures []metadata.Signature `json:"signatures"`
	}
	if err := json.Unmarshal(data, &envelope); err != nil {
		return nil, malformed(name, err)
	}
	m := &metadata.Metadata[metadata.TargetsType]{Signatures: envelope.Signatures}
	if err := m.Signed.UnmarshalJSON(envelope.Signed); err != nil {
		return nil, malformed(name, err)
	}
	if m.Signed.Type != metadata.TARGETS {
		return nil, &ErrCorrupt{Name: name, Reason: fmt.Sprintf("its type is %.20q", m.Signed.Type)}
	}
	seen := map[string]bool{}
	for _, s := range m.Signatures {
		if seen[s.KeyID] {
			return nil, &ErrCorrupt{Name: name, Reason: fmt.Sprintf("key %.12q signed twice", s.KeyID)}
		}
		seen[s.KeyID] = true
	}
	return m, nil
}

func malformed(name string, err error) error {
	return &ErrCorrupt{Name: name, Reason: "not TUF metadata: " + err.Error()}
}

// unsigned turns the library's refusal of signatures into numbers.
func unsigned(err error, who delegation, m any) error {
	var none *metadata.ErrValue
	if !errors.Is(err, &metadata.ErrUnsignedMetadata{}) && !errors.As(err, &none) {
		return malformed(who.role, err)
	}
	return &ErrThreshold{Role: who.role, Have: len(who.signers(m, false)), Need: max(who.threshold, 1)}
}

func explainStamp(err error, r *root, old *stamp, set *trustedmetadata.TrustedMetadata, data []byte) error {
	const name = metadata.TIMESTAMP
	if r.view.Signed.IsExpired(set.RefTime) {
		return &ErrExpired{Role: metadata.ROOT, At: r.expires}
	}
	m, parseErr := metadata.Timestamp().FromBytes(data)
	if parseErr != nil {
		return malformed(name, parseErr)
	}
	switch {
	case errors.Is(err, &metadata.ErrUnsignedMetadata{}), errors.Is(err, &metadata.ErrValue{}):
		return unsigned(err, rootDelegation(r.view, name), m)
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		return &ErrExpired{Role: name, At: m.Signed.Expires}
	case errors.Is(err, &metadata.ErrBadVersionNumber{}) && old != nil:
		if m.Signed.Version < old.meta.Signed.Version {
			return &ErrRollback{Role: name, Have: old.meta.Signed.Version, Got: m.Signed.Version}
		}
		return &ErrRollback{Role: metadata.SNAPSHOT, Have: old.snapshot().Version, Got: m.Signed.Meta["snapshot.json"].Version}
	}
	return malformed(name, err)
}

func explainSnap(err error, r *root, ts *stamp, old *snap, data []byte) error {
	const name = metadata.SNAPSHOT
	if errors.Is(err, &metadata.ErrLengthOrHashMismatch{}) {
		return &ErrCorrupt{Name: name, Reason: "not the bytes that the timestamp names"}
	}
	m, parseErr := metadata.Snapshot().FromBytes(data)
	if parseErr != nil {
		return malformed(name, parseErr)
	}
	switch {
	case errors.Is(err, &metadata.ErrUnsignedMetadata{}), errors.Is(err, &metadata.ErrValue{}):
		return unsigned(err, rootDelegation(r.view, name), m)
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		return &ErrExpired{Role: name, At: m.Signed.Expires}
	}
	if old != nil {
		if err := rolledBack(old.meta.Signed.Meta, m.Signed.Meta); err != nil {
			return err
		}
	}
	if want := ts.snapshot().Version; m.Signed.Version != want {
		return &ErrCorrupt{Name: name, Reason: fmt.Sprintf("version %d where the timestamp names %d", m.Signed.Version, want)}
	}
	return malformed(name, err)
}

func rolledBack(old, new map[string]*metadata.MetaFiles) error {
	for file, was := range old {
		switch is := new[file]; {
		case is == nil:
			return &ErrRollback{Role: trimJSON(file), Have: was.Version}
		case is.Version < was.Version:
			return &ErrRollback{Role: trimJSON(file), Have: was.Version, Got: is.Version}
		}
	}
	return nil
}

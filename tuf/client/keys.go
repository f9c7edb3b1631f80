package client

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"maps"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// fingerprint identifies a key by its public half, as key ids may not: two ids of one key count once. False means that the
// key is of a kind this client does not verify, or malformed; such keys are skipped, so that a role can hold a new kind
// beside enough old ones.
func fingerprint(key *metadata.Key) (sum [sha256.Size]byte, ok bool) {
	if key == nil {
		return sum, false
	}
	public, err := key.ToPublicKey()
	if err != nil {
		return sum, false
	}
	switch p := public.(type) {
	case ed25519.PublicKey:
		ok = len(p) == ed25519.PublicKeySize && key.Scheme == metadata.KeySchemeEd25519
	case *ecdsa.PublicKey:
		ok = p.Curve == elliptic.P256() && key.Scheme == metadata.KeySchemeECDSA_SHA2_P256
	case *rsa.PublicKey:
		ok = p.N.BitLen() >= 2048 && key.Scheme == metadata.KeySchemeRSASSA_PSS_SHA256
	}
	if !ok {
		return sum, false
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	return sha256.Sum256(der), err == nil
}

// usableIDs keeps the key ids that can count towards a threshold, one per public key.
func usableIDs(ids []string, keys map[string]*metadata.Key) []string {
	seen := map[[sha256.Size]byte]bool{}
	var usable []string
	for _, id := range ids {
		if sum, ok := fingerprint(keys[id]); ok && !seen[sum] {
			usable = append(usable, id)
			seen[sum] = true
		}
	}
	return usable
}

// rootView copies what verifying with a root needs, without the keys that cannot be used. The copy delegates; the signed
// original is what signatures are checked on, since removing a key changes the signed bytes.
func rootView(m *metadata.Metadata[metadata.RootType]) *metadata.Metadata[metadata.RootType] {
	view := &metadata.Metadata[metadata.RootType]{Signed: m.Signed}
	view.Signed.UnrecognizedFields = nil
	view.Signed.Roles = map[string]*metadata.Role{}
	for name, role := range m.Signed.Roles {
		if role != nil {
			view.Signed.Roles[name] = &metadata.Role{KeyIDs: withDuplicates(role.KeyIDs, m.Signed.Keys), Threshold: role.Threshold}
		}
	}
	return view
}

// delegationsView does the same for a role that delegates.
func delegationsView(d *metadata.Delegations) *metadata.Delegations {
	if d == nil {
		return nil
	}
	view := &metadata.Delegations{Keys: d.Keys}
	for _, role := range d.Roles {
		role.KeyIDs = withDuplicates(role.KeyIDs, d.Keys)
		role.UnrecognizedFields = nil
		view.Roles = append(view.Roles, role)
	}
	if s := d.SuccinctRoles; s != nil {
		bins := *s
		bins.KeyIDs = withDuplicates(s.KeyIDs, d.Keys)
		view.SuccinctRoles = &bins
	}
	return view
}

// withDuplicates drops unusable keys but keeps several ids of one key: the signature may be under any of them, and the
// library counts public keys, not ids.
func withDuplicates(ids []string, keys map[string]*metadata.Key) []string {
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
		_, ok := fingerprint(keys[id])
		return !ok
	})
}

// delegation is who may sign a role, whatever kind of metadata says so.
type delegation struct {
	role      string
	ids       []string
	keys      map[string]*metadata.Key
	threshold int
}

func rootDelegation(view *metadata.Metadata[metadata.RootType], name string) delegation {
	role := view.Signed.Roles[name]
	if role == nil {
		return delegation{role: name, threshold: 1}
	}
	return delegation{name, role.KeyIDs, view.Signed.Keys, role.Threshold}
}

func targetsDelegation(d *metadata.Delegations, name string) delegation {
	if d == nil {
		return delegation{role: name, threshold: 1}
	}
	for _, role := range d.Roles {
		if role.Name == name {
			return delegation{name, role.KeyIDs, d.Keys, role.Threshold}
		}
	}
	if s := d.SuccinctRoles; s != nil {
		return delegation{name, s.KeyIDs, d.Keys, s.Threshold}
	}
	return delegation{role: name, threshold: 1}
}

// signers lists the key ids, one per public key, whose signature on signed is good. signed is one of the library's metadata
// pointers. When every key had to sign there is nothing left to find out.
func (d delegation) signers(signed any, accepted bool) []string {
	distinct := usableIDs(d.ids, d.keys)
	if accepted && len(distinct) == d.threshold && len(distinct) == len(d.ids) {
		return slices.Sorted(slices.Values(distinct))
	}
	good := map[[sha256.Size]byte]string{}
	for _, id := range d.ids {
		sum, ok := fingerprint(d.keys[id])
		if !ok || good[sum] != "" {
			continue
		}
		one := &metadata.Metadata[metadata.RootType]{Signed: metadata.RootType{
			Keys:  d.keys,
			Roles: map[string]*metadata.Role{d.role: {KeyIDs: []string{id}, Threshold: 1}},
		}}
		if guarded(d.role, func() error { return one.VerifyDelegate(d.role, signed) }) == nil {
			good[sum] = id
		}
	}
	return slices.Sorted(maps.Values(good))
}

// rotated says whether a key that could sign the role under old no longer can: only then may a version memory be cleared.
func rotated(old, new *metadata.Metadata[metadata.RootType], name string) bool {
	was, is := rootDelegation(old, name), rootDelegation(new, name)
	now := map[[sha256.Size]byte]bool{}
	for _, id := range is.ids {
		if sum, ok := fingerprint(is.keys[id]); ok {
			now[sum] = true
		}
	}
	for _, id := range was.ids {
		if sum, ok := fingerprint(was.keys[id]); ok && !now[sum] {
			return true
		}
	}
	return false
}

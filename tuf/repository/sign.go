package repository

import (
	"context"
	"fmt"
	"strings"

	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Progress is how far the signatures of one role in a change have come. By is the metadata whose keys count: a new root
// needs the keys of the old root and its own.
type Progress struct {
	Role    string        `json:"role"`
	By      string        `json:"by"`
	Need    int           `json:"need"`
	Signed  []keys.Public `json:"signed"`
	Missing []keys.Public `json:"missing"`
}

// Done reports whether the threshold is met.
func (p Progress) Done() bool { return len(p.Signed) >= p.Need }

// String is the sentence for people: "deploy.production.billing: 1 of 2, missing one of ops-key-1, ops-key-3".
func (p Progress) String() string {
	s := fmt.Sprintf("%s: %d of %d", p.Role, len(p.Signed), p.Need)
	if p.Done() {
		return s
	}
	names := make([]string, len(p.Missing))
	for i, k := range p.Missing {
		names[i] = k.String()
	}
	want := "missing"
	switch left := p.Need - len(p.Signed); {
	case left >= len(p.Missing):
	case left == 1:
		want = "missing one of"
	default:
		want = fmt.Sprintf("missing %d of", left)
	}
	return s + ", " + want + " " + strings.Join(names, ", ")
}

// authorities lists whose thresholds role's new payload in c must meet. Others are the changes that are published with c:
// a delegation may be new in one of them.
func (r *Repository) authorities(s *state, others []*Change, c *Change, role string) ([]signers, error) {
	root := s.root
	targets := (*metadata.TargetsType)(nil)
	for _, other := range append([]*Change{c}, others...) {
		newRoot, err := other.root()
		if err != nil {
			return nil, err
		}
		if newRoot != nil {
			root = newRoot.doc
		}
		p, err := other.targets(classTargets)
		if err != nil {
			return nil, err
		}
		if p != nil {
			targets = p.doc
		}
	}
	if role == classRoot {
		return r.rootAuthorities(s, root)
	}
	if root == nil {
		return nil, &UnknownRoleError{Role: role}
	}
	if role == classTargets {
		by, err := rootSigners(root, role)
		return []signers{by}, err
	}
	if targets == nil {
		var err error
		if targets, err = s.role(classTargets); err != nil {
			return nil, err
		}
	}
	by, err := delegatedSigners(targets, role)
	if err != nil {
		return nil, err
	}
	by, err = by.withoutRequester(c, s)
	return []signers{by}, err
}

// rootAuthorities are the root before and the root itself. The one before is read from its file: after an interrupted
// publish the state's newest root is the change's own.
func (r *Repository) rootAuthorities(s *state, root *metadata.RootType) ([]signers, error) {
	own, err := rootSigners(root, classRoot)
	if err != nil || root.Version == 1 {
		return []signers{own}, err
	}
	before, err := readMeta[metadata.RootType](s.path(classRoot, root.Version-1), classRoot)
	if err != nil {
		return nil, err
	}
	old, err := rootSigners(before, classRoot)
	return []signers{old, own}, err
}

// Progress tells, for every role of the change, who has signed and who may still sign.
func (r *Repository) Progress(c *Change) ([]Progress, error) {
	s, err := load(r.metadataDir())
	if err != nil {
		return nil, err
	}
	return r.progress(s, nil, c)
}

func (r *Repository) progress(s *state, others []*Change, c *Change) ([]Progress, error) {
	var out []Progress
	for _, role := range c.Roles() {
		by, err := r.authorities(s, others, c, role)
		if err != nil {
			return nil, err
		}
		canonical, err := c.canonicalOf(role)
		if err != nil {
			return nil, err
		}
		sigs, err := c.signatures(role, canonical)
		if err != nil {
			return nil, err
		}
		for _, a := range by {
			out = append(out, a.progress(canonical, sigs))
		}
	}
	return out, nil
}

func (s signers) progress(canonical []byte, sigs []signature) Progress {
	p := Progress{Role: s.role, By: s.by, Need: s.threshold, Signed: s.valid(canonical, sigs)}
	done := map[[32]byte]bool{}
	for _, k := range p.Signed {
		done[k.Fingerprint()] = true
	}
	for _, k := range s.keys {
		if !done[k.Fingerprint()] {
			p.Missing = append(p.Missing, k)
		}
	}
	return p
}

// Sign reviews a change of this repository from its own first root, signs every role that the signer's key may sign, and says
// which. A key without any role in the change is a *NotASignerError. Signing again replaces the key's earlier signature.
func (r *Repository) Sign(ctx context.Context, c *Change, by keys.Signer) ([]string, error) {
	v, err := r.Review(ctx, c, ReviewOptions{})
	if err != nil {
		return nil, err
	}
	defer v.Close()
	return v.Sign(ctx, by)
}

// Review is ReviewFolder for an open change of this repository, for whoever made it on this machine. Without a root of their
// own it is verified from the repository's first one: then what is signed follows from what is published here.
func (r *Repository) Review(ctx context.Context, c *Change, o ReviewOptions) (*Review, error) {
	s, err := load(r.metadataDir())
	if err != nil {
		return nil, err
	}
	if err := r.fresh(s, c); err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = r.now
	}
	if o.First = !s.published(); o.First {
		o.Root = nil
	} else if o.Root == nil {
		if o.Root, err = r.PinnedRoot(1); err != nil {
			return nil, err
		}
	}
	return ReviewFolder(ctx, c.dir, o)
}

func authorized(list []signers, p keys.Public) (keys.Public, bool) {
	for _, s := range list {
		if k, ok := s.find(p); ok {
			return k, true
		}
	}
	return keys.Public{}, false
}

// fresh refuses a change that was not made from what is published now.
func (r *Repository) fresh(s *state, c *Change) error {
	for _, role := range c.Roles() {
		if v := s.version(role); v != c.Base[role] {
			return &StaleError{Change: c.ID, Role: role, Base: c.Base[role], Published: v}
		}
	}
	return nil
}

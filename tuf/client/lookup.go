package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"path"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Target is what trusted metadata says about one file, and who said so.
type Target struct {
	Path   string
	SHA256 string // hex; "" only in repositories that publish nothing but SHA512
	SHA512 string // hex; usually ""
	Length int64
	Custom json.RawMessage

	Roles   []string // from "targets" down to the role that signs the file
	KeyIDs  []string // whose signatures on that role are good, one per public key
	MayIDs  []string // whose signatures its delegator accepts now
	Version int64    // of that role
}

// File is the part of a target that says which bytes to fetch.
func (t Target) File() File {
	return File{Path: t.Path, SHA256: t.SHA256, SHA512: t.SHA512, Length: t.Length}
}

// Lookup searches the delegations for path, in order of trust, and fetches the metadata of delegated roles as needed. Within
// one refresh cycle no role is verified twice under the same delegator. It answers from the last complete set, and only
// while that is valid; call Refresh first for news.
func (c *Client) Lookup(ctx context.Context, path string) (Target, error) {
	if t, found, err := c.recall(ctx, path); found || err != nil {
		return t, err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return Target{}, err
	}
	defer unlock()
	now, err := c.now()
	if err != nil {
		return Target{}, err
	}
	before := len(c.index.Roles)
	refs := c.roleRefs()
	t, _, err := c.walk(path, now, func(by *role, name string) (*role, error) { return c.delegated(ctx, by, name, now) })
	if len(c.index.Roles) != before || c.roleRefs() != refs {
		if failed := c.commit(); failed != nil {
			return Target{}, failed
		}
	}
	return t, err
}

// roleRefs changes whenever a role's bytes did.
func (c *Client) roleRefs() (sum [sha256.Size]byte) {
	for name, r := range c.index.Roles {
		one := sha256.Sum256([]byte(name + "\x00" + r.SHA256))
		for i := range sum {
			sum[i] ^= one[i]
		}
	}
	return sum
}

// recall answers without the directory's lock if memory is enough.
func (c *Client) recall(ctx context.Context, path string) (t Target, found bool, err error) {
	release, err := c.lockMemory(ctx)
	if err != nil {
		return t, false, err
	}
	defer release()
	if !c.loaded || c.set == nil {
		return t, false, nil
	}
	now, err := c.now()
	if err != nil {
		return t, false, err
	}
	t, complete, err := c.walk(path, now, nil)
	return t, complete, err
}

// delegated gets a role from the first mirror that can serve it.
func (c *Client) delegated(ctx context.Context, by *role, name string, now time.Time) (*role, error) {
	var errs []error
	for _, i := range c.mirrors.metadata() {
		r, err := c.obtain(ctx, c.cfg.Mirrors[i], c.set, by, name, now)
		if err == nil {
			return r, nil
		}
		if errs = append(errs, err); ctx.Err() != nil {
			break
		}
	}
	return nil, join(errs)
}

// walk is the pre-order depth-first search of the specification. Without obtain it uses only what is in memory, and says by
// complete=false that this was not enough.
func (c *Client) walk(path string, now time.Time, obtain func(*role, string) (*role, error)) (t Target, complete bool, err error) {
	if c.set == nil {
		return t, false, &ErrNoTrust{Dir: c.cfg.Dir}
	}
	if err := c.lapsed(now); err != nil {
		return t, true, err
	}
	type visit struct {
		by   *role
		name string
	}
	stack := []visit{{nil, metadata.TARGETS}}
	visited := map[string]bool{}
	for len(stack) > 0 {
		v := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if visited[v.name] {
			continue
		}
		if visited[v.name] = true; len(visited) > c.cfg.Limits.Delegations {
			return t, true, &ErrTooManyDelegations{Path: path, Limit: c.cfg.Limits.Delegations}
		}
		r := c.set.known(v.by, v.name)
		if r == nil && obtain == nil {
			return t, false, nil
		}
		if r == nil {
			if r, err = obtain(v.by, v.name); err != nil {
				return t, true, err
			}
			c.set.roles[pair{v.by.name, v.name}] = r
		}
		if now.After(r.expires) {
			return t, true, &ErrExpired{Role: r.name, At: r.expires}
		}
		if e, ok := r.targets[path]; ok {
			return e.target(path, r), true, nil
		}
		children, terminating := r.children(path)
		if terminating {
			stack = stack[:0]
		}
		for i := len(children) - 1; i >= 0; i-- {
			stack = append(stack, visit{r, children[i]})
		}
	}
	return t, true, &ErrNotFound{Path: path}
}

func (s *set) known(by *role, name string) *role {
	if by == nil {
		return s.targets
	}
	if r := s.roles[pair{by.name, name}]; r != nil && r.delegator == by {
		return r
	}
	return nil
}

func (e entry) target(path string, r *role) Target {
	t := Target{Path: path, SHA256: e.sha256, SHA512: e.sha512, Length: e.length, Custom: e.custom, KeyIDs: r.keyIDs, MayIDs: r.mayIDs, Version: r.version}
	for ; r != nil; r = r.delegator {
		t.Roles = append([]string{r.name}, t.Roles...)
	}
	return t
}

// children lists the roles that r delegates path to, in order, up to the first terminating one.
func (r *role) children(path string) (names []string, terminating bool) {
	if r.delegations == nil {
		return nil, false
	}
	for _, d := range r.delegations.Roles {
		if delegates(d, path) {
			if names = append(names, d.Name); d.Terminating {
				return names, true
			}
		}
	}
	if s := r.delegations.SuccinctRoles; s != nil {
		for _, bin := range s.GetRolesForTarget(path) {
			names = append(names, bin.Name)
		}
		return names, true
	}
	return names, false
}

// delegates is our own: in the library, hash prefixes never match.
func delegates(d metadata.DelegatedRole, target string) bool {
	for _, pattern := range d.Paths {
		if matches(pattern, target) {
			return true
		}
	}
	if len(d.Paths) > 0 || len(d.PathHashPrefixes) == 0 {
		return false
	}
	sum := sha256.Sum256([]byte(target))
	digest := hex.EncodeToString(sum[:])
	for _, prefix := range d.PathHashPrefixes {
		if prefix != "" && strings.HasPrefix(digest, strings.ToLower(prefix)) {
			return true
		}
	}
	return false
}

// matches globs segment by segment: a star never crosses a slash.
func matches(pattern, target string) bool {
	patterns, segments := strings.Split(pattern, "/"), strings.Split(target, "/")
	if len(patterns) != len(segments) {
		return false
	}
	for i := range patterns {
		if ok, err := path.Match(patterns[i], segments[i]); !ok || err != nil {
			return false
		}
	}
	return true
}

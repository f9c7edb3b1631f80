package repository

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// maxLeap is how far a sequence or an epoch may be ahead of the one before. It leaves room to overtake a number that hosts
// have seen elsewhere, and no single document can use the numbers up.
const maxLeap = 1_000_000

// counter is a document whose number hosts remember: the sequence of a deployment, the epoch of an emergency document.
type counter struct{ role, path, what string }

func deploymentCounter(env release.Environment, app release.App) counter {
	return counter{DeployRole(env, app), release.DeploymentPath(env, app), "sequence"}
}

func emergencyCounter(env release.Environment) counter {
	return counter{EmergencyRole(env), release.EmergencyPath(env), "epoch"}
}

func (c counter) number(raw []byte) (int64, error) {
	if c.what == "epoch" {
		doc, err := release.ParseEmergency(raw)
		if err != nil {
			return 0, err
		}
		return doc.Epoch, nil
	}
	doc, err := release.ParseDeployment(raw)
	if err != nil {
		return 0, err
	}
	return doc.Sequence, nil
}

// following is the next number.
func following(what string, last int64) (int64, error) {
	if last > math.MaxInt64-maxLeap {
		return 0, refuse("a sequence only grows", fmt.Sprintf("cannot count on from %s %d: it is at the end of its range", what, last),
			"run recover "+what+", which goes back to what was before in the same change that revokes the keys that signed it")
	}
	return last + 1, nil
}

// past is one published version of a role and the document it listed. signers are the ids of the keys that signed it, as
// hosts remember them beside the number.
type past struct {
	version, number int64
	signers         []keys.Public
	raw             []byte
}

// history lists what was published under c, newest first, as far as the files are there.
func (d *draft) history(c counter) ([]past, error) {
	var out []past
	for v := d.state.version(c.role); v > 0; v-- {
		e, err := d.state.envelope(c.role, v)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, err
		}
		doc, err := decode[metadata.TargetsType](e.Signed, c.role)
		if err != nil {
			return nil, &DamagedError{Path: d.state.path(c.role, v), Err: err}
		}
		raw, err := d.listed(doc, c.path)
		if errors.Is(err, fs.ErrNotExist) || raw == nil && err == nil {
			break
		}
		if err != nil {
			return nil, err
		}
		p := past{version: v, raw: raw}
		if p.number, err = c.number(raw); err != nil {
			return nil, err
		}
		for _, sig := range e.Signatures {
			p.signers = append(p.signers, d.nameKey(c.role, sig.KeyID))
		}
		slices.SortFunc(p.signers, func(a, b keys.Public) int { return strings.Compare(a.String(), b.String()) })
		out = append(out, p)
	}
	return out, nil
}

// nameKey gives an id the name its key has in the role, in this draft or as published, if it is still there.
func (d *draft) nameKey(role, id string) keys.Public {
	for _, at := range []*draft{d, {r: d.r, state: d.state}} {
		by, err := at.signersOf(role)
		if err != nil {
			continue
		}
		for _, k := range by.keys {
			if k.ID == id {
				return k
			}
		}
	}
	return keys.Public{ID: id}
}

// document reads what role lists under path, as this draft would find it; nil if it lists nothing.
func (d *draft) document(role, path string) ([]byte, error) {
	t, err := d.peek(role)
	if err != nil || t == nil {
		return nil, err
	}
	return d.listed(t, path)
}

func (d *draft) listed(t *metadata.TargetsType, path string) ([]byte, error) {
	if t.Targets[path] == nil {
		return nil, nil
	}
	sum, err := release.ParseDigest(t.Targets[path].Hashes["sha256"].String())
	if err != nil {
		return nil, fmt.Errorf("cannot read the digest of %s: %w", path, err)
	}
	name := filepath.Join(d.r.targetsDir(), storedName(path, sum))
	raw, err := readBounded(name, maxDocument)
	if absent(err) && d.into != nil {
		name = d.into.filePath(path)
		raw, err = readBounded(name, maxDocument)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	if release.Sum(raw) != sum {
		return nil, &DamagedError{Path: name, Err: fmt.Errorf("its sha256 is not the signed %s", sum)}
	}
	return raw, nil
}

// checkNumber is the hosts' rule for a new document: its number grows, or hosts have a reason to forget the one they know.
func (p *plan) checkNumber(c counter, last, next int64) error {
	switch {
	case next == last:
		return refuse("a sequence only grows", fmt.Sprintf("cannot publish %s: %s %d does not follow %d", c.path, c.what, next, last), "make the change again")
	case next > last && next-last > maxLeap:
		return refuse("a sequence cannot be used up", fmt.Sprintf("cannot publish %s: %s %d is more than %d after %d", c.path, c.what, next, maxLeap, last),
			"make the change again, and find out who asks for such a leap")
	case next > last:
		return nil
	}
	t, err := p.role(classTargets)
	if err != nil {
		return err
	}
	now, err := delegatedSigners(t, c.role)
	if err != nil {
		return err
	}
	d := &draft{r: p.r, state: p.before}
	return d.mayGoBack(c, next, now)
}

// mayGoBack refuses a number below what was published, unless every host forgets the higher ones. A host keeps the keys that
// signed the number it remembers, and forgets the number when one of them is no longer a key of the role. Which of the
// versions with that number a host saw first nobody knows, so each must have lost a signer.
func (d *draft) mayGoBack(c counter, next int64, now signers) error {
	before, err := d.history(c)
	if err != nil {
		return err
	}
	for _, p := range before {
		if p.number < next {
			continue
		}
		gone := slices.ContainsFunc(p.signers, func(k keys.Public) bool {
			return !slices.ContainsFunc(now.keys, func(have keys.Public) bool { return have.ID == k.ID })
		})
		if !gone || p.number == next {
			return refuse("a sequence only grows", fmt.Sprintf("cannot go back to %s %d in %s: version %d of %s was published with %d, and its signers %s still sign the role, so hosts keep that number",
				c.what, next, c.path, p.version, c.role, p.number, joinKeys(p.signers)),
				"revoke the stolen keys among them with revoke KEY --replace-with FILE.pub, and add this to that change with --change ID")
		}
	}
	return nil
}

func joinKeys(list []keys.Public) string {
	names := make([]string, len(list))
	for i, k := range list {
		names[i] = k.String()
	}
	return strings.Join(names, ", ")
}

// beforeLeap finds the newest document whose successors do not follow one by one: what was in force before somebody leapt.
// What lies before a way back was given up with it and counts no more.
func beforeLeap(list []past) (honest past, leapt past, found bool) {
	for i := 0; i+1 < len(list) && list[i].number >= list[i+1].number; i++ {
		if list[i].number-list[i+1].number > 1 {
			return list[i+1], list[i], true
		}
	}
	return past{}, past{}, false
}

package repository

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// IssuedField is the signed member of timestamp that says when it was made. A client takes it for the age of everything it
// read: the timestamp's expiry alone cannot say whether a mirror holds news back.
const IssuedField = "issued"

// signOnline makes the snapshot and the timestamp that the plan leads to.
func (p *plan) signOnline(ctx context.Context, online []keys.Signer) error {
	snap := metadata.Snapshot(p.r.expires(p.policy, classSnapshot)).Signed
	snap.Meta = map[string]*metadata.MetaFiles{}
	if p.before.snapshot != nil {
		snap.Meta = maps.Clone(p.before.snapshot.Meta)
	}
	for role, data := range p.metas {
		snap.Meta[role+".json"] = metaFile(p.targets[role].Version, data)
	}
	snap.Version = p.before.version(classSnapshot) + 1
	var err error
	if p.snapshot, err = signTop(ctx, p.root, classSnapshot, &snap, online, maxSnapshot); err != nil {
		return err
	}
	p.snapshotVersion, p.timestampVersion = snap.Version, p.before.version(classTimestamp)+1
	p.timestamp, err = p.r.newTimestamp(ctx, p.policy, p.root, p.timestampVersion, metaFile(snap.Version, p.snapshot), online)
	return err
}

func metaFile(version int64, data []byte) *metadata.MetaFiles {
	sum := release.Sum(data).Bytes()
	return &metadata.MetaFiles{Version: version, Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

func (r *Repository) newTimestamp(ctx context.Context, policy *Policy, root *metadata.RootType, version int64, snap *metadata.MetaFiles, online []keys.Signer) ([]byte, error) {
	ts := metadata.Timestamp(r.expires(policy, classTimestamp)).Signed
	ts.Version = version
	ts.Meta = map[string]*metadata.MetaFiles{"snapshot.json": snap}
	ts.UnrecognizedFields = map[string]any{IssuedField: r.utc().Format(time.RFC3339)}
	return signTop(ctx, root, classTimestamp, &ts, online, maxTimestamp)
}

// signTop signs an online role with those of the signers whose keys count, and refuses to go below the threshold.
func signTop(ctx context.Context, root *metadata.RootType, role string, doc any, online []keys.Signer, limit int) ([]byte, error) {
	by, err := rootSigners(root, role)
	if err != nil {
		return nil, err
	}
	raw, err := encode(doc)
	if err != nil {
		return nil, fmt.Errorf("cannot encode %s: %w", role, err)
	}
	text, err := canonical(raw)
	if err != nil {
		return nil, fmt.Errorf("cannot encode %s: %w", role, err)
	}
	e := envelope{Signed: raw}
	for _, s := range online {
		key, ok := by.find(s.Public())
		if !ok || slices.ContainsFunc(e.Signatures, func(sig signature) bool { return sig.KeyID == key.ID }) {
			continue
		}
		sig, err := keys.Sign(ctx, s, text)
		if err != nil {
			return nil, err
		}
		e.Signatures = append(e.Signatures, signature{KeyID: key.ID, Sig: sig})
	}
	if p := by.progress(text, e.Signatures); !p.Done() {
		return nil, refuse("the online keys sign freshness", "cannot sign "+p.String(), "give the online key with --online-key, or list it in policy.json")
	}
	data, err := e.bytes()
	if err != nil {
		return nil, fmt.Errorf("cannot encode %s: %w", role, err)
	}
	if len(data) > limit {
		return nil, refuse("clients bound what they read", fmt.Sprintf("cannot publish %s of %d bytes: clients accept %d", role, len(data), limit),
			"split the repository by environment, or name fewer keys")
	}
	return data, nil
}

// RefreshOptions is how eagerly to refresh.
type RefreshOptions struct {
	Online []keys.Signer
	// Force signs again even if nothing is due.
	Force bool
	// To is as for a publish.
	To []Destination
}

// Refreshed is what a refresh did, and when the next one is due.
type Refreshed struct {
	Timestamp int64     `json:"timestamp"`
	Snapshot  int64     `json:"snapshot"`
	Signed    []string  `json:"signed"`
	Issued    time.Time `json:"issued"`
	Due       time.Time `json:"next_due"`
	// Freshness is the strictest freshness of a deployment in force, zero if none asks for any.
	Freshness release.Duration `json:"freshness,omitempty"`
	Pushed    []Pushed         `json:"pushed,omitempty"`
}

// Refresh signs the snapshot again when half its life is over, and the timestamp when half its life or a third of the
// strictest freshness in force is over. It needs only the online keys and changes nothing that hosts run. A destination that
// lags behind gets what it lacks, even if nothing is due.
func (r *Repository) Refresh(ctx context.Context, o RefreshOptions) (*Refreshed, error) {
	lock, err := r.exclusive()
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	s, outs, err := r.take(ctx, o.To, nil)
	if err != nil {
		return nil, err
	}
	if !s.published() {
		return nil, refuse("the first change comes first", "cannot refresh: nothing is published yet", "sign and publish the repository's first change")
	}
	policy, err := r.Policy()
	if err != nil {
		return nil, err
	}
	fresh, err := r.strictestFreshness(s)
	if err != nil {
		return nil, err
	}
	out := &Refreshed{Timestamp: s.timestamp.Version, Snapshot: s.snapshot.Version, Signed: []string{}, Freshness: fresh}
	out.Issued, err = issued(s.timestamp)
	if err != nil {
		return nil, err
	}
	e, err := r.resign(ctx, s, policy, o, out)
	if err != nil {
		return nil, err
	}
	if e == nil {
		out.Pushed, err = r.sync(ctx, s, outs)
	} else {
		out.Pushed, err = r.publishTo(ctx, s, outs, e, nil)
	}
	var lagging *LaggingError
	if err != nil && !errors.As(err, &lagging) {
		return nil, err
	}
	out.Due = dueTimestamp(out.Issued, out.Issued.Add(policy.expiry(classTimestamp).Std()), fresh)
	return out, err
}

// resign signs what is due; nil if nothing is.
func (r *Repository) resign(ctx context.Context, s *state, policy *Policy, o RefreshOptions, out *Refreshed) (*edition, error) {
	now := r.utc()
	entry := s.timestamp.Meta["snapshot.json"]
	half := policy.expiry(classSnapshot).Std() / 2
	snapshotDue := o.Force || now.After(s.snapshot.Expires.Add(-half))
	if !snapshotDue && now.Before(dueTimestamp(out.Issued, s.timestamp.Expires, out.Freshness)) {
		return nil, nil
	}
	e := &edition{}
	if snapshotDue {
		snap := *s.snapshot
		snap.Version++
		snap.Expires = r.expires(policy, classSnapshot)
		data, err := signTop(ctx, s.root, classSnapshot, &snap, o.Online, maxSnapshot)
		if err != nil {
			return nil, err
		}
		e.add(metaName(classSnapshot, snap.Version), data)
		entry, out.Snapshot = metaFile(snap.Version, data), snap.Version
		out.Signed = append(out.Signed, classSnapshot)
	}
	data, err := r.newTimestamp(ctx, policy, s.root, s.timestamp.Version+1, entry, o.Online)
	if err != nil {
		return nil, err
	}
	e.add(metaName(classTimestamp, 0), data)
	out.Timestamp, out.Issued = s.timestamp.Version+1, now
	out.Signed = append(out.Signed, classTimestamp)
	return e, nil
}

func dueTimestamp(issued, expires time.Time, fresh release.Duration) time.Time {
	due := issued.Add(expires.Sub(issued) / 2)
	if fresh > 0 {
		if third := issued.Add(fresh.Std() / 3); third.Before(due) {
			due = third
		}
	}
	return due
}

func issued(ts *metadata.TimestampType) (time.Time, error) {
	text, _ := ts.UnrecognizedFields[IssuedField].(string)
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("cannot read when timestamp version %d was issued: %q", ts.Version, text)
	}
	return t.UTC(), nil
}

// strictestFreshness reads every deployment in force.
func (r *Repository) strictestFreshness(s *state) (release.Duration, error) {
	d := &draft{r: r, state: s}
	var strictest release.Duration
	for _, role := range s.roles() {
		if roleClass(role) != classDeploy {
			continue
		}
		env, app, err := splitDeploy(role)
		if err != nil {
			return 0, err
		}
		doc, err := d.lastDeployment(env, app)
		if err != nil {
			return 0, err
		}
		if doc != nil && doc.Freshness > 0 && (strictest == 0 || doc.Freshness < strictest) {
			strictest = doc.Freshness
		}
	}
	return strictest, nil
}

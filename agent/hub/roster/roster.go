package roster

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/hub/ca"
	"github.com/slipway-deploy/slipway/agent/release"
)

// Config is what a Roster needs.
type Config struct {
	Fleet string
	Store hub.Store
	// Prefix is where in the store the roster's keys are, with a slash at the end.
	Prefix string
	// Authority issues certificates; nil where requests are signed by hand, and then enrolment over the network is refused.
	Authority *ca.Authority
	// Roots are the certificates that hosts are told to know hubs by.
	Roots []*x509.Certificate
	// Pin is the SHA-256 of the one that the hubs' certificates lead to: tokens carry it.
	Pin release.Digest
	// Root is the pinned root.json of the repository, Mirrors its base URLs as hosts reach it.
	Root    []byte
	Mirrors []string
	// Validity is how long hosts' certificates last; zero means ca.HostValidity.
	Validity time.Duration
	Now      func() time.Time
	Log      hclog.Logger
	// Replaced is called after a machine took the place of another one, so that what the old one held is let go, and again every
	// RetryEvery (zero is half a minute) until it returns no error: the old machine may be in the middle of an update.
	Replaced   func(ctx context.Context, env release.Environment, host, by string) error
	RetryEvery time.Duration
	// Note writes a line into the operators' log; nil keeps it to Log.
	Note func(ctx context.Context, by, act, on, why, done string) error
}

// Roster is safe for concurrent use. Admit answers from memory, which Run keeps in step with the store.
type Roster struct {
	cfg    Config
	prefix string

	mu     sync.RWMutex
	loaded bool
	known  map[string]Entry // by key
}

// New makes a Roster.
func New(cfg Config) *Roster {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	cfg.Validity, cfg.RetryEvery = cmp.Or(cfg.Validity, ca.HostValidity), cmp.Or(cfg.RetryEvery, 30*time.Second)
	return &Roster{cfg: cfg, prefix: cfg.Prefix + "roster/", known: map[string]Entry{}}
}

func (r *Roster) tokenKey(hash release.Digest) string { return r.prefix + "token/" + hash.String() }

func (r *Roster) key(id fleet.Identity) string {
	if id.Operator != "" {
		return r.prefix + "operator/" + id.Operator
	}
	return r.prefix + "host/" + id.Environment.String() + "/" + id.Host
}

// identity is the inverse of key.
func (r *Roster) identity(key string) (fleet.Identity, bool) {
	rest, ok := strings.CutPrefix(key, r.prefix)
	id := fleet.Identity{Fleet: r.cfg.Fleet}
	if name, is := strings.CutPrefix(rest, "operator/"); ok && is {
		id.Operator = name
		return id, id.Check() == nil
	}
	name, is := strings.CutPrefix(rest, "host/")
	env, host, _ := strings.Cut(name, "/")
	parsed, err := release.ParseEnvironment(env)
	id.Environment, id.Host = parsed, host
	return id, ok && is && err == nil && id.Check() == nil
}

// Run follows the store until ctx ends. Until it has read everything once, Admit lets nobody in.
func (r *Roster) Run(ctx context.Context) error {
	var retries sync.WaitGroup
	defer retries.Wait()
	retries.Go(func() { r.letGoAll(ctx) })
	pause := time.Second
	for {
		err := r.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, hub.ErrCompacted) {
			r.cfg.Log.Warn("cannot follow the roster in the store; who was revoked just now may not be known here yet", "error", err, "again_in", pause)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// letGoAll tries again what could not be let go when a machine was replaced.
func (r *Roster) letGoAll(ctx context.Context) {
	tick := time.NewTicker(r.cfg.RetryEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for id, e := range r.replacing() {
			r.letGo(ctx, id, e.By)
		}
	}
}

func (r *Roster) replacing() map[fleet.Identity]Entry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := map[fleet.Identity]Entry{}
	for key, e := range r.known {
		if id, ok := r.identity(key); ok && e.Replaces != "" {
			out[id] = e
		}
	}
	return out
}

// letGo is safe to be done by several hubs at once, and twice.
func (r *Roster) letGo(ctx context.Context, id fleet.Identity, by string) {
	if r.cfg.Replaced == nil {
		return
	}
	err := r.cfg.Replaced(ctx, id.Environment, id.Host, by)
	if err == nil {
		err = r.change(ctx, id, func(e *Entry) error { e.Replaces = ""; return nil })
	}
	if err != nil {
		r.cfg.Log.Warn("what the replaced machine held is not let go yet; the new one waits until then", "host", id.String(), "error", err)
	}
}

func (r *Roster) follow(ctx context.Context) error {
	items, revision, err := r.cfg.Store.Range(ctx, r.prefix)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.known = map[string]Entry{}
	for _, i := range items {
		r.take(i)
	}
	r.loaded = true
	r.mu.Unlock()
	return r.cfg.Store.Watch(ctx, r.prefix, revision, func(c hub.Change) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, i := range c.Items {
			r.take(i)
		}
	})
}

// take needs the lock. An entry that cannot be read keeps its member out: it may have been a revocation.
func (r *Roster) take(i hub.Item) {
	if _, ok := r.identity(i.Key); !ok {
		return
	}
	if i.Value == nil {
		delete(r.known, i.Key)
		return
	}
	var e Entry
	if err := json.Unmarshal(i.Value, &e); err != nil {
		r.cfg.Log.Error("cannot read an entry of the roster: its member is kept out", "key", i.Key, "error", err)
		e = Entry{Revoked: &fleet.Stop{By: "slipway-hub", Reason: "its entry in the roster cannot be read"}}
	}
	r.known[i.Key] = e
}

// Admit tells whether a certificate that verifies still counts. notBefore is the certificate's.
func (r *Roster) Admit(id fleet.Identity, notBefore time.Time) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if !r.loaded {
		return &fleet.Error{Kind: fleet.KindUnavailable, Message: "the hub is starting: it does not know yet who was revoked", Hint: "ask again in some seconds"}
	}
	e, ok := r.known[r.key(id)]
	switch {
	case !ok:
		return nil
	case e.Revoked != nil:
		return &fleet.Error{Kind: fleet.KindRevoked, Message: fmt.Sprintf("the certificate of %s was revoked: %s", id, e.Revoked.Reason),
			Hint: "a host is let in again by slipway-hub token create --replace, an operator by slipway-hub ca operator"}
	case notBefore.Before(e.Since):
		return &fleet.Error{Kind: fleet.KindRevoked, Message: fmt.Sprintf("the certificate of %s was replaced by one of %s", id, e.Since.Format(time.DateTime)),
			Hint: "another machine was enrolled under this name; if this is the right one, enrol it again"}
	}
	return nil
}

// Labels are those a host was enrolled with, nil if with none.
func (r *Roster) Labels(env release.Environment, host string) map[string]string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.known[r.key(fleet.Identity{Environment: env, Host: host})].Labels
}

// Members lists everybody the roster has an entry for, in order.
func (r *Roster) Members(ctx context.Context) ([]Member, error) {
	items, _, err := r.cfg.Store.Range(ctx, r.prefix)
	if err != nil {
		return nil, err
	}
	out := []Member{}
	for _, i := range items {
		id, ok := r.identity(i.Key)
		if !ok {
			continue
		}
		m := Member{Environment: id.Environment, Host: id.Host, Operator: id.Operator}
		if err := json.Unmarshal(i.Value, &m.Entry); err != nil {
			return nil, fmt.Errorf("cannot read the entry of %s: %w", id, err)
		}
		out = append(out, m)
	}
	return out, nil
}

// Revoke ends a member's certificates. It is taken back by enrolling again with a token that says replace.
func (r *Roster) Revoke(ctx context.Context, by string, v Revocation) (string, error) {
	id := fleet.Identity{Fleet: r.cfg.Fleet, Environment: v.Environment, Host: v.Host, Operator: v.Operator}
	if err := id.Check(); err != nil {
		return "", &fleet.Error{Kind: fleet.KindBadRequest, Message: err.Error()}
	}
	if v.Reason == "" {
		return "", &fleet.Error{Kind: fleet.KindBadRequest, Message: "a revocation needs a reason"}
	}
	err := r.change(ctx, id, func(e *Entry) error {
		now := r.cfg.Now().UTC().Truncate(time.Second)
		if v.Earlier {
			e.Since, e.Revoked = after(now, e.Last), nil
			return nil
		}
		e.Revoked = &fleet.Stop{By: by, Reason: v.Reason, At: now}
		return nil
	})
	if err != nil {
		return "", err
	}
	done := "certificates of " + id.String() + " are refused from now on"
	if v.Earlier {
		done = "certificates of " + id.String() + " issued until now are refused from now on"
	}
	r.note(ctx, by, "revoke", id, v.Reason, done)
	return done, nil
}

// change rewrites one entry under compare-and-swap.
func (r *Roster) change(ctx context.Context, id fleet.Identity, f func(*Entry) error) error {
	key := r.key(id)
	return retry(func() (bool, error) {
		e, mod, err := r.entry(ctx, key)
		if err != nil {
			return false, err
		}
		if err := f(&e); err != nil {
			return false, err
		}
		result, err := r.cfg.Store.Commit(ctx, hub.Txn{If: []hub.Cond{{Key: key, Mod: mod}}, Then: []hub.Op{put(key, e)}})
		return result.Held, err
	})
}

func (r *Roster) entry(ctx context.Context, key string) (e Entry, mod int64, err error) {
	items, _, err := r.cfg.Store.Get(ctx, key)
	if err != nil || items[0].Mod == 0 {
		return e, 0, err
	}
	if err := json.Unmarshal(items[0].Value, &e); err != nil {
		return e, 0, fmt.Errorf("cannot read %s: %w", key, err)
	}
	return e, items[0].Mod, nil
}

// note tells the operators' log what was done. It is done already: a log that cannot be written is reported, and nothing is undone.
func (r *Roster) note(ctx context.Context, by, act string, id fleet.Identity, why, done string) {
	r.cfg.Log.Info(done, "act", act, "of", id.String(), "by", by, "reason", why)
	if r.cfg.Note == nil {
		return
	}
	if err := r.cfg.Note(ctx, by, act, id.String(), why, done); err != nil {
		r.cfg.Log.Error("the operators' log lacks a line", "act", act, "of", id.String(), "by", by, "error", err)
	}
}

// attempts bounds how often a transaction that met another one is tried again.
const attempts = 8

func retry(f func() (bool, error)) error {
	for range attempts {
		if held, err := f(); held || err != nil {
			return err
		}
	}
	return &fleet.Error{Kind: fleet.KindBusy, Message: "others changed the same entry at the same time", Hint: "try again"}
}

func put(key string, v any) hub.Op {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own plain types
	}
	return hub.Op{Key: key, Value: data}
}

// after is t, or the second after last if that is later: certificates have whole seconds, and a clock may be behind.
func after(t, last time.Time) time.Time {
	if !t.After(last) {
		return last.Add(time.Second)
	}
	return t
}

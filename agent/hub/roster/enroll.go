package roster

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/hub/ca"
	"github.com/slipway-deploy/slipway/agent/release"
)

// CreateToken makes a token for one host. A host that has an identity already needs Replace.
func (r *Roster) CreateToken(ctx context.Context, by string, ask Ask) (Minted, error) {
	if r.cfg.Authority == nil {
		return Minted{}, noIssuer()
	}
	id := fleet.Identity{Fleet: r.cfg.Fleet, Environment: ask.Environment, Host: ask.Host}
	ttl := time.Duration(ask.TTL) * time.Second
	if ttl == 0 {
		ttl = DefaultTTL
	}
	if err := checkAsk(id, ask, ttl); err != nil {
		return Minted{}, &fleet.Error{Kind: fleet.KindBadRequest, Message: err.Error()}
	}
	e, mod, err := r.entry(ctx, r.key(id))
	if err != nil {
		return Minted{}, err
	}
	if mod != 0 && !ask.Replace {
		return Minted{}, taken(id, e)
	}
	r.sweep(ctx)
	now := r.cfg.Now().UTC().Truncate(time.Second)
	t := fleet.NewToken(r.cfg.Pin, release.Sum(r.cfg.Root))
	key := r.tokenKey(t.Hash())
	stored := token{Environment: ask.Environment, Host: ask.Host, Labels: ask.Labels, Replace: ask.Replace, By: by, Created: now, Expires: now.Add(ttl)}
	if _, err := r.cfg.Store.Commit(ctx, hub.Txn{If: []hub.Cond{{Key: key}}, Then: []hub.Op{put(key, stored)}}); err != nil {
		return Minted{}, err
	}
	done := "an enrolment token was made, until " + stored.Expires.Format(time.DateTime)
	if ask.Replace {
		done += "; it replaces"
	}
	r.note(ctx, by, "token", id, "", done)
	out := Minted{Token: t.String(), Expires: stored.Expires}
	if len(r.cfg.Mirrors) == 0 {
		out.Warning = "a host without a configuration of its own is told no repository: none of this hub's mirrors is url = \"https://…\""
	}
	if mod != 0 && e.Revoked == nil {
		out.Warning = fmt.Sprintf("the machine that is %s now (enrolled %s) loses its identity when this token is used", id, e.Enrolled.Format(time.DateTime))
	}
	return out, nil
}

func checkAsk(id fleet.Identity, ask Ask, ttl time.Duration) error {
	if err := id.Check(); err != nil {
		return err
	}
	if ttl < time.Minute || ttl > MaxTTL {
		return fmt.Errorf("a token lives between a minute and 30 days, not %s", ttl)
	}
	if len(ask.Labels) > 64 {
		return fmt.Errorf("%d labels are more than 64", len(ask.Labels))
	}
	for k, v := range ask.Labels {
		if k == "" || len(k) > 63 || len(v) > 128 {
			return fmt.Errorf("label %q: names have 1 to 63 characters, values at most 128", k)
		}
	}
	return nil
}

func taken(id fleet.Identity, e Entry) error {
	state := "enrolled " + e.Enrolled.Format(time.DateTime)
	if e.Revoked != nil {
		state = "revoked " + e.Revoked.At.Format(time.DateTime) + ": " + e.Revoked.Reason
	}
	return &fleet.Error{Kind: fleet.KindEnrolled, Message: fmt.Sprintf("%s is taken: %s", id, state),
		Hint: "to put another machine in its place: slipway-hub token create --replace"}
}

func noIssuer() error {
	return &fleet.Error{Kind: fleet.KindRefused, Message: "this hub issues no certificates: it has no issuer",
		Hint: "sign the request by hand with slipway-hub ca sign, or give the hub an issuer with slipway-hub ca issuer"}
}

// Enroll gives a machine the identity its token stands for. From is where the request came from, for the log.
func (r *Roster) Enroll(ctx context.Context, q fleet.Enroll, from string) (fleet.EnrollAnswer, error) {
	if r.cfg.Authority == nil {
		return fleet.EnrollAnswer{}, noIssuer()
	}
	parsed, err := fleet.ParseToken(q.Token)
	if err != nil {
		return fleet.EnrollAnswer{}, &fleet.Error{Kind: fleet.KindToken, Message: err.Error()}
	}
	key, err := ca.ParseRequest(q.CSR)
	if err != nil {
		return fleet.EnrollAnswer{}, &fleet.Error{Kind: fleet.KindBadRequest, Message: err.Error()}
	}
	if q.Install == "" || len(q.Install) > 128 {
		return fleet.EnrollAnswer{}, &fleet.Error{Kind: fleet.KindBadRequest, Message: "the request has no install id"}
	}
	answer, err := r.enroll(ctx, parsed.Hash(), key, q.Install, from)
	if err != nil {
		r.cfg.Log.Warn("an enrolment was refused", "from", from, "token", parsed.Hash().Short(), "error", err)
	}
	return answer, err
}

func (r *Roster) enroll(ctx context.Context, hash release.Digest, key crypto.PublicKey, install, from string) (out fleet.EnrollAnswer, err error) {
	print, err := ca.Fingerprint(key)
	if err != nil {
		return out, err
	}
	var t token
	var c *x509.Certificate
	var replaced bool
	err = retry(func() (held bool, err error) {
		var txn hub.Txn
		if t, c, replaced, txn, err = r.admission(ctx, hash, key, print, install); err != nil {
			return false, err
		}
		result, err := r.cfg.Store.Commit(ctx, txn)
		return result.Held, err
	})
	if err != nil {
		return out, err
	}
	id := fleet.Identity{Fleet: r.cfg.Fleet, Environment: t.Environment, Host: t.Host}
	done := fmt.Sprintf("enrolled from %s as install %s", from, install)
	if replaced {
		done += ", in the place of another machine"
	}
	r.note(ctx, t.By, "enroll", id, "", done)
	if replaced {
		r.letGo(ctx, id, t.By)
	}
	return fleet.EnrollAnswer{Fleet: r.cfg.Fleet, Environment: t.Environment, Host: t.Host, Labels: t.Labels,
		Issued: r.issued(c), Root: r.cfg.Root, Mirrors: r.cfg.Mirrors}, nil
}

// admission reads the token and the entry it is about, judges, and returns the transaction that takes the machine in.
func (r *Roster) admission(ctx context.Context, hash release.Digest, key crypto.PublicKey, print release.Digest, install string) (t token, c *x509.Certificate, replaced bool, txn hub.Txn, err error) {
	items, _, err := r.cfg.Store.Get(ctx, r.tokenKey(hash))
	if err != nil {
		return t, nil, false, txn, err
	}
	now := r.cfg.Now()
	if t, err = judgeToken(items[0], print, install, now); err != nil {
		return t, nil, false, txn, err
	}
	id := fleet.Identity{Fleet: r.cfg.Fleet, Environment: t.Environment, Host: t.Host}
	e, mod, err := r.entry(ctx, r.key(id))
	if err != nil {
		return t, nil, false, txn, err
	}
	again := t.Used != nil
	switch {
	case again && (e.Install != install || e.Revoked != nil): // revoked or replaced since
		return t, nil, false, txn, noToken()
	case mod != 0 && !t.Replace && !again:
		return t, nil, false, txn, taken(id, e)
	}
	if c, err = r.cfg.Authority.Issue(id, key, now, after(e.Since, e.Last), r.cfg.Validity); err != nil {
		return t, nil, false, txn, err
	}
	replaced = mod != 0 && e.Install != install
	next := Entry{Install: install, Labels: t.Labels, Enrolled: now.UTC().Truncate(time.Second), By: t.By, Since: c.NotBefore, Last: c.NotBefore, Until: c.NotAfter}
	if replaced {
		next.Replaces = cmp.Or(e.Install, "unknown")
	}
	t.Used = &use{At: now.UTC(), Key: print, Install: install}
	txn = hub.Txn{
		If:   []hub.Cond{{Key: items[0].Key, Mod: items[0].Mod}, {Key: r.key(id), Mod: mod}},
		Then: []hub.Op{put(items[0].Key, t), put(r.key(id), next)},
	}
	return t, c, replaced, txn, nil
}

// noToken is the same for every token that does not work: who guesses learns nothing.
func noToken() error {
	return &fleet.Error{Kind: fleet.KindToken, Message: "this enrolment token is unknown, used or expired", Hint: "make a new one with slipway-hub token create"}
}

func judgeToken(i hub.Item, print release.Digest, install string, now time.Time) (t token, err error) {
	if i.Mod == 0 {
		return t, noToken()
	}
	if err := json.Unmarshal(i.Value, &t); err != nil {
		return t, fmt.Errorf("cannot read a token: %w", err)
	}
	if !now.Before(t.Expires) {
		return t, noToken()
	}
	if t.Used != nil && (t.Used.Key != print || t.Used.Install != install) {
		return t, noToken()
	}
	return t, nil
}

// Renew gives a host its next certificate. The caller has verified and admitted the one it came with.
func (r *Roster) Renew(ctx context.Context, id fleet.Identity, q fleet.Renew) (fleet.Issued, error) {
	if r.cfg.Authority == nil {
		return fleet.Issued{}, noIssuer()
	}
	key, err := ca.ParseRequest(q.CSR)
	if err != nil {
		return fleet.Issued{}, &fleet.Error{Kind: fleet.KindBadRequest, Message: err.Error()}
	}
	var c *x509.Certificate
	err = r.change(ctx, id, func(e *Entry) (err error) {
		switch {
		case e.Revoked != nil:
			return &fleet.Error{Kind: fleet.KindRevoked, Message: fmt.Sprintf("the certificate of %s was revoked: %s", id, e.Revoked.Reason)}
		case e.Install != "" && e.Install != q.Install:
			return &fleet.Error{Kind: fleet.KindEnrolled, Message: fmt.Sprintf("another machine than this one was enrolled as %s", id),
				Hint: "two machines with one identity are copies of each other; enrol the copy under a name of its own"}
		}
		if c, err = r.cfg.Authority.Issue(id, key, r.cfg.Now(), e.Since, r.cfg.Validity); err != nil {
			return err
		}
		if e.Install == "" {
			e.Install, e.Enrolled, e.By = q.Install, r.cfg.Now().UTC().Truncate(time.Second), "certificate signed by hand"
		}
		if c.NotBefore.After(e.Last) {
			e.Last = c.NotBefore
		}
		e.Until = c.NotAfter
		return nil
	})
	if err != nil {
		return fleet.Issued{}, err
	}
	return r.issued(c), nil
}

// issued asks for renewal after two thirds of a certificate's life.
func (r *Roster) issued(c *x509.Certificate) fleet.Issued {
	return fleet.Issued{Certificate: r.cfg.Authority.PEM(c), CA: ca.EncodeCertificates(r.cfg.Roots...),
		Renew: c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) * 2 / 3), Until: c.NotAfter}
}

// Tokens lists those that still exist: unused ones and, until they expire, used ones.
func (r *Roster) Tokens(ctx context.Context) ([]TokenStatus, error) {
	out := []TokenStatus{}
	err := r.eachToken(ctx, func(i hub.Item, id string, t token) error {
		s := TokenStatus{ID: id, Environment: t.Environment, Host: t.Host, Labels: t.Labels, Replace: t.Replace, By: t.By, Created: t.Created, Expires: t.Expires}
		if t.Used != nil {
			s.Used = &t.Used.At
		}
		out = append(out, s)
		return nil
	})
	return out, err
}

// DropToken takes back a token that was not used yet, by the ID that Tokens shows.
func (r *Roster) DropToken(ctx context.Context, by, id string) (string, error) {
	done := ""
	err := r.eachToken(ctx, func(i hub.Item, one string, t token) error {
		if one != id {
			return nil
		}
		_, err := r.cfg.Store.Commit(ctx, hub.Txn{If: []hub.Cond{{Key: i.Key, Mod: i.Mod}}, Then: []hub.Op{{Key: i.Key}}})
		done = fmt.Sprintf("the token for %s in %s does not work any more", t.Host, t.Environment)
		if err == nil {
			r.note(ctx, by, "token-drop", fleet.Identity{Fleet: r.cfg.Fleet, Environment: t.Environment, Host: t.Host}, "", done)
		}
		return err
	})
	if err == nil && done == "" {
		err = &fleet.Error{Kind: fleet.KindNotFound, Message: "there is no token " + id, Hint: "slipway-hub token list shows them"}
	}
	return done, err
}

func (r *Roster) eachToken(ctx context.Context, f func(i hub.Item, id string, t token) error) error {
	prefix := r.prefix + "token/"
	items, _, err := r.cfg.Store.Range(ctx, prefix)
	if err != nil {
		return err
	}
	for _, i := range items {
		var t token
		if err := json.Unmarshal(i.Value, &t); err != nil {
			return fmt.Errorf("cannot read a token: %w", err)
		}
		if err := f(i, i.Key[len(prefix):][:12], t); err != nil {
			return err
		}
	}
	return nil
}

// sweep removes tokens that expired. What it cannot remove now it will the next time.
func (r *Roster) sweep(ctx context.Context) {
	now := r.cfg.Now()
	_ = r.eachToken(ctx, func(i hub.Item, _ string, t token) error {
		if now.Before(t.Expires) {
			return nil
		}
		_, err := r.cfg.Store.Commit(ctx, hub.Txn{If: []hub.Cond{{Key: i.Key, Mod: i.Mod}}, Then: []hub.Op{{Key: i.Key}}})
		return err
	})
}

package hub

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// auditEntry is written in the transaction that it tells of.
type auditEntry = fleet.AuditEntry

// AuditEntry is one line of the log of what operators, and the hub itself, did to rollouts.
type AuditEntry = fleet.AuditEntry

// byHub is who acts when the hub does so by the signed rules.
const byHub = "hub"

// VerifyAudit is fleet.VerifyAudit.
func VerifyAudit(prev *AuditEntry, entries []AuditEntry) error {
	return fleet.VerifyAudit(prev, entries)
}

// Note writes an entry that is about no rollout: who was let into the fleet, or revoked.
func (c *core) Note(ctx context.Context, by, act, on, why, done string) error {
	for range maxTries {
		if _, _, err := c.get(ctx, c.keys.auditHead()); err != nil {
			return err
		}
		res, err := c.commit(ctx, c.composeNote(auditEntry{By: by, Act: act, On: on, Why: why, Done: done}))
		if err != nil || res.Held {
			return err
		}
	}
	return fmt.Errorf("%w: others act on the fleet all the time, try again", ErrUnavailable)
}

func (c *core) composeNote(e auditEntry) Txn {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := &draft{c: c, g: &group{}, now: c.now(), conds: map[string]int64{}}
	e.At = d.now
	d.audit = []auditEntry{e}
	d.seal()
	return d.final
}

// AuditSince returns at most limit entries after entry n, oldest first. Verify them with VerifyAudit.
func (c *core) AuditSince(ctx context.Context, n int64, limit int) ([]AuditEntry, error) {
	head, _, err := c.get(ctx, c.keys.auditHead())
	if err != nil {
		return nil, err
	}
	var last auditEntry
	if len(head[0].Value) > 0 {
		if err := json.Unmarshal(head[0].Value, &last); err != nil {
			return nil, fmt.Errorf("cannot read the head of the audit log: %w", err)
		}
	}
	var list []AuditEntry
	for first := n + 1; first <= last.N && len(list) < limit; first += MaxOps {
		var names []string
		for i := first; i <= last.N && i < first+MaxOps && len(list)+len(names) < limit; i++ {
			names = append(names, c.keys.audit(i))
		}
		items, _, err := c.get(ctx, names...)
		if err != nil {
			return nil, err
		}
		for _, it := range items {
			var e AuditEntry
			if err := json.Unmarshal(it.Value, &e); err != nil {
				return nil, fmt.Errorf("cannot read audit entry %s: %w", it.Key, err)
			}
			list = append(list, e)
		}
	}
	return list, nil
}

package hub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// auditEntry is one line of the operators' log. Each entry's hash covers the one before, so a line can be neither changed nor
// left out without showing. It is written in the transaction that it tells of.
type auditEntry struct {
	N    int64     `json:"n"`
	At   time.Time `json:"at"`
	By   string    `json:"by"`
	Act  string    `json:"act"`
	On   string    `json:"on"` // environment/app, or "fleet"
	Why  string    `json:"why,omitempty"`
	Done string    `json:"done"`
	Prev string    `json:"prev,omitempty"`
	Hash string    `json:"hash"`
}

// AuditEntry is one line of the log of what operators, and the hub itself, did to rollouts.
type AuditEntry = auditEntry

// byHub is who acts when the hub does so by the signed rules.
const byHub = "hub"

// sealed is the entry with its place in the chain.
func (e auditEntry) sealed(prev *auditEntry) auditEntry {
	e.N, e.Prev = 1, ""
	if prev != nil {
		e.N, e.Prev = prev.N+1, prev.Hash
	}
	e.Hash = e.sum()
	return e
}

func (e auditEntry) sum() string {
	e.Hash = ""
	text, err := json.Marshal(e)
	if err != nil {
		panic(err) // plain text and numbers
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// VerifyAudit checks that entries follow each other without a gap or a change. prev is the entry before the first, nil for
// a log from its beginning.
func VerifyAudit(prev *AuditEntry, entries []AuditEntry) error {
	for i := range entries {
		want := entries[i].sealed(prev)
		if entries[i] != want {
			return fmt.Errorf("the audit log does not verify at entry %d: what follows has been changed or left out", entries[i].N)
		}
		prev = &entries[i]
	}
	return nil
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

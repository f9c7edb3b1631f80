package fleet

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// PathAudit answers with the operators' log after the entry ?since=N, oldest first, at most AuditPage entries at a time. GET.
const PathAudit = "/v1/fleet/audit"

// AuditPage is how many entries one answer holds.
const AuditPage = 500

// AuditEntry is one line of the operators' log. Each entry's hash covers the one before, so that a line can be neither changed
// nor left out without showing.
type AuditEntry struct {
	N    int64     `json:"n"`
	At   time.Time `json:"at"`
	By   string    `json:"by"`
	Act  string    `json:"act"`
	On   string    `json:"on"` // environment/app, "fleet", or an identity
	Why  string    `json:"why,omitempty"`
	Done string    `json:"done"`
	Prev string    `json:"prev,omitempty"`
	Hash string    `json:"hash"`
}

// Sealed is the entry with its place in the chain behind prev, nil for the first.
func (e AuditEntry) Sealed(prev *AuditEntry) AuditEntry {
	e.N, e.Prev = 1, ""
	if prev != nil {
		e.N, e.Prev = prev.N+1, prev.Hash
	}
	e.Hash = e.sum()
	return e
}

func (e AuditEntry) sum() string {
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
		want := entries[i].Sealed(prev)
		if entries[i] != want {
			return fmt.Errorf("the audit log does not verify at entry %d: what follows has been changed or left out", entries[i].N)
		}
		prev = &entries[i]
	}
	return nil
}

package release

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// EvidenceSchema marks the statement of a host that it has committed a release.
const EvidenceSchema = "slipway.evidence/v1"

// maxEvidence bounds one statement.
const maxEvidence = 16 << 10

// Evidence is what one host says of a release it runs: its trial passed at Committed, and at Observed it still ran, undisturbed
// by any attempt to run another. It carries no signature: it is the word of whoever brought the file, on which signers decide
// and to which they can be held later, since its digest goes into what they sign.
type Evidence struct {
	Schema      string      `json:"schema"`
	Host        string      `json:"host"`
	Environment Environment `json:"environment"`
	App         App         `json:"app"`
	// Release is the release's ID: version and the beginning of its digest.
	Release   string    `json:"release"`
	Sequence  int64     `json:"sequence"`
	Attempt   string    `json:"attempt"`
	Committed time.Time `json:"committed"`
	Observed  time.Time `json:"observed"`
}

// Soaked is how long the release had been committed when the host was asked.
func (e *Evidence) Soaked() time.Duration { return e.Observed.Sub(e.Committed) }

// ParseEvidence decodes and validates one statement, as strictly as a signed document.
func ParseEvidence(data []byte) (*Evidence, error) {
	bad := func(field, reason string) (*Evidence, error) {
		return nil, &DocumentError{"evidence", []Problem{{field, reason}}}
	}
	if len(data) > maxEvidence {
		return bad("document", fmt.Sprintf("it has %d bytes, at most %d are allowed", len(data), maxEvidence))
	}
	e := &Evidence{}
	if r := decodeStrict(data, e); r != nil {
		return bad(r.place, r.reason)
	}
	if e.Schema != EvidenceSchema {
		return bad("schema", fmt.Sprintf("it is %.40q, this version reads %s", e.Schema, EvidenceSchema))
	}
	p := &problems{}
	if _, err := ParseID(e.Release); err != nil {
		p.add("release", "%v", err)
	}
	if e.Host == "" {
		p.add("host", "it is empty")
	}
	p.words("host", e.Host, maxWords)
	p.words("attempt", e.Attempt, maxWords)
	if e.Committed.IsZero() || e.Observed.Before(e.Committed) {
		p.add("observed", "it is not after committed")
	}
	return e, p.err("evidence")
}

// EncodeEvidence writes what ParseEvidence reads.
func EncodeEvidence(e *Evidence) ([]byte, error) {
	e.Schema = EvidenceSchema
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(e); err != nil {
		return nil, fmt.Errorf("cannot encode evidence: %w", err)
	}
	if _, err := ParseEvidence(out.Bytes()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

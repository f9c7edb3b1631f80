package roster

import (
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
)

// The bounds of a token's life.
const (
	DefaultTTL = time.Hour
	MaxTTL     = 30 * 24 * time.Hour
)

// Ask is an operator's wish for a token.
type Ask struct {
	Environment release.Environment `json:"environment"`
	Host        string              `json:"host"`
	// Labels count instead of what the host says of itself. Without any, the host's own do.
	Labels map[string]string `json:"labels,omitempty"`
	// TTL is in seconds; zero is DefaultTTL.
	TTL int `json:"ttl,omitempty"`
	// Replace ends the identity of the machine that has the name now, at the moment when the token is used.
	Replace bool `json:"replace,omitempty"`
}

// Minted is a new token. It is shown once: the hub keeps its hash.
type Minted struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
	// Warning says what the operator may not expect, such as a machine that will lose its identity.
	Warning string `json:"warning,omitempty"`
}

// TokenStatus is a token as the hub knows it. ID is the beginning of its hash.
type TokenStatus struct {
	ID          string              `json:"id"`
	Environment release.Environment `json:"environment"`
	Host        string              `json:"host"`
	Labels      map[string]string   `json:"labels,omitempty"`
	Replace     bool                `json:"replace,omitempty"`
	By          string              `json:"by"`
	Created     time.Time           `json:"created"`
	Expires     time.Time           `json:"expires"`
	Used        *time.Time          `json:"used,omitempty"`
}

// Member is a host or an operator that the roster has an entry for. Hosts of another authority have none until they are revoked.
type Member struct {
	Environment release.Environment `json:"environment,omitzero"`
	Host        string              `json:"host,omitempty"`
	Operator    string              `json:"operator,omitempty"`
	Entry
}

// Entry is what the roster keeps of a member.
type Entry struct {
	Install  string            `json:"install,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Enrolled time.Time         `json:"enrolled,omitzero"`
	By       string            `json:"by,omitempty"` // who made the token
	// Since is the beginning of the first certificate that counts; what began earlier was replaced.
	Since time.Time `json:"since,omitzero"`
	// Last is the beginning of the newest certificate, so that a replacement can begin after it.
	Last  time.Time `json:"last,omitzero"`
	Until time.Time `json:"until,omitzero"` // the end of the newest certificate
	// Replaces is the install id of the machine whose place this one took, until what that one held is let go.
	Replaces string      `json:"replaces,omitempty"`
	Revoked  *fleet.Stop `json:"revoked,omitempty"`
}

// Revocation names whose certificates end. Exactly one of host and operator is meant.
type Revocation struct {
	Environment release.Environment `json:"environment,omitzero"`
	Host        string              `json:"host,omitempty"`
	Operator    string              `json:"operator,omitempty"`
	Reason      string              `json:"reason"`
	// Earlier ends only the certificates issued until now: an operator who lost a laptop gets a new one under the same name.
	Earlier bool `json:"earlier,omitempty"`
}

// token is the stored form.
type token struct {
	Environment release.Environment `json:"environment"`
	Host        string              `json:"host"`
	Labels      map[string]string   `json:"labels,omitempty"`
	Replace     bool                `json:"replace,omitempty"`
	By          string              `json:"by"`
	Created     time.Time           `json:"created"`
	Expires     time.Time           `json:"expires"`
	Used        *use                `json:"used,omitempty"`
}

// use ties a used token to the key it was used for: a host that never got the answer asks again and gets another certificate for
// the same key.
type use struct {
	At      time.Time      `json:"at"`
	Key     release.Digest `json:"key"`
	Install string         `json:"install"`
}

package fleet

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// PathRenew is where a host asks for its next certificate, with the one it has. POST, like the others.
const PathRenew = "/v1/renew"

// MaxEnrollAnswer bounds the answer to an enrolment, in bytes: it carries a root.json.
const MaxEnrollAnswer = 1 << 20

// Token is what an operator carries from the hub to a new host, once. Besides the secret that the hub knows by its hash, it
// says what the host may believe on the way: the authority that the hub's certificate leads to, and the root.json of the
// repository. So a host takes nothing on faith from whoever answers.
type Token struct {
	// CA is the SHA-256 of the authority's certificate (DER). It is among those that the hub presents.
	CA release.Digest
	// Root is the SHA-256 of the repository's root.json.
	Root   release.Digest
	Secret [32]byte
}

const tokenPrefix = "slipway1."

// NewToken makes a token with a secret of its own.
func NewToken(ca, root release.Digest) Token {
	t := Token{CA: ca, Root: root}
	rand.Read(t.Secret[:]) // never fails
	return t
}

// String is the token as it is typed. It is a secret until it was used.
func (t Token) String() string {
	ca, root := t.CA.Bytes(), t.Root.Bytes()
	all := append(append(ca[:], root[:]...), t.Secret[:]...)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(all)
}

// Hash is what the hub keeps of the secret.
func (t Token) Hash() release.Digest { return release.Sum(t.Secret[:]) }

// ParseToken reads what String wrote. Its error never shows the token.
func ParseToken(s string) (Token, error) {
	text, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	if !ok {
		return Token{}, fmt.Errorf("that is no enrolment token: one starts with %q", tokenPrefix)
	}
	all, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(all) != 96 {
		return Token{}, errors.New("that enrolment token was cut or mistyped: copy the whole line")
	}
	return Token{CA: release.DigestOf([32]byte(all[:32])), Root: release.DigestOf([32]byte(all[32:64])), Secret: [32]byte(all[64:])}, nil
}

// Enroll is a new host's request. It is made without a client certificate: the token stands in for one, and says which host
// of which environment this is.
type Enroll struct {
	Token string `json:"token"`
	// CSR is a PKCS #10 request as PEM. Only its key counts, and its signature, which proves that the host holds the key: the
	// names in the certificate come from the token.
	CSR string `json:"csr"`
	// Install is the same as in Turn.
	Install string `json:"install"`
}

// EnrollAnswer is a host's identity. The host compares Root with the token before it keeps anything.
type EnrollAnswer struct {
	Fleet       string              `json:"fleet"`
	Environment release.Environment `json:"environment"`
	Host        string              `json:"host"`
	Labels      map[string]string   `json:"labels,omitempty"`
	Issued
	Root    []byte   `json:"root"`              // root.json, exact bytes
	Mirrors []string `json:"mirrors,omitempty"` // base URLs of the repository, if the hub's own are meant for hosts
}

// Renew asks for the next certificate, for the same key or a new one.
type Renew struct {
	CSR     string `json:"csr"`
	Install string `json:"install"`
}

// Issued is a certificate and what belongs to it.
type Issued struct {
	Certificate string `json:"certificate"` // PEM: the host's own first, then what leads to the authority
	// CA is what the host knows hubs by from now on, as PEM: one certificate, or two while the authority is replaced.
	CA string `json:"ca"`
	// Renew is when to ask for the next one. A host that comes too late has to enrol again.
	Renew time.Time `json:"renew"`
	Until time.Time `json:"until"`
}

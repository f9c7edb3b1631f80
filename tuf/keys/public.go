package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// publicSchema names the format of a public key file.
const publicSchema = "slipway.public-key/v1"

// NameField is the member of a TUF key object that carries the key's name in signed metadata, so that a signer reads who
// holds a key from what they already trust. It takes no part in the key id.
const NameField = "x-slipway-name"

// maxKeyFile bounds every key file; the largest real one is a 4096-bit RSA public key.
const maxKeyFile = 64 << 10

// Public is a public key as TUF metadata lists it. ID is whatever the key's first publisher called it and is never computed
// again; Fingerprint is what says whether two entries are the same key.
type Public struct {
	ID   string
	Name string
	tuf  metadata.Key
	key  crypto.PublicKey
	sum  [sha256.Size]byte
}

type publicFile struct {
	Schema string        `json:"schema"`
	Name   string        `json:"name,omitempty"`
	KeyID  string        `json:"keyid"`
	Key    *metadata.Key `json:"key"`
}

// FromTUF takes a key as found in metadata under id. Keys that no client could verify with (other curves, other schemes,
// wrong lengths) are refused here, before they can become a silent ceremony failure.
func FromTUF(id string, k *metadata.Key) (Public, error) {
	if k == nil {
		return Public{}, fmt.Errorf("cannot use key %s: it is null", short(id))
	}
	if id == "" || len(id) > 128 || !plain(id) {
		return Public{}, fmt.Errorf("cannot use key %q: a key id has 1 to 128 characters of 0-9, a-z, A-Z, - and _", id)
	}
	key, err := parseTUF(k)
	if err != nil {
		return Public{}, fmt.Errorf("cannot use key %s: %w", short(id), err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return Public{}, fmt.Errorf("cannot use key %s: %w", short(id), err)
	}
	p := Public{ID: id, key: key, sum: sha256.Sum256(der)}
	p.tuf = metadata.Key{Type: k.Type, Scheme: k.Scheme, Value: metadata.KeyVal{PublicKey: k.Value.PublicKey}}
	if name, ok := k.UnrecognizedFields[NameField].(string); ok {
		p.Name = name
	}
	return p, nil
}

func parseTUF(k *metadata.Key) (crypto.PublicKey, error) {
	switch {
	case k.Type == metadata.KeyTypeEd25519 && k.Scheme == metadata.KeySchemeEd25519:
		raw, err := hex.DecodeString(k.Value.PublicKey)
		if err != nil || len(raw) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("an ed25519 key is %d hexadecimal characters", 2*ed25519.PublicKeySize)
		}
		return ed25519.PublicKey(raw), nil
	case (k.Type == metadata.KeyTypeECDSA_SHA2_P256 || k.Type == metadata.KeyTypeECDSA_SHA2_P256_COMPAT) &&
		k.Scheme == metadata.KeySchemeECDSA_SHA2_P256:
		key, err := parsePEM(k.Value.PublicKey)
		if err != nil {
			return nil, err
		}
		if ec, ok := key.(*ecdsa.PublicKey); ok && ec.Curve == elliptic.P256() {
			return ec, nil
		}
		return nil, fmt.Errorf("scheme %s needs a key on curve P-256", k.Scheme)
	case k.Type == metadata.KeyTypeRSASSA_PSS_SHA256 && k.Scheme == metadata.KeySchemeRSASSA_PSS_SHA256:
		key, err := parsePEM(k.Value.PublicKey)
		if err != nil {
			return nil, err
		}
		if r, ok := key.(*rsa.PublicKey); ok && r.N.BitLen() >= 2048 {
			return r, nil
		}
		return nil, fmt.Errorf("scheme %s needs an RSA key of at least 2048 bits", k.Scheme)
	}
	return nil, fmt.Errorf("keytype %q with scheme %q is not supported; use ed25519, ecdsa P-256 or rsassa-pss-sha256", k.Type, k.Scheme)
}

func parsePEM(text string) (crypto.PublicKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, fmt.Errorf("its public part is not PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("its public part is not a PKIX key: %v", err)
	}
	return key, nil
}

// NewPublic names a key that no metadata lists yet; its id is the SHA-256 of the canonical key object, as other TUF tools do it.
func NewPublic(key crypto.PublicKey, name string) (Public, error) {
	if ec, ok := key.(*ecdsa.PublicKey); ok && ec.Curve != elliptic.P256() {
		return Public{}, fmt.Errorf("cannot use an ECDSA key on curve %s: only P-256 is supported", ec.Curve.Params().Name)
	}
	k, err := metadata.KeyFromPublicKey(key)
	if err != nil {
		return Public{}, fmt.Errorf("cannot use public key: %w", err)
	}
	canonical, err := cjson.EncodeCanonical(k)
	if err != nil {
		return Public{}, fmt.Errorf("cannot name public key: %w", err)
	}
	sum := sha256.Sum256(canonical)
	p, err := FromTUF(hex.EncodeToString(sum[:]), k)
	if err != nil {
		return Public{}, err
	}
	if !printable(name) || len(name) > 100 {
		return Public{}, fmt.Errorf("cannot use key name %q: at most 100 printable characters", name)
	}
	p.Name = name
	return p, nil
}

// IsZero reports whether p holds no key.
func (p Public) IsZero() bool { return p.key == nil }

// Fingerprint is the SHA-256 of the PKIX form: equal for one key however it is labelled.
func (p Public) Fingerprint() [sha256.Size]byte { return p.sum }

// Type is the TUF key type, for people.
func (p Public) Type() string { return p.tuf.Type }

// String is the name people use, followed by the first characters of the id that metadata uses.
func (p Public) String() string {
	if p.Name == "" {
		return short(p.ID)
	}
	return p.Name + " (" + short(p.ID) + ")"
}

// TUF is the key object to list in metadata, with the name beside it. The caller owns it.
func (p Public) TUF() *metadata.Key {
	k := p.tuf
	if p.Name != "" {
		k.UnrecognizedFields = map[string]any{NameField: p.Name}
	}
	return &k
}

// Verify reports whether sig is this key's signature over payload, by the same rules as every client: ed25519, ECDSA P-256
// over SHA-256 in ASN.1, RSA-PSS over SHA-256.
func (p Public) Verify(payload, sig []byte) error {
	sum := sha256.Sum256(payload)
	ok := false
	switch k := p.key.(type) {
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, payload, sig)
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, sum[:], sig)
	case *rsa.PublicKey:
		ok = rsa.VerifyPSS(k, crypto.SHA256, sum[:], sig, &rsa.PSSOptions{Hash: crypto.SHA256}) == nil
	}
	if !ok {
		return &SignatureError{Key: p.String()}
	}
	return nil
}

// ParsePublic reads a public key file. The id in the file is kept; a file that gives one of our own keys a wrong id is not
// an error, since ids belong to whoever listed the key first.
func ParsePublic(data []byte) (Public, error) {
	var f publicFile
	if err := strict(data, &f); err != nil {
		return Public{}, fmt.Errorf("cannot read public key: %w", err)
	}
	if f.Schema != publicSchema {
		return Public{}, fmt.Errorf("cannot read public key: schema is %q, want %q", f.Schema, publicSchema)
	}
	p, err := FromTUF(f.KeyID, f.Key)
	if err != nil {
		return Public{}, err
	}
	if !printable(f.Name) || len(f.Name) > 100 {
		return Public{}, fmt.Errorf("cannot read public key: name %q: at most 100 printable characters", f.Name)
	}
	p.Name = f.Name
	return p, nil
}

// LoadPublic reads the public key file at path. The other key files serve too: their public part needs no passphrase and no
// program.
func LoadPublic(path string) (Public, error) {
	p, _, err := Describe(path)
	return p, err
}

// Describe is LoadPublic, and the command of the program that signs if path is the file of an external key.
func Describe(path string) (p Public, command []string, err error) {
	data, err := readFile(path)
	if err != nil {
		return Public{}, nil, fmt.Errorf("cannot read public key: %w", err)
	}
	switch schemaOf(data) {
	case privateSchema:
		var f *parsedPrivate
		if f, err = parsePrivate(data); err == nil {
			p = f.public
		}
	case externalSchema:
		var e *External
		if e, err = parseExternal(data); err == nil {
			p, command = e.public, e.Command()
		}
	default:
		p, err = ParsePublic(data)
	}
	if err != nil {
		return Public{}, nil, fmt.Errorf("%w (in %s)", err, path)
	}
	return p, command, nil
}

// Encode is the content of a public key file.
func (p Public) Encode() ([]byte, error) {
	k := p.tuf
	data, err := json.MarshalIndent(publicFile{Schema: publicSchema, Name: p.Name, KeyID: p.ID, Key: &k}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot encode public key %s: %w", p, err)
	}
	return append(data, '\n'), nil
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return nil, fmt.Errorf("%s is not a key file: want a regular file of at most %d bytes", path, maxKeyFile)
	}
	return os.ReadFile(path)
}

func strict(data []byte, into any) error {
	if len(data) > maxKeyFile {
		return fmt.Errorf("%d bytes is more than %d", len(data), maxKeyFile)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.More() {
		return fmt.Errorf("there is data after the JSON object")
	}
	return nil
}

func short(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

func plain(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

func printable(s string) bool {
	for _, r := range s {
		if r < 0x20 || r == 0x7f || r == 0xfffd || r >= 0x80 && r < 0xa0 {
			return false
		}
	}
	return true
}

// MarshalJSON writes what a public key file holds.
func (p Public) MarshalJSON() ([]byte, error) {
	k := p.tuf
	return json.Marshal(publicFile{Schema: publicSchema, Name: p.Name, KeyID: p.ID, Key: &k})
}

// UnmarshalJSON is ParsePublic.
func (p *Public) UnmarshalJSON(data []byte) (err error) {
	*p, err = ParsePublic(data)
	return err
}

package keys

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/scrypt"
)

const privateSchema = "slipway.private-key/v1"

// scryptN costs about half a second and 128 MiB per try; scryptMax bounds what a key file may ask of us.
var scryptN = 1 << 17

const scryptMax = 1 << 20

// Type selects the algorithm of a new key.
type Type string

// The key types that are made here. RSA keys are verified, never made.
const (
	Ed25519   Type = "ed25519"
	ECDSAP256 Type = "ecdsa-p256"
)

// Private is a key whose secret is in this process's memory. It is a Signer.
type Private struct {
	public Public
	signer crypto.Signer
}

type privateFile struct {
	Schema string        `json:"schema"`
	Name   string        `json:"name,omitempty"`
	KeyID  string        `json:"keyid"`
	Key    *metadata.Key `json:"key"`
	Sealed *sealed       `json:"sealed,omitempty"`
	Plain  []byte        `json:"unencrypted_pkcs8,omitempty"`
}

type sealed struct {
	KDF    string `json:"kdf"`
	N      int    `json:"n"`
	R      int    `json:"r"`
	P      int    `json:"p"`
	Salt   []byte `json:"salt"`
	Cipher string `json:"cipher"`
	Nonce  []byte `json:"nonce"`
	Box    []byte `json:"box"`
}

// Generate makes a key of type t. Name is for people and travels with the public part.
func Generate(t Type, name string) (*Private, error) {
	var signer crypto.Signer
	var err error
	switch t {
	case Ed25519, "":
		_, signer, err = generateEd25519()
	case ECDSAP256:
		signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		return nil, fmt.Errorf("cannot make a key of type %q: use %s or %s", t, Ed25519, ECDSAP256)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make a %s key: %w", t, err)
	}
	public, err := NewPublic(signer.Public(), name)
	if err != nil {
		return nil, err
	}
	return &Private{public: public, signer: signer}, nil
}

func generateEd25519() (crypto.PublicKey, crypto.Signer, error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	return pub, priv, err
}

// Public is the key's public part.
func (p *Private) Public() Public { return p.public }

// Sign signs payload itself, not a digest of it.
func (p *Private) Sign(_ context.Context, payload []byte) ([]byte, error) {
	if _, ok := p.signer.(ed25519.PrivateKey); ok {
		return p.signer.Sign(rand.Reader, payload, crypto.Hash(0))
	}
	sum := sha256.Sum256(payload)
	return p.signer.Sign(rand.Reader, sum[:], crypto.SHA256)
}

// Encode is the content of a private key file. A nil passphrase leaves the secret readable to whoever reads the file and
// needs the caller to have asked for exactly that; an empty passphrase is refused.
func (p *Private) Encode(passphrase []byte) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(p.signer)
	if err != nil {
		return nil, fmt.Errorf("cannot encode private key %s: %w", p.public, err)
	}
	k := p.public.tuf
	f := privateFile{Schema: privateSchema, Name: p.public.Name, KeyID: p.public.ID, Key: &k}
	if passphrase == nil {
		f.Plain = der
	} else if f.Sealed, err = seal(der, passphrase, []byte(p.public.ID)); err != nil {
		return nil, fmt.Errorf("cannot encrypt private key %s: %w", p.public, err)
	}
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot encode private key %s: %w", p.public, err)
	}
	return append(data, '\n'), nil
}

// Save writes the private key to path, readable by its owner only, and never replaces an existing file: a key that is
// overwritten is a key that is lost.
func (p *Private) Save(path string, passphrase []byte) error {
	data, err := p.Encode(passphrase)
	if err != nil {
		return err
	}
	return create(path, data, 0o600)
}

// Save writes the public key file to path, and never replaces an existing file.
func (p Public) Save(path string) error {
	data, err := p.Encode()
	if err != nil {
		return err
	}
	return create(path, data, 0o644)
}

func create(path string, data []byte, perm os.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return fmt.Errorf("cannot write key file: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(path)
			err = fmt.Errorf("cannot write key file %s: %w", path, err)
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return dir.Sync()
}

func seal(secret, passphrase, bind []byte) (*sealed, error) {
	if len(passphrase) == 0 {
		return nil, fmt.Errorf("the passphrase is empty")
	}
	s := &sealed{KDF: "scrypt", N: scryptN, R: 8, P: 1, Cipher: "xchacha20poly1305",
		Salt: make([]byte, 32), Nonce: make([]byte, chacha20poly1305.NonceSizeX)}
	for _, b := range [][]byte{s.Salt, s.Nonce} {
		if _, err := rand.Read(b); err != nil {
			return nil, err
		}
	}
	key, err := scrypt.Key(passphrase, s.Salt, s.N, s.R, s.P, chacha20poly1305.KeySize)
	if err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	s.Box = aead.Seal(nil, s.Nonce, secret, bind)
	return s, nil
}

func (s *sealed) check() error {
	switch {
	case s.KDF != "scrypt" || s.Cipher != "xchacha20poly1305":
		return fmt.Errorf("it is sealed with %q and %q, want scrypt and xchacha20poly1305", s.KDF, s.Cipher)
	case s.N < 2 || s.N > scryptMax || bits.OnesCount(uint(s.N)) != 1 || s.R != 8 || s.P != 1:
		return fmt.Errorf("its scrypt cost n=%d r=%d p=%d is outside n ≤ %d, r=8, p=1", s.N, s.R, s.P, scryptMax)
	case len(s.Salt) < 16 || len(s.Salt) > 64 || len(s.Nonce) != chacha20poly1305.NonceSizeX:
		return fmt.Errorf("its salt or nonce has the wrong length")
	}
	return nil
}

func (s *sealed) open(passphrase, bind []byte) ([]byte, error) {
	key, err := scrypt.Key(passphrase, s.Salt, s.N, s.R, s.P, chacha20poly1305.KeySize)
	if err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	return aead.Open(nil, s.Nonce, s.Box, bind)
}

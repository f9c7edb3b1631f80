package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
)

// Signer signs for one key, wherever its secret is. Sign gets the whole payload, may block on a person or a device, must
// respect ctx, and may fail and be asked again with the same payload.
type Signer interface {
	Public() Public
	Sign(ctx context.Context, payload []byte) ([]byte, error)
}

var _ Signer = (*Private)(nil)

// Passphrase answers for the passphrase of the named key file. It is asked only for files that are encrypted.
type Passphrase func(file string) ([]byte, error)

// SignatureError means a signature that does not verify.
type SignatureError struct{ Key string }

func (e *SignatureError) Error() string { return "signature does not verify with key " + e.Key }

// Kind is the class of the error for logs and metrics.
func (e *SignatureError) Kind() string { return "signature" }

// PassphraseError means that a key file could not be opened with the passphrase given.
type PassphraseError struct{ File string }

func (e *PassphraseError) Error() string {
	return "cannot open private key " + e.File + ": wrong passphrase, or the file is damaged"
}

// Kind is the class of the error for logs and metrics.
func (e *PassphraseError) Kind() string { return "passphrase" }

// Sign asks s for a signature and verifies it at once: a signer with the wrong key, padding or curve fails here, with its
// holder present, and not on every host.
func Sign(ctx context.Context, s Signer, payload []byte) ([]byte, error) {
	sig, err := s.Sign(ctx, payload)
	if err != nil {
		return nil, fmt.Errorf("cannot sign with %s: %w", s.Public(), err)
	}
	if err := s.Public().Verify(payload, sig); err != nil {
		return nil, fmt.Errorf("cannot sign with %s: the signer's answer is wrong: %w", s.Public(), err)
	}
	return sig, nil
}

// Open finds the signer that ref names: a private key file, plainly or as file:PATH.
func Open(ref string, ask Passphrase) (Signer, error) {
	path := ref
	if scheme, rest, ok := strings.Cut(ref, ":"); ok && !strings.ContainsAny(scheme, "/.") {
		if scheme != "file" {
			return nil, fmt.Errorf("cannot open key %q: scheme %q is not supported; give a private key file", ref, scheme)
		}
		path = rest
	}
	p, err := Load(path, ask)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Load reads a private key file, asking for its passphrase if it is encrypted. A file that others may read is refused
// when it is not encrypted.
func Load(path string, ask Passphrase) (*Private, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read private key: %w", err)
	}
	if !isPrivate(data) {
		return nil, fmt.Errorf("cannot read private key: %s is not a private key file (the public part is no use for signing)", path)
	}
	f, err := parsePrivate(data)
	if err != nil {
		return nil, fmt.Errorf("%w (in %s)", err, path)
	}
	der := f.plain
	if f.sealed != nil {
		if ask == nil {
			return nil, fmt.Errorf("cannot open private key %s: it is encrypted and nobody can be asked for the passphrase", path)
		}
		pass, err := ask(path)
		if err != nil {
			return nil, fmt.Errorf("cannot open private key %s: %w", path, err)
		}
		if der, err = f.sealed.open(pass, []byte(f.public.ID)); err != nil {
			return nil, &PassphraseError{File: path}
		}
	} else if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("cannot use private key %s: it is not encrypted and its mode %#o lets others read it; run chmod 600 %s",
			path, info.Mode().Perm(), path)
	}
	return unlock(f.public, der, path)
}

func unlock(public Public, der []byte, path string) (*Private, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("cannot read private key %s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("cannot read private key %s: it cannot sign", path)
	}
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("cannot read private key %s: %w", path, err)
	}
	want, err := x509.MarshalPKIXPublicKey(public.key)
	if err != nil {
		return nil, fmt.Errorf("cannot read private key %s: %w", path, err)
	}
	if !bytes.Equal(spki, want) {
		return nil, fmt.Errorf("cannot read private key %s: its secret does not belong to its public part", path)
	}
	return &Private{public: public, signer: signer}, nil
}

type parsedPrivate struct {
	public Public
	sealed *sealed
	plain  []byte
}

func parsePrivate(data []byte) (*parsedPrivate, error) {
	var f privateFile
	if err := strict(data, &f); err != nil {
		return nil, fmt.Errorf("cannot read private key: %w", err)
	}
	public, err := FromTUF(f.KeyID, f.Key)
	if err != nil {
		return nil, err
	}
	public.Name = f.Name
	if (f.Sealed == nil) == (f.Plain == nil) {
		return nil, errors.New("cannot read private key: it must hold exactly one of sealed and unencrypted_pkcs8")
	}
	if f.Sealed != nil {
		if err := f.Sealed.check(); err != nil {
			return nil, fmt.Errorf("cannot read private key: %w", err)
		}
	}
	return &parsedPrivate{public: public, sealed: f.Sealed, plain: f.Plain}, nil
}

func isPrivate(data []byte) bool {
	var head struct {
		Schema string `json:"schema"`
	}
	return json.Unmarshal(data, &head) == nil && head.Schema == privateSchema
}

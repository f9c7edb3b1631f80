package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/slipway-deploy/slipway/tuf/signer"
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

// Person is who sits at the terminal.
type Person struct {
	// Passphrase opens encrypted key files; nil means that nobody can be asked.
	Passphrase Passphrase
	// Stderr gets what the programs of external keys have to say; nil discards it.
	Stderr io.Writer
}

// Open finds the signer that ref names: a key file, plainly or as file:PATH, or exec:PROGRAM ARG…, where spaces end words and
// nothing quotes them. A reference that did not come from the person, say from a file of the repository, belongs to OpenFile.
func Open(ctx context.Context, ref string, p Person) (Signer, error) {
	if command, ok := execCommand(ref); ok {
		return NewExternal(ctx, command, "", p.Stderr)
	}
	path, err := FilePath(ref)
	if err != nil {
		return nil, err
	}
	return OpenFile(path, p)
}

// OpenFile opens a key file: a private key, or one that stands for an external signer.
func OpenFile(path string, p Person) (Signer, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read private key: %w", err)
	}
	if schemaOf(data) != externalSchema {
		return Load(path, p.Passphrase)
	}
	if err := ownersOnly(path); err != nil {
		return nil, err
	}
	e, err := parseExternal(data)
	if err != nil {
		return nil, fmt.Errorf("%w (in %s)", err, path)
	}
	e.program.Stderr = p.Stderr
	return e, nil
}

// FilePath is the file that ref names, plainly or as file:PATH. References of other kinds are refused.
func FilePath(ref string) (string, error) {
	scheme, rest, ok := strings.Cut(ref, ":")
	switch {
	case !ok || strings.ContainsAny(scheme, "/."):
		return ref, nil
	case scheme == "file":
		return rest, nil
	case scheme+":" == execScheme:
		return "", fmt.Errorf("cannot use %q: a key file is wanted here; make one that names the program with key external", ref)
	}
	return "", fmt.Errorf("cannot open key %q: scheme %q is not supported; give a key file, or exec:PROGRAM for an external signer", ref, scheme)
}

// Load reads a private key file, asking for its passphrase if it is encrypted. A file that others may read is refused
// when it is not encrypted.
func Load(path string, ask Passphrase) (*Private, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read private key: %w", err)
	}
	if schemaOf(data) != privateSchema {
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
	} else if info, err := os.Stat(path); err == nil && signer.Exposed(info) {
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

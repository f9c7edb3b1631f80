package main

import (
	"context"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/spf13/cobra"
)

func (t *tool) keyCommand() *cobra.Command {
	return t.group("key", "Make and look at keys", "", t.keyGen(), t.keyExternal(), t.keyShow(), t.keyTest())
}

func (t *tool) keyGen() *cobra.Command {
	var kind, name string
	var unencrypted bool
	c := &cobra.Command{
		Use: "gen FILE", Short: "Make a key: FILE is the private part, FILE.pub the public part", Args: cobra.ExactArgs(1),
		Long: `The private key file is encrypted with a passphrase (scrypt, XChaCha20-Poly1305). The public key file is what you send to
the maintainer of the repository. Existing files are never overwritten.`,
		Example: `  slipway-repo key gen ~/keys/alice --name alice
  slipway-repo key gen /etc/slipway-repo/online --unencrypted   # for an online key, a demo or CI`,
	}
	c.Flags().StringVar(&kind, "type", string(keys.Ed25519), "ed25519 or ecdsa-p256")
	c.Flags().StringVar(&name, "name", "", "who holds the key, shown to everybody (default: the file's name)")
	c.Flags().BoolVar(&unencrypted, "unencrypted", false, "leave the private key readable to whoever reads the file")
	c.RunE = t.do(func(_ context.Context, args []string) error {
		return t.generate(args[0], keys.Type(kind), name, unencrypted)
	})
	return c
}

func (t *tool) generate(path string, kind keys.Type, name string, unencrypted bool) error {
	if kind != keys.Ed25519 && kind != keys.ECDSAP256 {
		return usage("key type %q: use %s or %s", kind, keys.Ed25519, keys.ECDSAP256)
	}
	if name == "" {
		name = filepath.Base(path)
	}
	if err := vacant(path, path+".pub"); err != nil {
		return err
	}
	var pass []byte
	if !unencrypted {
		var err error
		if pass, err = t.newPassphrase(path); err != nil {
			return err
		}
	}
	k, err := keys.Generate(kind, name)
	if err != nil {
		return err
	}
	if err := k.Save(path, pass); err != nil {
		return err
	}
	if err := k.Public().Save(path + ".pub"); err != nil {
		return err
	}
	if unencrypted {
		t.warn("%s is not encrypted: whoever reads the file can sign", path)
	}
	return t.showKey(k.Public(), path+".pub")
}

func (t *tool) newPassphrase(path string) ([]byte, error) {
	if t.passphrase != "" {
		return firstLine(t.passphrase)
	}
	first, err := t.prompt("New passphrase for " + path + ": ")
	if err != nil {
		return nil, err
	}
	second, err := t.prompt("The same again: ")
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(first, second) != 1 || len(first) == 0 {
		return nil, usage("the passphrases differ or are empty: nothing was written")
	}
	return first, nil
}

type keyAnswer struct {
	File        string   `json:"file"`
	Name        string   `json:"name"`
	ID          string   `json:"keyid"`
	Type        string   `json:"type"`
	Fingerprint string   `json:"fingerprint"`
	Command     []string `json:"command,omitempty"`
}

func (t *tool) showKey(p keys.Public, file string, command ...string) error {
	sum := p.Fingerprint()
	a := keyAnswer{File: file, Name: p.Name, ID: p.ID, Type: p.Type(), Fingerprint: hex.EncodeToString(sum[:]), Command: command}
	return t.answer(a, func(w io.Writer) {
		fmt.Fprintf(w, "%s\n  name         %s\n  type         %s\n  keyid        %s\n  fingerprint  %s\n", a.File, a.Name, a.Type, a.ID, a.Fingerprint)
		if len(command) > 0 {
			fmt.Fprintf(w, "  signed by    %s\n", strings.Join(command, " "))
		}
	})
}

func (t *tool) keyShow() *cobra.Command {
	return &cobra.Command{
		Use: "show KEY", Short: "Show the public part of a key", Args: cobra.ExactArgs(1),
		Long:    `KEY is a key file of any kind, or exec:PROGRAM, which is asked for its public key. Nothing is signed and no passphrase is needed.`,
		Example: "  slipway-repo key show alice.pub",
		RunE: t.do(func(ctx context.Context, args []string) error {
			if !strings.HasPrefix(args[0], "exec:") {
				p, command, err := keys.Describe(args[0])
				if err != nil {
					return err
				}
				return t.showKey(p, args[0], command...)
			}
			s, err := keys.Open(ctx, args[0], t.person())
			if err != nil {
				return err
			}
			return t.showSigner(s, args[0])
		}),
	}
}

func (t *tool) showSigner(s keys.Signer, ref string) error {
	if e, ok := s.(*keys.External); ok {
		return t.showKey(e.Public(), ref, e.Command()...)
	}
	return t.showKey(s.Public(), ref)
}

func (t *tool) keyTest() *cobra.Command {
	return &cobra.Command{
		Use: "test KEY", Short: "Sign and verify a probe with a key", Args: cobra.ExactArgs(1),
		Long: `KEY is a private or external key file, or exec:PROGRAM. The probe is as long as metadata gets: some tokens sign short texts only,
and that is better known before the ceremony than in it.`,
		Example: `  slipway-repo key test ~/keys/alice
  slipway-repo key test "exec:/usr/lib/slipway-repo/sign-pkcs11 --module /usr/lib/softhsm/libsofthsm2.so --token root --id 01"`,
		RunE: t.do(func(ctx context.Context, args []string) error {
			s, err := keys.Open(ctx, args[0], t.person())
			if err != nil {
				return err
			}
			if err := probe(ctx, s); err != nil {
				return err
			}
			return t.showSigner(s, args[0])
		}),
	}
}

// probe signs what cannot be taken for metadata, which is JSON, and has the length of a large root.
func probe(ctx context.Context, s keys.Signer) error {
	_, err := keys.Sign(ctx, s, []byte(strings.Repeat("slipway key test\n", 1024)))
	return err
}

func (t *tool) keyExternal() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "external FILE [flags] -- PROGRAM [ARG]...", Short: "Make key files for a key that a program holds: a token, a card, a key service",
		Args: cobra.MinimumNArgs(2),
		Long: `Asks PROGRAM for its public key, has it sign a probe, and writes two files: FILE, which names the program and serves wherever a
private key file does, and FILE.pub, which is what you send to the maintainer of the repository. FILE holds no secret. The
program is run without a shell, anew for every signature, and speaks the protocol of docs/external-signers.md; the helper for
PKCS#11 tokens is /usr/lib/slipway-repo/sign-pkcs11.`,
		Example: `  slipway-repo key external ~/keys/alice --name alice -- /usr/lib/slipway-repo/sign-pkcs11 \
      --module /usr/lib/softhsm/libsofthsm2.so --token alice --id 01`,
	}
	c.Flags().StringVar(&name, "name", "", "who holds the key, shown to everybody (default: the file's name)")
	c.RunE = t.do(func(ctx context.Context, args []string) error { return t.external(ctx, args[0], name, args[1:]) })
	return c
}

func (t *tool) external(ctx context.Context, path, name string, command []string) error {
	if name == "" {
		name = filepath.Base(path)
	}
	if err := vacant(path, path+".pub"); err != nil {
		return err
	}
	e, err := keys.NewExternal(ctx, command, name, t.err)
	if err != nil {
		return err
	}
	if err := probe(ctx, e); err != nil {
		return err
	}
	if err := e.Save(path); err != nil {
		return err
	}
	if err := e.Public().Save(path + ".pub"); err != nil {
		return err
	}
	return t.showKey(e.Public(), path+".pub", e.Command()...)
}

// vacant refuses to write where something is.
func vacant(paths ...string) error {
	for _, p := range paths {
		if _, err := os.Lstat(p); err == nil {
			return fmt.Errorf("cannot write key: %s exists, and a key that is overwritten is a key that is lost", p)
		}
	}
	return nil
}

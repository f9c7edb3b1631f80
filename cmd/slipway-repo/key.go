package main

import (
	"context"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/spf13/cobra"
)

func (t *tool) keyCommand() *cobra.Command {
	return t.group("key", "Make and look at keys", "", t.keyGen(), t.keyShow(), t.keyTest())
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
		name = path[strings.LastIndexByte(path, '/')+1:]
	}
	for _, p := range []string{path, path + ".pub"} {
		if _, err := os.Lstat(p); err == nil {
			return fmt.Errorf("cannot write key: %s exists, and a key that is overwritten is a key that is lost", p)
		}
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
	File        string `json:"file"`
	Name        string `json:"name"`
	ID          string `json:"keyid"`
	Type        string `json:"type"`
	Fingerprint string `json:"fingerprint"`
}

func (t *tool) showKey(p keys.Public, file string) error {
	sum := p.Fingerprint()
	a := keyAnswer{File: file, Name: p.Name, ID: p.ID, Type: p.Type(), Fingerprint: hex.EncodeToString(sum[:])}
	return t.answer(a, func(w io.Writer) {
		fmt.Fprintf(w, "%s\n  name         %s\n  type         %s\n  keyid        %s\n  fingerprint  %s\n", a.File, a.Name, a.Type, a.ID, a.Fingerprint)
	})
}

func (t *tool) keyShow() *cobra.Command {
	return &cobra.Command{
		Use: "show FILE", Short: "Show the public part of a key file", Args: cobra.ExactArgs(1),
		Example: "  slipway-repo key show alice.pub",
		RunE: t.do(func(_ context.Context, args []string) error {
			p, err := keys.LoadPublic(args[0])
			if err != nil {
				return err
			}
			return t.showKey(p, args[0])
		}),
	}
}

func (t *tool) keyTest() *cobra.Command {
	return &cobra.Command{
		Use: "test FILE", Short: "Sign and verify a probe with a private key", Args: cobra.ExactArgs(1),
		Example: "  slipway-repo key test ~/keys/alice",
		RunE: t.do(func(ctx context.Context, args []string) error {
			s, err := keys.Open(args[0], t.ask)
			if err != nil {
				return err
			}
			if _, err := keys.Sign(ctx, s, []byte("slipway key test\n")); err != nil {
				return err
			}
			return t.showKey(s.Public(), args[0])
		}),
	}
}

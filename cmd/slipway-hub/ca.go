package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub/ca"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
)

func (t *tool) caCommand() *cobra.Command {
	c := t.group("ca", "Make and show the certificates of the fleet",
		`The fleet has an authority of its own, with two levels of keys. The root signs nothing but issuers; its key is in an encrypted
file that belongs on a medium in a drawer, not on the hub. An issuer is the hub's: it signs hosts, operators and the hub's TLS
certificate by itself. A stolen hub costs its issuer, not the root.`,
		t.caInit(), t.caIssuer(), t.caOperator(), t.caSign(), t.caShow())
	c.PersistentFlags().StringVar(&t.passphrase, "passphrase-file", os.Getenv("SLIPWAY_PASSPHRASE_FILE"),
		"`file` whose first line opens the root's key (or SLIPWAY_PASSPHRASE_FILE)")
	return c
}

// authorityFlags are what the commands of ca have in common. Dir and fleet come from the configuration if they are not given.
type authorityFlags struct{ dir, fleet, rootKey string }

func (a *authorityFlags) flags(c *cobra.Command, rootKey string) {
	c.Flags().StringVar(&a.dir, "dir", "", "`directory` of the authority (default: that of the hub on this machine)")
	c.Flags().StringVar(&a.rootKey, "root-key", "", rootKey)
}

func (t *tool) directory(a *authorityFlags) (string, error) {
	if a.dir != "" {
		return a.dir, nil
	}
	cfg, err := t.config()
	if err != nil {
		return "", err
	}
	a.fleet = cfg.Fleet
	return cfg.Paths.CA(), nil
}

func (t *tool) caInit() *cobra.Command {
	var a authorityFlags
	c := &cobra.Command{
		Use: "init", Short: "Make the fleet's authority: a root and an issuer for this hub", Args: cobra.NoArgs,
		Long: `Makes the root's key and certificate, and an issuer for the hub on this machine. The key file of the root is encrypted with a
passphrase. Move it away from the hub when this is done: it is needed again only for another hub, or when an issuer ends (after
three years) or is stolen.`,
		Example: "  slipway-hub ca init --root-key /root/acme-root.key\n  slipway-hub ca init --fleet acme --dir ./ca --root-key ./acme-root.key",
	}
	a.flags(c, "`file` for the root's encrypted key; it must not exist (required)")
	c.Flags().StringVar(&a.fleet, "fleet", "", "the fleet's `name`, with --dir (default: from the configuration)")
	c.RunE = t.do(func(context.Context, []string) error {
		dir, err := t.directory(&a)
		if err != nil {
			return err
		}
		if a.rootKey == "" || a.fleet == "" {
			return usage("name the file for the root's key: --root-key FILE, and with --dir the fleet: --fleet NAME")
		}
		if _, err := ca.LoadRoots(dir); !errors.Is(err, os.ErrNotExist) {
			return &fleet.Error{Kind: fleet.KindRefused, Message: fmt.Sprintf("there is an authority in %s already", dir), Hint: "slipway-hub ca show shows it; slipway-hub ca issuer makes another issuer"}
		}
		root, err := t.newRoot(a.fleet, a.rootKey)
		if err != nil {
			return err
		}
		if err := newIssuer(root, dir, a.dir == ""); err != nil {
			return err
		}
		t.say("The root's key is in %s, encrypted. Move it off this machine, and keep a copy.", a.rootKey)
		return t.showAuthority(dir)
	})
	return c
}

// newRoot saves the key first: a certificate without its key would be worth nothing.
func (t *tool) newRoot(name, file string) (*ca.Authority, error) {
	if err := fleet.CheckFleet(name); err != nil {
		return nil, usage("%v", err)
	}
	pass, err := t.newPassphrase(file)
	if err != nil {
		return nil, err
	}
	key, err := keys.Generate(keys.Ed25519, "root of the fleet "+name)
	if err != nil {
		return nil, err
	}
	if err := key.Save(file, pass); err != nil {
		return nil, err
	}
	signer, err := newSigner(key)
	if err != nil {
		return nil, err
	}
	return ca.NewRoot(name, signer, time.Now())
}

// newIssuer writes into dir; the hub's own directory then belongs to the user that the hub runs as.
func newIssuer(root *ca.Authority, dir string, own bool) error {
	key, err := ca.NewKey()
	if err != nil {
		return err
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	chain, err := root.NewIssuer(name, key.Public(), time.Now())
	if err != nil {
		return err
	}
	if err := ca.SaveIssuer(dir, key, chain); err != nil || !own {
		return err
	}
	return giveToHub(dir)
}

func (t *tool) caIssuer() *cobra.Command {
	var a authorityFlags
	c := &cobra.Command{
		Use: "issuer", Short: "Make an issuer: for another hub, or in place of one that ends or was stolen", Args: cobra.NoArgs,
		Long: `Makes a key and a certificate that the root signs, in the authority's directory. Certificates that earlier issuers signed stay
valid. For another hub, make it in a directory of its own that holds root.pem, and copy that directory to the hub's
/var/lib/slipway-hub/ca. Hubs read their issuer when they start.`,
		Example: "  slipway-hub ca issuer --root-key /mnt/usb/acme-root.key\n  slipway-hub ca issuer --root-key /mnt/usb/acme-root.key --dir ./hub2-ca",
	}
	a.flags(c, "`file` with the root's key (required)")
	c.RunE = t.do(func(ctx context.Context, _ []string) error {
		dir, err := t.directory(&a)
		if err != nil {
			return err
		}
		root, err := t.openRoot(ctx, dir, a.rootKey)
		if err != nil {
			return err
		}
		if err := newIssuer(root, dir, a.dir == ""); err != nil {
			return err
		}
		return t.showAuthority(dir)
	})
	return c
}

// openRoot finds the root's certificate for a key among those in the directory.
func (t *tool) openRoot(ctx context.Context, dir, file string) (*ca.Authority, error) {
	if file == "" {
		return nil, usage("name the root's key: --root-key FILE")
	}
	roots, err := ca.LoadRoots(dir)
	if err != nil {
		return nil, err
	}
	s, err := keys.Open(ctx, file, keys.Person{Passphrase: t.ask, Stderr: t.err})
	if err != nil {
		return nil, err
	}
	signer, err := newSigner(s)
	if err != nil {
		return nil, err
	}
	for _, c := range roots {
		if a, err := ca.New(signer, []*x509.Certificate{c}); err == nil {
			return a, nil
		}
	}
	return nil, fmt.Errorf("cannot use %s: it is the key of none of the roots in %s", file, filepath.Join(dir, ca.RootFile))
}

// signer lets a key of ours sign certificates. Ed25519 signs the certificate itself, which is what keys.Signer offers.
type signer struct {
	keys.Signer
	public crypto.PublicKey
}

func newSigner(s keys.Signer) (crypto.Signer, error) {
	public, err := s.Public().TUF().ToPublicKey()
	if err != nil {
		return nil, fmt.Errorf("cannot use the root's key: %w", err)
	}
	if s.Public().Type() != string(keys.Ed25519) {
		return nil, fmt.Errorf("cannot use the root's key: it is %s, and a fleet's root is ed25519", s.Public().Type())
	}
	return signer{s, public}, nil
}

func (s signer) Public() crypto.PublicKey { return s.public }

func (s signer) Sign(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != 0 {
		return nil, errors.New("cannot sign a digest with an ed25519 key")
	}
	return keys.Sign(context.Background(), s.Signer, message)
}

// issuing is the issuer of the directory, or the root itself if its key is given.
func (t *tool) issuing(ctx context.Context, a *authorityFlags) (*ca.Authority, error) {
	dir, err := t.directory(a)
	if err != nil {
		return nil, err
	}
	if a.rootKey != "" {
		return t.openRoot(ctx, dir, a.rootKey)
	}
	return ca.LoadIssuer(dir)
}

func (t *tool) caOperator() *cobra.Command {
	var a authorityFlags
	var out string
	var validity time.Duration
	c := &cobra.Command{
		Use: "operator NAME", Short: "Make a key and a certificate for an operator", Args: cobra.ExactArgs(1),
		Long: `Writes one file with the operator's private key and certificate, for slipway fleet. What the operator may do is written in the
hub's configuration, under [roles]. An operator who wants no other to have held the key makes a request and has it signed with
slipway-hub ca sign REQUEST --operator NAME.`,
		Example: "  slipway-hub ca operator alice --out alice.pem",
	}
	a.flags(c, "`file` with the root's key, where the directory has no issuer")
	c.Flags().StringVar(&out, "out", "", "`file` to write (default: NAME.pem)")
	c.Flags().DurationVar(&validity, "validity", ca.PersonValidity, "how long it lasts")
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		authority, err := t.issuing(ctx, &a)
		if err != nil {
			return err
		}
		if out == "" {
			out = args[0] + ".pem"
		}
		key, err := ca.NewKey()
		if err != nil {
			return err
		}
		id := fleet.Identity{Fleet: authority.Fleet, Operator: args[0]}
		cert, err := authority.Issue(id, key.Public(), time.Now(), time.Time{}, validity)
		if err != nil {
			return err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		root, _ := authority.Root()
		text := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), authority.PEM(cert)+ca.EncodeCertificates(root)...)
		if err := newFile(out, text, 0o600); err != nil {
			return err
		}
		return t.answer(made{id.String(), out, cert.NotAfter}, func(w io.Writer) {
			fmt.Fprintf(w, "%s: key and certificate of %s, until %s\n", out, id, day(cert.NotAfter))
		})
	})
	return c
}

// made is the answer of commands that write a certificate.
type made struct {
	Identity string    `json:"identity"`
	File     string    `json:"file,omitempty"`
	Until    time.Time `json:"until"`
}

func (t *tool) caSign() *cobra.Command {
	var a authorityFlags
	var environment, host, operator, out string
	var validity time.Duration
	c := &cobra.Command{
		Use: "sign REQUEST", Short: "Sign a certificate request by hand", Args: cobra.ExactArgs(1),
		Long: `Signs a PKCS #10 request whose signature proves that its maker has the key. The names in the request count for nothing: whose
certificate it becomes is said here. This is how hosts and operators get certificates where no hub has an issuer.`,
		Example: "  slipway-hub ca sign web-01.csr --environment production --host web-01 --out web-01.pem\n  slipway-hub ca sign alice.csr --operator alice --root-key /mnt/usb/acme-root.key",
	}
	a.flags(c, "`file` with the root's key, where the directory has no issuer")
	f := c.Flags()
	f.StringVar(&environment, "environment", "", "the host's environment")
	f.StringVar(&host, "host", "", "the host's id")
	f.StringVar(&operator, "operator", "", "the operator's name")
	f.StringVar(&out, "out", "", "`file` to write (default: standard output)")
	f.DurationVar(&validity, "validity", ca.HostValidity, "how long it lasts")
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		if (operator == "") == (host == "" && environment == "") {
			return usage("say whose certificate it is: --environment and --host, or --operator")
		}
		data, err := os.ReadFile(args[0])
		if err != nil {
			return fmt.Errorf("cannot read the certificate request: %w", err)
		}
		key, err := ca.ParseRequest(string(data))
		if err != nil {
			return err
		}
		authority, err := t.issuing(ctx, &a)
		if err != nil {
			return err
		}
		id := fleet.Identity{Fleet: authority.Fleet, Host: host, Operator: operator}
		if environment != "" {
			if id.Environment, err = release.ParseEnvironment(environment); err != nil {
				return usage("%v", err)
			}
		}
		cert, err := authority.Issue(id, key, time.Now(), time.Time{}, validity)
		if err != nil {
			return err
		}
		return t.deliver(id, cert, authority, out)
	})
	return c
}

func (t *tool) deliver(id fleet.Identity, cert *x509.Certificate, authority *ca.Authority, out string) error {
	text := authority.PEM(cert)
	if out == "" {
		_, err := io.WriteString(t.out, text)
		return err
	}
	if err := newFile(out, []byte(text), 0o644); err != nil {
		return err
	}
	return t.answer(made{id.String(), out, cert.NotAfter}, func(w io.Writer) {
		fmt.Fprintf(w, "%s: certificate of %s, until %s\n", out, id, day(cert.NotAfter))
	})
}

func (t *tool) caShow() *cobra.Command {
	var a authorityFlags
	c := &cobra.Command{
		Use: "show", Short: "Show the roots that are trusted and this hub's issuer", Args: cobra.NoArgs,
		RunE: t.do(func(context.Context, []string) error {
			dir, err := t.directory(&a)
			if err != nil {
				return err
			}
			return t.showAuthority(dir)
		}),
	}
	c.Flags().StringVar(&a.dir, "dir", "", "`directory` of the authority (default: that of the hub on this machine)")
	return c
}

// authorityAnswer is a directory's content for people and scripts.
type authorityAnswer struct {
	Directory string       `json:"directory"`
	Roots     []certAnswer `json:"roots"`
	Issuer    *certAnswer  `json:"issuer,omitempty"`
}

type certAnswer struct {
	Name   string    `json:"name"`
	SHA256 string    `json:"sha256"`
	Until  time.Time `json:"until"`
}

func describeCert(c *x509.Certificate) certAnswer {
	return certAnswer{c.Subject.CommonName, release.Sum(c.Raw).String(), c.NotAfter}
}

func (t *tool) showAuthority(dir string) error {
	roots, err := ca.LoadRoots(dir)
	if err != nil {
		return err
	}
	a := authorityAnswer{Directory: dir}
	for _, c := range roots {
		a.Roots = append(a.Roots, describeCert(c))
	}
	issuer, err := ca.LoadIssuer(dir)
	if err != nil && !errors.Is(err, ca.ErrNoIssuer) {
		return err
	}
	if err == nil {
		one := describeCert(issuer.Chain[0])
		a.Issuer = &one
	}
	return t.answer(a, func(w io.Writer) {
		for _, c := range a.Roots {
			fmt.Fprintf(w, "root    %s\n        sha256 %s\n        until %s\n", c.Name, c.SHA256, day(c.Until))
		}
		if a.Issuer == nil {
			fmt.Fprintf(w, "issuer  none: certificates are signed by hand\n")
			return
		}
		fmt.Fprintf(w, "issuer  %s\n        sha256 %s\n        until %s\n", a.Issuer.Name, a.Issuer.SHA256, day(a.Issuer.Until))
	})
}

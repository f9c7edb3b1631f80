package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/config"
	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
)

// enrollment is one call of enroll. machineRoot is "/" but in tests.
type enrollment struct {
	c                               *cli
	hubs                            []string
	tokenFile, csrFile, certificate string
	key, ca                         string
	newIdentity                     bool
	machineRoot                     string
	home                            fleet.Home
	cfg                             *config.Host // nil before this host was initialised
	install                         fleet.Install
	environment                     release.Environment
	host                            string
	labels                          map[string]string
	root                            []byte
	mirrors                         []string
	until                           time.Time
}

// enrollTimeout bounds the exchange with the hub.
const enrollTimeout = 30 * time.Second

func (c *cli) enroll() *cobra.Command {
	e := &enrollment{c: c, machineRoot: c.machineRoot}
	cmd := &cobra.Command{
		Use:   "enroll --hub URL --token-file FILE",
		Short: "Give this host its identity in a fleet",
		Long: `Enroll gives this host the key and the certificate with which it speaks to the fleet's hub. The key is made here and never leaves.

With a token from the hub's operator (slipway-hub prints one) everything comes at once: certificate, environment, host id, labels, and the
pinned root if this host has none yet. The token says which authority and which root to believe, so nothing is taken on faith.

Without a network: --csr FILE writes a request to carry to the authority, --certificate FILE --ca FILE takes what comes back. With a public key
infrastructure of your own, --certificate, --key and --ca name files that stay where they are and are read anew when they change.

A machine that was copied together with its identity starts nothing new and says so; --new-identity makes another, and the host is enrolled
again. To replace a host by another machine, enrol that one with a token made for a replacement.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return e.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&e.hubs, "hub", nil, "URL of the hub; repeat for several")
	f.StringVar(&e.tokenFile, "token-file", "", "file with the enrolment token, or - for standard input")
	f.StringVar(&e.csrFile, "csr", "", "write a certificate request to this file")
	f.StringVar(&e.certificate, "certificate", "", "certificate that the authority issued, as PEM, followed by what leads to the authority")
	f.StringVar(&e.key, "key", "", "the certificate's key, if it is not the one enroll made")
	f.StringVar(&e.ca, "ca", "", "the authority's certificate, as PEM")
	f.BoolVar(&e.newIdentity, "new-identity", false, "become another installation: this machine is a copy")
	for _, name := range []string{"token-file", "csr", "certificate", "key", "ca"} {
		_ = cmd.MarkFlagFilename(name) // fails only for a flag that is not defined
	}
	return cmd
}

func (e *enrollment) run(ctx context.Context) error {
	if err := e.open(); err != nil {
		return err
	}
	switch {
	case e.tokenFile != "" && len(e.hubs) > 0 && e.csrFile == "" && e.certificate == "":
		return e.online(ctx)
	case e.csrFile != "" && e.tokenFile == "" && e.certificate == "":
		return e.request()
	case e.certificate != "" && e.ca != "" && e.tokenFile == "":
		return e.adopt()
	case e.newIdentity && e.tokenFile == "" && e.certificate == "":
		fmt.Fprintln(e.c.out, "this is another installation now; its old certificate and key are gone")
		e.c.hint("enrol it: slipway enroll --hub URL --token-file FILE; then systemctl restart slipwayd")
		return nil
	}
	return usageError{"enroll needs --hub and --token-file, or --csr, or --certificate and --ca", "see slipway enroll --help"}
}

// open reads what this host is so far, and makes or renews the name of its installation.
func (e *enrollment) open() error {
	dir, err := filepath.Abs(e.c.configDir)
	if err != nil {
		return failure{"cannot tell where " + e.c.configDir + " is: " + err.Error(), ""}
	}
	e.c.configDir = dir
	state := "/var/lib/slipway"
	if _, err := os.Stat(filepath.Join(dir, "slipway.toml")); err == nil {
		if e.cfg, err = config.Load(dir); err != nil {
			return failure{"this host's configuration is not valid: " + err.Error(), "slipwayd --check-config shows every problem"}
		}
		state = e.cfg.Paths.State
	}
	e.home = fleet.Home(filepath.Join(state, "identity"))
	machine := fleet.ThisMachine(cmp.Or(e.machineRoot, "/"))
	if e.newIdentity {
		e.install, err = e.home.NewInstall(machine, e.c.now())
	} else {
		e.install, err = e.home.Install(machine, e.c.now())
	}
	if err != nil {
		return writeFailed(string(e.home), err)
	}
	if elsewhere := e.install.Elsewhere(machine); elsewhere != "" {
		return failure{elsewhere, "to enrol this machine as another host, add --new-identity"}
	}
	return nil
}

// online enrols with a token.
func (e *enrollment) online(ctx context.Context) error {
	token, err := e.readToken()
	if err != nil {
		return err
	}
	csr, err := e.home.Request("")
	if err != nil {
		return writeFailed(string(e.home), err)
	}
	client, err := fleet.NewClient(fleet.Options{URLs: e.hubs, Credentials: fleet.Credentials{Pin: token.CA}, UserAgent: "slipway/" + version, Timeout: enrollTimeout})
	if err != nil {
		return usageError{err.Error(), "for example --hub https://hub.example.com:7443"}
	}
	ctx, cancel := context.WithTimeout(ctx, enrollTimeout)
	defer cancel()
	got, err := client.Enroll(ctx, fleet.Enroll{Token: token.String(), CSR: string(csr), Install: e.install.ID})
	if err != nil {
		return failure{"the hub did not enrol this host: " + err.Error(), "a token serves one host, once, and not for long; ask the hub's operator for another"}
	}
	if release.Sum(got.Root) != token.Root {
		return failure{"the hub sent another root.json than the token names; nothing was kept", "the hub is not what the token was made for: tell its operator"}
	}
	e.environment, e.host, e.labels, e.root, e.mirrors, e.until = got.Environment, got.Host, got.Labels, got.Root, got.Mirrors, got.Until
	if err := e.agrees(); err != nil {
		return err
	}
	want := fleet.Identity{Fleet: got.Fleet, Environment: got.Environment, Host: got.Host}
	if _, err := e.home.Adopt([]byte(got.Certificate), []byte(got.CA), want, e.c.now()); err != nil {
		return failure{err.Error(), "nothing of the configuration was changed"}
	}
	return e.finish()
}

func (e *enrollment) readToken() (fleet.Token, error) {
	var data []byte
	var err error
	if e.tokenFile == "-" {
		data, err = io.ReadAll(io.LimitReader(e.c.in, 4096))
	} else {
		data, err = os.ReadFile(e.tokenFile)
	}
	if err != nil {
		return fleet.Token{}, failure{"cannot read the token: " + err.Error(), ""}
	}
	t, err := fleet.ParseToken(string(data))
	if err != nil {
		return t, failure{"cannot read the token: " + err.Error(), ""}
	}
	return t, nil
}

// request writes a certificate request for an authority without a network.
func (e *enrollment) request() error {
	host := ""
	if e.cfg != nil {
		host = e.cfg.HostID
	}
	csr, err := e.home.Request(host)
	if err != nil {
		return writeFailed(string(e.home), err)
	}
	if err := replaceFile(e.csrFile, csr); err != nil {
		return writeFailed(e.csrFile, err)
	}
	if e.c.json {
		return e.c.printJSON(map[string]string{"csr": e.csrFile, "install": e.install.ID})
	}
	fmt.Fprintf(e.c.out, "wrote the request to %s; this installation is %s\n", e.csrFile, e.install.ID)
	e.c.hint("have the fleet's authority sign it, then: slipway enroll --certificate FILE --ca FILE")
	return nil
}

// adopt takes a certificate that was brought by hand, or says where another infrastructure keeps it.
func (e *enrollment) adopt() error {
	if e.cfg == nil {
		return failure{"this host has no configuration yet, and a certificate brings none", "slipway init --root FILE --environment ENV --repository URL first"}
	}
	env, err := release.ParseEnvironment(e.cfg.Environment)
	if err != nil {
		return failure{err.Error(), ""}
	}
	e.environment, e.host = env, e.cfg.HostID
	want := fleet.Identity{Environment: env, Host: e.cfg.HostID}
	var id fleet.Identity
	if e.key != "" {
		id, err = e.elsewhere(want)
	} else {
		id, err = e.bring(want)
	}
	if err != nil {
		return failure{err.Error(), "nothing was changed"}
	}
	if id.Host != "" {
		e.host = id.Host
	}
	return e.finish()
}

func (e *enrollment) bring(want fleet.Identity) (fleet.Identity, error) {
	certificate, err := os.ReadFile(e.certificate)
	if err != nil {
		return fleet.Identity{}, fmt.Errorf("cannot read the certificate: %w", err)
	}
	ca, err := os.ReadFile(e.ca)
	if err != nil {
		return fleet.Identity{}, fmt.Errorf("cannot read the authority's certificate: %w", err)
	}
	return e.home.Adopt(certificate, ca, want, e.c.now())
}

// elsewhere is for files that somebody else looks after.
func (e *enrollment) elsewhere(want fleet.Identity) (fleet.Identity, error) {
	for _, path := range []*string{&e.certificate, &e.key, &e.ca} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return fleet.Identity{}, err
		}
		*path = abs
	}
	leaf, err := fleet.Credentials{CA: e.ca, Cert: e.certificate, Key: e.key}.Leaf()
	if err != nil {
		return fleet.Identity{}, err
	}
	if err := fleet.Speaks(leaf, want.Environment, want.Host); err != nil {
		return fleet.Identity{}, err
	}
	e.until = leaf.NotAfter
	return fleet.IdentityIn(leaf)
}

// agrees refuses what contradicts how this host is set up: neither its environment nor its root is changed behind its back. It
// comes before the certificate is kept: until then the same token, with the same key, is good for another try.
func (e *enrollment) agrees() error {
	if e.cfg == nil && len(e.mirrors) == 0 {
		return failure{"this host has no configuration yet, and the hub names no repository for one", "set it up with slipway init, then enroll again with the same token"}
	}
	if e.cfg == nil {
		return checkHostConfig(e.hostConfig())
	}
	if e.cfg.Environment != e.environment.String() {
		return failure{fmt.Sprintf("this host belongs to %s and the token is for %s", e.cfg.Environment, e.environment),
			"a host's environment is pinned; ask for a token of " + e.cfg.Environment + ", or set the host up anew"}
	}
	return nil
}

// enrolledFile is the drop-in that enroll writes; what an operator wrote stays as it is.
const enrolledFile = "50-enrolled.toml"

func (e *enrollment) finish() error {
	files := []newFile{}
	if e.cfg == nil {
		files = append(files, newFile{filepath.Join(e.c.configDir, "root.json"), e.root}, newFile{filepath.Join(e.c.configDir, "slipway.toml"), []byte(e.hostConfig())})
	}
	if err := writeNew(files, false); err != nil {
		return err
	}
	dropIn := filepath.Join(e.c.configDir, "slipway.d", enrolledFile)
	if err := writeNew([]newFile{{dropIn, []byte(e.dropIn())}}, true); err != nil {
		return err
	}
	if _, err := config.Load(e.c.configDir); err != nil {
		return failure{"the configuration is not valid now: " + err.Error(), "look at " + dropIn}
	}
	return e.done()
}

// hostConfig is slipway.toml for a host that has none.
func (e *enrollment) hostConfig() string {
	return hostConfig(e.environment.String(), filepath.Join(e.c.configDir, "root.json"), e.mirrors)
}

// dropIn is what enrolment adds to the configuration.
func (e *enrollment) dropIn() string {
	var b strings.Builder
	b.WriteString("# Written by slipway enroll.\n")
	if e.host != "" {
		fmt.Fprintf(&b, "host_id = %s\n", tomlText(e.host))
	}
	if len(e.labels) > 0 {
		b.WriteString("\n[labels]\n")
		for _, k := range slices.Sorted(maps.Keys(e.labels)) {
			fmt.Fprintf(&b, "%s = %s\n", tomlText(k), tomlText(e.labels[k]))
		}
	}
	b.WriteString("\n[fleet]\n")
	if len(e.hubs) > 0 {
		texts := make([]string, len(e.hubs))
		for i, u := range e.hubs {
			texts[i] = tomlText(u)
		}
		fmt.Fprintf(&b, "urls = [%s]\n", strings.Join(texts, ", "))
	}
	if e.key != "" {
		fmt.Fprintf(&b, "ca = %s\ncert = %s\nkey = %s\n", tomlText(e.ca), tomlText(e.certificate), tomlText(e.key))
	}
	return b.String()
}

func (e *enrollment) done() error {
	if e.c.json {
		return e.c.printJSON(map[string]any{"host": e.host, "environment": e.environment, "install": e.install.ID, "certificate_until": e.until})
	}
	fmt.Fprintf(e.c.out, "this host is %s of %s\n", e.host, e.environment)
	if !e.until.IsZero() {
		fmt.Fprintf(e.c.out, "its certificate is valid until %s\n", e.until.UTC().Format(time.RFC3339))
	}
	e.c.hint("then: slipway add APP, and systemctl enable --now slipwayd (restart it if it runs)")
	return nil
}

// Command slipway-sign-pkcs11 signs for slipway-repo with a key in a PKCS#11 token: a hardware security module, a PIV card, a TPM.
// It speaks the protocol of docs/external-signers.md and is installed as /usr/lib/slipway-repo/sign-pkcs11.
//
// It loads the token's module into its own process. It is a program of its own so that nothing else of Slipway does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/slipway-deploy/slipway/tuf/signer"
)

const usage = `Signs for slipway-repo with a key in a PKCS#11 token. It reads one request from standard input; people run it through slipway-repo:

  slipway-repo key external ~/keys/alice --name alice -- /usr/lib/slipway-repo/sign-pkcs11 --module MODULE --token LABEL --id HEX

`

func main() {
	// Modules may keep state in the thread that calls them.
	runtime.LockOSThread()
	err := run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "sign-pkcs11: %v\n", err)
	}
	os.Exit(signer.ExitCode(err))
}

func run(ctx context.Context, args []string, in io.Reader, out, words io.Writer) error {
	var t token
	f := flag.NewFlagSet("sign-pkcs11", flag.ContinueOnError)
	f.SetOutput(words)
	f.Usage = func() { fmt.Fprint(words, usage); f.PrintDefaults() }
	f.StringVar(&t.modulePath, "module", os.Getenv("SLIPWAY_PKCS11_MODULE"), "the token's PKCS#11 `library` (or SLIPWAY_PKCS11_MODULE)")
	f.StringVar(&t.label, "token", "", "`label` of the token; may be left out if there is only one")
	f.StringVar(&t.keyID, "id", "", "id of the key in the token, in `hex`adecimal")
	f.StringVar(&t.keyLabel, "label", "", "`label` of the key in the token")
	f.StringVar(&t.pin.file, "pin-file", "", "`file` whose first line is the PIN (default: SLIPWAY_PKCS11_PIN, else the terminal is asked)")
	if err := f.Parse(args); err != nil {
		return err
	}
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("cannot start: unknown argument %q", f.Arg(0))
	case t.modulePath == "":
		return errors.New("cannot start: name the token's library with --module")
	case t.keyID == "" && t.keyLabel == "":
		return errors.New("cannot start: name the key with --id, --label or both (pkcs11-tool --list-objects shows them)")
	}
	return signer.Serve(ctx, in, out, &t)
}

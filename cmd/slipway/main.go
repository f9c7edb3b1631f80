// Command slipway is what an operator types on a host: it asks slipwayd over its socket and prints the answer. It needs no state of
// its own. See output.go for the rules all commands keep, and `slipway help exit-codes`.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the build. The daemon is built with the same one; a difference is worth a hint.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := &cli{in: os.Stdin, out: os.Stdout, err: os.Stderr, tty: terminal(os.Stdout), errTTY: terminal(os.Stderr), inTTY: terminal(os.Stdin)}
	os.Exit(c.main(ctx, os.Args[1:]))
}

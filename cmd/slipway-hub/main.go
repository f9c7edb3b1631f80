// Command slipway-hub coordinates a fleet's updates: it hands out the slots of the signed budget to hosts, keeps count of how they
// fare, and stops a rollout that goes wrong. It holds its data in an etcd of its own or in a cluster, and is the only program
// that links etcd. It can make hosts wait; it can make none of them run anything.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	t := &tool{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	os.Exit(t.main(ctx, os.Args[1:]))
}

// Command slipwayd is the daemon that brings signed releases onto this host, and the two helpers that act when it cannot: the
// guard, which ends a trial at its deadline, and the boot guardian, which settles what a reboot interrupted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/slipway-deploy/slipway/agent/config"
)

// version is set by the linker.
var version = "dev"

const usage = `slipwayd brings signed releases onto this host and hauls bad ones back.

Usage:
  slipwayd [--config DIR]                      run the daemon
  slipwayd [--config DIR] --check-config       print the effective configuration, or every problem in it
  slipwayd [--config DIR] guard TICKET         end the attempt TICKET names (run by slipway-guard@.service)
  slipwayd [--config DIR] boot                 settle what a reboot interrupted (run by slipway-boot.service)
  slipwayd [--config DIR] settle [--timeout D] end what is in flight, before the package is removed
  slipwayd --version

Exit codes: 0 done, 1 failed, 2 usage.
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("slipwayd", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	dir := fs.String("config", config.DefaultDir, "")
	check := fs.Bool("check-config", false, "")
	show := fs.Bool("version", false, "")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stdout, usage)
			return 0
		}
		return fail(stderr, 2, err)
	}
	abs, err := filepath.Abs(*dir) // the guard is started elsewhere with the same words
	if err != nil {
		return fail(stderr, 1, err)
	}
	*dir = abs
	switch {
	case *show:
		fmt.Fprintln(stdout, "slipwayd "+version)
		return 0
	case *check:
		return checkConfig(*dir, stdout, stderr)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return dispatch(ctx, *dir, fs.Args(), stderr)
}

func dispatch(ctx context.Context, dir string, args []string, stderr io.Writer) int {
	var err error
	switch {
	case len(args) == 0:
		err = daemon(ctx, dir)
	case args[0] == "guard" && len(args) == 2:
		err = guard(ctx, dir, args[1])
	case args[0] == "boot" && len(args) == 1:
		err = boot(ctx, dir)
	case args[0] == "settle":
		fs := flag.NewFlagSet("settle", flag.ContinueOnError)
		fs.SetOutput(io.Discard)
		timeout := fs.Duration("timeout", time.Minute, "")
		if err := fs.Parse(args[1:]); err != nil {
			return fail(stderr, 2, err)
		}
		err = settle(ctx, dir, *timeout)
	default:
		return fail(stderr, 2, fmt.Errorf("cannot understand %q; see slipwayd --help", args))
	}
	if err != nil {
		return fail(stderr, 1, err)
	}
	return 0
}

func checkConfig(dir string, stdout, stderr io.Writer) int {
	h, err := config.Load(dir)
	if err != nil {
		return fail(stderr, 1, err)
	}
	if err := config.Print(stdout, h); err != nil {
		return fail(stderr, 1, err)
	}
	return 0
}

func fail(stderr io.Writer, code int, err error) int {
	fmt.Fprintf(stderr, "slipwayd: error: %v\n", err)
	return code
}

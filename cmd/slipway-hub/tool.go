package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/config"
	"github.com/slipway-deploy/slipway/agent/fleet"
)

// The exit codes, as in slipway.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = 3
	exitUnreachable = 4
)

// tool is one run of the command. Answers go to out, words to err.
type tool struct {
	in         io.Reader
	out, err   io.Writer
	file       string // the configuration
	json       bool
	passphrase string
	started    bool // a command's own code runs; errors before that are wrong usage
}

func (t *tool) main(ctx context.Context, args []string) int {
	root := t.root()
	root.SetArgs(args)
	root.SetIn(t.in)
	root.SetOut(t.out)
	root.SetErr(t.err)
	return t.exitCode(root.ExecuteContext(ctx))
}

func (t *tool) root() *cobra.Command {
	root := t.group("slipway-hub", "Coordinate the updates of a fleet",
		`slipway-hub hands out the slots of a signed budget to the hosts of a fleet, counts how their updates end, and stops a rollout
that goes wrong. Hosts read what to run from the signed repository, not from the hub: it can only make them wait.

slipway-hub run is the hub itself. The other commands make the fleet's certificates, or ask the hub that runs on this machine
over its socket, for which they need root.`)
	root.Version = version
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetVersionTemplate("slipway-hub {{.Version}}\n")
	f := root.PersistentFlags()
	f.StringVar(&t.file, "config", config.HubFile, "configuration `file`")
	f.BoolVar(&t.json, "json", false, "answer in JSON")
	root.AddCommand(t.runCommand(), t.caCommand(), t.tokenCommand(), t.membersCommand(), t.revokeCommand(), t.snapshotCommand(), t.restoreCommand(), t.manCommand())
	return root
}

// group is a command that only holds others.
func (t *tool) group(use, short, long string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { t.started = true; return c.Help() }}
	c.AddCommand(children...)
	return c
}

// do marks the start of a command's own work.
func (t *tool) do(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		t.started = true
		return f(c.Context(), args)
	}
}

// usageError is wrong usage that cobra could not see.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

// Kind is the class of the error.
func (e *usageError) Kind() string { return "usage" }

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// exitCode prints an error, one line and its hint, and returns the code it ends with.
func (t *tool) exitCode(err error) int {
	if err == nil {
		return exitDone
	}
	kind, hint := "failed", ""
	var k interface{ Kind() string }
	var h interface{ Hint() string }
	var wire *fleet.Error
	var problems config.Problems
	switch {
	case errors.As(err, &problems):
		kind, hint = problems.Kind(), "slipway-hub run --check-config shows every problem at once"
	case errors.As(err, &wire):
		kind, hint = wire.Kind, wire.Hint
	case errors.As(err, &k):
		kind = k.Kind()
	}
	if hint == "" && errors.As(err, &h) {
		hint = h.Hint()
	}
	if !t.started {
		kind, hint = "usage", "see --help"
	}
	fmt.Fprintf(t.err, "slipway-hub: error: %s\n", clean(err.Error()))
	for line := range strings.SplitSeq(hint, "\n") {
		if line != "" {
			fmt.Fprintf(t.err, "slipway-hub: hint: %s\n", clean(line))
		}
	}
	switch kind {
	case "usage", fleet.KindBadRequest:
		return exitUsage
	case fleet.KindUnreachable, fleet.KindUnavailable:
		return exitUnreachable
	case fleet.KindRefused, fleet.KindEnrolled, fleet.KindStale, fleet.KindForbidden, fleet.KindRevoked, fleet.KindNotFound:
		return exitRefused
	}
	return exitFailed
}

// clean keeps what came from elsewhere from steering a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// say writes words for the person at the terminal.
func (t *tool) say(format string, args ...any) { fmt.Fprintf(t.err, format+"\n", args...) }

// answer prints the result: as JSON, or by text.
func (t *tool) answer(v any, text func(w io.Writer)) error {
	if !t.json {
		text(t.out)
		return nil
	}
	e := json.NewEncoder(t.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// day is a date with what is left until then.
func day(at time.Time) string {
	if at.IsZero() {
		return "never"
	}
	return fmt.Sprintf("%s (in %d days)", at.Format(time.DateOnly), int(time.Until(at).Hours()/24))
}

func (t *tool) config() (*config.Hub, error) { return config.LoadHub(t.file) }

// newFile writes a file that must not exist yet, readable by its owner alone if secret.
func newFile(path string, data []byte, perm os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, errors.Unwrap(err))
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// The rules of output: answers go to stdout and nothing else does; words go to stderr; an error is one line, with
// the rule that refused on a second one, and with --json one object. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by a rule of the repository.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitRefused = 3
)

type streams struct {
	in       io.Reader
	out, err io.Writer
}

// refusals are the kinds of errors that mean: nothing is broken, the rules say no.
var refusals = []string{"refused", "unsigned", "stale", "conflict", "unknown-role", "not-a-signer", "locked", "unit-refused", "concurrent", "base-refused", "foreign-signature"}

type kinder interface{ Kind() string }

// usageError is wrong usage that cobra could not see.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

// Kind is the class of the error.
func (e *usageError) Kind() string { return "usage" }

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// attention ends a command that did its work and found something a person must look at: the answer has said what.
type attention struct{ what string }

func (e *attention) Error() string { return e.what }

// Kind is the class of the error.
func (e *attention) Kind() string { return "attention" }

// fail prints err and says how to exit.
func (t *tool) fail(err error) int {
	kind, code := "failed", exitFailed
	var k kinder
	if errors.As(err, &k) {
		kind = k.Kind()
	}
	switch {
	case kind == "usage" || !t.started:
		kind, code = "usage", exitUsage
	case slices.Contains(refusals, kind):
		code = exitRefused
	}
	var broken interface{ BrokenRule() string }
	rule := ""
	if errors.As(err, &broken) {
		rule = broken.BrokenRule()
	}
	if t.json {
		words := map[string]string{"kind": kind, "message": err.Error()}
		if rule != "" {
			words["rule"] = rule
		}
		data, _ := json.Marshal(map[string]any{"error": words})
		fmt.Fprintf(t.err, "%s\n", data)
		return code
	}
	// An error may quote what came by mail.
	for i, line := range strings.Split(err.Error(), "\n") {
		if i == 0 {
			line = "slipway-repo: error: " + line
		}
		fmt.Fprintln(t.err, harmless(line))
	}
	if rule != "" {
		fmt.Fprintf(t.err, "slipway-repo: rule: %s\n", rule)
	}
	if code == exitUsage {
		fmt.Fprintf(t.err, "slipway-repo: hint: add --help to the command for its flags and examples\n")
	}
	return code
}

// say writes words for the person at the terminal.
func (t *tool) say(format string, args ...any) {
	fmt.Fprintf(t.err, format+"\n", args...)
}

// warn writes words that a script's log should show too.
func (t *tool) warn(format string, args ...any) {
	fmt.Fprintf(t.err, "slipway-repo: warning: "+format+"\n", args...)
}

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

// span writes a duration the way people say it.
func span(d time.Duration) string {
	sign := ""
	if d < 0 {
		sign, d = "-", -d
	}
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%s%dd", sign, d/(24*time.Hour))
	case d >= time.Hour:
		return fmt.Sprintf("%s%dh%02dm", sign, d/time.Hour, d/time.Minute%60)
	}
	return fmt.Sprintf("%s%dm", sign, d/time.Minute)
}

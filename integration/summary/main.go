// Command summary reads `go test -json` and shows what `go test` shows: a line per package and the output of what failed. At the
// end it names every test that was left out, and why. It exits with 1 if anything failed.
//
//	go test -json ./... | go run ./integration/summary [NOTE]...
//
// A NOTE is what the caller left out itself. With SLIPWAY_TEST_NOTHING_SKIPPED=1 in the environment nothing may be left out: then
// that is a failure too.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

func main() { os.Exit(summarize(os.Stdin, os.Stdout, os.Args[1:]...)) }

// event is the part of a line of `go test -json` that is used; go doc test2json has the rest.
type event struct {
	Action, Package, Test, Output, FailedBuild, ImportPath string
	Elapsed                                                float64
}

type tally struct {
	out     io.Writer
	said    map[string][]string // output by package and test, until the test's end
	skipped map[string][]string // tests by reason
	passed  int
	failed  []string
	because map[string]string // the first thing a failed test had to say
	broken  bool
}

func summarize(in io.Reader, out io.Writer, notes ...string) int {
	t := &tally{out: out, said: map[string][]string{}, skipped: map[string][]string{}, because: map[string]string{}}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		var e event
		switch {
		case len(strings.TrimSpace(string(line))) == 0:
		case json.Unmarshal(line, &e) != nil || e.Action == "":
			fmt.Fprint(out, string(line)) // go itself, not a test: a module that cannot be fetched, a package that is not there
		default:
			t.take(e)
		}
		if err != nil {
			break
		}
	}
	return t.end(notes)
}

func (t *tally) take(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		fmt.Fprint(t.out, e.Output)
	case "build-fail":
		t.broken = true
	case "output":
		t.said[key] = append(t.said[key], e.Output)
	case "pass", "skip", "fail":
		if e.Test == "" {
			t.endPackage(e, key)
		} else {
			t.endTest(e, key)
		}
		delete(t.said, key)
	}
}

func (t *tally) endTest(e event, key string) {
	switch e.Action {
	case "pass":
		t.passed++
	case "skip":
		why := strings.ReplaceAll(reason(t.said[key]), e.Test, "it") // one reason for all that say the same of themselves
		t.skipped[why] = append(t.skipped[why], short(e.Package)+" "+e.Test)
	case "fail":
		name := short(e.Package) + " " + e.Test
		t.failed = append(t.failed, name)
		t.because[name] = reason(t.said[key])
		fmt.Fprint(t.out, strings.Join(t.said[key], ""))
	}
}

func (t *tally) endPackage(e event, key string) {
	took := time.Duration(e.Elapsed * float64(time.Second)).Round(time.Millisecond)
	switch e.Action {
	case "pass":
		fmt.Fprintf(t.out, "ok    %s  %s\n", short(e.Package), took)
	case "fail":
		t.broken = true
		// A package that ended without a verdict of its tests has said why itself, and tests that never ended have their output.
		for k, text := range t.said {
			if strings.HasPrefix(k, e.Package+" ") && k != key {
				fmt.Fprint(t.out, strings.Join(text, ""))
			}
		}
		fmt.Fprintf(t.out, "%sFAIL  %s  %s\n", strings.Join(t.said[key], ""), short(e.Package), took)
	}
}

// reason is the first thing a test had to say, what t.Skip was given for one, without the place it was called from.
func reason(said []string) string {
	for _, line := range said {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "===") || strings.HasPrefix(line, "---") {
			continue
		}
		if at := strings.Index(line, ".go:"); at >= 0 {
			if _, text, ok := strings.Cut(line[at+4:], ": "); ok {
				return text
			}
		}
	}
	return "no reason given"
}

// grouped says how many cases of a test were left out instead of naming each.
func grouped(tests []string) []string {
	var order []string
	cases := map[string]int{}
	for _, name := range tests {
		pkg, test, _ := strings.Cut(name, " ")
		test, _, part := strings.Cut(test, "/")
		test = pkg + " " + test
		if _, seen := cases[test]; !seen {
			order = append(order, test)
			cases[test] = 0
		}
		if part {
			cases[test]++
		}
	}
	for i, test := range order {
		if n := cases[test]; n > 0 {
			order[i] = fmt.Sprintf("%s (%d cases)", test, n)
		}
	}
	return order
}

// short leaves out the module's own name.
func short(pkg string) string {
	for _, room := range []string{"/agent", "/cmd/", "/tuf/", "/systemd", "/integration"} {
		if _, rest, ok := strings.Cut(pkg, room); ok {
			return strings.TrimPrefix(room, "/") + rest
		}
	}
	return pkg
}

func (t *tally) end(notes []string) int {
	left := 0
	for _, tests := range t.skipped {
		left += len(tests)
	}
	fmt.Fprintf(t.out, "\n%d passed, %d failed, %d left out\n", t.passed, len(t.failed), left)
	for _, name := range t.failed {
		fmt.Fprintf(t.out, "  failed: %s\n    %s\n", name, t.because[name])
	}
	for _, note := range notes {
		fmt.Fprintf(t.out, "  left out: %s\n", note)
	}
	why := make([]string, 0, len(t.skipped))
	for reason := range t.skipped {
		why = append(why, reason)
	}
	slices.Sort(why)
	for _, reason := range why {
		fmt.Fprintf(t.out, "  left out: %s\n", reason)
		for _, name := range grouped(t.skipped[reason]) {
			fmt.Fprintf(t.out, "    %s\n", name)
		}
	}
	if t.broken || len(t.failed) > 0 {
		return 1
	}
	if left+len(notes) > 0 && os.Getenv("SLIPWAY_TEST_NOTHING_SKIPPED") == "1" {
		fmt.Fprintln(t.out, "  nothing may be left out here: SLIPWAY_TEST_NOTHING_SKIPPED=1")
		return 1
	}
	if t.passed+left == 0 {
		fmt.Fprintln(t.out, "  no test has run")
		return 1
	}
	return 0
}

package main

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/pflag"
)

// exists says what is wrong with a command line that somebody is told to type; "" is fine.
func exists(line string) string {
	line, _, _ = strings.Cut(line, " # ")
	line, _, _ = strings.Cut(line, ", ")
	words := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "slipway-repo "))
	c, rest, err := (&tool{}).root().Find(words)
	if err != nil {
		return err.Error()
	}
	if c.HasSubCommands() {
		return c.CommandPath() + " only holds others"
	}
	c.InitDefaultHelpFlag()
	for _, w := range rest {
		if w == "--" || strings.HasPrefix(w, `"exec:`) {
			break // what follows is another program's
		}
		name, ok := strings.CutPrefix(w, "--")
		if !ok {
			continue
		}
		known := false
		for _, set := range []*pflag.FlagSet{c.Flags(), c.InheritedFlags()} {
			known = known || set.Lookup(name) != nil
		}
		if !known {
			return c.CommandPath() + " has no " + w
		}
	}
	return ""
}

func TestCommandsThatTheRunbookNamesExist(t *testing.T) {
	seen := 0
	for _, page := range []string{"recovery-runbook.md", "publishing.md", "external-signers.md", "fleet.md", "signers-manual.md"} {
		data, err := os.ReadFile(docs(page))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(data), "\\\n", " ")
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if !strings.HasPrefix(line, "slipway-repo ") {
				continue
			}
			seen++
			if problem := exists(line); problem != "" {
				t.Errorf("%s: %s\n%s", page, line, problem)
			}
		}
	}
	if seen < 60 {
		t.Errorf("only %d command lines were found", seen)
	}
	if exists("slipway-repo publish --hard") == "" || exists("slipway-repo rescue") == "" || exists("slipway-repo recover") == "" {
		t.Error("a command line that does not exist passes")
	}
}

func TestCommandsThatADiagnosisNamesExist(t *testing.T) {
	s := newShell(t)
	s.deployed()
	s.expect(0, "recover sequence production billing --above 5000 --reason leap --sign ann --sign ben")
	s.expect(0, "publish")
	r, err := repository.Open("repo")
	if err != nil {
		t.Fatal(err)
	}
	o := repository.DiagnoseOptions{Within: repository.Period(1 << 62), Stolen: []string{"ann", "ben", "ci", "online", "oncall"}, Lost: []string{"carol", "online"}}
	for _, text := range []string{"timestamp=900", "root=9", "epoch:production=3", "sequence:production/billing=6000"} {
		seen, err := repository.ParseSighting(text)
		if err != nil {
			t.Fatal(err)
		}
		o.Seen = append(o.Seen, seen)
	}
	found, err := r.Diagnose(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for _, f := range found {
		for _, remedy := range f.Remedy {
			if !strings.HasPrefix(remedy, "slipway-repo ") {
				continue
			}
			lines++
			if problem := exists(remedy); problem != "" {
				t.Errorf("%s\n%s", remedy, problem)
			}
		}
	}
	if lines < 20 {
		t.Errorf("only %d command lines in %d findings", lines, len(found))
	}
}

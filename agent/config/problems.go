package config

import (
	"fmt"
	"sort"
	"strings"
)

// Problem is one thing that is wrong. Line and Col start at 1; zero means that the file as a whole is meant.
type Problem struct {
	File      string
	Line, Col int
	// Key is the dotted key, empty for syntax errors and whole files.
	Key     string
	Message string
}

// String is the form editors can jump to: "slipway.toml:3:1: poll.interval: …".
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Col)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	return b.String() + p.Message
}

// Problems is every problem of a configuration, in order of file and line. It is the only error Load returns.
type Problems []Problem

// Error has one line for each problem.
func (p Problems) Error() string {
	lines := make([]string, 0, len(p))
	for _, one := range p {
		lines = append(lines, one.String())
	}
	return "cannot use the configuration: " + strings.Join(lines, "\n")
}

// Kind is "bad-config".
func (p Problems) Kind() string { return "bad-config" }

// Hint names the command that shows the same without touching the running daemon.
func (p Problems) Hint() string { return "slipwayd --check-config shows every problem at once" }

func (p Problems) sorted() Problems {
	sort.SliceStable(p, func(i, j int) bool {
		a, b := p[i], p[j]
		if a.File != b.File {
			return a.File < b.File
		}
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Col < b.Col
	})
	return p
}

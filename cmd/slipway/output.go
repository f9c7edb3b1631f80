package main

// The rules every command keeps:
//
//   - Answers go to standard output, words to standard error. With --json standard output holds JSON and nothing else.
//   - A command that fails prints one line "slipway: error: cannot X: reason", then at most a few lines "slipway: hint: what to do next".
//   - Colours and redrawing happen on a terminal only, and never with NO_COLOR. No meaning is carried by colour alone.
//   - Text that came over the socket is cleaned of control characters before it reaches a terminal.
//   - The exit code says what kind of ending it was; `slipway help exit-codes` documents them.

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/slipway-deploy/slipway/agent/api"
)

// The exit codes.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = 3
	exitUnreachable = 4
)

// usageError is a command line that cannot be meant.
type usageError struct{ msg, hint string }

func (e usageError) Error() string { return e.msg }
func (e usageError) Kind() string  { return "usage" }
func (e usageError) Hint() string  { return e.hint }

// ended is an ending with its own exit code whose words were already printed.
type ended struct{ code int }

func (e ended) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// failure is an error of a local command with a hint.
type failure struct{ msg, hint string }

func (e failure) Error() string { return e.msg }
func (e failure) Kind() string  { return "failed" }
func (e failure) Hint() string  { return e.hint }

// exitCode prints an error by the rules and returns the code it ends with.
func (c *cli) exitCode(err error) int {
	if err == nil {
		return exitDone
	}
	var e ended
	if errors.As(err, &e) {
		return e.code
	}
	wire := api.Wire(err)
	fmt.Fprintf(c.err, "slipway: %s %s\n", c.paint(c.errTTY, red, "error:"), clean(wire.Message))
	if wire.Hint != "" {
		c.hint("%s", wire.Hint)
	}
	switch kind := wire.Kind(); {
	case kind == "usage" || kind == api.KindBadRequest:
		return exitUsage
	case kind == api.KindUnreachable:
		return exitUnreachable
	case api.Refused(kind):
		return exitRefused
	}
	return exitFailed
}

func (c *cli) hint(format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		fmt.Fprintf(c.err, "slipway: hint: %s\n", clean(line))
	}
}

// say is for words that are no answer: what was asked for, what happens next.
func (c *cli) say(format string, args ...any) {
	fmt.Fprintln(c.err, clean(fmt.Sprintf(format, args...)))
}

func (c *cli) printJSON(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

type colour string

const (
	red    colour = "\x1b[31m"
	green  colour = "\x1b[32m"
	yellow colour = "\x1b[33m"
	bold   colour = "\x1b[1m"
	dim    colour = "\x1b[2m"
)

func (c *cli) paint(tty bool, col colour, s string) string {
	if !tty || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" || s == "" {
		return s
	}
	return string(col) + s + "\x1b[0m"
}

func terminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// clean makes text from elsewhere harmless to a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == utf8.RuneError || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '?'
		}
		return r
	}, s)
}

// cell is one field of a table. Paint is applied after the width is known.
type cell struct {
	text  string
	paint colour
}

// table aligns columns by two spaces; the last column is never padded.
func (c *cli) table(w io.Writer, rows [][]cell) {
	var width []int
	for _, row := range rows {
		for i, f := range row {
			if i >= len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(clean(f.text)))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, f := range row {
			text := strings.ReplaceAll(clean(f.text), "\n", " ")
			pad := ""
			if i < len(row)-1 {
				pad = strings.Repeat(" ", width[i]-utf8.RuneCountInString(text)+2)
			}
			if f.paint != "" {
				text = c.paint(c.tty, f.paint, text)
			}
			b.WriteString(text + pad)
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// ago and within write times as people say them; zero is "never".
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	if d := now.Sub(t); d >= 0 {
		return span(d) + " ago"
	}
	return "in " + span(t.Sub(now))
}

// span has one unit, two for minutes and hours: "45 s", "3 min", "2 h 10 min", "6 d".
func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		if m := int(d.Minutes()) % 60; m > 0 {
			return fmt.Sprintf("%d h %d min", int(d.Hours()), m)
		}
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}

// bytesText is a size with one decimal in the unit people compare downloads in.
func bytesText(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}

// clock is a local time; the date is left out today.
func clock(now, t time.Time) string {
	t, now = t.Local(), now.Local()
	if t.YearDay() == now.YearDay() && t.Year() == now.Year() {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04")
}

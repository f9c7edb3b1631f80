package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Entry is one line of a host's journal. Fields holds every field under its journal name.
type Entry struct {
	Cursor     string
	Time       time.Time
	Monotonic  time.Duration
	Boot       string
	Unit       string
	Identifier string
	Message    string
	Priority   int
	PID        int
	Fields     map[string]string
}

// String is the entry as a person reads it.
func (e Entry) String() string {
	return fmt.Sprintf("%s %s[%d]: %s", e.Time.UTC().Format("15:04:05.000"), e.Identifier, e.PID, e.Message)
}

// Filter selects journal entries; the zero value selects all of them, of all boots.
type Filter struct {
	// Unit keeps what the unit wrote and what systemd says about it.
	Unit string
	// Boot keeps one boot: "0" the newest, "-1" the one before, or a boot id.
	Boot string
	// After keeps what follows the entry with this cursor; see Host.JournalCursor.
	After string
	// Fields keeps entries with exactly these values, for example SLIPWAY_APP: "billing".
	Fields map[string]string
}

// Journal reads the host's journal, on or off, in the order it was written.
func (h *Host) Journal(ctx context.Context, f Filter) ([]Entry, error) {
	args := []string{"--directory=" + filepath.Join(h.dir, "journal"), "--output=json", "--all", "--no-pager", "--quiet"}
	if f.Unit != "" {
		args = append(args, "--unit="+f.Unit)
	}
	if f.Boot != "" {
		args = append(args, "--boot="+f.Boot)
	}
	if f.After != "" {
		args = append(args, "--after-cursor="+f.After)
	}
	for name, value := range f.Fields {
		args = append(args, name+"="+value)
	}
	if files, _ := filepath.Glob(filepath.Join(h.dir, "journal", "*", "*.journal")); len(files) == 0 {
		return nil, nil
	}
	out, err := run(ctx, "journalctl", args...)
	if err != nil {
		return nil, fmt.Errorf("cannot read the journal of %s: %w", h.Name, err)
	}
	var entries []Entry
	for line := range strings.Lines(out) {
		e, err := parseEntry([]byte(line))
		if err != nil {
			return nil, fmt.Errorf("cannot read the journal of %s: %w", h.Name, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// JournalCursor marks the present end of the journal, for Filter.After. It is empty while the journal is.
func (h *Host) JournalCursor(ctx context.Context) (string, error) {
	if files, _ := filepath.Glob(filepath.Join(h.dir, "journal", "*", "*.journal")); len(files) == 0 {
		return "", nil
	}
	out, err := run(ctx, "journalctl", "--directory="+filepath.Join(h.dir, "journal"), "--output=json", "--lines=1",
		"--quiet", "--no-pager")
	if err != nil || strings.TrimSpace(out) == "" {
		return "", err
	}
	e, err := parseEntry([]byte(out))
	return e.Cursor, err
}

// parseEntry reads one line of journalctl's JSON: values are strings, arrays of bytes when they are
// not text, arrays of either when a field occurs twice (the first counts), or null.
func parseEntry(line []byte) (Entry, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(line, &raw); err != nil {
		return Entry{}, fmt.Errorf("cannot parse journal line %q: %w", tail(string(line), 200), err)
	}
	e := Entry{Fields: make(map[string]string, len(raw))}
	for name, value := range raw {
		e.Fields[name] = fieldText(value)
	}
	number := func(name string) int64 {
		n, _ := strconv.ParseInt(e.Fields[name], 10, 64)
		return n
	}
	e.Cursor, e.Boot = e.Fields["__CURSOR"], e.Fields["_BOOT_ID"]
	e.Time = time.UnixMicro(number("__REALTIME_TIMESTAMP"))
	e.Monotonic = time.Duration(number("__MONOTONIC_TIMESTAMP")) * time.Microsecond
	e.Message, e.Identifier = e.Fields["MESSAGE"], e.Fields["SYSLOG_IDENTIFIER"]
	e.Priority, e.PID = int(number("PRIORITY")), int(number("_PID"))
	if e.Unit = e.Fields["UNIT"]; e.Unit == "" {
		e.Unit = e.Fields["_SYSTEMD_UNIT"]
	}
	return e, nil
}

func fieldText(value json.RawMessage) string {
	var text string
	if json.Unmarshal(value, &text) == nil {
		return text
	}
	var codes []uint8
	var numbers []int
	if json.Unmarshal(value, &numbers) == nil {
		for _, n := range numbers {
			codes = append(codes, uint8(n))
		}
		return string(codes)
	}
	var several []json.RawMessage
	if json.Unmarshal(value, &several) == nil && len(several) > 0 {
		return fieldText(several[0])
	}
	return ""
}

// ErrOutOfOrder tells that a journal does not hold the wanted messages in the wanted order.
var ErrOutOfOrder = errors.New("journal order")

// InOrder checks that messages matching the regular expressions occur one after another, with any
// others between them, and returns the entries that matched.
func InOrder(entries []Entry, patterns ...string) ([]Entry, error) {
	var found []Entry
	next := 0
	for _, pattern := range patterns {
		re, err := regexp.Compile(pattern)
		if err != nil {
			return nil, err
		}
		at := next
		for at < len(entries) && !re.MatchString(entries[at].Message) {
			at++
		}
		if at == len(entries) {
			after := "the start"
			if len(found) > 0 {
				after = strconv.Quote(found[len(found)-1].Message)
			}
			return found, fmt.Errorf("%w: nothing matches %q after %s", ErrOutOfOrder, pattern, after)
		}
		found = append(found, entries[at])
		next = at + 1
	}
	return found, nil
}

// Dump is what a person needs to see why a host did not do what was expected: console and journal
// tails, failed units.
func (h *Host) Dump(ctx context.Context) string {
	var b strings.Builder
	fmt.Fprintf(&b, "=== host %s (%s), boots %d, on %v\n", h.Name, h.Address, h.Boots(), h.On())
	if r, err := h.Exec(ctx, "systemctl", "--failed", "--no-legend", "--plain"); err == nil {
		fmt.Fprintf(&b, "--- failed units\n%s", r.Stdout)
	}
	entries, err := h.Journal(ctx, Filter{})
	if err != nil {
		fmt.Fprintf(&b, "--- %v\n", err)
	}
	fmt.Fprintf(&b, "--- journal, last of %d\n", len(entries))
	for _, e := range entries[max(0, len(entries)-80):] {
		fmt.Fprintln(&b, e)
	}
	console, _ := os.ReadFile(h.console())
	fmt.Fprintf(&b, "--- console\n%s\n", tail(string(console), 1000))
	return b.String()
}

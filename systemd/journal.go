package systemd

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/hashicorp/go-hclog"
)

// NewLogger logs to the journal with fields, or as lines to stderr when stderr is not the journal's. An argument pair
// "app", "billing" becomes the field SLIPWAY_APP=billing, so that `journalctl SLIPWAY_APP=billing` works, and stays in the text.
func NewLogger(name string, level hclog.Level) hclog.Logger {
	toJournal, err := journal.StderrIsJournalStream()
	if err != nil || !toJournal || !journal.Enabled() {
		return hclog.New(&hclog.LoggerOptions{Name: name, Level: level, Output: os.Stderr})
	}
	logger := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: name, Level: level, Output: io.Discard})
	logger.RegisterSink(&journalSink{identifier: name, level: level, send: journal.Send, fallback: os.Stderr})
	return logger
}

// journalSink is an hclog sink with journald behind it.
type journalSink struct {
	identifier string
	level      hclog.Level
	send       func(message string, p journal.Priority, fields map[string]string) error
	fallback   io.Writer
}

var priorities = map[hclog.Level]journal.Priority{
	hclog.Trace: journal.PriDebug, hclog.Debug: journal.PriDebug, hclog.Info: journal.PriInfo,
	hclog.Warn: journal.PriWarning, hclog.Error: journal.PriErr,
}

// Accept implements hclog.SinkAdapter. What journald does not take goes to stderr: losing a line is worse than its form.
func (s *journalSink) Accept(name string, level hclog.Level, msg string, args ...any) {
	if level < s.level {
		return
	}
	text, fields := journalEntry(msg, args)
	if name != "" {
		fields["SLIPWAY_LOGGER"] = name
	}
	if s.identifier != "" {
		fields["SYSLOG_IDENTIFIER"] = s.identifier // systemd sets it for lines on stderr only
	}
	priority, ok := priorities[level]
	if !ok {
		priority = journal.PriNotice
	}
	if err := s.send(text, priority, fields); err != nil {
		fmt.Fprintf(s.fallback, "%s\n", text)
	}
}

// journalEntry renders the arguments twice: as fields for machines and behind the message for people.
func journalEntry(msg string, args []any) (string, map[string]string) {
	fields := make(map[string]string, len(args)/2)
	var text strings.Builder
	text.WriteString(msg)
	for i := 0; i+1 < len(args); i += 2 {
		key, value := fmt.Sprint(args[i]), fmt.Sprint(args[i+1])
		fields[fieldName(key)] = value
		if strings.ContainsAny(value, " \t\n\"=") || value == "" {
			value = fmt.Sprintf("%q", value)
		}
		fmt.Fprintf(&text, " %s=%s", key, value)
	}
	if len(args)%2 == 1 {
		fmt.Fprintf(&text, " %v", args[len(args)-1])
	}
	return text.String(), fields
}

// fieldName maps a key to what journald accepts: upper-case letters, digits, underscores, 64 bytes.
func fieldName(key string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, key)
	clean = "SLIPWAY_" + clean
	return clean[:min(len(clean), 64)]
}

package process

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// command is one Exec line.
type command struct {
	path          string
	args          []string // args[0] is what the program sees as its name
	ignoreFailure bool
	literal       bool
}

// parseCommand reads an Exec line: prefixes, then words by the quoting rules of systemd.syntax(7).
func parseCommand(line string) (command, error) {
	var c command
	var named bool
	line = strings.TrimLeft(line, " \t")
prefixes:
	for len(line) > 0 {
		switch line[0] {
		case '-':
			c.ignoreFailure = true
		case '@':
			named = true
		case ':':
			c.literal = true
		case '+', '!':
		default:
			break prefixes
		}
		line = line[1:]
	}
	words, err := splitWords(line)
	if err != nil {
		return c, err
	}
	if named && len(words) > 1 {
		c.path, c.args = words[0], words[1:]
	} else if len(words) > 0 {
		c.path, c.args = words[0], words
	}
	if !strings.HasPrefix(c.path, "/") {
		return c, fmt.Errorf("%q does not begin with an absolute path", line)
	}
	return c, nil
}

// splitWords splits at white space outside quotes and undoes C-style escapes.
func splitWords(s string) ([]string, error) {
	var (
		words []string
		word  strings.Builder
		in    bool
		quote byte
	)
	for i := 0; i < len(s); i++ {
		b := s[i]
		switch {
		case b == '\\' && i+1 < len(s):
			n, text := unescape(s[i+1:])
			word.WriteString(text)
			i, in = i+n, true
		case quote != 0 && b == quote:
			quote = 0
		case quote == 0 && (b == '"' || b == '\''):
			quote, in = b, true
		case quote == 0 && (b == ' ' || b == '\t'):
			if in {
				words = append(words, word.String())
				word.Reset()
			}
			in = false
		default:
			word.WriteByte(b)
			in = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("%q has an unclosed quote", s)
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}

var escapes = map[byte]string{
	'a': "\a", 'b': "\b", 'f': "\f", 'n': "\n", 'r': "\r", 't': "\t", 'v': "\v", '\\': "\\", '"': "\"", '\'': "'", 's': " ",
}

// unescape reads the escape behind a backslash and says how many bytes it took.
func unescape(s string) (int, string) {
	if text, ok := escapes[s[0]]; ok {
		return 1, text
	}
	if s[0] == 'x' && len(s) >= 3 {
		if n, err := strconv.ParseUint(s[1:3], 16, 8); err == nil {
			return 3, string([]byte{byte(n)})
		}
	}
	return 1, "\\" + s[:1]
}

// expand replaces ${NAME} inside words and splits a whole word $NAME; unknown names are empty; $$ is a dollar.
func (c command) expand(env []string) []string {
	if c.literal {
		return c.args
	}
	values := make(map[string]string, len(env))
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		values[name] = value
	}
	var out []string
	for i, word := range c.args {
		if name, ok := strings.CutPrefix(word, "$"); ok && i > 0 && isName(name) {
			out = append(out, strings.Fields(values[name])...)
			continue
		}
		out = append(out, expandWord(word, values))
	}
	return out
}

// expandWord replaces ${NAME} and $$; any other dollar stays, since a shell may be meant.
func expandWord(word string, values map[string]string) string {
	var out strings.Builder
	for {
		before, after, found := strings.Cut(word, "$")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		word = after
		name, rest, closed := strings.Cut(strings.TrimPrefix(after, "{"), "}")
		switch {
		case strings.HasPrefix(after, "$"):
			out.WriteByte('$')
			word = after[1:]
		case strings.HasPrefix(after, "{") && closed && isName(name):
			out.WriteString(values[name])
			word = rest
		default:
			out.WriteByte('$')
		}
	}
}

func isName(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		return r != '_' && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (r < '0' || r > '9')
	}) < 0
}

// forever stands for "infinity".
const forever = time.Duration(1<<63 - 1)

var spanUnits = map[string]time.Duration{
	"": time.Second, "us": time.Microsecond, "usec": time.Microsecond, "ms": time.Millisecond, "msec": time.Millisecond,
	"s": time.Second, "sec": time.Second, "second": time.Second, "seconds": time.Second, "m": time.Minute, "min": time.Minute,
	"minute": time.Minute, "minutes": time.Minute, "h": time.Hour, "hr": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
}

// parseSpan reads a time span of systemd.time(7): "90", "1min 30s", "500ms", "infinity".
func parseSpan(s string) (time.Duration, error) {
	if s == "infinity" {
		return forever, nil
	}
	rest, total := strings.TrimSpace(s), time.Duration(0)
	if rest == "" {
		return 0, fmt.Errorf("a time span is empty")
	}
	for rest != "" {
		n := strings.IndexFunc(rest, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		if n < 0 {
			n = len(rest)
		}
		value, err := strconv.ParseFloat(rest[:n], 64)
		if err != nil {
			return 0, fmt.Errorf("%q is not a time span", s)
		}
		rest = strings.TrimLeft(rest[n:], " ")
		n = strings.IndexFunc(rest, func(r rune) bool { return r < 'a' || r > 'z' })
		if n < 0 {
			n = len(rest)
		}
		unit, ok := spanUnits[rest[:n]]
		if !ok || value*float64(unit) > float64(forever)/2 {
			return 0, fmt.Errorf("%q is not a time span", s)
		}
		total += time.Duration(value * float64(unit))
		rest = strings.TrimLeft(rest[n:], " ")
	}
	return total, nil
}

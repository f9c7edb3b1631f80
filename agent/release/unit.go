package release

import (
	"fmt"
	"slices"
	"strings"
)

const (
	maxUnitFile = 256 << 10
	maxUnitLine = 8 << 10
)

// UnitProblem is one rule broken by a unit file. Line is 0 when the file as a whole is meant.
type UnitProblem struct {
	Line              int
	Directive, Reason string
}

// UnitError refuses a unit file, with all its problems.
type UnitError struct {
	Unit     UnitName
	Problems []UnitProblem
}

func (e *UnitError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "cannot accept unit %s", e.Unit)
	for i, p := range e.Problems {
		if i == maxShown {
			fmt.Fprintf(&b, "; and %d more problems", len(e.Problems)-i)
			break
		}
		b.WriteString([]string{"; ", ": "}[b2i(i == 0)])
		if p.Line > 0 {
			fmt.Fprintf(&b, "line %d: ", p.Line)
		}
		if p.Directive != "" {
			b.WriteString(p.Directive + ": ")
		}
		b.WriteString(p.Reason)
	}
	return b.String()
}

// Kind is the stable label of this error for metrics and the wire.
func (e *UnitError) Kind() string { return "unit-refused" }

// UnitVars are the values that a release does not know when it is built.
type UnitVars struct {
	// Current is the absolute path of the app's `current` link, without a slash at the end.
	Current string
	App     App
}

// RenderUnit replaces @current@ and @app@ in a unit file. Everything else is left as it is.
func RenderUnit(content []byte, v UnitVars) []byte {
	return []byte(strings.NewReplacer("@current@", v.Current, "@app@", v.App.String()).Replace(string(content)))
}

// UnitLinks are the units that want or require a unit once it is enabled, in order and without duplicates.
type UnitLinks struct {
	WantedBy, RequiredBy []string
}

// UnitInstall reads the [Install] section. It is meant for rendered content that CheckUnit has accepted; of other content it
// returns what it can read.
func UnitInstall(content []byte) UnitLinks {
	var links UnitLinks
	lines, _ := readUnit(content)
	for _, l := range lines {
		if l.section != "Install" {
			continue
		}
		switch l.key {
		case "WantedBy":
			links.WantedBy = appendNew(links.WantedBy, strings.Fields(l.value))
		case "RequiredBy":
			links.RequiredBy = appendNew(links.RequiredBy, strings.Fields(l.value))
		}
	}
	return links
}

func appendNew(list, more []string) []string {
	for _, s := range more {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

// unitLine is one directive; line is where it starts.
type unitLine struct {
	line                int
	section, key, value string
}

// readUnit reads the part of the unit file language on which every reader agrees, and refuses the rest. It is our own
// because a rule is only as good as its reader: go-systemd's continues comments that end with a backslash and accepts
// junk before a section, where PID 1 does neither, so a unit could show one face to the rules and another to PID 1.
func readUnit(content []byte) (lines []unitLine, bad []UnitProblem) {
	refuse := func(line int, reason string) { bad = append(bad, UnitProblem{Line: line, Reason: reason}) }
	if len(content) > maxUnitFile {
		refuse(0, fmt.Sprintf("it has %d bytes, at most %d are allowed", len(content), maxUnitFile))
		return nil, bad
	}
	if why := textProblem(strings.NewReplacer("\n", "", "\t", "").Replace(string(content))); why != "" {
		refuse(0, "the text "+why)
		return nil, bad
	}
	section, open := "", false // open: the line before ended with a backslash
	for i, raw := range strings.Split(string(content), "\n") {
		n, line := i+1, strings.Trim(raw, " \t")
		if len(raw) > maxUnitLine {
			refuse(n, fmt.Sprintf("the line has %d bytes, at most %d are allowed", len(raw), maxUnitLine))
		}
		comment := line == "" || line[0] == '#' || line[0] == ';'
		more := strings.HasSuffix(line, `\`)
		switch {
		case more && (comment || strings.HasSuffix(line, `\\`) || !strings.HasSuffix(raw, `\`)):
			refuse(n, "a backslash at the end is only allowed to continue a directive, alone and as the last byte of the line")
		case open && comment:
			refuse(n, "a comment or an empty line must not interrupt a continued directive")
			open = false
		case comment:
		case open:
			last := &lines[len(lines)-1]
			last.value = strings.TrimSpace(last.value + " " + strings.TrimSuffix(line, `\`))
			open = more
		case line[0] == '[':
			section = strings.TrimSuffix(line[1:], "]")
			if !wordy(section, 64, "") || line != "["+section+"]" {
				refuse(n, "it is no section such as [Service]")
			}
		default:
			key, value, found := strings.Cut(strings.TrimSuffix(line, `\`), "=")
			key = strings.Trim(key, " \t")
			if !found || !wordy(key, 64, "") || section == "" {
				refuse(n, "it is no directive in a section, such as User=billing")
				break
			}
			lines = append(lines, unitLine{n, section, key, strings.TrimSpace(value)})
			open = more
		}
	}
	if open {
		refuse(0, "the file ends in the middle of a continued directive")
	}
	return lines, bad
}

package release

import (
	"fmt"
	"strings"
)

// Version is the version of a release. It is safe as a path component; its order is Compare's.
type Version struct{ name }

// ParseVersion accepts [A-Za-z0-9.+_-], not starting with a dot or a hyphen, at most 64 bytes.
func ParseVersion(s string) (Version, error) {
	bad := func(why string) (Version, error) { return Version{}, badName("a version", s, why) }
	switch {
	case s == "":
		return bad("it is empty")
	case len(s) > maxVersion:
		return bad(fmt.Sprintf("it has %d bytes, at most %d are allowed", len(s), maxVersion))
	case s[0] == '.' || s[0] == '-':
		return bad("it must not start with a dot or a hyphen")
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '.' && c != '+' && c != '_' && c != '-' {
			return bad("only [A-Za-z0-9.+_-] are allowed")
		}
	}
	return Version{name{s}}, nil
}

// UnmarshalText is ParseVersion.
func (v *Version) UnmarshalText(text []byte) (err error) {
	*v, err = ParseVersion(string(text))
	return err
}

// Compare orders versions for rollback floors and minimum versions: semantic versioning's precedence where versions are
// semantic, and the same idea for others (dot-separated parts, runs of digits by value, what follows the first hyphen is a
// pre-release and sorts before its absence). A leading "v" and what follows a "+" do not count, so different versions may
// compare equal.
func (v Version) Compare(w Version) int {
	vCore, vPre, vHas := splitVersion(v.s)
	wCore, wPre, wHas := splitVersion(w.s)
	if c := compareParts(vCore, wCore); c != 0 {
		return c
	}
	switch {
	case !vHas && !wHas:
		return 0
	case !vHas:
		return 1
	case !wHas:
		return -1
	}
	return compareParts(vPre, wPre)
}

func splitVersion(s string) (core, pre string, hasPre bool) {
	s, _, _ = strings.Cut(s, "+")
	if len(s) > 1 && s[0] == 'v' && isDigit(s[1]) {
		s = s[1:]
	}
	return strings.Cut(s, "-")
}

func compareParts(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		if c := compareNatural(as[i], bs[i]); c != 0 {
			return c
		}
	}
	return len(as) - len(bs)
}

// compareNatural compares runs of digits by value and the rest by bytes; a number sorts before a word.
func compareNatural(a, b string) int {
	for a != "" && b != "" {
		var x, y string
		x, a = cutRun(a)
		y, b = cutRun(b)
		if c := compareRun(x, y); c != 0 {
			return c
		}
	}
	return len(a) - len(b)
}

func cutRun(s string) (run, rest string) {
	digits := isDigit(s[0])
	i := 1
	for i < len(s) && isDigit(s[i]) == digits {
		i++
	}
	return s[:i], s[i:]
}

func compareRun(x, y string) int {
	if !isDigit(x[0]) || !isDigit(y[0]) {
		return strings.Compare(x, y)
	}
	x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
	if len(x) != len(y) {
		return len(x) - len(y)
	}
	return strings.Compare(x, y)
}

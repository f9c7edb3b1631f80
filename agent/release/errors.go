package release

import (
	"fmt"
	"slices"
	"strings"
)

// maxShown is how many problems an error prints; the rest are counted.
const maxShown = 12

// Problem is one rule broken at one place of a document, such as `waves[2].percent_bp`.
type Problem struct {
	Field, Reason string
}

// DocumentError refuses a document. A document that could be decoded carries all its problems, one that could not carries
// the first.
type DocumentError struct {
	Document string
	Problems []Problem
}

func (e *DocumentError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "cannot accept %s", e.Document)
	for i, p := range e.Problems {
		if i == maxShown {
			fmt.Fprintf(&b, "; and %d more problems", len(e.Problems)-i)
			break
		}
		b.WriteString([]string{"; ", ": "}[b2i(i == 0)])
		fmt.Fprintf(&b, "%s: %s", p.Field, p.Reason)
	}
	return b.String()
}

// Kind is the stable label of this error for metrics and the wire.
func (e *DocumentError) Kind() string { return "bad-document" }

// SchemaError says that a document is of a schema version this build cannot read; nothing is wrong with the document.
type SchemaError struct {
	Document, Got, Want string
}

func (e *SchemaError) Error() string {
	return fmt.Sprintf("cannot accept %s: schema: it is %q and this build reads %q: upgrade slipway on this host, or publish the older schema",
		e.Document, e.Got, e.Want)
}

// Kind is the stable label of this error for metrics and the wire.
func (e *SchemaError) Kind() string { return "unsupported-schema" }

// problems collects what Validate finds.
type problems struct{ list []Problem }

func (p *problems) add(field, format string, args ...any) {
	p.list = append(p.list, Problem{field, fmt.Sprintf(format, args...)})
}

// oneOf demands one of the values; the empty string stands for the default where it is listed.
func (p *problems) oneOf(field, got string, values ...string) {
	for _, v := range values {
		if got == v {
			return
		}
	}
	var shown []string
	for _, v := range values {
		if v != "" {
			shown = append(shown, v)
		}
	}
	p.add(field, "%q is none of %s", got, strings.Join(shown, ", "))
}

// span demands a number within bounds.
func (p *problems) span(field string, got, low, high int64) {
	if got < low {
		p.add(field, "%d is below %d", got, low)
	} else if got > high {
		p.add(field, "%d is above %d", got, high)
	}
}

// atMost demands a duration between zero and a bound.
func (p *problems) atMost(field string, got, high Duration) {
	if got < 0 {
		p.add(field, "%s is negative", got)
	} else if got > high {
		p.add(field, "%s is longer than %s", got, high)
	}
}

// words demands clean text of at most limit bytes; it may be empty.
func (p *problems) words(field, got string, limit int) {
	if len(got) > limit {
		p.add(field, "it has %d bytes, at most %d are allowed", len(got), limit)
	} else if why := textProblem(got); why != "" {
		p.add(field, "the text %s", why)
	}
}

func (p *problems) err(document string) error {
	if len(p.list) == 0 {
		return nil
	}
	// Rules over maps find things in any order; the error must not.
	slices.SortStableFunc(p.list, func(a, b Problem) int { return strings.Compare(a.Field, b.Field) })
	return &DocumentError{document, p.list}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

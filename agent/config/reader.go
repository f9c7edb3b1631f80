package config

import (
	"fmt"
	"time"
)

// reader decodes one table key by key. It never stops at a problem: a value that is wrong leaves its default in place, so that
// all later values are looked at too.
type reader struct {
	at       *node
	t        *table
	used     map[string]bool
	problems *Problems
}

// root makes the reader of a file's top table.
func root(n *node, problems *Problems) *reader {
	return &reader{at: n, t: n.val.(*table), used: map[string]bool{}, problems: problems}
}

func (r *reader) problem(n *node, format string, args ...any) {
	*r.problems = append(*r.problems, Problem{File: n.file, Line: n.line, Col: n.col, Key: n.key, Message: fmt.Sprintf(format, args...)})
}

func (r *reader) get(key string) *node {
	r.used[key] = true
	return r.t.m[key]
}

// unknown reports the keys nobody asked for, with the one that was probably meant.
func (r *reader) unknown() {
	for _, k := range r.t.keys() {
		if r.used[k] {
			continue
		}
		known := make([]string, 0, len(r.used))
		for u := range r.used {
			known = append(known, u)
		}
		if near := nearest(k, known); near != "" {
			r.problem(r.t.m[k], "there is no such option; did you mean %s?", near)
			continue
		}
		r.problem(r.t.m[k], "there is no such option")
	}
}

// text reads a string and lets check judge it.
func (r *reader) text(key string, into *string, check func(string) error) {
	n := r.get(key)
	if n == nil {
		return
	}
	r.textNode(n, into, check)
}

func (r *reader) textNode(n *node, into *string, check func(string) error) {
	s, ok := n.val.(string)
	if !ok {
		r.problem(n, "must be a string in quotes, not %s", describe(n.val))
		return
	}
	if err := check(s); err != nil {
		r.problem(n, "%v", err)
		return
	}
	*into = s
}

func (r *reader) boolean(key string, into *bool) *node {
	n := r.get(key)
	if n == nil {
		return nil
	}
	v, ok := n.val.(bool)
	if !ok {
		r.problem(n, "must be true or false, not %s", describe(n.val))
		return n
	}
	*into = v
	return n
}

func (r *reader) integer(key string, into *int, low, high int64) {
	n := r.get(key)
	if n == nil {
		return
	}
	v, ok := n.val.(int64)
	if !ok {
		r.problem(n, "must be a whole number, not %s", describe(n.val))
		return
	}
	if v < low || v > high {
		r.problem(n, "%d is not between %d and %d", v, low, high)
		return
	}
	*into = int(v)
}

func (r *reader) fraction(key string, into *float64) {
	n := r.get(key)
	if n == nil {
		return
	}
	v, ok := n.val.(float64)
	if i, whole := n.val.(int64); whole {
		v, ok = float64(i), true
	}
	if !ok {
		r.problem(n, "must be a number between 0 and 1, not %s", describe(n.val))
		return
	}
	if !(v >= 0 && v <= 1) {
		r.problem(n, "%v is not between 0 and 1", v)
		return
	}
	*into = v
}

func (r *reader) duration(key string, into *time.Duration, low, high time.Duration) {
	r.text(key, new(string), func(s string) error {
		d, err := parseDuration(s)
		if err != nil {
			return err
		}
		if d < low || d > high {
			return fmt.Errorf("%s is not between %s and %s", s, formatDuration(low), formatDuration(high))
		}
		*into = d
		return nil
	})
}

func (r *reader) size(key string, into *int64) {
	r.text(key, new(string), func(s string) (err error) {
		v, err := parseSize(s)
		if err == nil {
			*into = v
		}
		return err
	})
}

func (r *reader) texts(key string, into *[]string, check func(string) error) {
	n := r.get(key)
	if n == nil {
		return
	}
	l, ok := n.val.(list)
	if !ok {
		r.problem(n, "must be a list of strings, not %s", describe(n.val))
		return
	}
	out := make([]string, 0, len(l))
	for _, element := range l {
		var s string
		r.textNode(element, &s, check)
		out = append(out, s)
	}
	*into = out
}

// table calls read with a reader of the table at key, then reports what read left over. It does nothing if the table is absent.
func (r *reader) table(key string, read func(*reader)) {
	if n := r.get(key); n != nil {
		r.tableNode(n, read)
	}
}

func (r *reader) tableNode(n *node, read func(*reader)) {
	t, ok := n.val.(*table)
	if !ok {
		r.problem(n, "must be a table, not %s", describe(n.val))
		return
	}
	sub := &reader{at: n, t: t, used: map[string]bool{}, problems: r.problems}
	read(sub)
	sub.unknown()
}

// each calls read for every key of a table whose keys are free, after name has judged the key.
func (r *reader) each(key string, name func(string) error, read func(r *reader, name string, n *node)) {
	r.table(key, func(sub *reader) {
		for _, k := range sub.t.keys() {
			n := sub.get(k)
			if err := name(k); err != nil {
				r.problem(n, "%v", err)
				continue
			}
			read(sub, k, n)
		}
	})
}

// pairs reads a table of strings.
func (r *reader) pairs(key string, into *map[string]string, name, value func(string) error) {
	out := map[string]string{}
	r.each(key, name, func(sub *reader, k string, n *node) {
		var s string
		sub.textNode(n, &s, value)
		out[k] = s
	})
	*into = out
}

func describe(v any) string {
	switch v := v.(type) {
	case *table:
		return "a table"
	case list:
		return "a list"
	case string:
		return "a string"
	case bool:
		return fmt.Sprintf("%v", v)
	case int64, float64:
		return fmt.Sprintf("the number %v", v)
	}
	return "a date or time"
}

// nearest is the known word at most two edits away, or nothing.
func nearest(word string, known []string) string {
	best, at := "", 3
	for _, k := range known {
		if d := distance(word, k); d < at || d == at && best != "" && k < best {
			best, at = k, d
		}
	}
	return best
}

func distance(a, b string) int {
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
		}
		prev = cur
	}
	return prev[len(b)]
}

package config

import (
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// node is a value with the place where it was written. val is a scalar as go-toml decodes it, a *table, or a list.
type node struct {
	file      string
	line, col int
	key       string
	val       any
}

type (
	table struct{ m map[string]*node }
	list  []*node
)

// keys are sorted, so that problems and loops have one order.
func (t *table) keys() []string {
	out := make([]string, 0, len(t.m))
	for k := range t.m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// parse turns one file into a tree. Values come from the decoder, which knows all of TOML's rules; places come from a second walk
// over the syntax tree, because the decoder keeps none.
func parse(file string, data []byte) (*node, *Problem) {
	var values map[string]any
	if err := toml.Unmarshal(data, &values); err != nil {
		return nil, syntaxProblem(file, err)
	}
	w := &walker{file: file, lines: lineStarts(data), at: map[string]unstable.Range{}, counts: map[string]int{}}
	p := unstable.Parser{}
	p.Reset(data)
	for p.NextExpression() {
		w.expression(p.Expression())
	}
	if err := p.Error(); err != nil {
		return nil, syntaxProblem(file, err)
	}
	return w.node("", "", values), nil
}

func syntaxProblem(file string, err error) *Problem {
	p := &Problem{File: file, Message: strings.TrimPrefix(err.Error(), "toml: ")}
	var d *toml.DecodeError
	if errors.As(err, &d) {
		p.Line, p.Col = d.Position()
	}
	return p
}

// walker collects where each key was written. Paths join key parts with NUL, which no TOML key can hold; elements of arrays of
// tables add their index.
type walker struct {
	file   string
	lines  []int
	at     map[string]unstable.Range
	counts map[string]int
	prefix string
}

func lineStarts(data []byte) []int {
	starts := []int{0}
	for i, b := range data {
		if b == '\n' {
			starts = append(starts, i+1)
		}
	}
	return starts
}

func (w *walker) expression(e *unstable.Node) {
	switch e.Kind {
	case unstable.Table:
		w.prefix = w.keys("", e.Key())
	case unstable.ArrayTable:
		path := w.keys("", e.Key())
		w.counts[path]++
		w.prefix = join(path, strconv.Itoa(w.counts[path]-1))
		w.at[w.prefix] = w.at[path]
	case unstable.KeyValue:
		w.value(w.keys(w.prefix, e.Key()), e.Value())
	}
}

// keys notes the first place of every part of a dotted key and returns the whole path. A part that names an array of tables means
// its last element.
func (w *walker) keys(path string, it unstable.Iterator) string {
	for it.Next() {
		if n := w.counts[path]; n > 0 {
			path = join(path, strconv.Itoa(n-1))
		}
		path = join(path, string(it.Node().Data))
		if _, seen := w.at[path]; !seen || w.counts[path] > 0 {
			w.at[path] = it.Node().Raw
		}
	}
	return path
}

func (w *walker) value(path string, v *unstable.Node) {
	if v.Kind != unstable.InlineTable && v.Kind != unstable.Array {
		return
	}
	i := 0
	for it := v.Children(); it.Next(); {
		child := it.Node()
		if v.Kind == unstable.InlineTable {
			w.value(w.keys(path, child.Key()), child.Value())
			continue
		}
		if child.Kind == unstable.Comment {
			continue
		}
		element := join(path, strconv.Itoa(i))
		w.at[element] = w.at[path]
		if child.Raw.Length > 0 {
			w.at[element] = child.Raw
		}
		w.value(element, child)
		i++
	}
}

func join(path, part string) string {
	if path == "" {
		return part
	}
	return path + "\x00" + part
}

func (w *walker) node(path, key string, v any) *node {
	n := &node{file: w.file, key: key, val: v}
	if r, ok := w.at[path]; ok {
		offset := int(r.Offset)
		line := sort.SearchInts(w.lines, offset+1)
		n.line, n.col = line, offset-w.lines[line-1]+1
	}
	switch v := v.(type) {
	case map[string]any:
		t := &table{m: map[string]*node{}}
		for k, child := range v {
			t.m[k] = w.node(join(path, k), dotted(key, k), child)
		}
		n.val = t
	case []any:
		l := make(list, 0, len(v))
		for i, child := range v {
			l = append(l, w.node(join(path, strconv.Itoa(i)), fmt.Sprintf("%s[%d]", key, i), child))
		}
		n.val = l
	}
	return n
}

func dotted(key, part string) string {
	if !bareKey(part) {
		part = strconv.Quote(part)
	}
	if key == "" {
		return part
	}
	return key + "." + part
}

func bareKey(s string) bool {
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return s != ""
}

// merge lays over onto base: tables key by key, everything else whole.
func merge(base, over *node) *node {
	b, ok1 := base.val.(*table)
	o, ok2 := over.val.(*table)
	if !ok1 || !ok2 {
		return over
	}
	out := &table{m: map[string]*node{}}
	for k, n := range b.m {
		out.m[k] = n
	}
	for k, n := range o.m {
		if old := out.m[k]; old != nil {
			n = merge(old, n)
		}
		out.m[k] = n
	}
	merged := *over
	merged.val = out
	return &merged
}

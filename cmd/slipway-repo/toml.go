package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
	"github.com/slipway-deploy/slipway/agent/release"
)

const maxTOML = 1 << 20

// written is a TOML file that a person wrote for a document: the same names as in the document, plus a few keys of our own
// that take removes. Problems that the document's parser finds are told with the line they come from.
type written struct {
	path  string
	doc   map[string]any
	lines map[string]int
}

// fileError is a problem at a line of a file.
type fileError struct {
	File     string
	Problems []release.Problem
	lines    map[string]int
}

func (e *fileError) Error() string {
	out := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		at := e.File
		if n := lineOf(e.lines, p.Field); n > 0 {
			at += ":" + strconv.Itoa(n)
		}
		out[i] = fmt.Sprintf("%s: %s: %s", at, p.Field, p.Reason)
	}
	return strings.Join(out, "\n")
}

// Kind is the class of the error.
func (e *fileError) Kind() string { return "bad-file" }

func readTOML(path string) (*written, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", filepath.Base(path), err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxTOML {
		return nil, fmt.Errorf("cannot read %s: want a regular file of at most %d bytes", path, maxTOML)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	w := &written{path: path, doc: map[string]any{}, lines: map[string]int{}}
	if err := toml.Unmarshal(data, &w.doc); err != nil {
		var de *toml.DecodeError
		if errors.As(err, &de) {
			row, _ := de.Position()
			return nil, fmt.Errorf("%s:%d: %s", path, row, strings.TrimPrefix(de.Error(), "toml: "))
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	w.index(data)
	for k, v := range w.doc {
		if w.doc[k], err = w.plain(k, v); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *written) problem(field, format string, args ...any) error {
	return &fileError{File: w.path, lines: w.lines, Problems: []release.Problem{{Field: field, Reason: fmt.Sprintf(format, args...)}}}
}

// plain brings TOML values to what JSON documents hold.
func (w *written) plain(path string, v any) (any, error) {
	var err error
	switch x := v.(type) {
	case map[string]any:
		for k, e := range x {
			if x[k], err = w.plain(path+"."+k, e); err != nil {
				return nil, err
			}
		}
	case []any:
		for i, e := range x {
			if x[i], err = w.plain(fmt.Sprintf("%s[%d]", path, i), e); err != nil {
				return nil, err
			}
		}
	case time.Time:
		return x.UTC().Truncate(time.Second).Format(time.RFC3339), nil
	case string, bool, int64:
	case float64:
		return nil, w.problem(path, "%v is not a whole number; documents hold none else", x)
	default:
		return nil, w.problem(path, "%v has no time zone; write it like 2026-01-31T12:00:00Z", x)
	}
	return v, nil
}

// text takes the key, which must be a string, out of the file; empty if it is not there.
func (w *written) text(key string) (string, error) {
	v, ok := w.doc[key]
	if !ok {
		return "", nil
	}
	delete(w.doc, key)
	s, ok := v.(string)
	if !ok {
		return "", w.problem(key, "want a string")
	}
	return s, nil
}

// override puts a flag's value over the file's: a problem with it comes from no line.
func (w *written) override(key string, v any) {
	w.doc[key] = v
	w.lines[key] = 0
}

// refuse keeps people from writing what the tool decides.
func (w *written) refuse(keys ...string) error {
	for _, k := range keys {
		if _, ok := w.doc[k]; ok {
			return w.problem(k, "slipway-repo fills this in; leave it out")
		}
	}
	return nil
}

// with adds what the tool knows, and gives the JSON of the whole.
func (w *written) with(add map[string]any) ([]byte, error) {
	all := map[string]any{}
	for k, v := range w.doc {
		all[k] = v
	}
	for k, v := range add {
		all[k] = v
	}
	data, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", w.path, err)
	}
	return data, nil
}

// locate turns a document's problems into problems of this file.
func (w *written) locate(err error) error {
	var de *release.DocumentError
	if !errors.As(err, &de) {
		return err
	}
	return w.problems(de.Problems)
}

func (w *written) problems(list []release.Problem) error {
	return &fileError{File: w.path, Problems: list, lines: w.lines}
}

// lineOf finds the line of a field, or of the nearest thing around it.
func lineOf(lines map[string]int, field string) int {
	for field != "" {
		if n, ok := lines[field]; ok {
			return n
		}
		field = field[:max(0, strings.LastIndexAny(field, ".["))]
	}
	return 0
}

// index notes the line of every key, under the name that documents' problems use: waves[2].percent_bp.
func (w *written) index(data []byte) {
	p := unstable.Parser{}
	p.Reset(data)
	count := map[string]int{}
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table:
			table = w.note(&p, e, "", count)
		case unstable.ArrayTable:
			path, line := keyPath(&p, e, "", count)
			count[path]++
			table = fmt.Sprintf("%s[%d]", path, count[path]-1)
			w.lines[path], w.lines[table] = line, line
		case unstable.KeyValue:
			w.noteValue(&p, w.note(&p, e, table, count), e.Value(), count)
		}
	}
}

func (w *written) note(p *unstable.Parser, e *unstable.Node, base string, count map[string]int) string {
	path, line := keyPath(p, e, base, count)
	if line > 0 {
		w.lines[path] = line
	}
	return path
}

func (w *written) noteValue(p *unstable.Parser, path string, v *unstable.Node, count map[string]int) {
	it := v.Children()
	switch v.Kind {
	case unstable.InlineTable:
		for it.Next() {
			kv := it.Node()
			w.noteValue(p, w.note(p, kv, path, count), kv.Value(), count)
		}
	case unstable.Array:
		for i := 0; it.Next(); i++ {
			element := fmt.Sprintf("%s[%d]", path, i)
			if raw := it.Node().Raw; raw.Length > 0 {
				w.lines[element] = p.Shape(raw).Start.Line
			}
			w.noteValue(p, element, it.Node(), count)
		}
	}
}

// keyPath joins the parts of a key; a part that names an array of tables means its latest element, unless it is the last.
func keyPath(p *unstable.Parser, e *unstable.Node, base string, count map[string]int) (path string, line int) {
	path = base
	it := e.Key()
	for first := true; it.Next(); first = false {
		if n := count[path]; n > 0 && !first {
			path = fmt.Sprintf("%s[%d]", path, n-1)
		}
		if path != "" {
			path += "."
		}
		path += string(it.Node().Data)
		if line == 0 && it.Node().Raw.Length > 0 {
			line = p.Shape(it.Node().Raw).Start.Line
		}
	}
	return path, line
}

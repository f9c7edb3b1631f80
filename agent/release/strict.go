package release

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// maxDepth bounds how deep a document may nest. The v1 documents need 6.
const maxDepth = 32

// The strict decoder reads JSON in one pass, straight into the document's type. encoding/json cannot be used for signed
// documents: it matches field names without regard to case, takes the last of duplicates, turns null into "unchanged" and
// broken UTF-8 into U+FFFD, and says nothing about missing fields or where in an array an error is. A second parser in front
// of it would have to agree with it in everything; the FuzzParse targets hold that whatever is accepted here
// means the same to encoding/json.
type decoder struct {
	data   []byte
	pos    int
	depth  int
	path   []step
	intern map[string]string
}

// step is one component of the place that an error names: a field or an array index.
type step struct {
	field string
	index int
}

// refusal carries an error up through the recursion; place is filled at the point of failure.
type refusal struct {
	place, reason string
}

func (r *refusal) Error() string { return r.place + ": " + r.reason }

// decodeStrict fills the struct that v points to from data, which must hold exactly one object.
func decodeStrict(data []byte, v any) *refusal {
	d := &decoder{data: data, intern: map[string]string{}}
	d.space()
	if r := d.value(reflect.ValueOf(v).Elem()); r != nil {
		return r
	}
	d.space()
	if d.pos < len(data) {
		return d.refuse("more data follows the document at byte %d", d.pos)
	}
	return nil
}

func (d *decoder) refuse(format string, args ...any) *refusal {
	return &refusal{place: renderPath(d.path), reason: fmt.Sprintf(format, args...)}
}

func renderPath(path []step) string {
	var b strings.Builder
	for _, s := range path {
		if s.field == "" {
			fmt.Fprintf(&b, "[%d]", s.index)
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(s.field)
	}
	if b.Len() == 0 {
		return "document"
	}
	return b.String()
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

func (d *decoder) value(v reflect.Value) *refusal {
	if d.pos >= len(d.data) {
		return d.refuse("it ends too early")
	}
	if d.data[d.pos] == 'n' {
		return d.refuse("null is not allowed: leave the field out")
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		return d.value(v.Elem())
	}
	if v.CanAddr() && v.Addr().Type().Implements(textUnmarshaler) {
		return d.text(v)
	}
	switch v.Kind() {
	case reflect.String:
		s, r := d.str()
		v.SetString(s)
		return r
	case reflect.Bool:
		return d.boolean(v)
	case reflect.Int, reflect.Int64:
		return d.integer(v)
	}
	if d.depth++; d.depth > maxDepth {
		return d.refuse("it nests deeper than %d levels", maxDepth)
	}
	defer func() { d.depth-- }()
	switch v.Kind() {
	case reflect.Struct:
		return d.object(v)
	case reflect.Map:
		return d.mapping(v)
	default:
		return d.array(v)
	}
}

func (d *decoder) text(v reflect.Value) *refusal {
	raw, r := d.strBytes()
	if r != nil {
		return r
	}
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText(raw); err != nil {
		return d.refuse("%v", err)
	}
	return nil
}

func (d *decoder) boolean(v reflect.Value) *refusal {
	for _, word := range []string{"true", "false"} {
		if strings.HasPrefix(string(d.data[d.pos:min(len(d.data), d.pos+5)]), word) {
			d.pos += len(word)
			v.SetBool(word == "true")
			return nil
		}
	}
	return d.refuse("%s where true or false is wanted", d.seen())
}

func (d *decoder) integer(v reflect.Value) *refusal {
	start := d.pos
	if d.data[d.pos] == '-' {
		d.pos++
	}
	digits := d.pos
	for d.pos < len(d.data) && isDigit(d.data[d.pos]) {
		d.pos++
	}
	if d.pos == digits {
		d.pos = start
		return d.refuse("%s where a whole number is wanted", d.seen())
	}
	if d.pos < len(d.data) && strings.IndexByte(".eE", d.data[d.pos]) >= 0 {
		return d.refuse("fractions and exponents are not allowed: write a whole number")
	}
	if d.data[digits] == '0' && d.pos > digits+1 {
		return d.refuse("a number must not start with 0")
	}
	n, err := strconv.ParseInt(string(d.data[start:d.pos]), 10, 64)
	if err != nil {
		return d.refuse("the number does not fit in 64 bits")
	}
	v.SetInt(n)
	return nil
}

func (d *decoder) object(v reflect.Value) *refusal {
	plan := planOf(v.Type())
	var seen uint64
	r := d.members(func(key []byte) *refusal {
		i, known := plan.byName[string(key)]
		if !known {
			d.path = append(d.path, step{field: displayKey(key)})
			return d.refuse("%s", plan.unknown(string(key)))
		}
		d.path = append(d.path, step{field: plan.fields[i].name})
		if seen&(1<<i) != 0 {
			return d.refuse("the field appears twice")
		}
		seen |= 1 << i
		return nil
	}, func(key []byte) *refusal {
		return d.value(v.FieldByIndex(plan.fields[plan.byName[string(key)]].index))
	})
	if r != nil {
		return r
	}
	for i, f := range plan.fields {
		if f.required && seen&(1<<i) == 0 {
			d.path = append(d.path, step{field: f.name})
			return d.refuse("the field is missing")
		}
	}
	return nil
}

func (d *decoder) mapping(v reflect.Value) *refusal {
	t := v.Type()
	v.Set(reflect.MakeMap(t))
	k := reflect.New(t.Key()).Elem()
	return d.members(func(key []byte) *refusal {
		d.path = append(d.path, step{field: displayKey(key)})
		if k.Kind() == reflect.String {
			k.SetString(string(key))
		} else if err := k.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText(key); err != nil {
			return d.refuse("%v", err)
		}
		if v.MapIndex(k).IsValid() {
			return d.refuse("the field appears twice")
		}
		return nil
	}, func([]byte) *refusal {
		elem := reflect.New(t.Elem()).Elem()
		if r := d.value(elem); r != nil {
			return r
		}
		v.SetMapIndex(k, elem)
		return nil
	})
}

// members reads an object. enter is called with each key and pushes the key's step, so that an error in it or in the value
// names the place; body reads the value.
func (d *decoder) members(enter, body func(key []byte) *refusal) *refusal {
	if d.data[d.pos] != '{' {
		return d.refuse("%s where an object is wanted", d.seen())
	}
	d.pos++
	for first := true; ; first = false {
		done, r := d.next('}', first)
		if done || r != nil {
			return r
		}
		key, r := d.strBytes()
		if r != nil {
			return r
		}
		if r = enter(key); r != nil {
			return r
		}
		d.space()
		if d.pos >= len(d.data) || d.data[d.pos] != ':' {
			return d.refuse("a colon is missing at byte %d", d.pos)
		}
		d.pos++
		d.space()
		if r = body(key); r != nil {
			return r
		}
		d.path = d.path[:len(d.path)-1]
	}
}

func (d *decoder) array(v reflect.Value) *refusal {
	if d.data[d.pos] != '[' {
		return d.refuse("%s where an array is wanted", d.seen())
	}
	d.pos++
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	for n := 0; ; n++ {
		done, r := d.next(']', n == 0)
		if done || r != nil {
			return r
		}
		if n == v.Cap() {
			v.Grow(max(4, n))
		}
		v.SetLen(n + 1)
		d.path = append(d.path, step{index: n})
		if r = d.value(v.Index(n)); r != nil {
			return r
		}
		d.path = d.path[:len(d.path)-1]
	}
}

// next stands before a member or element: it consumes the comma that must precede all but the first, or the closing byte.
func (d *decoder) next(closing byte, first bool) (done bool, r *refusal) {
	d.space()
	if d.pos < len(d.data) && d.data[d.pos] == closing {
		d.pos++
		return true, nil
	}
	if !first {
		if d.pos >= len(d.data) || d.data[d.pos] != ',' {
			return false, d.refuse("a comma or %q is missing at byte %d", closing, d.pos)
		}
		d.pos++
		d.space()
	}
	if d.pos >= len(d.data) {
		return false, d.refuse("it ends too early")
	}
	return false, nil
}

func (d *decoder) space() {
	for d.pos < len(d.data) {
		switch d.data[d.pos] {
		case ' ', '\t', '\n', '\r':
			d.pos++
		default:
			return
		}
	}
}

// seen describes the value at the current position for an error.
func (d *decoder) seen() string {
	switch c := d.data[d.pos]; {
	case c == '"':
		return "text"
	case c == '{':
		return "an object"
	case c == '[':
		return "an array"
	case c == 't' || c == 'f':
		return "a truth value"
	case c == '-' || isDigit(c):
		return "a number"
	}
	return fmt.Sprintf("byte %d, no JSON value,", d.pos)
}

func displayKey(key []byte) string {
	if len(key) > 40 {
		key = key[:40]
	}
	return strings.Trim(strconv.Quote(string(key)), `"`)
}

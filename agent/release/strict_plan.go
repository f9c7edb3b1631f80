package release

import (
	"reflect"
	"strings"
	"sync"
)

// plan is what the decoder knows of a struct type: its fields by exact JSON name, embedded ones flattened.
type plan struct {
	fields []planField
	byName map[string]int
}

type planField struct {
	name     string
	index    []int
	required bool
	field    reflect.StructField
}

var plans sync.Map // reflect.Type → *plan

func planOf(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	p := &plan{byName: map[string]int{}}
	p.add(t, nil)
	for i, f := range p.fields {
		p.byName[f.name] = i
	}
	plans.Store(t, p)
	return p
}

// add collects the fields of t. A field without omitempty or omitzero is required: its absence is not a default but a
// mistake or an attack.
func (p *plan) add(t reflect.Type, prefix []int) {
	for i := range t.NumField() {
		f := t.Field(i)
		index := append(append([]int(nil), prefix...), i)
		if f.Anonymous {
			p.add(f.Type, index)
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		p.fields = append(p.fields, planField{name, index, options == "", f})
	}
}

// unknown explains a field name that the type does not have.
func (p *plan) unknown(key string) string {
	for _, f := range p.fields {
		if strings.EqualFold(f.name, key) {
			return "the field is unknown: write " + f.name
		}
	}
	return "the field is unknown: remove it, or use a version of slipway that knows it"
}

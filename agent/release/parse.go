package release

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// kind is what the package knows of a kind of document: its name in messages, its schema and the most bytes it may have.
// The size is checked before a byte is looked at.
type kind struct {
	name, schema string
	limit        int
}

var (
	kindRelease    = kind{"release", ReleaseSchema, 1 << 20}
	kindManifest   = kind{"manifest", ManifestSchema, 256 << 20}
	kindDeployment = kind{"deployment", DeploymentSchema, 1 << 20}
	kindEmergency  = kind{"emergency", EmergencySchema, 1 << 20}
	kindInventory  = kind{"inventory", InventorySchema, 64 << 20}
)

// Document is one of the five signed documents, as a pointer.
type Document interface {
	*Release | *Manifest | *Deployment | *Emergency | *Inventory
	// Validate checks every rule that the types cannot express and returns all problems at once, as a *DocumentError
	// (or a *SchemaError).
	Validate() error
	kind() kind
	normalize()
}

// ParseRelease decodes and validates a release document. Its digest is Sum of the same bytes.
func ParseRelease(data []byte) (*Release, error) { return parse(data, new(Release)) }

// ParseManifest decodes and validates a manifest. It is linear in the size and keeps nothing of data.
func ParseManifest(data []byte) (*Manifest, error) { return parse(data, new(Manifest)) }

// ParseDeployment decodes and validates a deployment.
func ParseDeployment(data []byte) (*Deployment, error) { return parse(data, new(Deployment)) }

// ParseEmergency decodes and validates an emergency document.
func ParseEmergency(data []byte) (*Emergency, error) { return parse(data, new(Emergency)) }

// ParseInventory decodes and validates an inventory.
func ParseInventory(data []byte) (*Inventory, error) { return parse(data, new(Inventory)) }

func parse[D Document](data []byte, doc D) (D, error) {
	k := doc.kind()
	if len(data) > k.limit {
		return nil, &DocumentError{k.name, []Problem{{"document", fmt.Sprintf("it has %d bytes, at most %d are allowed", len(data), k.limit)}}}
	}
	if r := decodeStrict(data, doc); r != nil {
		if got := otherSchema(data, k); got != "" {
			return nil, &SchemaError{k.name, got, k.schema}
		}
		return nil, &DocumentError{k.name, []Problem{{r.place, r.reason}}}
	}
	if err := doc.Validate(); err != nil {
		return nil, err
	}
	return doc, nil
}

// otherSchema looks into a document that could not be decoded: when it is of our kind and another version, that is the
// reason to tell, not the first field that this version does not know.
func otherSchema(data []byte, k kind) string {
	var head struct {
		Schema string `json:"schema"`
	}
	stem := k.schema[:strings.LastIndexByte(k.schema, '/')+1]
	if json.Unmarshal(data, &head) != nil || head.Schema == k.schema || !strings.HasPrefix(head.Schema, stem) {
		return ""
	}
	return head.Schema[:min(len(head.Schema), 64)]
}

// Encode validates a document and writes it as indented JSON that ends with a newline. Equal documents give equal bytes,
// and what Encode returns is certain to be accepted by the parser of that kind.
func Encode[D Document](doc D) ([]byte, error) {
	k := doc.kind()
	doc.normalize()
	if err := doc.Validate(); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(doc); err != nil {
		return nil, fmt.Errorf("cannot encode %s: %v", k.name, err)
	}
	if out.Len() > k.limit {
		return nil, fmt.Errorf("cannot encode %s: it has %d bytes, at most %d are allowed", k.name, out.Len(), k.limit)
	}
	if r := decodeStrict(out.Bytes(), reflect.New(reflect.TypeOf(doc).Elem()).Interface()); r != nil {
		return nil, &DocumentError{k.name, []Problem{{r.place, r.reason}}}
	}
	return out.Bytes(), nil
}

func (*Release) kind() kind    { return kindRelease }
func (*Manifest) kind() kind   { return kindManifest }
func (*Deployment) kind() kind { return kindDeployment }
func (*Emergency) kind() kind  { return kindEmergency }
func (*Inventory) kind() kind  { return kindInventory }

// normalize writes absent lists of required fields as empty ones: JSON null is refused by every reader.

func (r *Release) normalize()   { orEmpty(&r.Units) }
func (m *Manifest) normalize()  { orEmpty(&m.Entries) }
func (*Deployment) normalize()  {}
func (e *Emergency) normalize() { orEmpty(&e.Entries) }
func (i *Inventory) normalize() { orEmpty(&i.Hosts) }
func orEmpty[T any](list *[]T) {
	if *list == nil {
		*list = []T{}
	}
}

// schemaError checks the one field every document has; the error is a *SchemaError when only the version differs.
func (k kind) schemaError(got string) error {
	if got == k.schema {
		return nil
	}
	return &SchemaError{k.name, got, k.schema}
}

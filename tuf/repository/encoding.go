package repository

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// signature is one entry of a metadata file, and with the role and the digest of what was signed, a detached file.
type signature struct {
	KeyID string   `json:"keyid"`
	Sig   hexBytes `json:"sig"`
}

type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// envelope is a metadata file: the signed part and the signatures over its canonical form.
type envelope struct {
	Signatures []signature     `json:"signatures"`
	Signed     json.RawMessage `json:"signed"`
}

// payload is the signed part of one version of one role, in the forms it is needed in: as found in a file, as it gets
// published, and as it gets signed. Canonical JSON is not always JSON (it keeps line breaks in strings).
type payload[T metadata.Roles] struct {
	doc       *T
	raw       []byte
	clean     []byte
	canonical []byte
}

// encode turns doc into bytes, once, at the only place where bytes to be signed are made.
func encode(doc any) (raw []byte, err error) {
	raw, err = json.MarshalIndent(doc, "", " ")
	if err != nil {
		return nil, err
	}
	return append(raw, '\n'), nil
}

func canonical(raw []byte) ([]byte, error) {
	c, err := cjson.EncodeCanonical(json.RawMessage(raw))
	if err != nil {
		return nil, fmt.Errorf("it has no canonical form: %w", err)
	}
	return c, nil
}

// decode reads a signed part. go-tuf's parsers can panic on odd shapes; that ends here.
func decode[T metadata.Roles](raw []byte, role string) (doc *T, err error) {
	defer func() {
		if r := recover(); r != nil {
			doc, err = nil, fmt.Errorf("it is malformed: %v", r)
		}
	}()
	doc = new(T)
	if err := json.Unmarshal(raw, doc); err != nil {
		return nil, err
	}
	return doc, checkHead(any(doc), role)
}

// parse reads a signed part that came from anywhere and is about to be signed or published: it must mean the same to
// parsers that read member names without regard to case, or take the last of two.
func parse[T metadata.Roles](raw []byte, role string) (p payload[T], err error) {
	doc, err := decode[T](raw, role)
	if err != nil {
		return p, err
	}
	clean, err := json.Marshal(doc)
	if err != nil {
		return p, err
	}
	again, err := canonical(clean)
	if err != nil {
		return p, err
	}
	c, err := canonical(raw)
	if err != nil {
		return p, err
	}
	if !bytes.Equal(c, again) {
		return p, errors.New("it reads differently in different clients (mis-cased or unknown members)")
	}
	return payload[T]{doc: doc, raw: raw, clean: clean, canonical: c}, nil
}

func checkHead(doc any, role string) error {
	var typ, spec, want string
	var version int64
	var expires time.Time
	switch d := doc.(type) {
	case *metadata.RootType:
		typ, spec, version, expires, want = d.Type, d.SpecVersion, d.Version, d.Expires, classRoot
	case *metadata.TargetsType:
		typ, spec, version, expires, want = d.Type, d.SpecVersion, d.Version, d.Expires, classTargets
	case *metadata.SnapshotType:
		typ, spec, version, expires, want = d.Type, d.SpecVersion, d.Version, d.Expires, classSnapshot
	case *metadata.TimestampType:
		typ, spec, version, expires, want = d.Type, d.SpecVersion, d.Version, d.Expires, classTimestamp
	}
	switch {
	case typ != want:
		return fmt.Errorf("it is of type %q, and %s is of type %q", typ, role, want)
	case len(spec) < 2 || spec[:2] != "1.":
		return fmt.Errorf("its specification version is %q, want 1.x", spec)
	case version < 1:
		return fmt.Errorf("its version is %d", version)
	case expires.Nanosecond() != 0 || expires.Location() != time.UTC:
		return fmt.Errorf("its expiry %s is not in whole seconds of UTC", expires.Format(time.RFC3339Nano))
	}
	return nil
}

func openEnvelope(data []byte) (envelope, error) {
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return e, err
	}
	seen := map[string]bool{}
	for _, s := range e.Signatures {
		if seen[s.KeyID] {
			return e, fmt.Errorf("it has two signatures of key %s", s.KeyID)
		}
		seen[s.KeyID] = true
	}
	return e, nil
}

func (e envelope) bytes() ([]byte, error) { return json.Marshal(e) }

func indent(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

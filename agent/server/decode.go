package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/slipway-deploy/slipway/agent/api"
)

// maxReason bounds the text an operator adds: it lands in state, journal and audit.
const maxReason = 500

// boundBody ends a body that does not come. http.Server.ReadTimeout would also end the contexts of long answers, so only bodies are
// bounded, here; readBody takes the bound away when it has all of one. Where it does not, because the request is refused, net/http
// still reads the rest before it answers: without the bound that would wait for ever.
func boundBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength == 0 {
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)) // a writer that cannot is a test's
	if r.Method != http.MethodPost {
		w.Header().Set("Connection", "close")
	}
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return nil, api.NewError(api.KindBadRequest, "the request must have Content-Type: application/json", "")
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	}
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return nil, api.NewError(api.KindTooLarge, fmt.Sprintf("the request is longer than %d bytes", maxBody), "")
	}
	if err != nil {
		return nil, api.NewError(api.KindBadRequest, "cannot read the request: "+err.Error(), "")
	}
	return data, nil
}

// decode reads exactly one flat JSON object into the struct that into points at: known names only, spelt as in the contract, each
// once, and those of required present. encoding/json alone would take other cases and repetitions.
func decode(data []byte, into any, required ...string) error {
	if !utf8.Valid(data) {
		return badBody("is not valid UTF-8")
	}
	seen, err := names(data)
	if err != nil {
		return badBody(err.Error())
	}
	known := map[string]bool{}
	t := reflect.TypeOf(into).Elem()
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		known[name] = true
	}
	has := map[string]bool{}
	for _, name := range seen {
		if !known[name] {
			return badBody(fmt.Sprintf("has an unknown field %q", name))
		}
		if has[name] {
			return badBody(fmt.Sprintf("has the field %q twice", name))
		}
		has[name] = true
	}
	for _, name := range required {
		if !has[name] {
			return badBody(fmt.Sprintf("lacks the field %q", name))
		}
	}
	if err := json.Unmarshal(data, into); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return badBody(fmt.Sprintf("has a %s in the field %q, which takes a %s", wrong.Value, wrong.Field, wrong.Type))
		}
		return badBody("is wrong: " + err.Error())
	}
	return nil
}

func badBody(what string) error {
	return api.NewError(api.KindBadRequest, "the request's body "+what, "")
}

// names lists the members of the one object that data must be, in order, repetitions and all. null as a value is refused: it
// would mean "absent" to the decoder although the name is there.
func names(data []byte) ([]string, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("is not a JSON object")
	}
	var out []string
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, errors.New("is not valid JSON")
		}
		v, err := d.Token()
		if err != nil {
			return nil, errors.New("is not valid JSON")
		}
		if _, nested := v.(json.Delim); nested || v == nil {
			return nil, fmt.Errorf("has no plain value in the field %q", name)
		}
		out = append(out, name)
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("is not valid JSON")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("goes on after the JSON object")
	}
	return out, nil
}

func checkReason(s string) error {
	if len(s) > maxReason {
		return api.NewError(api.KindBadRequest, fmt.Sprintf("reason: %d bytes are more than %d", len(s), maxReason), "")
	}
	if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return api.NewError(api.KindBadRequest, "reason: must not hold control characters or line breaks", "")
	}
	return nil
}

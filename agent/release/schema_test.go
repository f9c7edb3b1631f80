package release

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

var update = flag.Bool("update", false, "write docs/schemas")

func TestSchemasOnDiskAreCurrent(t *testing.T) {
	dir := filepath.Join("..", "..", "docs", "schemas")
	for name, want := range Schemas() {
		path := filepath.Join(dir, name)
		if *update {
			check(t, os.MkdirAll(dir, 0o755))
			check(t, os.WriteFile(path, want, 0o644))
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is stale (%v): run go generate ./agent/release", path, err)
		}
	}
}

// conforms is as much of JSON Schema as our schemas use.
func conforms(t *testing.T, at string, schema map[string]any, v any) {
	t.Helper()
	if want, ok := schema["const"]; ok && v != want {
		t.Errorf("%s: %v is not %v", at, v, want)
	}
	if values, ok := schema["enum"].([]any); ok && !slices.Contains(values, v) {
		t.Errorf("%s: %v is none of %v", at, v, values)
	}
	switch v := v.(type) {
	case string:
		if p, ok := schema["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(v) {
			t.Errorf("%s: %q does not match %s", at, v, p)
		}
	case []any:
		for _, item := range v {
			conforms(t, at+"[]", schema["items"].(map[string]any), item)
		}
	case map[string]any:
		properties, _ := schema["properties"].(map[string]any)
		for key, member := range v {
			if s, ok := properties[key].(map[string]any); ok {
				conforms(t, at+"."+key, s, member)
			} else if s, ok := schema["additionalProperties"].(map[string]any); ok {
				conforms(t, at+"."+key, s, member)
			} else {
				t.Errorf("%s has no %s", at, key)
			}
		}
	}
}

func TestDocumentsConformToTheirSchemas(t *testing.T) {
	for name, data := range map[string][]byte{
		"release.json": must(Encode(testRelease())), "deployment.json": must(Encode(testDeployment())), "emergency.json": must(Encode(testEmergency())),
		"inventory.json": must(Encode(testInventory())), "manifest.json": must(Encode(manyEntries(t, 50))),
	} {
		var schema map[string]any
		var doc any
		check(t, json.Unmarshal(Schemas()[name], &schema))
		check(t, json.Unmarshal(data, &doc))
		conforms(t, name, schema, doc)
	}
}

package release

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
)

//go:generate go test -run TestSchemasOnDiskAreCurrent -update .

// Schemas returns the JSON Schema (2020-12) of every document by file name. They are made from the types that the decoder
// uses, so they agree with it on fields, types and enumerations; rules that tie fields together (Validate) are beyond them.
func Schemas() map[string][]byte {
	out := map[string][]byte{}
	for _, doc := range []any{Release{}, Manifest{}, Deployment{}, Emergency{}, Inventory{}} {
		t := reflect.TypeOf(doc)
		k := reflect.New(t).Interface().(interface{ kind() kind }).kind()
		s := schemaOf(t, "")
		s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
		s["$id"] = "https://github.com/slipway-deploy/slipway/docs/schemas/" + k.name + ".json"
		s["title"] = k.schema
		s["properties"].(map[string]any)["schema"] = map[string]any{"const": k.schema}
		data, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			panic(fmt.Sprintf("cannot encode our own schema: %v", err)) // maps of strings cannot fail
		}
		out[k.name+".json"] = append(data, '\n')
	}
	return out
}

const label = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"

// textSchemas are the types that are written as text.
var textSchemas = map[string]map[string]any{
	"App":         {"type": "string", "pattern": "^" + label + "$", "maxLength": maxApp},
	"Environment": {"type": "string", "pattern": "^" + label + "$", "maxLength": maxEnvironment},
	"Version":     {"type": "string", "pattern": "^[A-Za-z0-9+_][A-Za-z0-9.+_-]*$", "maxLength": maxVersion},
	"Platform":    {"type": "string", "pattern": "^linux/[a-z0-9]{1,16}$"},
	"UnitName":    {"type": "string", "pattern": `^[A-Za-z0-9][A-Za-z0-9_.@-]*\.(service|socket|timer|path|target)$`, "maxLength": maxUnitName},
	"Digest":      {"type": "string", "pattern": "^[0-9a-f]{64}$"},
	"Duration":    {"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$|^0$`, "examples": []string{"90s", "5m", "1h30m"}},
	"Time":        {"type": "string", "format": "date-time"},
}

// enums are the closed sets of texts, by type or by type and field.
var enums = map[string][]string{
	"RestartMode":                    {"restart", "reload", "socket", "none"},
	"CheckKind":                      {"unit", "http", "tcp", "exec", "grpc"},
	"EntryType":                      {"file", "dir", "symlink"},
	"DeploymentState":                {"active", "paused", "halted", "revert"},
	"Entry.mode":                     {ModeFile, ModeExecutable},
	"Deployment.on_first_failure":    {"remove", "keep"},
	"Deployment.on_revoked":          {"keep", "revert", "stop"},
	"Deployment.on_coordinator_loss": {"hold", "signed-schedule"},
	"Wave.advance":                   {"auto", "signed", "none"},
	"HaltPolicy.on_halt":             {"stop", "revert"},
	"Coordinator.kind":               {"none", "hub", "fleetlock"},
	"EmergencyEntry.kind":            {"halt", "freeze", "revoke", "minimum"},
}

func schemaOf(t reflect.Type, place string) map[string]any {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	for _, name := range []string{t.Name(), place} {
		if values, ok := enums[name]; ok {
			return map[string]any{"enum": values}
		}
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return textSchemas[t.Name()]
	}
	switch t.Kind() {
	case reflect.Struct:
		return objectSchema(t)
	case reflect.Map:
		s := map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem(), "")}
		if key, ok := textSchemas[t.Key().Name()]; ok {
			s["propertyNames"] = key
		}
		return s
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem(), "")}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return map[string]any{"type": "integer", "minimum": 0}
	}
	return map[string]any{"type": "string"}
}

func objectSchema(t reflect.Type) map[string]any {
	properties, required := map[string]any{}, []string{}
	for _, f := range planOf(t).fields {
		properties[f.name] = schemaOf(f.field.Type, t.Name()+"."+f.name)
		if f.required {
			required = append(required, f.name)
		}
	}
	s := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

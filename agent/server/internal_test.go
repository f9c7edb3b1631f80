package server

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/slipway-deploy/slipway/agent/api"
)

func TestTheTableIsConsistent(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range routes {
		if key := r.method + " " + r.path; seen[key] {
			t.Errorf("%s is there twice", key)
		} else {
			seen[key] = true
		}
		if (r.method == http.MethodPost) != (r.audit != "") {
			t.Errorf("%s %s: exactly the POST routes have an audit type", r.method, r.path)
		}
		if r.audit != "" && r.role < RoleOperator {
			t.Errorf("%s changes something and lets in %s", r.path, r.role)
		}
		if r.served(ReadOnly) && (r.method != http.MethodGet || r.role > RoleViewer) {
			t.Errorf("%s %s is on the read-only socket", r.method, r.path)
		}
	}
}

func FuzzRequestBodiesAreRefusedOrMeanWhatTheySay(f *testing.F) {
	for _, s := range []string{`{"expect_revision":1,"reason":"x"}`, `{"expect_revision":1,"expect_revision":2}`, `{"Reason":"x"}`, `{"until":"2030-01-01T00:00:00Z"}`, `{`, `[]`, `{"reason":"\ud800"}`, `{"a":{}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r api.RevertRequest
		if decode(data, &r, "expect_revision", "reason") == nil {
			var m map[string]any
			if err := json.Unmarshal(data, &m); err != nil || len(m) != 2 || m["reason"] != r.Reason {
				t.Errorf("%q was taken as %+v", data, r)
			}
		}
		var h api.HoldRequest
		_ = decode(data, &h)
		var p api.ApplyRequest
		_ = decode(data, &p, "expect_revision")
		var e api.RefreshRequest
		if decode(data, &e) == nil {
			var m map[string]any
			if err := json.Unmarshal(data, &m); err != nil || len(m) != 0 {
				t.Errorf("%q was taken as nothing", data)
			}
		}
	})
}

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// exposed parses a file as Prometheus does: by metric, and by its label's value.
func exposed(t *testing.T, file string) map[string]map[string]float64 {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	out := map[string]map[string]float64{}
	for name, f := range families {
		out[name] = map[string]float64{}
		if f.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
		for _, m := range f.Metric {
			label := ""
			for _, l := range m.Label {
				label += l.GetValue()
			}
			out[name][label] = m.GetGauge().GetValue()
		}
	}
	return out
}

func TestStatusWritesFiguresThatPrometheusReads(t *testing.T) {
	documented, err := os.ReadFile(filepath.Join("..", "..", "docs", "maintainers-manual.md"))
	if err != nil {
		t.Fatal(err)
	}
	s := newShell(t)
	s.published()
	s.expect(0, "publish --to www")
	s.expect(0, "status --prometheus f.prom --to www")
	if s.out != "" {
		t.Errorf("it also says %s", s.out)
	}
	got := exposed(t, "f.prom")
	now := float64(time.Now().Unix())
	for name, want := range map[string]map[string]float64{
		"slipway_repo_role_version":                  {"root": 1, "targets": 3, "timestamp": 3, "app.billing": 0},
		"slipway_repo_destination_current":           {abs(t, "www"): 1},
		"slipway_repo_destination_timestamp_version": {abs(t, "www"): 3},
		"slipway_repo_refresh_overdue":               {"": 0},
		"slipway_repo_open_changes":                  {"": 0},
		"slipway_repo_attention":                     {"": 0},
		"slipway_repo_publish_interrupted":           {"": 0},
		"slipway_repo_freshness_seconds":             {"": 0},
	} {
		for label, value := range want {
			if v, ok := got[name][label]; !ok || v != value {
				t.Errorf("%s{%s} is %v (%v), want %v", name, label, v, ok, value)
			}
		}
	}
	for name, about := range map[string]float64{
		"slipway_repo_role_expiry_timestamp_seconds": now + 365*86400, "slipway_repo_role_seconds_to_expiry": 365 * 86400,
	} {
		if v := got[name]["root"]; v < about-100 || v > about+100 {
			t.Errorf("%s{root} is %f", name, v)
		}
	}
	if v := got["slipway_repo_timestamp_issued_timestamp_seconds"][""]; v < now-100 || v > now+100 {
		t.Errorf("issued %f", v)
	}
	for name := range got {
		if !strings.Contains(string(documented), "`"+name+"`") {
			t.Errorf("%s is not in docs/maintainers-manual.md", name)
		}
	}
}

func TestStatusNamesEverythingThatNeedsAttention(t *testing.T) {
	s := newShell(t)
	s.published()
	s.expect(0, "publish --to www")
	s.expect(0, "refresh --force")
	s.expect(1, "status --to www", "www: timestamp 3; it lags behind: timestamp 4 is published here; run refresh")
	s.expect(0, "status --offline")
	s.expect(1, "status --to www --within 400d --json")
	var answer struct {
		Attention []string
		Within    int64            `json:"within_seconds"`
		Expiry    map[string]int64 `json:"seconds_to_expiry"`
	}
	if err := json.Unmarshal([]byte(s.out), &answer); err != nil {
		t.Fatal(err)
	}
	if len(answer.Attention) != 3 || answer.Within != 400*86400 || answer.Expiry["root"] < 360*86400 || answer.Expiry["timestamp"] > 3*86400 {
		t.Errorf("got %+v", answer)
	}
	s.expect(1, "status --to www --prometheus f.prom")
	if got := exposed(t, "f.prom"); got["slipway_repo_destination_current"][abs(t, "www")] != 0 || got["slipway_repo_attention"][""] != 1 {
		t.Errorf("got %v", got)
	}
	s.expect(0, "refresh --to www")
	s.expect(0, "status --to www", "timestamp 4, current")
}

func TestALabelMayHoldAnything(t *testing.T) {
	var f figures
	f.family("x", "Help.")(1, "destination", "a\"b\\c\nd")
	file := filepath.Join(t.TempDir(), "f.prom")
	if err := os.WriteFile(file, f.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := exposed(t, file); got["slipway_repo_x"]["a\"b\\c\nd"] != 1 {
		t.Errorf("got %v from %s", got, f.String())
	}
}

func abs(t *testing.T, path string) string {
	t.Helper()
	a, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

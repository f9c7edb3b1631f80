package server

import (
	"bytes"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"
)

// Metrics is asked for every scrape. It must answer from memory.
type Metrics interface {
	// Gather returns all families. Order does not matter; names must be unique.
	Gather() []Family
}

// The types of families.
const (
	Gauge   = "gauge"
	Counter = "counter"
)

// Family is one metric with all its samples. Name follows Prometheus: slipway_…, seconds and bytes as units, _total for counters.
type Family struct {
	Name, Help, Type string
	Samples          []Sample
}

// Sample is one value. Labels must have few values: kinds and apps, never messages or digests.
type Sample struct {
	Labels map[string]string
	Value  float64
}

var metricName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// stats counts what this package itself does.
type stats struct {
	mu       sync.Mutex
	requests map[[3]string]float64
}

func newStats() *stats { return &stats{requests: map[[3]string]float64{}} }

// count uses the route's pattern, never the path that was asked for: callers must not be able to make new series.
func (s *stats) count(rt route, outcome string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[[3]string{rt.method, rt.path, outcome}]++
}

func (s *stats) family() Family {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := Family{Name: "slipway_api_requests_total", Help: "Requests on the sockets by route and outcome.", Type: Counter}
	for k, v := range s.requests {
		f.Samples = append(f.Samples, Sample{Labels: map[string]string{"method": k[0], "route": k[1], "outcome": k[2]}, Value: v})
	}
	return f
}

func (s *Server) writeMetrics(w http.ResponseWriter) {
	families := []Family{s.stats.family()}
	if s.cfg.Metrics != nil {
		families = append(families, s.cfg.Metrics.Gather()...)
	}
	s.deadline(w)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(renderMetrics(families)) // the scraper left: the next scrape will do
}

// renderMetrics writes the text format, sorted, so that two scrapes of the same state are the same bytes. What has no valid name is
// left out: one bad family must not cost all the others.
func renderMetrics(families []Family) []byte {
	sort.Slice(families, func(i, j int) bool { return families[i].Name < families[j].Name })
	var b bytes.Buffer
	last := ""
	for _, f := range families {
		if !metricName.MatchString(f.Name) || f.Name == last {
			continue
		}
		last = f.Name
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", f.Name, escapeHelp(f.Help), f.Name, f.Type)
		lines := make([]string, 0, len(f.Samples))
		for _, s := range f.Samples {
			lines = append(lines, f.Name+labels(s.Labels)+" "+number(s.Value)+"\n")
		}
		sort.Strings(lines)
		for _, line := range lines {
			b.WriteString(line)
		}
	}
	return b.Bytes()
}

func labels(m map[string]string) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		if metricName.MatchString(k) {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return ""
	}
	sort.Strings(keys)
	parts := make([]string, 0, len(keys))
	for _, k := range keys {
		parts = append(parts, k+`="`+escapeLabel(m[k])+`"`)
	}
	return "{" + strings.Join(parts, ",") + "}"
}

var (
	labelEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	helpEscaper  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
)

func escapeLabel(s string) string { return labelEscaper.Replace(strings.ToValidUTF8(s, "�")) }

func escapeHelp(s string) string { return helpEscaper.Replace(strings.ToValidUTF8(s, "�")) }

func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "NaN"
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

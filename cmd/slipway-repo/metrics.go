package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// figures is a file in Prometheus' text format. Names are documented in docs/maintainers-manual.md.
type figures struct{ bytes.Buffer }

// family is a gauge, which begins with its first sample.
func (f *figures) family(name, help string) func(value float64, labels ...string) {
	begun := false
	return func(value float64, labels ...string) {
		if !begun {
			fmt.Fprintf(f, "# HELP slipway_repo_%s %s\n# TYPE slipway_repo_%s gauge\n", name, help, name)
			begun = true
		}
		f.WriteString("slipway_repo_" + name)
		for i := 0; i+1 < len(labels); i += 2 {
			open := ","
			if i == 0 {
				open = "{"
			}
			fmt.Fprintf(f, `%s%s="%s"`, open, labels[i], escapeLabel.Replace(labels[i+1]))
		}
		if len(labels) > 0 {
			f.WriteString("}")
		}
		f.WriteString(" " + strconv.FormatFloat(value, 'f', -1, 64) + "\n")
	}
}

var escapeLabel = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (a *statusAnswer) prometheus(now time.Time) []byte {
	var f figures
	at := f.family("role_expiry_timestamp_seconds", "When the role's published signature expires, as Unix time.")
	for _, r := range a.Roles {
		if r.Version > 0 {
			at(float64(r.Expires.Unix()), "role", r.Role)
		}
	}
	left := f.family("role_seconds_to_expiry", "How long the role's published signature still held when this file was written; negative once expired.")
	for _, r := range a.Roles {
		if r.Version > 0 {
			left(float64(a.Expiry[r.Role]), "role", r.Role)
		}
	}
	version := f.family("role_version", "The role's published version; 0 if it has signed nothing yet.")
	for _, r := range a.Roles {
		version(float64(r.Version), "role", r.Role)
	}
	a.freshness(&f, now)
	current := f.family("destination_current", "1 if the destination has what this directory has published, 0 if it lags, differs or cannot be asked.")
	for _, d := range a.Destinations {
		current(oneIf(d.Current), "destination", d.Destination)
	}
	there := f.family("destination_timestamp_version", "The timestamp version at the destination; 0 if none or unknown.")
	for _, d := range a.Destinations {
		there(float64(d.Timestamp), "destination", d.Destination)
	}
	f.family("open_changes", "Changes that wait for signatures or for a publish.")(float64(len(a.Changes)))
	f.family("publish_interrupted", "1 while an interrupted publish waits to be finished.")(oneIf(a.Begun != ""))
	f.family("attention", "How many things need attention, as status counts them.")(float64(len(a.Attention)))
	f.family("status_timestamp_seconds", "When this file was written, as Unix time.")(float64(now.Unix()))
	return f.Bytes()
}

// freshness has no samples before the first publish, which is when there is no timestamp.
func (a *statusAnswer) freshness(f *figures, now time.Time) {
	if a.Issued.IsZero() {
		return
	}
	f.family("timestamp_issued_timestamp_seconds", "When the published timestamp was signed, as Unix time.")(float64(a.Issued.Unix()))
	f.family("refresh_due_timestamp_seconds", "When refresh must sign the timestamp again, as Unix time.")(float64(a.Due.Unix()))
	f.family("refresh_overdue", "1 if refresh should have signed already.")(oneIf(now.After(a.Due)))
	f.family("freshness_seconds", "The strictest freshness of a deployment in force; 0 if none asks for any.")(a.Freshness.Std().Seconds())
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

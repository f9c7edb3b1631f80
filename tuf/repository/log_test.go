package repository_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

func (f *fixture) log(o repository.LogOptions) []string {
	f.t.Helper()
	entries, err := f.r.Log(context.Background(), o)
	f.ok(err)
	var out []string
	for _, e := range entries {
		line := e.Summary
		for _, r := range e.Roles {
			line += fmt.Sprintf(" | %s %d", r.Role, r.Version)
			for _, s := range r.Signed {
				line += " " + strings.Fields(s.Key)[0]
			}
		}
		out = append(out, line)
	}
	return out
}

func TestTheLogTellsWhoseSignaturesWerePublished(t *testing.T) {
	t.Parallel()
	f := running(t)
	f.now = f.now.Add(time.Hour)
	since := f.now.Truncate(time.Second)
	c, err := f.r.NewDeployment(context.Background(), repository.Wish{App: billing, Environment: production, Version: version("1.0.0"),
		Document: release.Deployment{State: release.StatePaused}, Origin: repository.Origin{RequestedBy: "dora"}})
	f.ok(err)
	f.sign(c, "ben", "cem", "ann")
	f.publish()
	entries, err := f.r.Log(context.Background(), repository.LogOptions{Role: deployRole})
	f.ok(err)
	if len(entries) != 2 {
		t.Fatalf("got %+v", entries)
	}
	e := entries[0]
	if e.ID != c.ID || e.RequestedBy != "dora" || len(e.Roles) != 1 || len(e.Roles[0].Signed) != 3 || e.Roles[0].Signed[0].At.IsZero() || e.Words == nil || e.At.Before(since) {
		t.Errorf("got %+v", e)
	}
	if all := f.log(repository.LogOptions{}); len(all) < 4 || !strings.HasPrefix(all[len(all)-1], "create the repository | root 1 ") {
		t.Errorf("got %q", all)
	}
	if recent := f.log(repository.LogOptions{Since: since}); len(recent) != 1 {
		t.Errorf("got %q", recent)
	}
}

func TestTheLogSurvivesTheLossOfMetadataAndOfRecords(t *testing.T) {
	t.Parallel()
	f := aged(t)
	all := f.log(repository.LogOptions{})
	f.refreshAt(8 * 24 * time.Hour)
	f.gc(repository.GarbageOptions{Delete: true})
	if after := f.log(repository.LogOptions{}); strings.Join(after, "\n") != strings.Join(all, "\n") {
		t.Errorf("after gc\n%s\nwant\n%s", strings.Join(after, "\n"), strings.Join(all, "\n"))
	}
	records := must(filepath.Glob(filepath.Join(f.dir, "changes", "published", "*-renew-*")))
	if len(records) != 1 {
		t.Fatal(records)
	}
	f.ok(os.RemoveAll(records[0]))
	found := strings.Join(f.log(repository.LogOptions{Role: "root"}), "\n")
	if !strings.Contains(found, "in the metadata, by no change that is kept here | root 2 ") || !strings.Contains(found, "alice") {
		t.Errorf("got %s", found)
	}
}

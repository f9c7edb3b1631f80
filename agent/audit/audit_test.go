package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/audit"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string) *audit.File {
	t.Helper()
	f, err := audit.OpenFile(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// read returns the messages of the log's whole lines, and how many lines cannot be read.
func read(t *testing.T, path string) (messages []string, torn int) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	if len(data) > 0 && !bytes.HasSuffix(data, []byte("\n")) {
		t.Errorf("the log ends in %q", data[max(0, len(data)-40):])
	}
	for line := range bytes.Lines(data) {
		var e audit.Event
		if json.Unmarshal(line, &e) != nil {
			torn++
			continue
		}
		messages = append(messages, e.Message)
	}
	return messages, torn
}

func TestEventsAreLinesThatOutliveTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "log")
	e := audit.Event{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Type: "phase", App: "billing", Phase: "trial", Sequence: 3,
		Message: "two\nlines and \u2028 more", Fields: map[string]string{"result": "x"},
	}
	f := open(t, path)
	must(t, f.Append(e))
	must(t, f.Close())
	must(t, open(t, path).Append(audit.Event{Message: "later"}))
	got, torn := read(t, path)
	if len(got) != 2 || got[0] != e.Message || got[1] != "later" || torn != 0 {
		t.Errorf("got %q, %d torn", got, torn)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
}

func TestALineThatACrashCutShortCostsOnlyItself(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	must(t, open(t, path).Append(audit.Event{Message: "whole"}))
	data, err := os.ReadFile(path)
	must(t, err)
	for cut := 1; cut < len(data); cut++ {
		must(t, os.WriteFile(path, append(bytes.Clone(data), data[:cut]...), 0o640))
		f := open(t, path)
		must(t, f.Append(audit.Event{Message: "after"}))
		must(t, f.Append(audit.Event{Message: "and again"}))
		must(t, f.Close())
		got, torn := read(t, path)
		want := "whole after and again"
		if cut == len(data)-1 { // only the newline was lost
			want = "whole whole after and again"
		}
		if strings.Join(got, " ") != want || torn > 1 {
			t.Fatalf("cut at %d: %q, %d torn", cut, got, torn)
		}
	}
}

func TestConcurrentAppendsNeverMix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	files := []*audit.File{open(t, path), open(t, path)} // two processes: daemon and guard
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 25 {
				if err := files[i%2].Append(audit.Event{Message: fmt.Sprintf("%d.%d %s", i, n, strings.Repeat("x", 500))}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got, torn := read(t, path)
	seen := map[string]bool{}
	for _, m := range got {
		seen[m] = true
	}
	if len(seen) != 200 || torn != 0 {
		t.Errorf("%d events, %d torn", len(seen), torn)
	}
}

type failing struct{ appended int }

func (f *failing) Append(audit.Event) error { f.appended++; return errors.New("full") }

func TestAFullSinkKeepsNoOtherFromItsCopy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	bad := &failing{}
	err := audit.Multi{bad, open(t, path), bad}.Append(audit.Event{Message: "kept"})
	if got, _ := read(t, path); len(got) != 1 || err == nil || bad.appended != 2 || strings.Count(err.Error(), "full") != 2 {
		t.Errorf("%q, %v, %d", got, err, bad.appended)
	}
	must(t, audit.Multi{}.Append(audit.Event{}))
}

func TestALogThatCannotBeWrittenSaysSo(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "log"))
	must(t, f.Close())
	if err := f.Append(audit.Event{}); err == nil || !strings.HasPrefix(err.Error(), "cannot write the audit log") {
		t.Errorf("got %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if _, err := audit.OpenFile(filepath.Join(file, "log")); err == nil || !strings.HasPrefix(err.Error(), "cannot open the audit log") {
		t.Errorf("got %v", err)
	}
}

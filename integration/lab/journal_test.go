package lab

import (
	"errors"
	"strings"
	"testing"
)

func TestJournalLinesOfEveryShapeAreRead(t *testing.T) {
	line := `{"__CURSOR":"c1","__REALTIME_TIMESTAMP":"1000000","__MONOTONIC_TIMESTAMP":"2500000","_BOOT_ID":"b","_PID":"12",` +
		`"PRIORITY":"6","SYSLOG_IDENTIFIER":"x","MESSAGE":[104,105],"_SYSTEMD_UNIT":"init.scope","UNIT":"a.service","TWICE":["one","two"],"GONE":null}`
	e, err := parseEntry([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	if e.Message != "hi" || e.Unit != "a.service" || e.PID != 12 || e.Priority != 6 || e.Boot != "b" || e.Cursor != "c1" {
		t.Errorf("got %+v", e)
	}
	if e.Fields["TWICE"] != "one" || e.Fields["GONE"] != "" {
		t.Errorf("fields: %v", e.Fields)
	}
	if e.Monotonic.Seconds() != 2.5 || e.Time.Unix() != 1 {
		t.Errorf("times: %v %v", e.Monotonic, e.Time)
	}
	if _, err := parseEntry([]byte("-- no json")); err == nil || !strings.Contains(err.Error(), "no json") {
		t.Errorf("a line that is not JSON: %v", err)
	}
}

func TestInOrderWantsTheMessagesOneAfterAnother(t *testing.T) {
	entries := []Entry{{Message: "stage"}, {Message: "noise"}, {Message: "activate"}, {Message: "commit"}}
	if found, err := InOrder(entries, "stage", "^activate$", "commit"); err != nil || len(found) != 3 {
		t.Errorf("right order: %v %v", found, err)
	}
	for _, wrong := range [][]string{{"activate", "stage"}, {"commit", "commit"}, {"revert"}} {
		if _, err := InOrder(entries, wrong...); !errors.Is(err, ErrOutOfOrder) {
			t.Errorf("%v: got %v, want ErrOutOfOrder", wrong, err)
		}
	}
}

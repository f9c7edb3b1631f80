package main

import (
	"strings"
	"testing"
)

const pkg = `"Package":"example.com/x/agent/store"`

func TestWhatWasLeftOutIsNamedWithItsReason(t *testing.T) {
	t.Setenv("SLIPWAY_TEST_NOTHING_SKIPPED", "")
	var out strings.Builder
	code := summarize(strings.NewReader(strings.Join([]string{
		`{"Action":"run",` + pkg + `,"Test":"TestA"}`,
		`{"Action":"output",` + pkg + `,"Test":"TestA","Output":"=== RUN   TestA\n"}`,
		`{"Action":"output",` + pkg + `,"Test":"TestA","Output":"    main_test.go:212: needs root: TestA mounts\n"}`,
		`{"Action":"output",` + pkg + `,"Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}`,
		`{"Action":"skip",` + pkg + `,"Test":"TestA"}`,
		`{"Action":"output",` + pkg + `,"Test":"TestB","Output":"noise\n"}`,
		`{"Action":"pass",` + pkg + `,"Test":"TestB"}`,
		`{"Action":"pass",` + pkg + `,"Elapsed":1.5}`,
	}, "\n")), &out, "b: nobody asked")
	want := "ok    agent/store  1.5s\n\n1 passed, 0 failed, 1 left out\n  left out: b: nobody asked\n  left out: needs root: it mounts\n    agent/store TestA\n"
	if code != 0 || out.String() != want {
		t.Errorf("code %d:\n%s\nwant:\n%s", code, &out, want)
	}
}

func TestWhereNothingMayBeLeftOutWhatIsLeftOutFails(t *testing.T) {
	const passed = `{"Action":"pass",` + pkg + `,"Test":"TestB"}`
	const skipped = `{"Action":"skip",` + pkg + `,"Test":"TestA"}`
	for _, c := range []struct {
		must, in string
		notes    []string
		code     int
	}{
		{"1", passed, nil, 0},
		{"1", passed + "\n" + skipped, nil, 1},
		{"1", passed, []string{"agent: it needs root"}, 1},
		{"", passed + "\n" + skipped, []string{"agent: it needs root"}, 0},
	} {
		t.Setenv("SLIPWAY_TEST_NOTHING_SKIPPED", c.must)
		var out strings.Builder
		if code := summarize(strings.NewReader(c.in), &out, c.notes...); code != c.code {
			t.Errorf("%+v: code %d, output %s", c, code, &out)
		}
	}
}

func TestCasesOfATestAreCountedAndNotNamed(t *testing.T) {
	got := grouped([]string{"agent/store TestA/a", "agent/store TestA/b/c", "agent TestA", "agent/store TestB"})
	if want := "agent/store TestA (2 cases)|agent TestA|agent/store TestB"; strings.Join(got, "|") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAFailureShowsItsOutputAndEndsWithOne(t *testing.T) {
	for name, one := range map[string]struct{ in, want string }{
		"a test": {`{"Action":"output",` + pkg + `,"Test":"TestA","Output":"got 1, want 2\n"}
{"Action":"fail",` + pkg + `,"Test":"TestA"}
{"Action":"fail",` + pkg + `}`, "got 1, want 2"},
		"a panic": {`{"Action":"output",` + pkg + `,"Test":"TestA","Output":"panic: ouch\n"}
{"Action":"fail",` + pkg + `}`, "panic: ouch"},
		"a build": {`{"Action":"build-output","ImportPath":"x","Output":"undefined: y\n"}
{"Action":"build-fail","ImportPath":"x"}`, "undefined: y"},
		"go itself": {"go: cannot find module\n", "cannot find module"},
		"nothing":   {"", "no test has run"},
	} {
		var out strings.Builder
		if code := summarize(strings.NewReader(one.in), &out); code != 1 || !strings.Contains(out.String(), one.want) {
			t.Errorf("%s: code %d, output %s", name, code, &out)
		}
	}
}

func TestTheListOfFailuresSaysWhatEachFirstComplainedOf(t *testing.T) {
	var out strings.Builder
	summarize(strings.NewReader(`{"Action":"output",`+pkg+`,"Test":"TestA","Output":"    main_test.go:9: got 1, want 2\n"}
{"Action":"output",`+pkg+`,"Test":"TestA","Output":"    lab.go:1: a long dump\n"}
{"Action":"fail",`+pkg+`,"Test":"TestA"}`), &out)
	if !strings.HasSuffix(out.String(), "  failed: agent/store TestA\n    got 1, want 2\n") {
		t.Errorf("output:\n%s", &out)
	}
}

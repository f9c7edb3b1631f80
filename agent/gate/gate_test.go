package gate_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/gate"
	"github.com/slipway-deploy/slipway/agent/release"
)

type fake struct {
	name   string
	answer error
	asked  *[]string
}

func (f fake) Name() string { return f.name }

func (f fake) Check(_ context.Context, s gate.Subject) error {
	*f.asked = append(*f.asked, f.name+" about "+s.App.String())
	return f.answer
}

func TestTheMostConservativeAnswerWinsAndEveryGateIsAsked(t *testing.T) {
	app, err := release.ParseApp("billing")
	if err != nil {
		t.Fatal(err)
	}
	denied := func(g string) error { return &gate.Denied{Gate: g, Reason: "bad"} }
	deferred := &gate.Deferred{Gate: "b", Reason: "busy", Until: time.Unix(1, 0)}
	broken := errors.New("no such file")
	for _, c := range []struct {
		answers []error
		kinds   string // of the joined answers, in order
		holds   string
	}{
		{nil, "", ""},
		{[]error{nil, nil}, "", ""},
		{[]error{nil, deferred}, "gate-deferred", "gate b is not ready: busy"},
		{[]error{deferred, broken}, "", "cannot ask gate g1: no such file"},
		{[]error{broken, deferred, denied("c")}, "gate-denied", "gate c refuses the release: bad"},
		{[]error{denied("a"), nil, denied("c")}, "gate-denied", "gate a refuses the release: bad\ngate c refuses the release: bad"},
		{[]error{fmt.Errorf("wrapped: %w", denied("a")), broken}, "gate-denied", "wrapped: gate a refuses the release: bad"},
	} {
		var asked []string
		var gates []gate.Gate
		for i, a := range c.answers {
			gates = append(gates, fake{fmt.Sprint("g", i), a, &asked})
		}
		err := gate.All(context.Background(), gates, gate.Subject{App: app})
		if text := fmt.Sprint(err); (err == nil) != (c.holds == "") || err != nil && text != c.holds {
			t.Errorf("%v: got %q, want %q", c.answers, text, c.holds)
		}
		var k interface{ Kind() string }
		if errors.As(err, &k) && k.Kind() != c.kinds || c.kinds != "" && k == nil {
			t.Errorf("%v: kind of %v is not %q", c.answers, err, c.kinds)
		}
		if len(asked) != len(gates) {
			t.Errorf("%v: asked only %s", c.answers, strings.Join(asked, ", "))
		}
	}
}

func TestADeferralKeepsItsTime(t *testing.T) {
	var asked []string
	until := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	err := gate.All(context.Background(), []gate.Gate{fake{"g", &gate.Deferred{Gate: "g", Until: until}, &asked}}, gate.Subject{})
	var later *gate.Deferred
	if !errors.As(err, &later) || !later.Until.Equal(until) {
		t.Errorf("got %v", err)
	}
}

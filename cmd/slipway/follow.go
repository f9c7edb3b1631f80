package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
)

// followEvery is how often the state is asked for, startsWithin how long the daemon may take to begin what it has accepted, and
// lostFor how long it may be away (it may be upgraded under an attempt).
const (
	followEvery  = 400 * time.Millisecond
	startsWithin = 3 * time.Second
	lostFor      = time.Minute
)

// follow shows an attempt until the daemon is no longer at work on it, and ends with the outcome's exit code. want is the result
// that counts as done.
func (c *cli) follow(ctx context.Context, before api.AppStatus, want string) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	var lost time.Time
	begun, line := time.Now(), ""
	for {
		a, err := c.api().App(ctx, before.App)
		var e *api.Error
		switch {
		case ctx.Err() != nil:
			c.clearLine()
			c.hint("the daemon goes on by itself; look with slipway status %s", before.App)
			return ended{exitFailed}
		case err == nil && !a.Busy && line == "" && !newOutcome(before, a) && time.Since(begun) < startsWithin:
		case err == nil && !a.Busy:
			c.clearLine()
			return c.verdict(before, a, want)
		case err == nil:
			lost = time.Time{}
			line = c.progressLine(a, line)
		case errors.As(err, &e) && (e.Kind() == api.KindUnreachable || e.Kind() == api.KindUnavailable):
			if lost.IsZero() {
				lost = time.Now()
			}
			if time.Since(lost) > lostFor {
				return err
			}
		default:
			return err
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// progressLine redraws one line on a terminal; elsewhere each new sentence is a line of its own, without numbers that change at
// every look.
func (c *cli) progressLine(a api.AppStatus, last string) string {
	if c.errTTY {
		text := a.Why
		if a.Progress != nil {
			text = progressText(*a.Progress)
		}
		fmt.Fprintf(c.err, "\r\x1b[K%s: %s", clean(a.App), clean(text))
		return text
	}
	text := a.Phase
	if a.Progress != nil {
		text += ": " + a.Progress.Step
	}
	if text != last {
		c.say("%s: %s", a.App, text)
	}
	return text
}

func (c *cli) clearLine() {
	if c.errTTY {
		fmt.Fprint(c.err, "\r\x1b[K")
	}
}

// newOutcome tells whether an attempt ended since before.
func newOutcome(before, after api.AppStatus) bool {
	o, old := after.LastOutcome, before.LastOutcome
	return o != nil && (old == nil || o.Attempt != old.Attempt || !o.At.Equal(old.At))
}

func (c *cli) verdict(before, after api.AppStatus, want string) error {
	if c.json {
		if err := c.printJSON(after); err != nil {
			return err
		}
	}
	o := after.LastOutcome
	if !newOutcome(before, after) {
		if !c.json {
			fmt.Fprintln(c.out, clean(after.Why))
		}
		return nil
	}
	if o.Result == want || o.Result == api.ResultRemoved {
		if !c.json {
			fmt.Fprintln(c.out, clean(o.Message))
		}
		return nil
	}
	code := exitFailed
	if o.Result == api.ResultRefused {
		code = exitRefused
	}
	fmt.Fprintf(c.err, "slipway: %s %s\n", c.paint(c.errTTY, red, "error:"), clean(o.Message))
	c.hint("slipway logs %s shows what the service said", after.App)
	return ended{code}
}

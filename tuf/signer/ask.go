package signer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"
)

// timeout is how long a program has for one request, long enough to find a card and type a PIN; grace is what it has from
// SIGTERM to SIGKILL, and what its children have to let go of its output.
var timeout, grace = 5 * time.Minute, 5 * time.Second

// Program is a signer to ask. It is run as Command says, with this process's environment and terminal.
type Program struct {
	// Command is the program and its arguments. Without a slash the program is looked up in PATH.
	Command []string
	// Stderr gets what the program has to say to the person; nil discards it.
	Stderr io.Writer
}

// Ask runs the program once. Every error is an *Error. Cancelling ctx ends the program.
func (p Program) Ask(ctx context.Context, q Request) (Answer, error) {
	q.Schema = requestSchema
	data, err := json.Marshal(q)
	if err != nil || len(data) >= maxRequest {
		return Answer{}, p.fail(q, Failed, fmt.Sprintf("was not asked: a request has at most %d bytes, this one %d", maxRequest, len(data)), err)
	}
	out, err := p.run(ctx, q, append(data, '\n'))
	if err != nil {
		return Answer{}, err
	}
	var a Answer
	if err := decode(out, maxAnswer, &a); err != nil {
		return Answer{}, p.fail(q, BadAnswer, "gave a malformed answer", err)
	}
	if err := a.check(q.Operation); err != nil {
		return Answer{}, p.fail(q, BadAnswer, "gave a malformed answer", err)
	}
	return a, nil
}

var errTooLong, errTooLate = errors.New("too long"), errors.New("too late")

func (p Program) run(ctx context.Context, q Request, in []byte) ([]byte, error) {
	if len(p.Command) == 0 || p.Command[0] == "" {
		return nil, p.fail(q, Failed, "was not started", errors.New("no program is named"))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTooLate)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	out := &bounded{limit: maxAnswer, full: func() { stop(errTooLong) }}
	cmd := exec.CommandContext(ctx, p.Command[0], p.Command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), out, p.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = grace
	if err := cmd.Start(); err != nil {
		return nil, p.fail(q, Failed, "was not started", err)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errTooLong):
		return nil, p.fail(q, BadAnswer, fmt.Sprintf("gave a malformed answer: it is longer than %d bytes", maxAnswer), nil)
	case errors.Is(cause, errTooLate):
		return nil, p.fail(q, TimedOut, fmt.Sprintf("did not answer within %s", timeout), nil)
	case cause != nil:
		return nil, p.fail(q, Failed, "was interrupted", cause)
	case errors.Is(err, exec.ErrWaitDelay):
		return nil, p.fail(q, BadAnswer, "ended, and something it started holds its output open", nil)
	case errors.As(err, &exit):
		return nil, p.exited(q, exit)
	case err != nil:
		return nil, p.fail(q, Failed, "was not run to its end", err)
	}
	return out.kept, nil
}

func (p Program) exited(q Request, exit *exec.ExitError) error {
	switch code := exit.ExitCode(); code {
	case ExitRefused:
		return p.fail(q, Refused, fmt.Sprintf("refused (exit code %d)", code), nil)
	case ExitUnavailable:
		return p.fail(q, Unavailable, fmt.Sprintf("cannot now (exit code %d): try again", code), nil)
	}
	return p.fail(q, Failed, "failed ("+exit.String()+")", nil)
}

func (p Program) fail(q Request, r Reason, what string, err error) error {
	name := "the program"
	if len(p.Command) > 0 {
		name = p.Command[0]
	}
	return &Error{Program: name, Operation: q.Operation, Reason: r, what: what, err: err}
}

// bounded keeps what fits, and says once when something does not. It must not be an io.ReaderFrom, as a bytes.Buffer is: a copy
// would go past Write.
type bounded struct {
	kept  []byte
	limit int
	full  func()
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.kept)+len(p) > b.limit {
		b.full()
		return 0, errTooLong
	}
	b.kept = append(b.kept, p...)
	return len(p), nil
}

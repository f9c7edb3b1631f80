package signer

import (
	"errors"
	"fmt"
)

// The exit codes that a program may say more with than "it failed".
const (
	// ExitRefused: the person or the device said no. Asking again without a change is no use, and may lock a PIN.
	ExitRefused = 3
	// ExitUnavailable: the device or service is not there now. Asking again may help.
	ExitUnavailable = 75
)

// Reason is why there is no answer.
type Reason string

// The reasons, as errors and logs call them.
const (
	Failed      Reason = "signer-failed"
	Refused     Reason = "signer-refused"
	Unavailable Reason = "signer-unavailable"
	BadAnswer   Reason = "signer-answer"
	TimedOut    Reason = "signer-timeout"
)

// What a Backend's error wraps to say more than "it failed".
var (
	// ErrRefused: the person or the device said no.
	ErrRefused = errors.New("refused")
	// ErrUnavailable: the device or service is not there now.
	ErrUnavailable = errors.New("not available now")
)

// Error means that a program gave no answer that can be used.
type Error struct {
	Program   string
	Operation Operation
	Reason    Reason
	what      string
	err       error
}

func (e *Error) Error() string {
	object := "a signature"
	if e.Operation == PublicKey {
		object = "its public key"
	}
	s := fmt.Sprintf("program %s, asked for %s, %s", e.Program, object, e.what)
	if e.err != nil {
		s += ": " + e.err.Error()
	}
	return s
}

// Unwrap is the cause, if there is one beside the program's own word.
func (e *Error) Unwrap() error { return e.err }

// Kind is the class of the error for logs and metrics.
func (e *Error) Kind() string { return string(e.Reason) }

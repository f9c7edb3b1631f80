package signer

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Backend is where one key is.
type Backend interface {
	// PublicKey reads the key; it should ask the person for nothing.
	PublicKey(ctx context.Context) (crypto.PublicKey, error)
	// Sign answers a request whose algorithm and digest were checked. It must fail if the key it has is not q.PublicKey.
	Sign(ctx context.Context, q Request) ([]byte, error)
}

// Serve is a program's side: it reads one request, lets b answer it, and writes the answer. Nothing is written on an error;
// ExitCode says how to exit.
func Serve(ctx context.Context, in io.Reader, out io.Writer, b Backend) error {
	q, err := ReadRequest(in)
	if err != nil {
		return err
	}
	a := Answer{Schema: answerSchema}
	if q.Operation == PublicKey {
		key, err := b.PublicKey(ctx)
		if err != nil {
			return err
		}
		if _, err := AlgorithmOf(key); err != nil {
			return fmt.Errorf("cannot sign with this key: %w", err)
		}
		if a.PublicKey, err = EncodeKey(key); err != nil {
			return err
		}
	} else if a.Signature, err = b.Sign(ctx, q); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(a)
}

// ExitCode is how a program says that it ended with err.
func ExitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrRefused):
		return ExitRefused
	case errors.Is(err, ErrUnavailable):
		return ExitUnavailable
	}
	return 1
}

package fleet

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
)

// Client speaks to hubs: HTTPS with TLS 1.3 and a certificate on both sides, no redirects, bounded time and size.
type Client struct{ link *link }

var _ Transport = (*Client)(nil)

// NewClient makes a client. It opens no file and no connection.
func NewClient(o Options) (*Client, error) {
	l, err := newLink(o, tls.VersionTLS13, "https")
	if err != nil {
		return nil, err
	}
	return &Client{link: l}, nil
}

// Turn implements Transport.
func (c *Client) Turn(ctx context.Context, t Turn) (a TurnAnswer, err error) {
	err = c.Call(ctx, PathTurn, t, &a)
	return a, err
}

// Check implements Transport.
func (c *Client) Check(ctx context.Context, q Check) (a CheckAnswer, err error) {
	err = c.Call(ctx, PathCheck, q, &a)
	return a, err
}

// Finish implements Transport.
func (c *Client) Finish(ctx context.Context, f Finish) (a FinishAnswer, err error) {
	err = c.Call(ctx, PathFinish, f, &a)
	return a, err
}

// Enroll asks for a first certificate; the client has none.
func (c *Client) Enroll(ctx context.Context, e Enroll) (a EnrollAnswer, err error) {
	err = c.call(ctx, PathEnroll, e, &a, MaxEnrollAnswer)
	return a, err
}

// Renew asks for the next certificate.
func (c *Client) Renew(ctx context.Context, r Renew) (a Issued, err error) {
	err = c.call(ctx, PathRenew, r, &a, MaxEnrollAnswer)
	return a, err
}

// Call posts in and reads the answer into out, which must be a pointer. Its errors are those of Transport.
func (c *Client) Call(ctx context.Context, path string, in, out any) error {
	return c.call(ctx, path, in, out, MaxBody)
}

func (c *Client) call(ctx context.Context, path string, in, out any, limit int64) error {
	return c.link.post(ctx, path, nil, in, limit, func(r reply) error { return r.decode(out) })
}

// decode takes a hub's answer apart. What no hub says (a page of a proxy, a redirect, half a JSON value) is no answer, and
// neither is a hub's word that it cannot reach its own store.
func (r reply) decode(out any) error {
	if r.status == http.StatusOK {
		if err := json.Unmarshal(r.body, out); err != nil {
			return notAnAnswer{fmt.Errorf("that is no answer of a hub: %w", err)}
		}
		return nil
	}
	var e Error
	if err := json.Unmarshal(r.body, &e); err != nil || e.Kind == "" || r.status < 400 {
		return notAnAnswer{fmt.Errorf("that is no answer of a hub: status %d", r.status)}
	}
	if r.status >= 500 {
		return notAnAnswer{&RefusedError{Status: r.status, Reply: e}}
	}
	return &RefusedError{Status: r.status, Reply: e, After: retryAfter(r.header)}
}

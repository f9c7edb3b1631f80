package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// localTimeout bounds a question to the hub on this machine; a snapshot takes as long as its bytes.
const localTimeout = 30 * time.Second

// maxLocalAnswer bounds what is read of an answer: a roster of a hundred thousand hosts has some 40 MB.
const maxLocalAnswer = 256 << 20

// local asks the hub that runs on this machine, over its socket.
func (t *tool) local(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, localTimeout)
	defer cancel()
	resp, err := t.localRequest(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxLocalAnswer))
	if err == nil {
		err = json.Unmarshal(data, out)
	}
	if err != nil {
		return fmt.Errorf("cannot read the hub's answer: %w", err)
	}
	return nil
}

// localRequest returns a good answer, whose body the caller closes, or the hub's error.
func (t *tool) localRequest(ctx context.Context, method, path string, in any) (*http.Response, error) {
	cfg, err := t.config()
	if err != nil {
		return nil, err
	}
	socket := cfg.Paths.Socket()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://slipway-hub"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, notThere(socket, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	e := &fleet.Error{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, fleet.MaxBody)).Decode(e); err != nil || e.Kind == "" {
		return nil, fmt.Errorf("cannot read the hub's answer: status %s", resp.Status)
	}
	return nil, e
}

func notThere(socket string, err error) error {
	e := &fleet.Error{Kind: fleet.KindUnreachable, Message: fmt.Sprintf("cannot reach the hub on this machine at %s: %v", socket, err), Hint: "systemctl status slipway-hub"}
	switch {
	case errors.Is(err, os.ErrPermission):
		e.Kind, e.Hint = fleet.KindForbidden, "only root and the user "+hubUser+" may use it"
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		e.Message, e.Hint = "no hub runs on this machine (nobody answers at "+socket+")", "systemctl start slipway-hub"
	}
	return e
}

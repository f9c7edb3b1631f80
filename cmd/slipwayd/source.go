package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/client"
)

// source is the agent's one way to the network: signed documents through the TUF client, payloads through it into the safe
// unpacker.
type source struct {
	mu     sync.Mutex
	c      *client.Client
	quiet  *time.Timer
	failed error // how the last refresh failed
}

// quietAfter is how long after the last large work its memory goes back to the system. The runtime would keep it for minutes,
// and on most hosts the next release is days away.
const quietAfter = 10 * time.Second

func (s *source) busy() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.quiet == nil {
		s.quiet = time.AfterFunc(quietAfter, debug.FreeOSMemory)
		return
	}
	s.quiet.Reset(quietAfter)
}

func (s *source) client() (*client.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		return nil, errors.New("cannot reach a repository: none is configured")
	}
	return s.c, nil
}

func (s *source) use(c *client.Client) {
	s.mu.Lock()
	s.c = c
	s.mu.Unlock()
}

// Refresh implements agent.Source.
func (s *source) Refresh(ctx context.Context) (agent.Metadata, error) {
	c, err := s.client()
	if err != nil {
		return agent.Metadata{}, err
	}
	t, err := c.Refresh(ctx)
	s.mu.Lock()
	s.failed = err
	s.mu.Unlock()
	if err == nil {
		if t.Changed {
			s.busy()
		}
		return metadata(t), nil
	}
	if known, kerr := c.Trusted(); kerr == nil {
		t = known
	}
	return metadata(t), agentError(err)
}

// Known implements agent.Source.
func (s *source) Known(context.Context) (agent.Metadata, error) {
	c, err := s.client()
	if err != nil {
		return agent.Metadata{}, err
	}
	t, err := c.Trusted()
	if none := new(client.ErrNoTrust); errors.As(err, &none) {
		// That nothing is known is no news; why the last refresh brought nothing is.
		s.mu.Lock()
		defer s.mu.Unlock()
		err = cmp.Or(s.failed, err)
	}
	return metadata(t), agentError(err)
}

func metadata(t client.Trusted) agent.Metadata {
	return agent.Metadata{
		Issued: t.Issued, Verified: t.Checked, Changed: t.Changed, Expires: t.Expires, Bundle: t.Bundle,
		Versions: map[string]int64{"root": t.Root, "timestamp": t.Timestamp, "snapshot": t.Snapshot, "targets": t.Targets},
	}
}

// Document implements agent.Source.
func (s *source) Document(ctx context.Context, path string) (agent.Document, error) {
	c, err := s.client()
	if err != nil {
		return agent.Document{}, err
	}
	t, err := c.Lookup(ctx, path)
	if err != nil {
		return agent.Document{}, agentError(err)
	}
	data, err := c.Read(ctx, t)
	if err != nil {
		return agent.Document{}, agentError(err)
	}
	return agent.Document{Path: path, Bytes: data, Roles: t.Roles, KeyIDs: t.KeyIDs, AllKeyIDs: t.MayIDs}, nil
}

// agentError translates the two answers the machine acts on.
func agentError(err error) error {
	if missing := new(client.ErrNotFound); errors.As(err, &missing) {
		return fmt.Errorf("%w: %s", agent.ErrNoDocument, missing.Path)
	}
	if silent := new(client.ErrUnpublished); errors.As(err, &silent) {
		return fmt.Errorf("%w: %s has published nothing", agent.ErrNoDocument, silent.Role)
	}
	if expired := new(client.ErrExpired); errors.As(err, &expired) {
		return &agent.ExpiredError{Role: expired.Role, At: expired.At}
	}
	return err
}

// Stage implements agent.Source: the archive is hashed while it is unpacked, and every file of it again on its own.
func (s *source) Stage(ctx context.Context, a release.Artifact, dir string, progress func(agent.Progress)) ([]byte, error) {
	c, err := s.client()
	if err != nil {
		return nil, err
	}
	defer s.busy()
	raw, m, err := fetchManifest(ctx, c, a)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	fetched := make(chan error, 1)
	go func() {
		err := c.Fetch(ctx, file(a.Archive), w, func(done int64) {
			progress(agent.Progress{Step: "fetching", Done: done, Total: a.Archive.Length})
		})
		w.CloseWithError(err)
		fetched <- err
	}()
	err = release.Unpack(ctx, r, m, dir, release.UnpackOptions{})
	if bad := new(release.ArchiveError); errors.As(err, &bad) {
		// Whose fault is it? With the digest that was signed it is the publisher's; else a mirror's, which then comes last
		// next time. Only the whole archive can tell.
		io.Copy(io.Discard, r)
	}
	r.CloseWithError(err)
	cancelIf(err != nil, cancel)
	if ferr := <-fetched; ferr != nil && !errors.Is(ferr, context.Canceled) && !errors.Is(ferr, io.ErrClosedPipe) {
		return nil, agentError(ferr)
	}
	if err != nil {
		return nil, err
	}
	return raw, nil
}

func cancelIf(yes bool, cancel func()) {
	if yes {
		cancel()
	}
}

func file(f release.File) client.File {
	return client.File{Path: f.Path, SHA256: f.SHA256.String(), Length: f.Length}
}

// manifestMax bounds what is held in memory of one manifest.
const manifestMax = 64 << 20

func fetchManifest(ctx context.Context, c *client.Client, a release.Artifact) ([]byte, *release.Manifest, error) {
	if a.Manifest.Length > manifestMax {
		return nil, nil, fmt.Errorf("cannot use manifest %s: it has %d bytes, at most %d are allowed", a.Manifest.Path, a.Manifest.Length, manifestMax)
	}
	buf := &buffer{}
	if err := c.Fetch(ctx, file(a.Manifest), buf, func(int64) {}); err != nil {
		return nil, nil, agentError(err)
	}
	m, err := release.ParseManifest(buf.b)
	if err != nil {
		return nil, nil, err
	}
	var bytes, files int64
	for _, e := range m.Entries {
		bytes += e.Size
		files++
	}
	if bytes > a.Unpacked || files > a.Files {
		return nil, nil, fmt.Errorf("cannot use manifest %s: it lists %d bytes in %d entries, the release signs %d in %d", a.Manifest.Path, bytes, files, a.Unpacked, a.Files)
	}
	return buf.b, m, nil
}

type buffer struct{ b []byte }

func (b *buffer) Write(p []byte) (int, error) {
	b.b = append(b.b, p...)
	return len(p), nil
}

package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
)

// File says which bytes to fetch. Path only finds them; the digest and the length, from signed metadata or from a signed
// document, decide whether they are the right ones. At least one digest is required, and every one given must match.
type File struct {
	Path   string
	SHA256 string // hex
	SHA512 string // hex
	Length int64
}

// keptTargets bounds the cache of small targets. The oldest go first.
const keptTargets = 512

// Read returns a small target, at most Limits.Read bytes, from the cache if its digest still matches there.
func (c *Client) Read(ctx context.Context, t Target) ([]byte, error) {
	if t.Length > c.cfg.Limits.Read {
		return nil, &ErrTooLarge{Name: t.Path, Limit: c.cfg.Limits.Read, Got: t.Length}
	}
	cached := ""
	if raw, err := hex.DecodeString(t.SHA256); err == nil && len(raw) == sha256.Size {
		cached = c.cache.path("targets", t.SHA256)
		data, err := os.ReadFile(cached)
		if err == nil && t.File().check(data) == nil {
			return data, nil
		}
	}
	var buf bytes.Buffer
	for range max(2, len(c.cfg.Mirrors)) {
		buf.Reset()
		err := c.Fetch(ctx, t.File(), &buf, nil)
		var corrupt *ErrCorrupt
		if errors.As(err, &corrupt) && ctx.Err() == nil {
			c.log.Warn("a mirror served wrong bytes, trying again", "target", t.Path, "error", err)
			continue
		}
		if err != nil || cached == "" {
			return buf.Bytes(), err
		}
		if err := c.keepTarget(cached, buf.Bytes()); err != nil {
			c.log.Warn("a document is not kept and will be fetched again", "target", t.Path, "error", err)
		}
		return buf.Bytes(), nil
	}
	return nil, &ErrCorrupt{Name: t.Path, Reason: "every attempt brought other bytes than were signed"}
}

func (c *Client) keepTarget(path string, data []byte) error {
	if err := fpTarget.Hit(); err != nil {
		return err
	}
	if err := durable.WriteFile(path, data, 0o644); err != nil {
		return err
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) <= keptTargets {
		return nil
	}
	age := func(e fs.DirEntry) time.Time {
		if info, err := e.Info(); err == nil {
			return info.ModTime()
		}
		return time.Time{}
	}
	slices.SortFunc(files, func(a, b fs.DirEntry) int { return age(a).Compare(age(b)) })
	for _, f := range files[:len(files)-keptTargets] {
		if err := os.Remove(filepath.Join(filepath.Dir(path), f.Name())); err != nil {
			c.log.Debug("cannot prune the target cache", "file", f.Name(), "error", err)
		}
	}
	return nil
}

// Fetch streams a file to w while hashing it. Nothing written is to be trusted before Fetch returned nil. A broken transfer
// goes on where it stopped, on the same or another mirror; wrong bytes cannot be taken back from w, so they end the call
// with ErrCorrupt, and the mirrors that sent them come last next time. progress may be nil.
func (c *Client) Fetch(ctx context.Context, f File, w io.Writer, progress func(done int64)) error {
	return c.stream(ctx, f, &transfer{digest: newDigest(f), w: w, progress: progress})
}

// Download puts a file at dest, all or nothing: bytes gather in dest.part, are synced and renamed over dest once they verify.
// A part left by an earlier call or a crash is hashed and continued. Wrong bytes are discarded and fetched once more from
// the start, other mirrors first.
func (c *Client) Download(ctx context.Context, f File, dest string, progress func(done int64)) error {
	if c.present(f, dest) {
		return nil
	}
	part := dest + ".part"
	for attempt := 1; ; attempt++ {
		err := c.downloadPart(ctx, f, part, progress)
		if err == nil {
			return durable.Rename(part, dest)
		}
		var corrupt *ErrCorrupt
		if !errors.As(err, &corrupt) {
			return err
		}
		if failed := durable.Remove(part); failed != nil || attempt > len(c.cfg.Mirrors) {
			return errors.Join(err, failed)
		}
		c.log.Warn("a download did not verify and starts anew", "target", f.Path, "error", err)
	}
}

func (c *Client) present(f File, dest string) bool {
	file, err := os.Open(dest)
	if err != nil {
		return false
	}
	defer file.Close()
	d := newDigest(f)
	n, err := io.Copy(d, file)
	return err == nil && n == f.Length && d.verify(f) == nil
}

func (c *Client) downloadPart(ctx context.Context, f File, part string, progress func(int64)) error {
	file, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("cannot download %s: %w", f.Path, err)
	}
	defer file.Close()
	t := &transfer{digest: newDigest(f), w: file, progress: progress}
	if t.done, err = io.Copy(t.digest, file); err != nil {
		return fmt.Errorf("cannot continue %s: %w", part, err)
	}
	if t.done > f.Length {
		return &ErrCorrupt{Name: f.Path, Reason: "the part on disk is longer than what was signed"}
	}
	if err := c.stream(ctx, f, t); err != nil {
		return err
	}
	if err := file.Chmod(0o644); err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// transfer is one file on its way: how far it is and what its bytes hash to so far.
type transfer struct {
	*digest
	w        io.Writer
	done     int64
	progress func(int64)
	etag     map[string]string // strong validators by URL, for If-Range
}

// writeError marks our own side's failure: no other mirror can help.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }

// stream brings t to the file's end, mirror by mirror, and verifies it.
func (c *Client) stream(ctx context.Context, f File, t *transfer) error {
	if len(f.SHA256) != 2*sha256.Size && len(f.SHA512) != 2*sha512.Size {
		return &ErrCorrupt{Name: f.Path, Reason: "no digest that can be checked was signed"}
	}
	t.etag = map[string]string{}
	var errs []error
	var senders []int
	order, faults := c.mirrors.targets(), map[int]int{}
	for t.done < f.Length && len(order) > 0 {
		mirror, before := order[0], t.done
		err := c.leg(ctx, mirror, f, t)
		if t.done > before {
			senders = append(senders, mirror)
		}
		if err == nil {
			continue
		}
		var mine writeError
		if errors.As(err, &mine) || ctx.Err() != nil {
			return err
		}
		c.mirrors.blame(mirror, 1)
		c.log.Warn("a mirror broke off", "target", f.Path, "at", t.done, "of", f.Length, "error", err)
		order = order[1:]
		if t.done-before < worthwhile {
			faults[mirror]++
		}
		if t.done > before && faults[mirror] < c.cfg.HTTP.Attempts {
			order = append(order, mirror)
			continue
		}
		errs = append(errs, err)
	}
	if t.done < f.Length {
		return join(errs)
	}
	err, by := t.verify(f), -1
	if err != nil {
		by = 2
	}
	for _, i := range senders {
		c.mirrors.blame(i, by)
	}
	return err
}

// worthwhile is how much a mirror must deliver for a broken transfer not to count against it: one byte at a time is an attack.
const worthwhile = 64 << 10

// leg takes what one mirror gives in one request.
func (c *Client) leg(ctx context.Context, mirror int, f File, t *transfer) error {
	r, err := c.cfg.Mirrors[mirror].targetRequest(f, c.consistent())
	if err != nil {
		return err
	}
	r.offset, r.ifRange = t.done, t.etag[r.url]
	a, err := c.fetch.get(ctx, r)
	if err != nil {
		return err
	}
	defer a.Close()
	t.etag[r.url] = a.strong()
	if a.size >= 0 && a.size != f.Length {
		return &ErrCorrupt{Name: f.Path, Reason: fmt.Sprintf("%s has %d bytes, %d were signed", r.url, a.size, f.Length)}
	}
	if a.start < t.done { // a server without ranges starts over
		if _, err := io.CopyN(io.Discard, a, t.done-a.start); err != nil {
			return &ErrNetwork{URL: r.url, Err: err}
		}
	}
	return t.take(a, r.url, f.Length)
}

func (c *Client) consistent() bool {
	c.gate <- struct{}{}
	defer func() { <-c.gate }()
	return c.root().consistent
}

// take never reads past length, however much the server has to say.
func (t *transfer) take(src io.Reader, url string, length int64) error {
	buf := make([]byte, 128<<10)
	for t.done < length {
		n, err := src.Read(buf[:min(int64(len(buf)), length-t.done)])
		if n > 0 {
			t.Write(buf[:n])
			if _, err := t.w.Write(buf[:n]); err != nil {
				return writeError{err}
			}
			t.done += int64(n)
			if t.progress != nil {
				t.progress(t.done)
			}
		}
		if t.done < length && err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return &ErrNetwork{URL: url, Err: err}
		}
	}
	return nil
}

// digest hashes with every algorithm that was signed.
type digest struct{ sha256, sha512 hash.Hash }

func newDigest(f File) *digest {
	d := &digest{}
	if f.SHA256 != "" {
		d.sha256 = sha256.New()
	}
	if f.SHA512 != "" {
		d.sha512 = sha512.New()
	}
	return d
}

func (d *digest) Write(p []byte) (int, error) {
	if d.sha256 != nil {
		d.sha256.Write(p)
	}
	if d.sha512 != nil {
		d.sha512.Write(p)
	}
	return len(p), nil
}

func (d *digest) verify(f File) error {
	for _, h := range []struct {
		hash.Hash
		want string
	}{{d.sha256, f.SHA256}, {d.sha512, f.SHA512}} {
		if h.Hash == nil {
			continue
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != h.want {
			return &ErrCorrupt{Name: f.Path, Reason: fmt.Sprintf("the digest is %.12s…, %.12s… was signed", got, h.want)}
		}
	}
	return nil
}

func (f File) check(data []byte) error {
	if int64(len(data)) != f.Length {
		return &ErrCorrupt{Name: f.Path, Reason: fmt.Sprintf("%d bytes where %d were signed", len(data), f.Length)}
	}
	d := newDigest(f)
	if _, err := d.Write(data); err != nil {
		return err
	}
	return d.verify(f)
}

package client

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Config is everything a Client needs. Zero values mean the documented default; Dir, Root and one mirror are required.
type Config struct {
	Dir     string   // cache directory, owned by this package; made when absent
	Root    []byte   // pinned root.json, the only thing taken on faith
	Mirrors []Mirror // in order of preference
	HTTP    HTTP
	Limits  Limits
	Stall   Stall
	Clock   Clock

	// MaxClockStep is how far the clock may be behind the latest trusted time. 0 means 5 minutes.
	MaxClockStep time.Duration

	// RootProbe is how long a poll that finds the timestamp unchanged may skip asking for a newer root; a changed timestamp
	// always asks. 0 means 1 hour, negative asks every time (the order of the specification, which conformance tests count).
	RootProbe time.Duration

	// Spare runs its function, twice if need be, with disk space that was kept back. What is trusted is saved through it when
	// Dir's filesystem is full: the news may be a revert of what filled it. May be nil; must be safe for concurrent use.
	Spare func(func() error) error

	// MaxBundleAge is how long ago the timestamp in a bundle may have been issued. 0 means no bound but what is signed.
	MaxBundleAge time.Duration

	Logger hclog.Logger // nil is silent
}

// Mirror is one copy of the repository. Both are directories: http, https or file URLs, or absolute paths. Targets may be
// empty: then it is the directory "targets" beside Metadata. A bundle is "bundle:" and its absolute path, as Metadata.
type Mirror struct{ Metadata, Targets string }

// HTTP says how mirrors are reached. Files are read anew when needed, so that certificates and tokens can be replaced in place.
type HTTP struct {
	Proxy             string // URL; "" follows the environment, "direct" uses none
	CAFile            string // PEM bundle; replaces the system's
	CertFile, KeyFile string // client certificate
	AuthHeaderFile    string // one line, "Name: value"; without a colon it is the value of Authorization. Never follows a redirect to another host
	UserAgent         string
	ConnectTimeout    time.Duration // 10 s
	FirstByteTimeout  time.Duration // 15 s
	MetadataTimeout   time.Duration // 30 s for one metadata file, whatever its rate
	Attempts          int           // tries per mirror and file on transport faults, 408, 425, 429 and 5xx; 0 means 3
	RetryDelay        time.Duration // before the second try, doubled and jittered after that; 250 ms
	MaxRedirects      int           // 5; negative refuses all. From https to http is always refused
}

// Limits cap what a hostile server or a stolen online key can make the host read. A signed length never raises them.
type Limits struct {
	Root, Timestamp, Snapshot, Targets int64 // bytes: 512 KiB, 16 KiB, 8 MiB, 16 MiB
	Roots                              int   // new root versions per refresh: 1024
	Delegations                        int   // roles visited per lookup: 256
	Read                               int64 // bytes that Read holds in memory: 4 MiB
}

// Stall is the least rate a server must keep up, judged over each window; time the caller spends writing does not count.
type Stall struct {
	Rate   int64 // bytes per second; 0 means 1024
	Window time.Duration
}

// Clock is where time comes from. Synced and Wait may be nil: then the clock is believed.
type Clock struct {
	Now    func() time.Time
	Synced func() bool
	Wait   func(context.Context) error // blocks until Synced would say yes; nil makes Refresh fail with ErrClock instead
}

func (c *Config) complete() error {
	if c.Dir == "" || len(c.Root) == 0 || len(c.Mirrors) == 0 {
		return errors.New("a directory, a pinned root and at least one mirror are required")
	}
	for i := range c.Mirrors {
		if err := c.Mirrors[i].complete(); err != nil {
			return fmt.Errorf("mirror %d: %w", i+1, err)
		}
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	if c.Clock.Now == nil {
		c.Clock.Now = time.Now
	}
	orDefault(&c.MaxClockStep, 5*time.Minute)
	orDefault(&c.RootProbe, time.Hour)
	orDefault(&c.Limits.Root, 512<<10)
	orDefault(&c.Limits.Timestamp, 16<<10)
	orDefault(&c.Limits.Snapshot, 8<<20)
	orDefault(&c.Limits.Targets, 16<<20)
	orDefault(&c.Limits.Roots, 1024)
	orDefault(&c.Limits.Delegations, 256)
	orDefault(&c.Limits.Read, 4<<20)
	orDefault(&c.Stall.Rate, 1024)
	orDefault(&c.Stall.Window, 30*time.Second)
	c.HTTP.complete()
	return nil
}

func (h *HTTP) complete() {
	orDefault(&h.ConnectTimeout, 10*time.Second)
	orDefault(&h.FirstByteTimeout, 15*time.Second)
	orDefault(&h.MetadataTimeout, 30*time.Second)
	orDefault(&h.Attempts, 3)
	orDefault(&h.RetryDelay, 250*time.Millisecond)
	orDefault(&h.MaxRedirects, 5)
	orDefault(&h.UserAgent, "slipway")
}

func (m *Mirror) complete() error {
	if path, ok := m.bundle(); ok {
		return m.completeBundle(path)
	}
	var err error
	if m.Metadata, err = directoryURL(m.Metadata); err != nil {
		return err
	}
	if m.Targets == "" {
		m.Targets = strings.TrimSuffix(m.Metadata, "/")
		m.Targets = m.Targets[:strings.LastIndexByte(m.Targets, '/')+1] + "targets/"
		return nil
	}
	m.Targets, err = directoryURL(m.Targets)
	return err
}

func directoryURL(text string) (string, error) {
	if strings.HasPrefix(text, "/") {
		text = (&url.URL{Scheme: "file", Path: text}).String()
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "", err
	case u.Scheme == "file" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
	default:
		return "", fmt.Errorf("%q is not an http, https or file URL of a directory", text)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("%q has a query or fragment", text)
	}
	return strings.TrimSuffix(u.String(), "/") + "/", nil
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

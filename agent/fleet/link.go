package fleet

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// Credentials are the files that say who this host is and whom it believes. They are read anew when they change. Cert and Key
// may be one file, which is how a renewed certificate and its key replace the old ones in one step; both empty means none.
type Credentials struct {
	// CA holds the certificates that a coordinator's must lead to, as PEM. Empty means the system's.
	CA        string
	Cert, Key string
	// Pin, if set, is the SHA-256 of the one authority's certificate that a hub's must lead to; the hub sends it along. It is how
	// a host that has nothing but a token knows the hub.
	Pin release.Digest
}

// Options are what all clients of a coordinator share.
type Options struct {
	// URLs are tried in turn, beginning with the one that answered last.
	URLs        []string
	Credentials Credentials
	UserAgent   string
	// Timeout bounds one request to one URL; zero means five seconds. The context bounds all of them.
	Timeout time.Duration
}

const (
	defaultTimeout = 5 * time.Second
	idleConnection = 90 * time.Second // longer than the usual poll, so that one handshake serves many
)

// link posts to whichever of several URLs answers.
type link struct {
	Options
	minTLS uint16

	mu     sync.Mutex
	client *http.Client
	seen   [3]stamp
	last   int // of URLs: who answered last
	alert  atomic.Pointer[net.OpError]
}

// witness keeps the alert with which the other side broke a connection off: what a request ends with may be no more than that
// its connection was closed.
type witness struct {
	*tls.Conn
	alert *atomic.Pointer[net.OpError]
}

func (w witness) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		w.alert.Store(op)
	}
	return n, err
}

// proxy is the environment's, but for a host that knows the hub by a pin: a tunnel's handshake is not the dialer's.
func (l *link) proxy() func(*http.Request) (*url.URL, error) {
	if !l.Credentials.Pin.IsZero() {
		return nil
	}
	return http.ProxyFromEnvironment
}

func (l *link) dialer(cfg *tls.Config) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := tls.Dialer{Config: cfg}
		if pin := l.Credentials.Pin; !pin.IsZero() {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			d.Config = cfg.Clone()
			d.Config.InsecureSkipVerify = true // VerifyConnection does it, against the pinned authority
			d.Config.VerifyConnection = func(s tls.ConnectionState) error { return pinned(s, pin, host) }
		}
		conn, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return witness{conn.(*tls.Conn), &l.alert}, nil
	}
}

// stamp tells whether a file is the one that was read.
type stamp struct {
	ino   uint64
	size  int64
	mtime time.Time
}

func stampOf(path string) (s stamp) {
	info, err := os.Stat(path)
	if path == "" || err != nil {
		return s
	}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.ino = sys.Ino
	}
	s.size, s.mtime = info.Size(), info.ModTime()
	return s
}

func newLink(o Options, minTLS uint16, schemes ...string) (*link, error) {
	if len(o.URLs) == 0 {
		return nil, &LocalError{What: "no URL of the coordinator is known"}
	}
	for _, text := range o.URLs {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || !contains(schemes, u.Scheme) {
			return nil, &LocalError{What: fmt.Sprintf("%q is no URL of a coordinator of this kind: it must be %s://host[:port][/path]", text, strings.Join(schemes, ":// or "))}
		}
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	return &link{Options: o, minTLS: minTLS}, nil
}

func contains(list []string, s string) bool {
	for _, have := range list {
		if have == s {
			return true
		}
	}
	return false
}

// http returns the client, made anew when a file of the credentials changed: connections that stand on the old certificate are
// closed. Files that cannot be used leave the client in force that stands on the last good ones. It speaks HTTP/1.1: a host asks
// one thing at a time, and HTTP/2 hides why a handshake was broken off.
func (l *link) http() (*http.Client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := [3]stamp{stampOf(l.Credentials.CA), stampOf(l.Credentials.Cert), stampOf(l.Credentials.Key)}
	if l.client != nil && seen == l.seen {
		return l.client, nil
	}
	cfg, err := l.Credentials.config(l.minTLS)
	if err != nil {
		if l.client != nil {
			return l.client, nil
		}
		return nil, err
	}
	if l.client != nil {
		l.client.CloseIdleConnections()
	}
	l.seen = seen
	l.client = &http.Client{
		Transport: &http.Transport{
			Proxy: l.proxy(), TLSClientConfig: cfg, DialTLSContext: l.dialer(cfg), IdleConnTimeout: idleConnection,
			MaxIdleConnsPerHost: 2, MaxResponseHeaderBytes: 16 << 10, TLSHandshakeTimeout: l.Timeout,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return l.client, nil
}

// config reads the files.
func (c Credentials) config(minTLS uint16) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: minTLS}
	if c.CA != "" {
		data, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, &LocalError{What: "cannot read the fleet's certificate authority", Err: err}
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(data) {
			return nil, &LocalError{What: c.CA + " holds no certificate in PEM form"}
		}
	}
	if c.Cert == "" {
		return cfg, nil
	}
	cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &LocalError{What: "this host has no certificate for the fleet's hub", Err: fmt.Errorf("%w; slipway enroll gives it one", err)}
	}
	if err != nil {
		return nil, &LocalError{What: "cannot use this host's certificate", Err: err}
	}
	cfg.Certificates = []tls.Certificate{cert}
	return cfg, nil
}

// pinned verifies a server against the one authority whose certificate has this digest.
func pinned(s tls.ConnectionState, pin release.Digest, host string) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	found := false
	for _, c := range s.PeerCertificates[1:] {
		if release.Sum(c.Raw) == pin {
			roots.AddCert(c)
			found = true
		} else {
			between.AddCert(c)
		}
	}
	if !found {
		return fmt.Errorf("the server does not belong to the authority that the token names (SHA-256 %s)", pin.Short())
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: between})
	return err
}

// reply is what a server answered, whatever it said.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (l *link) post(ctx context.Context, path string, header http.Header, in any, limit int64, understood func(reply) error) error {
	return l.send(ctx, http.MethodPost, path, header, in, limit, understood)
}

// send asks the URLs in turn until somebody answers for whom understood holds. Nobody did: *SilentError.
func (l *link) send(ctx context.Context, method, path string, header http.Header, in any, limit int64, understood func(reply) error) error {
	body, err := json.Marshal(in)
	if err != nil {
		return &LocalError{What: "cannot write the request", Err: err}
	}
	l.mu.Lock()
	first := l.last
	l.mu.Unlock()
	var silent error
	for i := range l.URLs {
		n := (first + i) % len(l.URLs)
		err := l.one(ctx, method, l.URLs[n], path, header, body, limit, understood)
		var nobody *SilentError
		if !errors.As(err, &nobody) {
			l.mu.Lock()
			l.last = n
			l.mu.Unlock()
			return err
		}
		silent = errors.Join(silent, err)
		if ctx.Err() != nil {
			break
		}
	}
	return silent
}

func (l *link) one(ctx context.Context, method, base, path string, header http.Header, body []byte, limit int64, understood func(reply) error) error {
	client, err := l.http()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, l.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(base, "/")+path, bytes.NewReader(body))
	if err != nil {
		return &LocalError{What: "cannot make the request", Err: err}
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", l.UserAgent)
	l.alert.Store(nil)
	r, err := read(client, req, limit)
	if err != nil {
		return said(base, err, l.alert.Load())
	}
	if err := understood(r); err != nil {
		return heardAs(base, err)
	}
	return nil
}

func read(client *http.Client, req *http.Request, limit int64) (reply, error) {
	resp, err := client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return reply{}, err
	}
	if int64(len(data)) > limit {
		return reply{}, fmt.Errorf("the answer is longer than %d bytes", limit)
	}
	return reply{resp.StatusCode, resp.Header, data}, nil
}

// said sorts a failed exchange. A server that proved who it is and then broke off with an alert did answer: it does not take
// this host's certificate. An alert from before that proof may be anybody's.
func said(base string, err error, alert *net.OpError) error {
	if alert != nil {
		return &RefusedError{Reply: Error{
			Kind: KindIdentity, Message: fmt.Sprintf("%s does not take this host's certificate: %v", base, alert.Err),
			Hint: "slipway doctor looks at it; slipway enroll gets another",
		}}
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return &SilentError{URL: base, Err: err}
}

// KindIdentity is the kind of a refusal that is about who asks: no certificate, or one that is not taken.
const KindIdentity = "identity"

// notAnAnswer marks what an answer must be passed over for: these are not a coordinator's words.
type notAnAnswer struct{ error }

func heardAs(base string, err error) error {
	var not notAnAnswer
	if errors.As(err, &not) {
		return &SilentError{URL: base, Err: not.error}
	}
	return err
}

// retryAfter reads the header's form in seconds; dates are not used by any coordinator.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || n < 0 {
		return 0
	}
	return min(time.Duration(n)*time.Second, time.Hour)
}

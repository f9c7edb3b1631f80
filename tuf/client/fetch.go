package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// fetcher gets files from mirrors. It trusts nothing it receives and never touches the process's default client.
type fetcher struct {
	http    *http.Client
	conf    HTTP
	stall   Stall
	bundles bundles
}

// request asks for one file. offset > 0 asks for the rest of it, conditional on ifRange if that is set.
type request struct {
	url     string
	dir     string // of a file mirror; name is inside it
	bundle  string // path of a bundle; name is inside it
	name    string
	offset  int64
	ifRange string
	timeout time.Duration // 0: the stall guard alone
}

// answer is what came. start is where the body begins in the file; size is the announced size of the whole file, -1 if none.
type answer struct {
	io.ReadCloser
	start, size int64
	etag        string
}

func newFetcher(conf HTTP, stall Stall) (*fetcher, error) {
	transport := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: conf.ConnectTimeout}).DialContext,
		TLSHandshakeTimeout:   conf.ConnectTimeout,
		ResponseHeaderTimeout: conf.FirstByteTimeout,
		DisableCompression:    true, // signed lengths are those of the plain bytes
		MaxIdleConnsPerHost:   2,
		IdleConnTimeout:       90 * time.Second,
		ForceAttemptHTTP2:     true,
		Proxy:                 http.ProxyFromEnvironment,
	}
	if conf.Proxy == "direct" {
		transport.Proxy = nil
	} else if conf.Proxy != "" {
		u, err := url.Parse(conf.Proxy)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("cannot use proxy %q: not a URL", conf.Proxy)
		}
		transport.Proxy = http.ProxyURL(u)
	}
	var err error
	if transport.TLSClientConfig, err = tlsConfig(conf); err != nil {
		return nil, err
	}
	f := &fetcher{conf: conf, stall: stall}
	f.http = &http.Client{Transport: transport, CheckRedirect: f.redirect}
	return f, nil
}

func tlsConfig(conf HTTP) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if conf.CAFile != "" {
		pem, err := os.ReadFile(conf.CAFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read the CA bundle: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cannot use CA bundle %s: no certificate in it", conf.CAFile)
		}
	}
	if (conf.CertFile == "") != (conf.KeyFile == "") {
		return nil, errors.New("cannot use a client certificate: certificate and key files go together")
	}
	if conf.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(conf.CertFile, conf.KeyFile); err != nil {
			return nil, fmt.Errorf("cannot use the client certificate: %w", err)
		}
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(conf.CertFile, conf.KeyFile)
			return &cert, err
		}
	}
	return t, nil
}

// redirect keeps a mirror from walking a request to plain text, and the host's credentials from going to another host.
func (f *fetcher) redirect(next *http.Request, via []*http.Request) error {
	first := via[0]
	switch {
	case len(via) > f.conf.MaxRedirects:
		return fmt.Errorf("more than %d redirects", max(f.conf.MaxRedirects, 0))
	case next.URL.Scheme != "https" && via[len(via)-1].URL.Scheme == "https":
		return errors.New("redirected from https to " + next.URL.Scheme)
	case next.URL.Scheme != "https" && next.URL.Scheme != "http":
		return errors.New("redirected to " + next.URL.Scheme)
	}
	if next.URL.Host != first.URL.Host || next.URL.Scheme != first.URL.Scheme {
		if name, _, _ := f.authHeader(); name != "" {
			next.Header.Del(name)
		}
	}
	return nil
}

func (f *fetcher) authHeader() (name, value string, err error) {
	if f.conf.AuthHeaderFile == "" {
		return "", "", nil
	}
	data, err := os.ReadFile(f.conf.AuthHeaderFile)
	if err != nil {
		return "", "", fmt.Errorf("cannot read the authentication header: %w", err)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(data)), "\n")
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		name, value = "Authorization", line
	}
	return http.CanonicalHeaderKey(strings.TrimSpace(name)), strings.TrimSpace(value), nil
}

// get fetches with retries on what may pass by itself. A 404 is an answer, not a fault.
func (f *fetcher) get(ctx context.Context, r request) (*answer, error) {
	delay := f.conf.RetryDelay
	for attempt := 1; ; attempt++ {
		a, wait, err := f.once(ctx, r)
		if err == nil || wait < 0 || attempt >= f.conf.Attempts || ctx.Err() != nil {
			return a, err
		}
		pause := max(wait, delay/2+rand.N(delay))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
		delay *= 2
	}
}

// once makes one request. wait says how long the server wants to be left alone, negative that trying again is no use.
func (f *fetcher) once(ctx context.Context, r request) (a *answer, wait time.Duration, err error) {
	const final = -1
	guard, ctx := newStallGuard(ctx, r.url, f.stall, r.timeout)
	defer func() {
		if err != nil {
			guard.stop()
		}
	}()
	if r.bundle != "" {
		a, err := f.bundles.open(r, guard)
		return a, final, err
	}
	if r.dir != "" {
		a, err := openFile(r, guard)
		return a, final, err
	}
	req, err := f.request(ctx, r)
	if err != nil {
		return nil, final, err
	}
	res, err := f.http.Do(req)
	if err != nil {
		return nil, 0, &ErrNetwork{URL: r.url, Err: guard.cause(err)}
	}
	a = &answer{ReadCloser: guard.body(res.Body), size: res.ContentLength, etag: res.Header.Get("ETag")}
	if enc := res.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		a.Close()
		return nil, final, &ErrNetwork{URL: r.url, Status: res.StatusCode, Err: fmt.Errorf("the server sent %s encoding, which was not asked for", enc)}
	}
	switch res.StatusCode {
	case http.StatusOK:
		return a, final, nil
	case http.StatusPartialContent:
		if r.offset > 0 && a.ranged(res.Header.Get("Content-Range"), r.offset) {
			return a, final, nil
		}
		a.Close()
		return nil, final, &ErrNetwork{URL: r.url, Status: res.StatusCode, Err: errors.New("the server sent another range than was asked for")}
	}
	a.Close()
	return nil, retryAfter(res), &ErrNetwork{URL: r.url, Status: res.StatusCode}
}

func (f *fetcher) request(ctx context.Context, r request) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	if err != nil {
		return nil, &ErrNetwork{URL: r.url, Err: err}
	}
	name, value, err := f.authHeader()
	if err != nil {
		return nil, err
	}
	if name != "" {
		req.Header.Set(name, value)
	}
	req.Header.Set("User-Agent", f.conf.UserAgent)
	req.Header.Set("Accept-Encoding", "identity")
	if r.offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", r.offset))
		if r.ifRange != "" {
			req.Header.Set("If-Range", r.ifRange)
		}
	}
	return req, nil
}

// ranged reads "bytes 100-199/200" and sets start and size from it.
func (a *answer) ranged(header string, offset int64) bool {
	spec, ok := strings.CutPrefix(header, "bytes ")
	span, total, ok2 := strings.Cut(spec, "/")
	first, _, ok3 := strings.Cut(span, "-")
	if start, err := strconv.ParseInt(first, 10, 64); !ok || !ok2 || !ok3 || err != nil || start != offset {
		return false
	}
	a.start, a.size = offset, -1
	if size, err := strconv.ParseInt(total, 10, 64); err == nil {
		a.size = size
	}
	return true
}

// maxRetryAfter bounds how long a server can make one refresh wait; the next poll comes anyway.
const maxRetryAfter = 30 * time.Second

func retryAfter(res *http.Response) time.Duration {
	switch s := res.StatusCode; {
	case s == http.StatusRequestTimeout, s == http.StatusTooEarly, s == http.StatusTooManyRequests, s >= 500:
	default:
		return -1
	}
	seconds, err := strconv.Atoi(res.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, maxRetryAfter)
}

// strong is the ETag if it claims to identify exact bytes, as resuming needs.
func (a *answer) strong() string {
	if strings.HasPrefix(a.etag, `"`) {
		return a.etag
	}
	return ""
}

// missing says whether the mirror answered that it has no such file. Object stores answer 403 where listing is not allowed.
func missing(err error) bool {
	var e *ErrNetwork
	if !errors.As(err, &e) {
		return false
	}
	return e.Status == http.StatusNotFound || e.Status == http.StatusForbidden || e.Status == http.StatusGone
}

// readAll reads a whole metadata file, at most limit bytes.
func (f *fetcher) readAll(ctx context.Context, r request, limit int64) ([]byte, error) {
	delay := f.conf.RetryDelay
	for attempt := 1; ; attempt++ {
		a, err := f.get(ctx, r)
		if err != nil {
			return nil, err
		}
		data, err := a.all(r.url, limit)
		var network *ErrNetwork
		if !errors.As(err, &network) || attempt >= f.conf.Attempts || ctx.Err() != nil {
			return data, err
		}
		select {
		case <-time.After(delay/2 + rand.N(delay)):
		case <-ctx.Done():
		}
	}
}

func (a *answer) all(name string, limit int64) ([]byte, error) {
	defer a.Close()
	if a.size > limit {
		return nil, &ErrTooLarge{Name: name, Limit: limit, Got: a.size}
	}
	data := make([]byte, 0, max(a.size, 0)+512)
	for {
		n, err := a.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if int64(len(data)) > limit {
			return nil, &ErrTooLarge{Name: name, Limit: limit, Got: int64(len(data))}
		}
		if errors.Is(err, io.EOF) {
			return data, nil
		}
		if err != nil {
			return nil, &ErrNetwork{URL: name, Err: err}
		}
		if len(data) == cap(data) {
			data = append(data, 0)[:len(data)]
		}
	}
}

package tuftest

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

type jsonRaw = json.RawMessage

// Server serves a repository's files with entity tags and ranges, as a good static server does, and keeps a record.
type Server struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*Request
}

// Request is one line of the record. Path is below the server's base.
type Request struct {
	Path   string
	Header http.Header
	Status int
}

// Requests returns the record and starts a new one.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Request
	for _, r := range s.requests {
		all = append(all, *r)
	}
	s.requests = nil
	return all
}

func serve(t testing.TB, get func(string) []byte, start func(http.Handler) *httptest.Server, how []Misbehaviour) *Server {
	s := &Server{}
	var handler http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The path as sent: role names are one escaped segment.
		data := get(strings.TrimPrefix(r.URL.EscapedPath(), "/"))
		if data == nil {
			data = get(strings.TrimPrefix(r.URL.Path, "/"))
		}
		if data == nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(data)))
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
	for _, m := range how {
		handler = m(handler)
	}
	s.Server = start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Recorded before the client can see an answer, so that a test may look right after its call returned.
		s.mu.Lock()
		line := &Request{strings.TrimPrefix(r.URL.Path, "/"), r.Header.Clone(), http.StatusOK}
		s.requests = append(s.requests, line)
		s.mu.Unlock()
		handler.ServeHTTP(&noting{w, s, line}, r)
	}))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

type noting struct {
	http.ResponseWriter
	server *Server
	line   *Request
}

func (n *noting) WriteHeader(status int) {
	n.server.mu.Lock()
	n.line.Status = status
	n.server.mu.Unlock()
	n.ResponseWriter.WriteHeader(status)
}

func (n *noting) Flush() { n.ResponseWriter.(http.Flusher).Flush() }

// Misbehaviour wraps a server's handler. Those below act on paths that contain match.
type Misbehaviour func(next http.Handler) http.Handler

// On runs act instead of the server.
func On(match string, act http.HandlerFunc) Misbehaviour {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, match) {
				act(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Replace serves other bytes.
func Replace(match string, data []byte) Misbehaviour {
	return On(match, func(w http.ResponseWriter, _ *http.Request) { w.Write(data) })
}

// Hide answers status, for instance 404.
func Hide(match string, status int) Misbehaviour {
	return On(match, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
}

// Endless never stops sending, without saying how much is to come.
func Endless(match string) Misbehaviour {
	return On(match, func(w http.ResponseWriter, r *http.Request) {
		junk := bytes.Repeat([]byte(" "), 64<<10)
		for r.Context().Err() == nil {
			if _, err := w.Write(junk); err != nil {
				return
			}
		}
	})
}

// Drip sends one byte per interval.
func Drip(match string, interval time.Duration) Misbehaviour {
	return On(match, func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if _, err := w.Write([]byte(" ")); err != nil {
					return
				}
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
}

// Hang accepts the request and never answers.
func Hang(match string) Misbehaviour {
	return On(match, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
}

// Claim announces a length and sends one byte.
func Claim(match string, length int64) Misbehaviour {
	return On(match, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
		w.Write([]byte("{"))
	})
}

// Gzip sends the real bytes compressed, though nobody asked for it.
func Gzip(match string) Misbehaviour {
	return rewrite(match, func(w http.ResponseWriter, body []byte) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		z.Write(body)
		z.Close()
	})
}

// NoRanges answers every request with the whole file.
func NoRanges(match string) Misbehaviour {
	return rewrite(match, func(w http.ResponseWriter, body []byte) { w.Write(body) })
}

// BreakAfter cuts each connection after n bytes of a body.
func BreakAfter(match string, n int) Misbehaviour {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, match) {
				w = &breaking{ResponseWriter: w, left: n}
			}
			next.ServeHTTP(w, r)
		})
	}
}

type breaking struct {
	http.ResponseWriter
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	if len(p) <= b.left {
		b.left -= len(p)
		return b.ResponseWriter.Write(p)
	}
	b.ResponseWriter.Write(p[:b.left])
	b.ResponseWriter.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// Fails answers status to the first n requests and then behaves.
func Fails(match string, n, status int) Misbehaviour {
	var mu sync.Mutex
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			fail := strings.Contains(r.URL.Path, match) && n > 0
			if fail {
				n--
			}
			mu.Unlock()
			if fail {
				w.WriteHeader(status)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Redirect sends every request to the same path at base.
func Redirect(match, base string) Misbehaviour {
	return On(match, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, base+r.URL.EscapedPath(), http.StatusFound)
	})
}

func rewrite(match string, write func(http.ResponseWriter, []byte)) Misbehaviour {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, match) {
				next.ServeHTTP(w, r)
				return
			}
			r.Header.Del("Range")
			r.Header.Del("If-None-Match")
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			if rec.Code != http.StatusOK {
				w.WriteHeader(rec.Code)
				return
			}
			write(w, rec.Body.Bytes())
		})
	}
}

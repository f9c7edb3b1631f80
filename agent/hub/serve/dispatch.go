package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// call is one request after it was let in.
type call struct {
	*Server
	w      http.ResponseWriter
	r      *http.Request
	route  route
	caller caller
	body   []byte
}

// handler returns what goes out as JSON, or an error. A handler that has written the answer itself returns nil and nil.
type handler func(c *call) (any, error)

func (s *Server) handler() http.Handler {
	byPath := map[string]map[string]route{}
	for _, r := range routes {
		if byPath[r.path] == nil {
			byPath[r.path] = map[string]route{}
		}
		byPath[r.path][r.method] = r
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Slipway-Version", s.cfg.Version)
		if s.drained.Load() {
			h.Set("Connection", "close")
		}
		s.dispatch(w, req, byPath[req.URL.Path])
	})
}

// dispatch is the only way in: every check stands here, in the order in which it is made.
func (s *Server) dispatch(w http.ResponseWriter, req *http.Request, methods map[string]route) {
	start := s.cfg.Now()
	rt, known := methods[req.Method]
	c := &call{Server: s, w: w, r: req, route: rt}
	who, err := s.caller(req)
	c.caller = who
	var out any
	switch {
	case err != nil:
	case req.Header.Get("Origin") != "" || req.Header.Get("Sec-Fetch-Site") != "":
		err = &fleet.Error{Kind: fleet.KindForbidden, Message: "requests from web pages are refused"}
	case !s.within(c):
		err = &fleet.Error{Kind: fleet.KindBusy, Message: who.name + " asks too often", Hint: "ask again after what Retry-After says"}
	case !known:
		err = unknownRoute(req, methods)
	case !who.may(rt.who):
		err = denied(rt, who)
	default:
		out, err = s.limited(c)
	}
	s.finish(c, out, err, start)
}

// caller says who asks: by certificate, or by the kernel on the local socket.
func (s *Server) caller(req *http.Request) (caller, error) {
	if name, ok := req.Context().Value(localKey{}).(string); ok {
		return caller{role: local, name: name}, nil
	}
	if req.TLS == nil || len(req.TLS.VerifiedChains) == 0 {
		return caller{role: anyone, name: remote(req)}, nil
	}
	id, err := s.cfg.Trust.identify(req.TLS.VerifiedChains)
	if err != nil {
		return caller{name: remote(req)}, &fleet.Error{Kind: fleet.KindForbidden, Message: err.Error()}
	}
	leaf := req.TLS.VerifiedChains[0][0]
	if s.cfg.Now().After(leaf.NotAfter) { // the connection may be older than the certificate's end
		return caller{name: id.String()}, &fleet.Error{Kind: fleet.KindForbidden, Message: fmt.Sprintf("the certificate of %s ended at %s", id, leaf.NotAfter.Format(time.DateTime))}
	}
	if err := s.cfg.Roster.Admit(id, leaf.NotBefore); err != nil {
		return caller{name: id.String()}, err
	}
	if id.Operator != "" {
		return caller{role: s.cfg.Roles.of(id.Operator), id: id, name: id.Operator}, nil
	}
	return caller{role: host, id: id, name: id.String()}, nil
}

func remote(req *http.Request) string {
	h, _, err := net.SplitHostPort(req.RemoteAddr)
	if err != nil {
		return req.RemoteAddr
	}
	return h
}

func denied(rt route, c caller) error {
	e := &fleet.Error{Kind: fleet.KindForbidden, Message: fmt.Sprintf("%s %s is for %s", rt.method, rt.path, rt.who)}
	switch {
	case c.id == (fleet.Identity{}):
		e.Message += ", and you showed no certificate"
	case c.id.Operator != "" && rt.who > host:
		e.Message = fmt.Sprintf("%s needs the role %s, but %s has %s", strings.TrimPrefix(rt.path, fleet.PathActs), rt.who, c.name, roleName(c.role))
		e.Hint = "roles are given in the hub's configuration"
	default:
		e.Message += ", and you are " + c.id.String()
	}
	return e
}

func roleName(w who) string {
	if w == anyone {
		return "none"
	}
	return w.String()
}

func unknownRoute(req *http.Request, methods map[string]route) error {
	if len(methods) > 0 {
		return &fleet.Error{Kind: fleet.KindBadRequest, Message: req.Method + " is no method of " + req.URL.Path}
	}
	p := req.URL.Path
	if path.Clean(p) != p {
		p = path.Clean(p)
	}
	return &fleet.Error{Kind: fleet.KindNotFound, Message: fmt.Sprintf("there is no route %.100q", p), Hint: "an older slipway-hub may not have it yet"}
}

// within takes one request out of what the caller may ask for in a while. It comes before everything that writes a log line.
func (s *Server) within(c *call) bool {
	name, rate, burst := "stranger/"+c.caller.name, float64(strangerRate), float64(strangerBurst)
	switch {
	case c.caller.role == local:
		return true
	case c.caller.role == host:
		name, rate, burst = c.caller.name, hostRate, hostBurst
	case c.caller.id.Operator != "":
		name, rate, burst = "operator/"+c.caller.name, personRate, personBurst
	}
	wait, ok := s.limits.allow(name, rate, burst)
	if !ok {
		c.w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	}
	return ok
}

// limited lets a request through if the hub as a whole has room for it.
func (s *Server) limited(c *call) (any, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
		return s.serve(c)
	default:
		c.w.Header().Set("Retry-After", "1")
		return nil, &fleet.Error{Kind: fleet.KindBusy, Message: "the hub has as many requests as it can hold", Hint: "ask again after what Retry-After says"}
	}
}

// serve reads the body and calls the handler. A panic is a defect of ours and becomes an answer.
func (s *Server) serve(c *call) (out any, err error) {
	defer func() {
		if v := recover(); v != nil {
			s.cfg.Log.Error("a request ended in a defect", "route", c.route.path, "panic", v)
			out, err = nil, &fleet.Error{Kind: fleet.KindInternal, Message: "the hub has a defect here; its journal says more"}
		}
	}()
	ctx, cancel := context.WithTimeout(c.r.Context(), requestTimeout)
	defer cancel()
	c.r = c.r.WithContext(ctx)
	if c.route.method != http.MethodGet {
		if c.body, err = readBody(c.w, c.r); err != nil {
			return nil, err
		}
	}
	return c.route.handle(c)
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return nil, &fleet.Error{Kind: fleet.KindBadRequest, Message: "the request must have Content-Type: application/json"}
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, fleet.MaxBody))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return nil, &fleet.Error{Kind: fleet.KindTooLarge, Message: fmt.Sprintf("the request is longer than %d bytes", fleet.MaxBody)}
	}
	if err != nil {
		return nil, &fleet.Error{Kind: fleet.KindBadRequest, Message: "cannot read the request: " + err.Error()}
	}
	return data, nil
}

// finish answers, counts, and writes down what people did.
func (s *Server) finish(c *call, out any, err error, start time.Time) {
	outcome := "done"
	if err != nil {
		outcome = wire(err).Kind
	}
	s.count.request(c.route, outcome, s.cfg.Now().Sub(start))
	if c.route.audit != "" && outcome != fleet.KindBusy {
		s.cfg.Log.Info("asked for", "act", c.route.audit, "by", c.caller.name, "from", remote(c.r), "outcome", outcome, "request", loggable(c), "error", err)
	}
	switch {
	case err != nil:
		s.fail(c, err)
	case out != nil:
		s.answer(c.w, http.StatusOK, out)
	}
}

// loggable is what of a request belongs into a log: an enrolment's holds a secret.
func loggable(c *call) string {
	if c.route.path == fleet.PathEnroll {
		return ""
	}
	return string(c.body[:min(len(c.body), 2000)])
}

// fail hides from hosts and strangers what only a defect would tell them.
func (s *Server) fail(c *call, err error) {
	e := wire(err)
	if e.Kind == fleet.KindInternal {
		s.cfg.Log.Error("cannot answer", "route", c.route.path, "caller", c.caller.name, "error", err)
		if c.caller.role <= host {
			e = &fleet.Error{Kind: e.Kind, Message: "the hub cannot answer; its journal says more"}
		}
	}
	s.answer(c.w, httpStatus(e.Kind), e)
}

func (s *Server) answer(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"kind":"internal","message":"the answer cannot be written as JSON"}`)
		s.cfg.Log.Error("cannot write an answer", "error", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // the peer left: nobody is there to tell
}

package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
)

// Record is one entry for the audit log. Outcome is "asked" before the Host is called, then "done" or the error's kind.
type Record struct {
	Time    time.Time
	Type    string
	App     string
	Caller  api.Caller
	Request string
	Outcome string
	Message string
}

// The outcomes that are no error's kind.
const (
	OutcomeAsked = "asked"
	OutcomeDone  = "done"
)

// call is one request after it was let in.
type call struct {
	*Server
	w   http.ResponseWriter
	r   *http.Request
	app string
	// body is the request's JSON, empty for GET.
	body []byte
}

// handler returns what goes out as JSON, or an error. A handler that has written the answer itself returns nil and nil.
type handler func(c *call) (any, error)

var appName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$`)

func (s *Server) handler(access Access) http.Handler {
	mux := http.NewServeMux()
	byPath := map[string]map[string]route{}
	for _, r := range routes {
		if byPath[r.path] == nil {
			byPath[r.path] = map[string]route{}
			methods := byPath[r.path]
			mux.HandleFunc(r.path, func(w http.ResponseWriter, req *http.Request) { s.dispatch(w, req, methods, access) })
		}
		byPath[r.path][r.method] = r
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) { s.dispatch(w, req, nil, access) })
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set(api.VersionHeader, s.cfg.Version)
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		boundBody(w, req)
		if p := req.URL.EscapedPath(); path.Clean(p) != p {
			s.dispatch(w, req, nil, access) // the mux would redirect, and with a page for people
			return
		}
		mux.ServeHTTP(w, req)
	})
}

// dispatch is the only way in: every check stands here, in the order in which it is made.
func (s *Server) dispatch(w http.ResponseWriter, req *http.Request, methods map[string]route, access Access) {
	rt, known := methods[req.Method]
	p, identified := req.Context().Value(peerKey{}).(peer)
	caller := api.Caller{UID: p.uid, PID: p.pid}
	role := RoleAnyone
	if identified {
		role = s.cfg.Roles().roleOf(p)
		caller.User, caller.Role = userName(p.uid), role.String()
	}
	c := &call{Server: s, w: w, r: req.WithContext(api.WithCaller(req.Context(), caller)), app: req.PathValue("app")}
	out, err := any(nil), browserRequest(req)
	switch {
	case err != nil:
	case !identified:
		err = api.NewError(api.KindForbidden, "the kernel does not say who is asking", "")
	case !known:
		err = unknownRoute(req, methods)
	case !rt.served(access):
		err = api.NewError(api.KindForbidden, "this socket is for reading only", "use the control socket")
	case role < rt.role:
		err = api.NewError(api.KindForbidden, fmt.Sprintf("%s needs the role %s, but %s has %s", what(rt, c.app), rt.role, caller.User, role),
			"roles are given in /etc/slipway/slipway.toml; root has all of them")
	default:
		out, err = s.serve(c, rt, caller)
	}
	s.finish(c, rt, caller, out, err)
}

func what(rt route, app string) string {
	if rt.audit != "" {
		return strings.TrimSpace(rt.audit + " " + app)
	}
	return rt.method + " " + rt.path
}

func unknownRoute(req *http.Request, methods map[string]route) error {
	if len(methods) > 0 {
		return api.NewError(api.KindBadRequest, fmt.Sprintf("%s is no method of %s", req.Method, req.URL.Path), "")
	}
	return api.NewError(api.KindNotFound, "there is no route "+req.URL.Path, "an older slipwayd may not have it yet")
}

// browserRequest refuses what only a web page sends, or what was made to reach a socket by another name.
func browserRequest(req *http.Request) error {
	if req.Header.Get("Origin") != "" || req.Header.Get("Referer") != "" || req.Header.Get("Sec-Fetch-Site") != "" {
		return api.NewError(api.KindForbidden, "requests from web pages are refused", "")
	}
	if req.Host != api.SocketHost && req.Host != "localhost" {
		return api.NewError(api.KindForbidden, fmt.Sprintf("the request is for host %q, not for %s", req.Host, api.SocketHost), "")
	}
	return nil
}

// serve reads the body and calls the handler. A panic is a defect of ours and becomes an answer, because one request must not
// end the daemon that watches a trial.
func (s *Server) serve(c *call, rt route, caller api.Caller) (out any, err error) {
	defer func() {
		if v := recover(); v != nil {
			s.cfg.Logger.Error("a request ended in a defect", "route", rt.path, "panic", v)
			out, err = nil, api.NewError(api.KindInternal, "slipwayd has a defect here; its journal says more", "journalctl -u slipwayd")
		}
	}()
	if strings.Contains(rt.path, "{app}") && !appName.MatchString(c.app) {
		return nil, api.NewError(api.KindBadRequest, fmt.Sprintf("%q is no app name", c.app), "")
	}
	if rt.method == http.MethodPost {
		if c.body, err = readBody(c.w, c.r); err != nil {
			return nil, err
		}
		s.cfg.Audit(Record{Time: s.cfg.Now(), Type: rt.audit, App: c.app, Caller: caller, Request: string(c.body), Outcome: OutcomeAsked})
	}
	return rt.handle(c)
}

func (s *Server) finish(c *call, rt route, caller api.Caller, out any, err error) {
	outcome, message := OutcomeDone, ""
	if err != nil {
		wire := api.Wire(err)
		outcome, message = wire.Kind(), wire.Message
	}
	if rt.audit != "" {
		s.cfg.Audit(Record{Time: s.cfg.Now(), Type: rt.audit, App: c.app, Caller: caller, Request: string(c.body), Outcome: outcome, Message: message})
	}
	s.stats.count(rt, outcome)
	switch {
	case err != nil:
		s.fail(c.w, err)
	case out != nil:
		s.answer(c.w, http.StatusOK, out)
	}
}

func (s *Server) fail(w http.ResponseWriter, err error) {
	e := api.Wire(err)
	s.answer(w, api.HTTPStatus(e.Kind()), e)
}

func (s *Server) answer(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"kind":"internal","message":"the answer cannot be written as JSON"}`)
		s.cfg.Logger.Error("cannot write an answer", "error", err)
	}
	s.deadline(w)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // the peer left: nobody is there to tell
}

// deadline bounds the writing of what comes next, so that a peer that stops reading frees its place.
func (s *Server) deadline(w http.ResponseWriter) {
	err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		s.cfg.Logger.Debug("cannot bound the writing of an answer", "error", err)
	}
}

// inFlight lets one piece of work per name run at a time.
type inFlight struct {
	mu    sync.Mutex
	names map[string]bool
}

func newInFlight() *inFlight { return &inFlight{names: map[string]bool{}} }

// begin returns the end of the work, or false if it already runs.
func (f *inFlight) begin(name string) (end func(), ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.names[name] {
		return nil, false
	}
	f.names[name] = true
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.names, name)
	}, true
}

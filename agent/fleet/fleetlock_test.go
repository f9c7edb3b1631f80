package fleet_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// lockServer is a FleetLock v1 server by the protocol's text, and strict: whatever the text demands of a client it refuses the
// absence of. It counts slots for each group.
type lockServer struct {
	t     *testing.T
	slots int

	mu      sync.Mutex
	held    map[string]map[string]bool
	log     []string
	failing func(http.ResponseWriter) bool
}

func serveLocks(t *testing.T, slots int) (*lockServer, string) {
	s := &lockServer{t: t, slots: slots, held: map[string]map[string]bool{}}
	srv := httptest.NewServer(http.StripPrefix("/base", s))
	t.Cleanup(srv.Close)
	return s, srv.URL + "/base/"
}

var groupText = regexp.MustCompile(`^[a-zA-Z0-9.-]+$`)

func (s *lockServer) refuse(w http.ResponseWriter, status int, kind, value string) {
	answer(w, status, map[string]string{"kind": kind, "value": value})
}

func (s *lockServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failing != nil && s.failing(w) {
		return
	}
	var body struct {
		Params *struct {
			ID    *string `json:"id"`
			Group *string `json:"group"`
		} `json:"client_params"`
	}
	data, err := io.ReadAll(r.Body)
	must(s.t, err)
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	switch values := r.Header["Fleet-Lock-Protocol"]; {
	case r.Method != http.MethodPost:
		s.refuse(w, 405, "wrong_method", r.Method)
		return
	case len(values) != 1 || values[0] != "true":
		s.refuse(w, 400, "missing_header", "fleet-lock-protocol must be true")
		return
	case dec.Decode(&body) != nil || body.Params == nil || body.Params.ID == nil || body.Params.Group == nil:
		s.refuse(w, 400, "bad_body", string(data))
		return
	case *body.Params.ID == "" || !groupText.MatchString(*body.Params.Group):
		s.refuse(w, 400, "bad_params", string(data))
		return
	}
	s.do(w, r.URL.Path, *body.Params.Group, *body.Params.ID)
}

func (s *lockServer) do(w http.ResponseWriter, path, group, id string) {
	if s.held[group] == nil {
		s.held[group] = map[string]bool{}
	}
	s.log = append(s.log, strings.TrimPrefix(path, "/v1/")+" "+group+" "+id)
	switch path {
	case "/v1/pre-reboot":
		if !s.held[group][id] && len(s.held[group]) >= s.slots {
			s.refuse(w, 409, "failed_lock_semaphore_full", "semaphore currently full, all slots are locked already")
			return
		}
		s.held[group][id] = true
	case "/v1/steady-state":
		delete(s.held[group], id)
	default:
		s.refuse(w, 404, "no_such_endpoint", path)
		return
	}
	w.WriteHeader(200)
}

func (s *lockServer) holders(group string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held[group])
}

func lock(t *testing.T, url, id, group string) *fleet.FleetLock {
	t.Helper()
	f, err := fleet.NewFleetLock(fleet.Options{URLs: []string{url}}, id, group)
	must(t, err)
	return f
}

func TestFleetLockIsTakenAskedAgainAndGivenBack(t *testing.T) {
	s, url := serveLocks(t, 1)
	ctx := context.Background()
	a, b := lock(t, url, "host-a", "workers"), lock(t, url, "host-b", "workers")
	want := fleet.Turn{Want: fleet.Forward}
	for range 2 { // recursive
		if got, err := a.Turn(ctx, want); err != nil || got.Answer != fleet.Granted || got.Fence == 0 {
			t.Fatalf("%+v %v", got, err)
		}
	}
	got, err := b.Turn(ctx, want)
	if err != nil || got.Answer != fleet.Wait || got.Reason != "semaphore currently full, all slots are locked already" {
		t.Fatalf("%+v %v", got, err)
	}
	if ok, err := a.Check(ctx, fleet.Check{}); err != nil || !ok.OK || ok.Within == 0 {
		t.Fatalf("%+v %v", ok, err)
	}
	if done, err := a.Finish(ctx, fleet.Finish{Serving: false}); err != nil || !done.Accepted || s.holders("workers") != 1 {
		t.Fatalf("a host that does not serve let go: %+v %v", done, err)
	}
	for range 2 {
		if done, err := a.Finish(ctx, fleet.Finish{Serving: true}); err != nil || !done.Accepted || s.holders("workers") != 0 {
			t.Fatalf("%+v %v", done, err)
		}
	}
	if got, err := b.Turn(ctx, want); err != nil || got.Answer != fleet.Granted {
		t.Fatalf("%+v %v", got, err)
	}
	if log := strings.Join(s.log, ","); log != "pre-reboot workers host-a,pre-reboot workers host-a,pre-reboot workers host-b,pre-reboot workers host-a,"+
		"steady-state workers host-a,steady-state workers host-a,pre-reboot workers host-b" {
		t.Errorf("requests were %s", log)
	}
}

func TestFleetLockAsksNothingWhenNothingIsWanted(t *testing.T) {
	s, url := serveLocks(t, 1)
	if got, err := lock(t, url, "a", "").Turn(context.Background(), fleet.Turn{}); err != nil || got.Answer != fleet.Wait || len(s.log) != 0 {
		t.Errorf("%+v %v %v", got, err, s.log)
	}
}

func TestFleetLockCheckFailsOnceTheLockIsSomebodyElses(t *testing.T) {
	s, url := serveLocks(t, 1)
	a := lock(t, url, "a", "")
	_, err := a.Turn(context.Background(), fleet.Turn{Want: fleet.Forward})
	must(t, err)
	s.held["default"] = map[string]bool{"b": true}
	if ok, err := a.Check(context.Background(), fleet.Check{}); err == nil || ok.OK {
		t.Errorf("%+v", ok)
	}
}

func TestEveryFleetLockAnswerButTwoHundredIsNo(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		silent bool
	}{
		"an error of the protocol":       {500, `{"kind":"failed_lock","value":"the store said no"}`, false},
		"a refusal without words":        {403, "", false},
		"an error without a kind":        {409, `{"value":"full"}`, false},
		"a proxy in trouble":             {502, "<html>", true},
		"a server in trouble":            {500, "", true},
		"a redirect":                     {307, "", true},
		"success of another kind":        {204, "", true},
		"accepted, which is not granted": {202, "", true},
	} {
		s, url := serveLocks(t, 1)
		s.failing = func(w http.ResponseWriter) bool {
			w.Header().Set("Location", url+"elsewhere")
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
			return true
		}
		f := lock(t, url, "a", "")
		got, err := f.Turn(context.Background(), fleet.Turn{Want: fleet.Forward})
		var nobody *fleet.SilentError
		if got.Answer == fleet.Granted || errors.As(err, &nobody) != c.silent || err == nil && got.Reason == "" {
			t.Errorf("%s: %+v %v", name, got, err)
		}
		if done, err := f.Finish(context.Background(), fleet.Finish{Serving: true}); err == nil || done.Accepted {
			t.Errorf("%s: unlocking counted: %+v", name, done)
		}
	}
}

func TestFleetLockRefusesGroupsTheProtocolDoesNotAllow(t *testing.T) {
	for _, c := range [][2]string{{"", "default"}, {"a", "under_score"}, {"a", "with space"}} {
		if _, err := fleet.NewFleetLock(fleet.Options{URLs: []string{"http://127.0.0.1:1"}}, c[0], c[1]); err == nil {
			t.Errorf("%q in %q was taken", c[0], c[1])
		}
	}
}

func TestFleetLockMayAskForACertificate(t *testing.T) {
	a := newAuthority(t)
	s := &lockServer{t: t, slots: 1, held: map[string]map[string]bool{}}
	srv := a.serve(s)
	f, err := fleet.NewFleetLock(fleet.Options{URLs: []string{srv.URL}, Credentials: a.credentials("web-01", 1e12)}, "a", "")
	must(t, err)
	if got, err := f.Turn(context.Background(), fleet.Turn{Want: fleet.Forward}); err != nil || got.Answer != fleet.Granted {
		t.Errorf("%+v %v", got, err)
	}
}

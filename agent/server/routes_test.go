package server_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/server"
)

// bodies are a good request for each route that takes one.
var bodies = map[string]string{
	"/v1/refresh":            `{}`,
	"/v1/hold":               `{"reason":"x"}`,
	"/v1/resume":             `{"expect_revision":7}`,
	"/v1/apps/{app}/apply":   `{"expect_revision":7}`,
	"/v1/apps/{app}/revert":  `{"expect_revision":7,"reason":"x"}`,
	"/v1/apps/{app}/hold":    `{"until":"2999-01-01T00:00:00Z"}`,
	"/v1/apps/{app}/resume":  `{"expect_revision":7}`,
	"/v1/apps/{app}/retry":   `{"expect_revision":7,"digest":"x"}`,
	"/v1/apps/{app}/remove":  `{"expect_revision":7}`,
	"/v1/apps/{app}/history": "", "/v1/apps/{app}/verify": "", "/v1/apps/{app}": "",
	"/v1/status": "", "/v1/events": "", "/v1/doctor": "", "/metrics": "",
}

func eachRoute(t *testing.T, method string, f func(path, body string)) {
	t.Helper()
	n := 0
	for _, r := range server.Routes() {
		body, ok := bodies[r[1]]
		if !ok {
			t.Errorf("%s has no good request here", r[1])
		}
		if r[0] == method {
			n++
			f(r[1], body)
		}
	}
	if n < 5 {
		t.Fatalf("only %d routes of %s", n, method)
	}
}

func with(path, app string) string { return strings.ReplaceAll(path, "{app}", app) }

func get(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: slipway\r\n\r\n" }

// expectKind checks status, kind and that the answer is an error as the contract shapes it.
func expectKind(t *testing.T, what string, status int, body, kind string) {
	t.Helper()
	var e struct {
		Kind    string `json:"kind"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		t.Errorf("%s: %d %q is no error: %v", what, status, body, err)
		return
	}
	if e.Kind != kind || status != api.HTTPStatus(kind) || e.Message == "" {
		t.Errorf("%s: %d %s, want %d and kind %s", what, status, body, api.HTTPStatus(kind), kind)
	}
}

func TestEveryChangingRouteRefusesBadBodiesBeforeTheHostHears(t *testing.T) {
	b := start(t, server.Roles{})
	eachRoute(t, http.MethodPost, func(path, body string) {
		path = with(path, "web")
		extra := strings.TrimSuffix(body, "}") + `,"force":true}`
		if body == "{}" {
			extra = `{"force":true}`
		}
		good := post(path, body)
		for what, one := range map[string]struct{ request, kind string }{
			"form":          {strings.Replace(good, "application/json", "application/x-www-form-urlencoded", 1), api.KindBadRequest},
			"no type":       {strings.Replace(good, "Content-Type: application/json\r\n", "", 1), api.KindBadRequest},
			"unknown field": {post(path, extra), api.KindBadRequest},
			"a list":        {post(path, "["+body+"]"), api.KindBadRequest},
			"no body":       {post(path, ""), api.KindBadRequest},
			"two bodies":    {post(path, body+body), api.KindBadRequest},
			"nested":        {post(path, `{"expect_revision":{"a":1},"reason":"x"}`), api.KindBadRequest},
			"huge number":   {post(path, `{"expect_revision":99999999999999999999}`), api.KindBadRequest},
			"too large":     {post(path, strings.Repeat(" ", 65<<10)+body), api.KindTooLarge},
			"web page":      {post(path, body, "Origin: http://localhost"), api.KindForbidden},
			"fetch":         {post(path, body, "Sec-Fetch-Site: same-origin"), api.KindForbidden},
		} {
			status, answer := raw(t, b.control, one.request)
			expectKind(t, "POST "+path+", "+what, status, answer, one.kind)
		}
	})
	if got := b.host.seen(); len(got) != 0 {
		t.Errorf("the host was asked: %v", got)
	}
}

func TestEveryChangingRouteReachesTheHostOnceAndIsRecorded(t *testing.T) {
	eachRoute(t, http.MethodPost, func(path, body string) {
		b := start(t, server.Roles{})
		status, answer := raw(t, b.control, post(with(path, "web"), body))
		if path != "/v1/refresh" && status != http.StatusOK { // the fake's refresh always fails
			t.Errorf("POST %s: %d %s", path, status, answer)
		}
		if got := b.host.seen(); len(got) != 1 {
			t.Errorf("POST %s: the host was asked %q", path, got)
		}
		if got := b.audit(); len(got) != 2 || got[0].Type == "" || got[0].Outcome != server.OutcomeAsked || got[1].Outcome == server.OutcomeAsked {
			t.Errorf("POST %s: records %+v", path, got)
		}
	})
}

func TestEveryRouteRefusesOtherMethods(t *testing.T) {
	b := start(t, server.Roles{})
	known := map[string][]string{}
	for _, r := range server.Routes() {
		known[r[1]] = append(known[r[1]], r[0])
	}
	for path, methods := range known {
		for _, m := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"} {
			if slices.Contains(methods, m) || m == "HEAD" {
				continue
			}
			status, body := raw(t, b.control, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: slipway\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n", m, with(path, "web")))
			expectKind(t, m+" "+path, status, body, api.KindBadRequest)
		}
	}
	if got := b.host.seen(); len(got) != 0 {
		t.Errorf("the host was asked: %v", got)
	}
}

func TestEveryAppRouteRefusesNamesThatAreNone(t *testing.T) {
	b := start(t, server.Roles{})
	for _, r := range server.Routes() {
		if !strings.Contains(r[1], "{app}") {
			continue
		}
		for _, app := range []string{"Web", "-web", "web-", "a.b", "a%20b", "%2e%2e", "%00", "..%2f..%2fetc", strings.Repeat("a", 49), "w%C3%ABb"} {
			request := get(with(r[1], app))
			if r[0] == http.MethodPost {
				request = post(with(r[1], app), bodies[r[1]])
			}
			status, body := raw(t, b.control, request)
			expectKind(t, r[0]+" "+r[1]+" for "+app, status, body, api.KindBadRequest)
		}
	}
	if got := b.host.seen(); len(got) != 0 {
		t.Errorf("the host was asked: %v", got)
	}
}

func TestAnAppThisHostDoesNotHaveIsNotFound(t *testing.T) {
	b := start(t, server.Roles{})
	status, body := raw(t, b.control, get("/v1/apps/other"))
	expectKind(t, "GET an unknown app", status, body, api.KindNotFound)
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/apps", "/v1/apps/", "/v1/apps/web/", "/v1/apps/web/start", "/v2/status", "/v1/status/x", "//v1/status"} {
		status, body := raw(t, b.control, get(path))
		expectKind(t, "GET "+path, status, body, api.KindNotFound)
	}
}

func TestEveryReadingRouteRefusesParametersNobodyReads(t *testing.T) {
	b := start(t, server.Roles{})
	for path, bad := range map[string][]string{
		"/v1/apps/web/history": {"limt=3", "limit=3&limit=4", "limit=x", "limit=-1", "limit=1001", "limit=%zz"},
		"/v1/apps/web/verify":  {"quick=yes", "quik=1", "quick=1&quick=0"},
		"/v1/events":           {"since=1", "follow=maybe", "app=Web", "app=..", "until=2026-01-01T00:00:00Z", "since=2026-01-01T00:00:00Z&since=2026-01-02T00:00:00Z"},
	} {
		for _, q := range bad {
			status, body := raw(t, b.control, get(path+"?"+q))
			expectKind(t, "GET "+path+"?"+q, status, body, api.KindBadRequest)
		}
	}
	if got := b.host.seen(); len(got) != 0 {
		t.Errorf("the host was asked: %v", got)
	}
}

func TestWhoMayOpenTheSocketButHasNoRoleSeesTheStatusOnly(t *testing.T) {
	if os.Geteuid() == 0 {
		// root has every role; other users are in TestTheKernelSaysWhoMayDoWhat
		t.Log("as root only the shape of the roles is looked at")
	}
	b := start(t, server.Roles{Viewer: server.Members{Users: []string{strconv.Itoa(os.Getuid())}}})
	eachRoute(t, http.MethodPost, func(path, body string) {
		status, answer := raw(t, b.readOnly, post(with(path, "web"), body))
		expectKind(t, "POST "+path+" on the read-only socket", status, answer, api.KindForbidden)
		if os.Geteuid() != 0 {
			status, answer = raw(t, b.control, post(with(path, "web"), body))
			expectKind(t, "POST "+path+" by a viewer", status, answer, api.KindForbidden)
		}
	})
	if got := b.host.seen(); len(got) != 0 {
		t.Errorf("the host was asked: %v", got)
	}
}

func TestABodyThatNeverComesFreesItsPlace(t *testing.T) {
	b := start(t, server.Roles{})
	for what, one := range map[string]struct{ request, kind string }{
		"half a body":           {strings.Replace(post("/v1/refresh", "{}"), "Content-Length: 2", "Content-Length: 200", 1), api.KindBadRequest},
		"a refused one":         {strings.Replace(post("/v1/refresh", "{}", "Origin: x"), "Content-Length: 2", "Content-Length: 200", 1), api.KindForbidden},
		"one nobody reads":      {strings.Replace(get("/v1/nothing"), "\r\n\r\n", "\r\nContent-Length: 200\r\n\r\n{", 1), api.KindNotFound},
		"a chunk without end":   {strings.Replace(post("/v1/refresh", "2\r\n{}\r\n"), "Content-Length: 7", "Transfer-Encoding: chunked", 1), api.KindBadRequest},
		"chunks that are none":  {strings.Replace(post("/v1/refresh", "zz\r\n{}\r\n"), "Content-Length: 8", "Transfer-Encoding: chunked", 1), api.KindBadRequest},
		"on the read-only side": {strings.Replace(post("/v1/hold", "{}", "Referer: x"), "Content-Length: 2", "Content-Length: 9", 1), api.KindForbidden},
	} {
		status, body := raw(t, b.control, one.request)
		expectKind(t, what, status, body, one.kind)
	}
}

// TestTheNamesOnTheWireDoNotChange is the contract with scripts: a name that goes or changes breaks them.
func TestTheNamesOnTheWireDoNotChange(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	hold := &api.Hold{Since: at, Until: at, Reason: "r", By: "b"}
	full := api.Status{
		Host: "h", Environment: "e", Version: "v", Supervisor: "s", Hold: hold, Warnings: []string{"w"},
		Repository: api.Repository{State: api.RepositoryOK, LastRefresh: at, NextRefresh: at, Issued: at, Expires: map[string]time.Time{"root": at}, Error: "x"},
		Apps: []api.AppStatus{{
			App: "a", Current: "c", Version: "v", Fallback: "f", Candidate: "c", Hold: hold,
			Deployment: &api.Deployment{RolloutID: "r", Release: "r", Version: "v", Absent: true, Reason: "r", Ticket: "t", Expires: at},
			Trial:      &api.Trial{Attempt: "a", Started: at, Deadline: at, Checks: []api.Check{{Name: "n", Kind: "k", Detail: "d", Since: at}}},
			Quarantine: []api.Quarantine{{Sequence: 1, Reason: "r", RetryAt: at}}, Progress: &api.Progress{}, Units: []api.Unit{{Sub: "s", Since: at}},
			LastOutcome: &api.Outcome{Release: "r", Version: "v"},
		}},
	}
	data, err := json.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"":                   "apps environment hold host repository revision supervisor version warnings",
		"hold":               "by reason since until",
		"repository":         "error expires issued last_refresh next_refresh state",
		"apps":               "app busy candidate current deployment enabled fallback hold last_outcome phase progress quarantine revision trial units version why",
		"apps.deployment":    "absent expires reason release rollout_id sequence state ticket version",
		"apps.trial":         "attempt checks deadline healthy_for min_healthy started",
		"apps.trial.checks":  "answer detail kind name since",
		"apps.quarantine":    "at cause digest reason release retry_at sequence version",
		"apps.progress":      "bytes percent rate step total",
		"apps.units":         "active name since sub",
		"apps.last_outcome":  "at attempt message release result version",
		"apps.hold":          "by reason since until",
		"repository.expires": "root",
	}
	got := map[string]string{}
	var all any
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	collect(got, "", all)
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func collect(into map[string]string, at string, v any) {
	switch v := v.(type) {
	case []any:
		for _, one := range v {
			collect(into, at, one)
		}
	case map[string]any:
		into[at] = strings.Join(slices.Sorted(maps.Keys(v)), " ")
		for name, one := range v {
			collect(into, strings.TrimPrefix(at+"."+name, "."), one)
		}
	}
}

package server_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/server"
)

// bench is a server on two real sockets.
type bench struct {
	host              *fakeHost
	control, readOnly string
	mu                sync.Mutex
	records           []server.Record
}

func (b *bench) audit() []server.Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]server.Record(nil), b.records...)
}

func (b *bench) client(t *testing.T) *api.Client {
	c := api.NewClient(b.control, b.readOnly, "1.2.3")
	t.Cleanup(c.Close)
	return c
}

type oneMetric struct{}

func (oneMetric) Gather() []server.Family {
	return []server.Family{{Name: "slipway_phase", Help: "The phase.", Type: server.Gauge, Samples: []server.Sample{
		{Labels: map[string]string{"app": "web\"\n\\", "b": "2"}, Value: 1}, {Value: 0.5},
	}}, {Name: "not a name", Samples: []server.Sample{{Value: 1}}}}
}

func start(t *testing.T, roles server.Roles) *bench {
	t.Helper()
	if len(roles.Viewer.Users)+len(roles.Operator.Groups) == 0 {
		roles.Admin.Users = []string{strconv.Itoa(os.Getuid())} // root is admin anyway; others must be told
	}
	dir, err := os.MkdirTemp("", "slipway-server") // t.TempDir's names can be too long for a socket, and others must get in
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b := &bench{host: &fakeHost{revision: 7}, control: filepath.Join(dir, "s.sock"), readOnly: filepath.Join(dir, "s-ro.sock")}
	s := server.New(server.Config{Host: b.host, Version: "1.2.3", Roles: func() server.Roles { return roles }, Metrics: oneMetric{},
		Audit: func(r server.Record) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.records = append(b.records, r)
		}})
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	for path, access := range map[string]server.Access{b.control: server.Control, b.readOnly: server.ReadOnly} {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
		done.Go(func() {
			if err := s.Serve(ctx, l, access); err != nil {
				t.Errorf("Serve = %v", err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		done.Wait()
		os.RemoveAll(dir)
	})
	return b
}

// raw sends bytes as they are and returns status line and body.
func raw(t *testing.T, socket, request string) (int, string) {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func post(path, body string, headers ...string) string {
	extra := strings.Join(headers, "\r\n")
	if extra != "" {
		extra += "\r\n"
	}
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: slipway\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s", path, len(body), extra, body)
}

func kind(err error) string {
	var e *api.Error
	if errors.As(err, &e) {
		return e.Kind()
	}
	return fmt.Sprintf("%v", err)
}

func TestAChangeNeedsTheRevisionItWasDecidedOn(t *testing.T) {
	b := start(t, server.Roles{})
	c, ctx := b.client(t), t.Context()
	if _, err := c.Revert(ctx, "web", api.RevertRequest{ExpectRevision: 6, Reason: "x"}); kind(err) != api.KindStale {
		t.Errorf("an old revision: %v, want stale", err)
	}
	got, err := c.Revert(ctx, "web", api.RevertRequest{ExpectRevision: 7, Reason: "x"})
	if err != nil || got.Revision != 8 {
		t.Errorf("Revert = %+v, %v", got, err)
	}
	if _, err := c.Revert(ctx, "web", api.RevertRequest{ExpectRevision: 7, Reason: "x"}); kind(err) != api.KindStale {
		t.Errorf("a replay: %v, want stale", err)
	}
	if _, err := c.Hold(ctx, "", api.HoldRequest{}); err != nil {
		t.Errorf("a hold needs no revision: %v", err)
	}
}

func TestBadRequestsAreNamedAndReachNobody(t *testing.T) {
	b := start(t, server.Roles{})
	revert := "/v1/apps/web/revert"
	for name, one := range map[string]struct {
		request, want string
		status        int
	}{
		"unknown field":   {post(revert, `{"expect_revision":7,"reason":"x","force":true}`), `unknown field \"force\"`, 400},
		"other case":      {post(revert, `{"Expect_Revision":7,"reason":"x"}`), `unknown field \"Expect_Revision\"`, 400},
		"twice":           {post(revert, `{"expect_revision":7,"expect_revision":8,"reason":"x"}`), "twice", 400},
		"missing":         {post(revert, `{"reason":"x"}`), `lacks the field \"expect_revision\"`, 400},
		"null":            {post(revert, `{"expect_revision":null,"reason":"x"}`), "no plain value", 400},
		"trailing":        {post(revert, `{"expect_revision":7,"reason":"x"} {}`), "goes on after", 400},
		"a list":          {post(revert, `[]`), "not a JSON object", 400},
		"empty":           {post(revert, ""), "not a JSON object", 400},
		"wrong type":      {post(revert, `{"expect_revision":"7","reason":"x"}`), "expect_revision", 400},
		"float":           {post(revert, `{"expect_revision":7.5,"reason":"x"}`), "expect_revision", 400},
		"line break":      {post(revert, `{"expect_revision":7,"reason":"a\nb"}`), "reason: must not hold", 400},
		"long reason":     {post(revert, `{"expect_revision":7,"reason":"`+strings.Repeat("x", 501)+`"}`), "reason: 501 bytes", 400},
		"not UTF-8":       {post(revert, "{\"expect_revision\":7,\"reason\":\"\xff\"}"), "UTF-8", 400},
		"too long":        {post(revert, `{"reason":"`+strings.Repeat("x", 70000)+`"}`), "longer than 65536", 413},
		"past hold":       {post("/v1/hold", `{"until":"2001-01-01T00:00:00Z"}`), "not in the future", 400},
		"app name":        {post("/v1/apps/Web/revert", `{"expect_revision":7,"reason":"x"}`), "no app name", 400},
		"app path":        {post("/v1/apps/..%2fweb/revert", `{"expect_revision":7,"reason":"x"}`), "no app name", 400},
		"origin":          {post(revert, `{}`, "Origin: http://evil"), "web pages", 403},
		"referer":         {post(revert, `{}`, "Referer: http://evil/"), "web pages", 403},
		"host":            {strings.Replace(post(revert, `{}`), "Host: slipway", "Host: evil.example", 1), "evil.example", 403},
		"form":            {strings.Replace(post(revert, `{}`), "application/json", "text/plain", 1), "Content-Type", 400},
		"method":          {"DELETE /v1/status HTTP/1.1\r\nHost: slipway\r\n\r\n", "no method of", 400},
		"route":           {"GET /v1/nothing HTTP/1.1\r\nHost: slipway\r\n\r\n", "no route", 404},
		"query parameter": {"GET /v1/apps/web/history?limt=3 HTTP/1.1\r\nHost: slipway\r\n\r\n", `no parameter \"limt\"`, 400},
		"limit":           {"GET /v1/apps/web/history?limit=0 HTTP/1.1\r\nHost: slipway\r\n\r\n", "between 1 and 1000", 400},
		"since":           {"GET /v1/events?since=yesterday HTTP/1.1\r\nHost: slipway\r\n\r\n", "no time", 400},
	} {
		status, body := raw(t, b.control, one.request)
		if status != one.status || !strings.Contains(body, one.want) {
			t.Errorf("%s: %d %s\nwant %d with %q", name, status, body, one.status, one.want)
		}
	}
	if got := b.host.seen(); len(got) != 0 {
		t.Errorf("the host was asked: %v", got)
	}
}

func TestErrorsOfOtherPackagesKeepTheirKind(t *testing.T) {
	b := start(t, server.Roles{})
	_, err := b.client(t).Refresh(t.Context())
	if kind(err) != "expired" || err.Error() != "the timestamp expired" {
		t.Errorf("err = %v (%s)", err, kind(err))
	}
}

func TestEveryChangeIsAuditedBeforeAndAfter(t *testing.T) {
	b := start(t, server.Roles{})
	if _, err := b.client(t).Retry(t.Context(), "web", api.RetryRequest{ExpectRevision: 1}); kind(err) != api.KindStale {
		t.Fatal(err)
	}
	got := b.audit()
	if len(got) != 2 || got[0].Outcome != server.OutcomeAsked || got[1].Outcome != api.KindStale {
		t.Fatalf("records = %+v", got)
	}
	for _, r := range got {
		if r.Type != "retry" || r.App != "web" || r.Caller.UID != uint32(os.Getuid()) || r.Caller.PID != int32(os.Getpid()) || r.Caller.User == "" || !strings.Contains(r.Request, `"expect_revision":1`) {
			t.Errorf("record = %+v", r)
		}
	}
}

func TestTheReadOnlySocketChangesNothing(t *testing.T) {
	b := start(t, server.Roles{})
	for _, path := range []string{"/v1/refresh", "/v1/hold", "/v1/apps/web/apply", "/v1/apps/web/remove"} {
		if status, body := raw(t, b.readOnly, post(path, `{"expect_revision":7}`)); status != http.StatusForbidden || !strings.Contains(body, "for reading only") {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if status, _ := raw(t, b.readOnly, "GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"); status != http.StatusOK {
		t.Errorf("status = %d", status)
	}
	if got := b.host.seen(); len(got) != 1 {
		t.Errorf("the host was asked: %v", got)
	}
}

func TestADefectAnswersAndTheNextRequestWorks(t *testing.T) {
	b := start(t, server.Roles{})
	b.host.panics = true
	if _, err := b.client(t).Status(t.Context()); kind(err) != api.KindInternal {
		t.Errorf("err = %v", err)
	}
	if _, err := b.client(t).App(t.Context(), "web"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestOneVerificationOfAnAppRunsAtATime(t *testing.T) {
	b := start(t, server.Roles{})
	b.host.verify = make(chan struct{})
	c, first := b.client(t), make(chan error, 1)
	go func() {
		_, err := c.Verify(t.Context(), "web", api.VerifyQuery{Quick: true})
		first <- err
	}()
	eventually(t, func() bool { return len(b.host.seen()) == 1 })
	if _, err := c.Verify(t.Context(), "web", api.VerifyQuery{}); kind(err) != api.KindBusy {
		t.Errorf("the second = %v, want busy", err)
	}
	close(b.host.verify)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if _, err := c.Verify(t.Context(), "web", api.VerifyQuery{}); err != nil {
		t.Errorf("the third = %v", err)
	}
}

func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for !holds() {
		select {
		case <-late:
			t.Fatal("it did not come true in 20 s")
		case <-tick.C:
		}
	}
}

func TestEventsArriveInOrderAndEndWithTheError(t *testing.T) {
	b := start(t, server.Roles{})
	b.host.events = []api.Event{{App: "web", Kind: "phase", Message: "one"}, {App: "web", Kind: "phase", Message: "two\nlines"}}
	var got []string
	each := func(e api.Event) error { got = append(got, e.Message); return nil }
	if err := b.client(t).Events(t.Context(), api.EventQuery{}, each); err != nil || strings.Join(got, "|") != "one|two\nlines" {
		t.Errorf("got %q, %v", got, err)
	}
	err := b.client(t).Events(t.Context(), api.EventQuery{App: "broken"}, each)
	if kind(err) != api.KindUnavailable {
		t.Errorf("err = %v", err)
	}
}

func TestAFollowedStreamEndsWithTheServerAndWithTheCaller(t *testing.T) {
	b := start(t, server.Roles{})
	b.host.events = []api.Event{{Message: "one"}}
	ctx, cancel := context.WithCancel(t.Context())
	err := b.client(t).Events(ctx, api.EventQuery{Follow: true}, func(api.Event) error { cancel(); return nil })
	if err != nil {
		t.Errorf("err = %v", err)
	}
}

func TestMetricsAreTextThatPrometheusReads(t *testing.T) {
	b := start(t, server.Roles{})
	raw(t, b.control, "GET /v1/nothing HTTP/1.1\r\nHost: slipway\r\n\r\n")
	_, body := raw(t, b.control, "GET /metrics HTTP/1.1\r\nHost: slipway\r\n\r\n")
	for _, want := range []string{
		"# HELP slipway_phase The phase.\n# TYPE slipway_phase gauge\n",
		`slipway_phase{app="web\"\n\\",b="2"} 1` + "\n", "slipway_phase 0.5\n", "# TYPE slipway_api_requests_total counter\n",
		`outcome="not-found"`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
	if strings.Contains(body, "not a name") {
		t.Errorf("a bad name is in\n%s", body)
	}
}

func TestTheTCPListenerServesMetricsOnly(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := server.New(server.Config{Host: &fakeHost{}, Metrics: oneMetric{}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.ServeMetrics(ctx, l) }()
	for path, want := range map[string]int{"/metrics": 200, "/v1/status": 404, "/": 404} {
		resp, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestOneUserCannotTakeAllConnections(t *testing.T) {
	b := start(t, server.Roles{})
	var open []net.Conn
	for range 300 {
		c, err := net.Dial("unix", b.readOnly)
		if err != nil {
			break
		}
		open = append(open, c)
	}
	for _, c := range open {
		c.Close()
	}
	eventually(t, func() bool {
		_, err := api.NewClient(b.readOnly, "", "").Status(t.Context())
		return err == nil
	})
}

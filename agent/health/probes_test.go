package health

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestHTTPAnswersByStatus(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
		case "/teapot":
			w.WriteHeader(http.StatusTeapot)
		case "/moved":
			http.Redirect(w, r, "/ok", http.StatusFound)
		default:
			http.Error(w, "database gone", http.StatusServiceUnavailable)
		}
	}))
	defer srv.Close()
	for _, c := range []struct {
		path   string
		status int
		want   Answer
		detail string
	}{
		{"/ok", 0, Healthy, "200"},
		{"/ok", 204, Unhealthy, "200 OK"},
		{"/teapot", 418, Healthy, "418"},
		{"/moved", 0, Unhealthy, "302"},
		{"/down", 0, Unhealthy, "database gone"},
	} {
		got := HTTP(HTTPSpec{Name: "web", URL: srv.URL + c.path, Status: c.status}).Check(t.Context())
		if got.Answer != c.want || !strings.Contains(got.Detail, c.detail) {
			t.Errorf("%s wanting %d: got %v", c.path, c.status, got)
		}
	}
}

func TestARefusedConnectionIsEvidenceAgainstTheApp(t *testing.T) {
	address := closedPort(t)
	for _, p := range []Probe{
		HTTP(HTTPSpec{Name: "h", URL: "http://" + address}),
		TCP(TCPSpec{Name: "t", Address: address}),
		GRPC(GRPCSpec{Name: "g", Address: address}),
	} {
		if got := p.Check(t.Context()); got.Answer != Unhealthy || !strings.Contains(got.Detail, "refused") {
			t.Errorf("%s: got %v", p.Kind(), got)
		}
	}
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestTCPIsHealthyWhenTheAddressAccepts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := TCP(TCPSpec{Name: "t", Address: l.Addr().String()}).Check(t.Context()); got.Answer != Healthy {
		t.Fatal(got)
	}
}

func TestExecAnswersByExitStatusAndBlamesNobodyWhenItCannotRun(t *testing.T) {
	for _, c := range []struct {
		exit int
		err  error
		want Answer
	}{{0, nil, Healthy}, {1, nil, Unhealthy}, {0, errors.New("no bus"), CannotTell}} {
		run := func(context.Context, []string) (int, string, error) { return c.exit, "tail of output", c.err }
		got := Exec(ExecSpec{Name: "e", Command: []string{"bin/check"}}, run).Check(t.Context())
		if got.Answer != c.want {
			t.Errorf("exit %d, %v: got %v", c.exit, c.err, got)
		}
	}
}

func TestAUnitIsHealthyOnlyAsTheProcessThatWasFirstSeen(t *testing.T) {
	var now UnitStatus
	var fault error
	p := Unit(UnitSpec{Name: "u", Unit: "billing.service"}, func(context.Context, string) (UnitStatus, error) { return now, fault })
	steps := []struct {
		what   string
		status UnitStatus
		err    error
		want   Answer
	}{
		{"starting", UnitStatus{Active: "activating", Sub: "start"}, nil, CannotTell},
		{"running", UnitStatus{Active: "active", Sub: "running", MainPID: 10, InvocationID: "a"}, nil, Healthy},
		{"manager silent", UnitStatus{}, errors.New("no bus"), CannotTell},
		{"still the same", UnitStatus{Active: "active", Sub: "running", MainPID: 10, InvocationID: "a"}, nil, Healthy},
		{"restarted by itself", UnitStatus{Active: "active", Sub: "running", MainPID: 11, InvocationID: "b", NRestarts: 1}, nil, Unhealthy},
		{"waiting to restart", UnitStatus{Active: "activating", Sub: "auto-restart"}, nil, Unhealthy},
		{"failed", UnitStatus{Active: "failed", Sub: "failed", Result: "exit-code", ExecStatus: 1}, nil, Unhealthy},
		{"stopped", UnitStatus{Active: "inactive", Sub: "dead"}, nil, Unhealthy},
	}
	for _, s := range steps {
		now, fault = s.status, s.err
		if got := p.Check(t.Context()); got.Answer != s.want {
			t.Errorf("%s: got %v, want %v", s.what, got, s.want)
		}
	}
}

func TestASlowCrashLoopStaysUnhealthyAndARestartByHandCountsOnce(t *testing.T) {
	now := UnitStatus{Active: "active", Sub: "running", MainPID: 10, InvocationID: "a", NRestarts: 4}
	p := Unit(UnitSpec{Name: "u", Unit: "billing.service"}, func(context.Context, string) (UnitStatus, error) { return now, nil })
	for _, s := range []struct {
		what     string
		pid      int
		id       string
		restarts int
		want     []Answer
	}{
		{"restarts of long ago", 10, "a", 4, []Answer{Healthy, Healthy}},
		{"a new main process of the same start", 11, "a", 4, []Answer{Healthy}},
		{"by hand", 12, "b", 4, []Answer{Unhealthy, Healthy, Healthy}},
		{"by itself", 13, "c", 5, []Answer{Unhealthy, Unhealthy, Unhealthy, Unhealthy}},
	} {
		now.MainPID, now.InvocationID, now.NRestarts = s.pid, s.id, s.restarts
		for i, want := range s.want {
			if got := p.Check(t.Context()); got.Answer != want {
				t.Errorf("%s, look %d: got %v, want %v", s.what, i+1, got, want)
			}
		}
	}
}

type kinded struct{ error }

func (kinded) Kind() string    { return "systemd-unreachable" }
func (k kinded) Unwrap() error { return k.error }

func TestOnlyTheAppsOwnFailuresCountAgainstIt(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for _, c := range []struct {
		err  error
		want Answer
	}{
		{refused, Unhealthy}, {io.EOF, Unhealthy}, {context.DeadlineExceeded, Unhealthy}, {syscall.ECONNRESET, Unhealthy},
		{&net.DNSError{Err: "no such host", Name: "x"}, CannotTell}, {context.Canceled, CannotTell},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}, CannotTell},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)}, CannotTell},
	} {
		if got := blame(c.err); got.Answer != c.want || got.Detail == "" {
			t.Errorf("%v: got %v, want %v", c.err, got, c.want)
		}
	}
	for err, want := range map[error]Answer{context.DeadlineExceeded: Unhealthy, kinded{context.DeadlineExceeded}: CannotTell} {
		run := func(context.Context, []string) (int, string, error) { return 0, "", err }
		if got := Exec(ExecSpec{Name: "e"}, run).Check(t.Context()); got.Answer != want {
			t.Errorf("a runner that failed with %T: got %v, want %v", err, got, want)
		}
	}
}

// grpcServer answers every call with message and status over HTTP/2 without TLS.
func grpcServer(t *testing.T, status string, message []byte, trailersOnly bool) (address string, asked *string) {
	t.Helper()
	asked = new(string)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if len(body) > 7 {
			*asked = string(body[7:])
		}
		w.Header().Set("Content-Type", "application/grpc")
		if trailersOnly {
			w.Header().Set("Grpc-Status", status)
			return
		}
		w.Header().Set("Trailer", "Grpc-Status")
		w.Write(message)
		w.Header().Set("Grpc-Status", status)
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return l.Addr().String(), asked
}

func TestGRPCReadsTheHealthProtocol(t *testing.T) {
	serving := func(status uint64) []byte { return frame(append([]byte{8}, binary.AppendUvarint(nil, status)...)) }
	for _, c := range []struct {
		what, status string
		message      []byte
		trailersOnly bool
		want         Answer
	}{
		{"serving", "0", serving(1), false, Healthy},
		{"not serving", "0", serving(2), false, Unhealthy},
		{"unknown, the zero value", "0", frame(nil), false, Unhealthy},
		{"unknown service", "5", nil, true, Unhealthy},
		{"other status", "13", nil, true, Unhealthy},
		{"truncated", "0", serving(1)[:4], false, Unhealthy},
		{"a length that lies", "0", append(serving(1), 0), false, Unhealthy},
	} {
		address, asked := grpcServer(t, c.status, c.message, c.trailersOnly)
		got := GRPC(GRPCSpec{Name: "g", Address: address, Service: "billing.v1"}).Check(t.Context())
		if got.Answer != c.want || *asked != "billing.v1" {
			t.Errorf("%s: got %v, asked for %q", c.what, got, *asked)
		}
	}
}

func FuzzServingStatusNeverPanics(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 2, 8, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if status, ok := servingStatus(data); ok && len(data) == 5 && status != 0 {
			t.Fatalf("an empty message read as %d", status)
		}
	})
}

// TestEveryProbeKeepsTheContract holds each kind to what Probe promises, against a listener that never answers.
func TestEveryProbeKeepsTheContract(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	block := func(ctx context.Context) { <-ctx.Done() }
	probes := []Probe{
		HTTP(HTTPSpec{Name: "p", URL: "http://" + l.Addr().String()}),
		GRPC(GRPCSpec{Name: "p", Address: l.Addr().String()}),
		TCP(TCPSpec{Name: "p", Address: closedPort(t)}),
		Exec(ExecSpec{Name: "p"}, func(ctx context.Context, _ []string) (int, string, error) { block(ctx); return 0, "", ctx.Err() }),
		Unit(UnitSpec{Name: "p", Unit: "x.service"}, func(ctx context.Context, _ string) (UnitStatus, error) { block(ctx); return UnitStatus{}, ctx.Err() }),
	}
	before := runtime.NumGoroutine()
	for _, p := range probes {
		begin := time.Now()
		got := Once(t.Context(), p, Timing{Timeout: 50 * time.Millisecond})
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("%s: took %s to honour its timeout", p.Kind(), took)
		}
		want := Unhealthy
		if p.Kind() == "unit" {
			want = CannotTell // the service manager owed the answer, not the app
		}
		if got.Answer != want || got.Detail == "" || p.Name() != "p" {
			t.Errorf("%s: got %v, want %v with a reason", p.Kind(), got, want)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if got := Once(ended, p, Timing{}); got.Answer != CannotTell {
			t.Errorf("%s: interrupted by its caller it said %v", p.Kind(), got)
		}
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines before, %d after", before, after)
	}
}

package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// UnitStatus is what a unit probe needs to know of a unit.
type UnitStatus struct {
	Load, Active, Sub, Result string
	MainPID, NRestarts        int
	ExecStatus                int
	InvocationID              string
	Since                     time.Duration
	NeedReload                bool
}

type named struct{ name, kind string }

func (n named) Name() string { return n.name }
func (n named) Kind() string { return n.kind }

// UnitSpec names the unit to look at.
type UnitSpec struct{ Name, Unit string }

// Unit is healthy while the unit is active and its main process is the one the first look found. A restart by itself is churn:
// it stays unhealthy from then on, however well the new process looks, so that a slow crash loop cannot win a trial between two
// crashes. A restart by hand counts once. A service manager that does not answer is CannotTell.
func Unit(s UnitSpec, status func(ctx context.Context, unit string) (UnitStatus, error)) Probe {
	return &unitProbe{named: named{s.Name, "unit"}, unit: s.Unit, status: status}
}

type unitProbe struct {
	named
	unit   string
	status func(context.Context, string) (UnitStatus, error)

	mu    sync.Mutex
	first *UnitStatus
}

func (p *unitProbe) Check(ctx context.Context) Result {
	st, err := p.status(ctx, p.unit)
	if err != nil {
		return Result{CannotTell, err.Error()}
	}
	switch st.Active {
	case "active", "reloading":
		return p.identity(st)
	case "activating":
		if st.Sub != "auto-restart" {
			return Result{CannotTell, "still starting (" + st.Sub + ")"}
		}
	}
	return Result{Unhealthy, fmt.Sprintf("unit is %s (%s), result %s, exit status %d", st.Active, st.Sub, st.Result, st.ExecStatus)}
}

func (p *unitProbe) identity(st UnitStatus) Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.first == nil {
		p.first = &st
	}
	first := p.first
	switch {
	case st.NRestarts > first.NRestarts:
		n := st.NRestarts - first.NRestarts
		return Result{Unhealthy, fmt.Sprintf("restarted by itself: %d times, main process %d became %d", n, first.MainPID, st.MainPID)}
	case st.MainPID != first.MainPID && st.InvocationID != first.InvocationID:
		p.first = &st
		return Result{Unhealthy, fmt.Sprintf("restarted by somebody: main process %d became %d", first.MainPID, st.MainPID)}
	}
	return Result{Healthy, fmt.Sprintf("active, main process %d", st.MainPID)}
}

// HTTPSpec is a GET. Status 0 accepts 200 to 299.
type HTTPSpec struct {
	Name, URL string
	Status    int
}

// HTTP is healthy when the answer has the wanted status. Redirects are not followed: they are an answer, and may lead to
// another machine. Every question makes its own connection, so that a listener that accepts no more is noticed.
func HTTP(s HTTPSpec) Probe { return httpProbe{named{s.Name, "http"}, s} }

type httpProbe struct {
	named
	spec HTTPSpec
}

var httpClient = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, Proxy: nil},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (p httpProbe) Check(ctx context.Context) Result {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.spec.URL, nil)
	if err != nil {
		return Result{CannotTell, err.Error()}
	}
	req.Header.Set("User-Agent", "slipway-health")
	resp, err := httpClient.Do(req)
	if err != nil {
		return blame(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
	if resp.StatusCode == p.spec.Status || p.spec.Status == 0 && resp.StatusCode/100 == 2 {
		return Result{Healthy, resp.Status}
	}
	return Result{Unhealthy, fmt.Sprintf("%s answered %s: %.120q", p.spec.URL, resp.Status, body)}
}

// TCPSpec is an address that must accept a connection.
type TCPSpec struct{ Name, Address string }

// TCP is healthy when the address accepts a connection.
func TCP(s TCPSpec) Probe { return tcpProbe{named{s.Name, "tcp"}, s.Address} }

type tcpProbe struct {
	named
	address string
}

func (p tcpProbe) Check(ctx context.Context) Result {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.address)
	if err != nil {
		return blame(err)
	}
	conn.Close()
	return Result{Healthy, "accepts connections"}
}

// Runner runs a command of the release to its end and returns its exit status and the tail of its output; an error means
// that it could not be run, which says nothing about the app.
type Runner func(ctx context.Context, command []string) (exit int, tail string, err error)

// ExecSpec is a command whose exit status answers.
type ExecSpec struct {
	Name    string
	Command []string
}

// Exec is healthy when the command exits with 0.
func Exec(s ExecSpec, run Runner) Probe { return execProbe{named{s.Name, "exec"}, s.Command, run} }

type execProbe struct {
	named
	command []string
	run     Runner
}

func (p execProbe) Check(ctx context.Context) Result {
	exit, tail, err := p.run(ctx, p.command)
	switch {
	case err != nil && errors.Is(err, context.DeadlineExceeded) && !typed(err):
		return Result{Unhealthy, "the command did not end in time"}
	case err != nil:
		return Result{CannotTell, err.Error()}
	case exit == 0:
		return Result{Healthy, "exit status 0"}
	}
	return Result{Unhealthy, fmt.Sprintf("exit status %d: %.200q", exit, tail)}
}

// typed tells an error of the runner itself, such as a service manager that does not answer, from the bare end of the time.
func typed(err error) bool {
	var kind interface{ Kind() string }
	return errors.As(err, &kind)
}

// checkersOwn are the failures to connect that say nothing about the app: no descriptors, memory, ports or route here.
var checkersOwn = []error{
	context.Canceled, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.ENETUNREACH, syscall.EPERM,
}

// blame decides whose failure a failed question over the network is: the app's, unless it is the checker's own.
func blame(err error) Result {
	if _, lookup := errors.AsType[*net.DNSError](err); lookup {
		return Result{CannotTell, err.Error()}
	}
	for _, own := range checkersOwn {
		if errors.Is(err, own) {
			return Result{CannotTell, err.Error()}
		}
	}
	return Result{Unhealthy, err.Error()}
}

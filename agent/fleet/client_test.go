package fleet_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
)

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func billing() release.App {
	app, err := release.ParseApp("billing")
	if err != nil {
		panic(err)
	}
	return app
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func client(t *testing.T, o fleet.Options) *fleet.Client {
	t.Helper()
	c, err := fleet.NewClient(o)
	must(t, err)
	return c
}

func ask(c *fleet.Client) (fleet.TurnAnswer, error) {
	return c.Turn(context.Background(), fleet.Turn{App: billing(), Rollout: "r1", Document: release.Sum([]byte("plan")), Want: fleet.Forward})
}

func silent(err error) bool {
	var s *fleet.SilentError
	var r *fleet.RefusedError
	return errors.As(err, &s) && !isOutermost(err, &r)
}

// isOutermost reports whether err itself is a refusal: one inside a silence is what a hub in trouble said.
func isOutermost(err error, target **fleet.RefusedError) bool {
	r, ok := err.(*fleet.RefusedError)
	*target = r
	return ok
}

func TestTheHubSeesTheHostsCertificateAndTheHostTheHubsAnswer(t *testing.T) {
	a := newAuthority(t)
	var uri, path string
	srv := a.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		uri, path = r.TLS.PeerCertificates[0].URIs[0].String(), r.Method+" "+r.URL.Path
		answer(w, 200, fleet.TurnAnswer{Answer: fleet.Granted, Fence: 4711})
	}))
	c := client(t, fleet.Options{URLs: []string{srv.URL}, Credentials: a.credentials("web-01", time.Hour)})
	got, err := ask(c)
	must(t, err)
	if got.Fence != 4711 || uri != "slipway://acme/production/web-01" || path != "POST /v1/turn" {
		t.Errorf("fence %d, certificate %s, request %s", got.Fence, uri, path)
	}
}

func TestWhatIsNoAnswerOfAHubIsSilence(t *testing.T) {
	a := newAuthority(t)
	for name, h := range map[string]http.HandlerFunc{
		"a page":            func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>Please log in</html>") },
		"a gateway's error": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "bad gateway", http.StatusBadGateway) },
		"an unknown path":   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "404", http.StatusNotFound) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://127.0.0.1:1/elsewhere", http.StatusTemporaryRedirect)
		},
		"too much":   func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat(" ", fleet.MaxBody+1)+"{}") },
		"half of it": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"answer":"gran`) },
		"its own store": func(w http.ResponseWriter, _ *http.Request) {
			answer(w, 503, fleet.Error{Kind: "unavailable", Message: "no quorum"})
		},
		"a lost connection": func(http.ResponseWriter, *http.Request) {
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			srv := a.serve(h)
			c := client(t, fleet.Options{URLs: []string{srv.URL}, Credentials: a.credentials("web-01", time.Hour)})
			if got, err := ask(c); !silent(err) || got.Answer == fleet.Granted {
				t.Errorf("answer %+v, error %T %v", got, err, err)
			}
		})
	}
}

func TestAHubThatDoesNotAnswerInTimeIsSilent(t *testing.T) {
	a := newAuthority(t)
	end := make(chan struct{})
	srv := a.serve(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-end:
		}
	}))
	defer close(end)
	c := client(t, fleet.Options{URLs: []string{srv.URL}, Credentials: a.credentials("web-01", time.Hour), Timeout: 100 * time.Millisecond})
	if _, err := ask(c); !silent(err) {
		t.Errorf("%T %v", err, err)
	}
}

func TestARefusalIsNoSilenceAndKeepsItsWords(t *testing.T) {
	a := newAuthority(t)
	srv := a.serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		answer(w, http.StatusForbidden, fleet.Error{Kind: fleet.RuleClone, Message: "another machine uses this host id", Hint: "enrol it anew"})
	}))
	other := a.serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { t.Error("a refusal was taken to another hub") }))
	c := client(t, fleet.Options{URLs: []string{srv.URL, other.URL}, Credentials: a.credentials("web-01", time.Hour)})
	_, err := ask(c)
	var refused *fleet.RefusedError
	if !errors.As(err, &refused) || refused.Kind() != "clone" || refused.After != 7*time.Second || !strings.Contains(err.Error(), "enrol it anew") {
		t.Errorf("%T %v", err, err)
	}
}

func TestAnotherHubIsAskedWhenOneIsSilentAndRemembered(t *testing.T) {
	a := newAuthority(t)
	var asked atomic.Int32
	dead := httptest.NewUnstartedServer(nil)
	dead.Listener.Close()
	srv := a.serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		answer(w, 200, fleet.TurnAnswer{Answer: fleet.Wait, Rule: fleet.RuleBudget})
	}))
	c := client(t, fleet.Options{URLs: []string{"https://" + dead.Listener.Addr().String(), srv.URL}, Credentials: a.credentials("web-01", time.Hour)})
	for range 2 {
		got, err := ask(c)
		must(t, err)
		if got.Rule != fleet.RuleBudget {
			t.Errorf("%+v", got)
		}
	}
	if asked.Load() != 2 {
		t.Errorf("asked %d times", asked.Load())
	}
}

func TestAServerOfAnotherAuthorityIsNotTheHub(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	srv := b.serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { t.Error("it was told something") }))
	c := client(t, fleet.Options{URLs: []string{srv.URL}, Credentials: a.credentials("web-01", time.Hour)})
	if _, err := ask(c); !silent(err) {
		t.Errorf("%T %v", err, err)
	}
}

func TestAHubThatDoesNotTakeTheCertificateRefuses(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	srv := a.serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { t.Error("a stranger was let in") }))
	for name, cred := range map[string]fleet.Credentials{
		"expired": a.credentials("web-01", -time.Second), "of another authority": b.credentials("web-01", time.Hour), "none": {},
	} {
		cred.CA = a.credentials("x", time.Hour).CA
		_, err := ask(client(t, fleet.Options{URLs: []string{srv.URL}, Credentials: cred}))
		var refused *fleet.RefusedError
		if !errors.As(err, &refused) || refused.Kind() != fleet.KindIdentity {
			t.Errorf("%s: %T %v", name, err, err)
		}
	}
}

func TestAHostWithoutItsFilesSaysSoAndAsksNobody(t *testing.T) {
	a := newAuthority(t)
	srv := a.serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { t.Error("it asked") }))
	missing, damaged := a.credentials("web-01", time.Hour), a.credentials("web-01", time.Hour)
	must(t, os.Remove(missing.Cert))
	must(t, os.WriteFile(damaged.Cert, []byte("nothing"), 0o600))
	for name, cred := range map[string]fleet.Credentials{"missing": missing, "damaged": damaged} {
		_, err := ask(client(t, fleet.Options{URLs: []string{srv.URL}, Credentials: cred}))
		var local *fleet.LocalError
		if !errors.As(err, &local) || silent(err) {
			t.Errorf("%s: %T %v", name, err, err)
		}
	}
}

func TestARenewedCertificateIsUsedFromTheNextRequestAndADamagedOneNever(t *testing.T) {
	a := newAuthority(t)
	var mu sync.Mutex
	var seen []string
	srv := a.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.TLS.PeerCertificates[0].Subject.CommonName)
		mu.Unlock()
		answer(w, 200, fleet.TurnAnswer{Answer: fleet.Wait})
	}))
	cred := a.credentials("first", time.Hour)
	c := client(t, fleet.Options{URLs: []string{srv.URL}, Credentials: cred})
	for _, next := range [][]byte{nil, a.issue("second", time.Hour), []byte("half a file"), a.issue("third", time.Hour)} {
		if next != nil {
			must(t, os.WriteFile(cred.Cert+".new", next, 0o600))
			must(t, os.Rename(cred.Cert+".new", cred.Cert))
		}
		_, err := ask(c)
		must(t, err)
	}
	if got := strings.Join(seen, " "); got != "first second second third" {
		t.Errorf("the hub saw %s", got)
	}
}

func TestAHubIsReachedOverHTTPSOnly(t *testing.T) {
	for _, u := range []string{"http://127.0.0.1:1", "ftp://127.0.0.1", "https://", "https://user@127.0.0.1", "https://127.0.0.1?x=1", "nonsense"} {
		if _, err := fleet.NewClient(fleet.Options{URLs: []string{u}}); err == nil {
			t.Errorf("%s was taken", u)
		}
	}
	if _, err := fleet.NewClient(fleet.Options{}); err == nil {
		t.Error("no URL was taken")
	}
}

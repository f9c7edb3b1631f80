package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/integration/lab"
)

// load is a crowd of clients that ask one URL again and again, half of them with a new connection for every request.
type load struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu       sync.Mutex
	answers  int
	slowest  time.Duration
	failures []string
}

// askEvery keeps the clients from taking the machine's processors away from the host they ask.
const askEvery = 10 * time.Millisecond

func startLoad(t testing.TB, l *lab.Lab, url string, clients int) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	crowd := &load{stop: cancel}
	for i := range clients {
		c := &http.Client{
			Transport: &http.Transport{DialContext: l.DialContext, DisableKeepAlives: i%2 == 0},
			Timeout:   20 * time.Second,
		}
		crowd.done.Go(func() {
			defer c.CloseIdleConnections()
			tick := time.NewTicker(askEvery)
			defer tick.Stop()
			for ctx.Err() == nil {
				crowd.ask(ctx, c, url)
				<-tick.C
			}
		})
	}
	t.Cleanup(func() { crowd.end() })
	return crowd
}

func (c *load) ask(ctx context.Context, client *http.Client, url string) {
	begin := time.Now()
	err := get(ctx, client, url)
	took := time.Since(begin)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.answers++
		c.slowest = max(c.slowest, took)
	case ctx.Err() == nil: // else the test is over, and the request with it
		c.failures = append(c.failures, fmt.Sprintf("%s after %s: %v", begin.UTC().Format("15:04:05.000"), took.Round(time.Millisecond), err))
	}
}

func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", resp.Status)
	}
	return nil
}

// end stops the clients and returns what they met.
func (c *load) end() (answers int, slowest time.Duration, failures []string) {
	c.stop()
	c.done.Wait()
	return c.answers, c.slowest, c.failures
}

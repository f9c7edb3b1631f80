package bench

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkTenThousandHostsPollAStaticServer reports what a repository costs its server while nothing happens: each of 10,000
// hosts asks once, over a connection of its own, for the timestamp that it knows already.
func BenchmarkTenThousandHostsPollAStaticServer(b *testing.B) {
	w := shared(b)
	const hosts = 10_000
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	for b.Loop() {
		var next, bytes atomic.Int64
		began, cpu := time.Now(), cpuOf(b, w.server.Process.Pid)
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				for next.Add(1) <= hosts {
					n, err := poll(client, w.url+"/metadata/timestamp.json")
					if err != nil {
						b.Error(err)
						return
					}
					bytes.Add(n)
				}
			})
		}
		all.Wait()
		report(b, float64((cpuOf(b, w.server.Process.Pid)-cpu).Microseconds())/hosts, "server-µs/poll")
		report(b, float64(bytes.Load())/hosts, "bytes/poll")
		report(b, hosts/time.Since(began).Seconds(), "polls/s")
	}
}

// poll returns the size of what was sent for a poll, without the packets' own headers.
func poll(client *http.Client, url string) (int64, error) {
	res, err := client.Get(url)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	for name, values := range res.Header {
		n += int64(len(name) + len(values[0]) + len(": \r\n"))
	}
	return n, err
}

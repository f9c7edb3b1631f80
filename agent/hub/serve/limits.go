package serve

import (
	"sync"
	"time"
)

// The limits of one hub. A host asks once per poll and app, and a few times around an update; people and their dashboards ask more
// at once. Who may not be known yet shares a small budget per address.
const (
	hostRate, hostBurst         = 5, 100
	personRate, personBurst     = 20, 100
	strangerRate, strangerBurst = 10, 50
	// forgetAfter is when a bucket is full again for sure, whatever its rate.
	forgetAfter = 2 * time.Minute
)

// limiter is a token bucket for each caller.
type limiter struct {
	now func() time.Time

	mu      sync.Mutex
	buckets map[string]*bucket
	swept   time.Time
}

type bucket struct {
	left float64
	at   time.Time
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, buckets: map[string]*bucket{}, swept: now()}
}

// allow takes one from name's bucket, or says when there will be one.
func (l *limiter) allow(name string, rate, burst float64) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.sweep(now)
	b := l.buckets[name]
	if b == nil {
		b = &bucket{left: burst, at: now}
		l.buckets[name] = b
	}
	b.left = min(burst, b.left+rate*now.Sub(b.at).Seconds())
	b.at = now
	if b.left < 1 {
		return time.Duration((1 - b.left) / rate * float64(time.Second)), false
	}
	b.left--
	return 0, true
}

func (l *limiter) sweep(now time.Time) {
	if now.Sub(l.swept) < forgetAfter {
		return
	}
	l.swept = now
	for name, b := range l.buckets {
		if now.Sub(b.at) > forgetAfter {
			delete(l.buckets, name)
		}
	}
}

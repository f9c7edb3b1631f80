package repository_test

import (
	"context"
	"syscall"
	"testing"
	"time"
)

func cpu(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPublishIntoTenThousandReleases measures one release through change, signature, checks and publish. It must stay
// below 2 s of CPU.
func BenchmarkPublishIntoTenThousandReleases(b *testing.B) {
	f := standard(b)
	f.ok(f.r.Inflate(context.Background(), billing, 10_000, f.key("ci"), f.online()))
	n := 0
	var worst time.Duration
	for b.Loop() {
		n++
		before := cpu(b)
		f.release("1.0." + string(rune('0'+n%10)) + string(rune('a'+n/10)))
		f.publish()
		worst = max(worst, cpu(b)-before)
	}
	b.ReportMetric(worst.Seconds(), "cpu-s/worst")
	if worst > 2*time.Second {
		b.Errorf("one publish took %s of CPU", worst)
	}
}

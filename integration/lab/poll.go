package lab

import (
	"context"
	"time"
)

const pollEvery = 20 * time.Millisecond

// poll asks done until it says yes, fails, or the context ends.
func poll(ctx context.Context, done func() (bool, error)) error {
	return pollAt(ctx, pollEvery, done)
}

func pollAt(ctx context.Context, every time.Duration, done func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

package hub_test

import (
	"container/heap"
	"fmt"
	"iter"
	"math/rand/v2"
	"strings"
	"time"
)

// The simulator runs hosts, hubs, operators and signers in one goroutine over virtual time. Whatever waits is a coroutine
// that gives control back to the world at exactly those points at which a real process waits: for the network, the store, a
// disk, a unit to start. At each of them the world may let another go first, lose a message, or end the process. One seed
// makes one history.

// world is one simulated fleet.
type world struct {
	rng     *rand.Rand
	now     time.Duration
	events  eventHeap
	serial  int
	current *task
	idle    []*runner
	calm    bool // no more faults: what is healthy must finish
	trace   *strings.Builder
	*scenario
}

// event is something that happens at a time.
type event struct {
	at     time.Duration
	serial int
	do     func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, k int) bool {
	return h[i].at < h[k].at || h[i].at == h[k].at && h[i].serial < h[k].serial
}
func (h eventHeap) Swap(i, k int) { h[i], h[k] = h[k], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

// after schedules f.
func (w *world) after(d time.Duration, f func()) {
	w.serial++
	heap.Push(&w.events, event{w.now + d, w.serial, f})
}

// run lets the world go on until a time, or until stop says so.
func (w *world) run(until time.Duration, stop func() bool) {
	for len(w.events) > 0 && w.events[0].at <= until && (stop == nil || !stop()) {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	if w.now < until && (stop == nil || !stop()) {
		w.now = until
	}
}

// wall is the true time of day.
func (w *world) wall() time.Time { return noon.Add(w.now) }

// chance is true with a probability while the world is not calm.
func (w *world) chance(p float64) bool { return w.rng.Float64() < p && !w.calm }

// between draws a duration.
func (w *world) between(least, most time.Duration) time.Duration {
	return least + time.Duration(w.rng.Int64N(int64(most-least)+1))
}

func (w *world) logf(format string, args ...any) {
	if w.trace != nil {
		fmt.Fprintf(w.trace, "%8.1fs ", w.now.Seconds())
		fmt.Fprintf(w.trace, format+"\n", args...)
	}
}

// task is a line of work of a process, on a coroutine of its own while it lasts.
type task struct {
	r    *runner
	f    func()
	done bool
	// turn grows whenever the task goes on, so that what was to wake it from an earlier wait does not wake it from a later one.
	turn int
}

// runner is a coroutine that runs one task after the other: its stack has grown once for all of them.
type runner struct {
	next  func() (struct{}, bool)
	stop  func()
	yield func(struct{}) bool
	task  *task
}

// killed unwinds a task whose process ended.
type killed struct{}

// spawn starts a task.
func (w *world) spawn(f func()) *task {
	var r *runner
	if n := len(w.idle); n > 0 {
		r, w.idle = w.idle[n-1], w.idle[:n-1]
	} else {
		r = &runner{}
		r.next, r.stop = iter.Pull(r.run)
	}
	t := &task{r: r, f: f}
	r.task = t
	w.resume(t)
	return t
}

func (r *runner) run(yield func(struct{}) bool) {
	r.yield = yield
	defer func() {
		if p := recover(); p != nil && p != (any)(killed{}) {
			panic(p)
		}
	}()
	for {
		r.task.f()
		r.task.done = true
		if !yield(struct{}{}) {
			return
		}
	}
}

func (w *world) resume(t *task) {
	if t.done {
		return
	}
	before := w.current
	w.current = t
	t.turn++
	t.r.next()
	if t.done {
		w.idle = append(w.idle, t.r)
	}
	w.current = before
}

// kill ends a task at the point where it waits.
func (w *world) kill(t *task) {
	if t == nil || t.done {
		return
	}
	t.done = true
	t.r.stop()
}

// pause gives control back until something wakes the task.
func (w *world) pause() {
	if !w.current.r.yield(struct{}{}) {
		panic(killed{})
	}
}

// waker wakes the task that is running now from its next wait, once.
func (w *world) waker() func() {
	t := w.current
	turn := t.turn
	return func() {
		if t.turn == turn {
			w.resume(t)
		}
	}
}

// sleep waits.
func (w *world) sleep(d time.Duration) {
	w.after(d, w.waker())
	w.pause()
}

// promise is an answer to come.
type promise[T any] struct {
	kept bool
	val  T
	wake func()
}

func (p *promise[T]) keep(v T) {
	if p.kept {
		return
	}
	p.kept, p.val = true, v
	if p.wake != nil {
		p.wake()
	}
}

// await waits for a promise, but not for ever.
func await[T any](w *world, p *promise[T], patience time.Duration) (T, bool) {
	if !p.kept {
		p.wake = w.waker()
		w.after(patience, p.wake)
		w.pause()
		p.wake = nil
	}
	return p.val, p.kept
}

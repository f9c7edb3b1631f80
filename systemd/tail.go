package systemd

import (
	"os"
	"strings"
	"sync"
	"time"
)

// outputTail is how much of a task's output is kept: the end says why it failed.
const outputTail = 4 << 10

// tail keeps the end of what is written into a pipe.
type tail struct {
	read, write *os.File
	done        chan struct{}
	once        sync.Once

	mu  sync.Mutex
	buf []byte
}

func newTail() (*tail, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	t := &tail{read: r, write: w, done: make(chan struct{})}
	go t.drain()
	return t, nil
}

func (t *tail) drain() {
	defer close(t.done)
	chunk := make([]byte, outputTail)
	for {
		n, err := t.read.Read(chunk)
		t.mu.Lock()
		t.buf = append(t.buf, chunk[:n]...)
		if over := len(t.buf) - outputTail; over > 0 {
			t.buf = append(t.buf[:0], t.buf[over:]...)
		}
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// text is the tail once the writers are gone. A unit kept loaded holds its copy of the pipe, so a quiet moment is enough: what
// the ended process wrote is in the pipe already.
func (t *tail) text() string {
	t.closeWrite()
	_ = t.read.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	<-t.done
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(t.buf), "\uFFFD")
}

func (t *tail) closeWrite() { t.once.Do(func() { t.write.Close() }) }

func (t *tail) abandon() {
	t.closeWrite()
	t.read.Close()
	<-t.done
}

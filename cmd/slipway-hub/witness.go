package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent/durable"
)

// witness remembers in a file the highest revision of the store that this hub has seen: that is how a hub notices after its own
// restart that the store was put back from an old copy meanwhile. It is written seconds late, which costs at most that the
// last seconds before a crash are not missed.
type witness struct {
	file    string
	log     hclog.Logger
	highest atomic.Int64
	written int64
}

const witnessEvery = 5 * time.Second

func openWitness(dir string, log hclog.Logger) *witness {
	w := &witness{file: filepath.Join(dir, "highest-revision"), log: log}
	if data, err := os.ReadFile(w.file); err == nil {
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		if err != nil {
			log.Warn("cannot read the highest revision seen before: a store put back from an old copy meanwhile would not be noticed", "file", w.file)
		}
		w.highest.Store(n)
		w.written = n
	}
	return w
}

// Highest implements hub.Witness.
func (w *witness) Highest() int64 { return w.highest.Load() }

// Saw implements hub.Witness.
func (w *witness) Saw(revision int64) { w.highest.Store(revision) }

func (w *witness) run(ctx context.Context) {
	tick := time.NewTicker(witnessEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			w.write()
			return
		case <-tick.C:
			w.write()
		}
	}
}

func (w *witness) write() {
	n := w.highest.Load()
	if n == w.written {
		return
	}
	if err := durable.WriteFile(w.file, []byte(strconv.FormatInt(n, 10)+"\n"), 0o600); err != nil {
		w.log.Warn("cannot remember the highest revision seen", "error", err)
		return
	}
	w.written = n
}

package bench

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// input is a release to be staged.
type input struct {
	app   string
	tree  func(dir string) error
	many  bool // too many files to be deleted between rounds
	ready bool
}

var inputs = []*input{
	{app: "nats-server", tree: oneBinary},
	{app: "many-files", tree: manyFiles, many: true},
	{app: "one-gigabyte", tree: oneGigabyte},
}

// prepare makes the tree and publishes it, once.
func (in *input) prepare(b *testing.B, w *world) string {
	b.Helper()
	tree := w.path("trees", in.app)
	if in.ready {
		return tree
	}
	check(b, os.MkdirAll(tree, 0o755))
	check(b, in.tree(tree))
	check(b, w.addApp(in.app))
	check(b, w.release(in.app, "1.0.0", "restart = \"none\"\n", tree, "paused"))
	in.ready = true
	return tree
}

// round is one staging by each peer, in an order that changes from round to round.
type round struct {
	own, shell, cp   time.Duration
	ownCPU, shellCPU time.Duration
	peak             float64
}

func (in *input) round(b *testing.B, w *world, before func()) round {
	b.Helper()
	tree := in.prepare(b, w)
	url, err := w.archiveURL(in.app, "1.0.0")
	check(b, err)
	var r round
	peers := []func(dir string){
		func(dir string) {
			r.shell, r.shellCPU = timed(b, `set -o pipefail; curl -sSf "$1" | tee >(sha256sum >/dev/null) | zstd -dc | tar -x -C "$2"; sync -f "$2"`, url, dir)
		},
		func(string) {
			h, took := in.stage(b, w)
			r.own, r.ownCPU, r.peak = took, h.cpu(), h.memory("VmHWM")
			in.end(h)
		},
		func(dir string) {
			r.cp, _ = timed(b, `cp -a "$1" "$2"; sync -f "$2"`, tree, filepath.Join(dir, "copy"))
		},
	}
	w.rounds++
	for i := range peers {
		dir, err := os.MkdirTemp(w.dir, "peer-")
		check(b, err)
		before()
		timed(b, `sync -f "$1"`, w.dir)
		peers[(w.rounds+i)%len(peers)](dir)
		if !in.many {
			check(b, os.RemoveAll(dir))
		}
	}
	return r
}

// stage lets a new host stage the release and returns how long that took. The daemon runs on.
func (in *input) stage(b *testing.B, w *world) (*host, time.Duration) {
	b.Helper()
	h := w.newHost(b, in.app, "5m")
	h.start(w)
	begin := h.await("staging begins", func(e event) bool { return e.Cause == "staging" })
	end := h.await("the staged release waits", func(e event) bool { return e.Time.After(begin.Time) && e.Type == "wait" })
	if end.Cause != "state" {
		h.fail("staging ended with %q", end.Message)
	}
	return h, end.Time.Sub(begin.Time)
}

func (in *input) end(h *host) {
	h.stop()
	if !in.many {
		check(h.b, os.RemoveAll(h.dir))
	}
}

func (r round) report(b *testing.B) {
	report(b, r.own.Seconds(), "own-s")
	report(b, r.shell.Seconds(), "shell-s")
	report(b, r.cp.Seconds(), "cp-s")
	report(b, r.own.Seconds()/r.shell.Seconds(), "own/shell")
	report(b, r.own.Seconds()/r.cp.Seconds(), "own/cp")
	report(b, r.ownCPU.Seconds()/r.shellCPU.Seconds(), "own/shell-cpu")
	report(b, r.peak, "peak-RSS-MB")
}

// BenchmarkStaging compares staging with the shell's pipeline and with a local copy.
func BenchmarkStaging(b *testing.B) {
	w := shared(b)
	for _, in := range inputs {
		b.Run(in.app, func(b *testing.B) {
			in.prepare(b, w)
			for b.Loop() {
				in.round(b, w, func() {}).report(b)
			}
		})
	}
}

// BenchmarkStagingAfterPrune does the same just after 60,000 files were deleted on the same filesystem.
func BenchmarkStagingAfterPrune(b *testing.B) {
	w := shared(b)
	for _, in := range inputs[:2] {
		b.Run(in.app, func(b *testing.B) {
			many := inputs[1].prepare(b, w)
			in.prepare(b, w)
			for b.Loop() {
				in.round(b, w, func() { prune(b, w, many) }).report(b)
			}
		})
	}
}

func prune(b *testing.B, w *world, tree string) {
	b.Helper()
	victim := w.path("victim")
	timed(b, `mkdir "$2"; cp -a "$1" "$2/1"; cp -a "$1" "$2/2"; sync -f "$2"; rm -rf "$2"`, tree, victim)
}

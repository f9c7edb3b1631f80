package bench

import (
	"os"
	"testing"
	"time"
)

// BenchmarkIdle reports what the daemon holds while it has nothing to do, before and after work, and the size of the stripped
// program.
func BenchmarkIdle(b *testing.B) {
	w := shared(b)
	b.Run("never-busy", func(b *testing.B) { neverBusy(b, w) })
	for _, in := range inputs[:2] {
		b.Run("after-staging-"+in.app, func(b *testing.B) {
			in.prepare(b, w)
			for b.Loop() {
				h, _ := in.stage(b, w)
				time.Sleep(15 * time.Second)
				report(b, h.memory("VmRSS"), "RSS-MB")
				report(b, h.memory("RssAnon"), "anonymous-MB")
				in.end(h)
			}
		})
	}
}

func neverBusy(b *testing.B, w *world) {
	for b.Loop() {
		h := w.newHost(b, "", "1s")
		h.start(w)
		h.await("the first refresh", func(e event) bool { return e.Type == "refresh" })
		time.Sleep(5 * time.Second)
		report(b, h.memory("VmRSS"), "RSS-MB")
		report(b, h.memory("RssAnon"), "anonymous-MB")
		report(b, h.memory("VmHWM"), "peak-RSS-MB")
		h.stop()
		check(b, os.RemoveAll(h.dir))
		info, err := os.Stat(w.path("bin", "slipwayd"))
		check(b, err)
		report(b, float64(info.Size())/1e6, "program-MB")
	}
}

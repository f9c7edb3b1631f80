package rollout

import (
	"strings"
	"testing"
	"time"
)

func TestNewsOfAnOldBundleStartNothingAndSayWhichRule(t *testing.T) {
	base := open()
	base.Bundle, base.MaxBundleAge = "/media/usb/in.bundle", 14*24*time.Hour
	base.Issued = base.Now.Add(-13 * 24 * time.Hour)
	if d := Decide(base); !d.Act {
		t.Errorf("a bundle of 13 days: %+v", d)
	}
	base.Issued = base.Now.Add(-15 * 24 * time.Hour)
	d := Decide(base)
	if d.Act || d.Rule != RuleFreshness || !strings.Contains(d.Because, "came in bundle /media/usb/in.bundle, issued ") || !strings.Contains(d.Because, "bring a newer bundle") {
		t.Errorf("%+v", d)
	}
	base.Bundle = ""
	if d := Decide(base); !d.Act {
		t.Errorf("a server confirmed the same news: %+v", d)
	}
}

package hub

import (
	"net/url"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
)

// The cells that every group may have. Cells of label combinations are named after their values.
const (
	cellAll  = "all"
	cellBack = "back" // hosts that are being taken back: a budget of their own
)

// unlimited is the limit of a cell that the signed budget does not bound.
const unlimited = -1

// limits is the signed budget in numbers: how many hosts of each cell may be unavailable at once.
type limits struct {
	All  int `json:"all"`
	Back int `json:"back"`
	// By are the labels whose combinations are cells, Cells the limit of each known one, and Each that of any other.
	By    []string       `json:"by,omitempty"`
	Cells map[string]int `json:"cells,omitempty"`
	Each  int            `json:"each,omitempty"`
}

// newLimits works the budget out as rollout.Limit does, for the whole or for each combination of labels. A percentage bounds
// the whole in any case: the ones that many small combinations are left add up. A deployment without a budget takes one host
// at a time.
func newLimits(s *signed) limits {
	d := s.Deployment
	l := limits{All: 1, Each: unlimited}
	size := int(d.Population)
	if s.hosts != nil {
		size = len(s.hosts)
	}
	if b := d.Budget; b != nil {
		l.All = bound(b, size)
		if len(b.GroupBy) > 0 {
			l.By, l.Each, l.Cells = b.GroupBy, bound(b, 0), cellLimits(b, s.hosts)
		}
		if len(b.GroupBy) > 0 && b.PercentBP == 0 {
			l.All = unlimited
		}
	}
	l.Back = max(1, l.All, l.Each)
	if d.Revert != nil && d.Revert.MaxUnavailable > 0 {
		l.Back = d.Revert.MaxUnavailable
	}
	return l
}

// bound is the limit of a cell of so many hosts; zero means that nobody knows how many. Of an unknown number a percentage is
// one, and what min_available demands cannot be kept, so it lets nobody go.
func bound(b *release.Budget, size int) int {
	if size == 0 && b.MinAvailable == 0 {
		size = max(1, b.Count)
	}
	return rollout.Limit(b, size)
}

func cellLimits(b *release.Budget, hosts map[string]member) map[string]int {
	sizes := map[string]int{}
	for _, m := range hosts {
		sizes[cellName(b.GroupBy, m.labels)]++
	}
	for cell, size := range sizes {
		sizes[cell] = bound(b, size)
	}
	return sizes
}

// of is the limit of a cell.
func (l limits) of(cell string) int {
	switch cell {
	case cellAll:
		return l.All
	case cellBack:
		return l.Back
	}
	if n, ok := l.Cells[cell]; ok {
		return n
	}
	return l.Each
}

// cells are the ones in which a host that goes in a direction takes a slot: all of them or none.
func (l limits) cells(labels map[string]string, dir fleet.Direction) []string {
	if dir == fleet.Back {
		return []string{cellBack}
	}
	var cells []string
	if l.All != unlimited {
		cells = append(cells, cellAll)
	}
	if len(l.By) > 0 {
		cells = append(cells, cellName(l.By, labels))
	}
	return cells
}

// cellName names a combination of labels, such as "site=ams,rack=4", safe as one component of a key.
func cellName(by []string, labels map[string]string) string {
	parts := make([]string, len(by))
	for i, k := range by {
		parts[i] = url.PathEscape(k) + "=" + url.PathEscape(labels[k])
	}
	return strings.Join(parts, ",")
}

// The host's own defaults, from docs/health.md, and what one update may take beyond its trial: restarts, a revert, the report.
const (
	defaultHealthyDeadline = 5 * time.Minute
	defaultMinHealthy      = 30 * time.Second
	besidesTheTrial        = 10 * time.Minute
)

// deadline is how long a host may be silent under a grant before it counts as lost.
func deadline(d *release.Deployment) time.Duration {
	if d.Halt != nil && d.Halt.UpdateDeadline > 0 {
		return d.Halt.UpdateDeadline.Std()
	}
	trial := defaultHealthyDeadline
	if d.Health != nil && d.Health.HealthyDeadline > 0 {
		trial = d.Health.HealthyDeadline.Std()
	}
	return max(trial, soak(d)) + besidesTheTrial
}

// soak is how long a wave is watched after its last host committed, before the next one opens.
func soak(d *release.Deployment) time.Duration {
	if d.Health != nil && d.Health.MinHealthyTime > 0 {
		return d.Health.MinHealthyTime.Std()
	}
	return defaultMinHealthy
}

// exceeded says which signed limit the counts break, or nothing.
func exceeded(d *release.Deployment, failed, lost, tried int) string {
	h := d.Halt
	switch {
	case h == nil:
		return ""
	case h.MaxLost > 0 && lost >= h.MaxLost:
		return sentence("%d hosts are lost, the signed limit is %d", lost, h.MaxLost)
	case h.MaxFailures > 0 && failed >= h.MaxFailures:
		return sentence("%d hosts failed, the signed limit is %d", failed, h.MaxFailures)
	case rollout.TooMany(h, failed, tried):
		return sentence("%d of %d hosts failed, the signed limit is %.4g %%", failed, tried, float64(h.MaxFailureBP)/100)
	}
	return ""
}

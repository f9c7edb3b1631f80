package rollout

import "github.com/slipway-deploy/slipway/agent/release"

// Limit is how many of so many hosts a budget lets be unavailable at once; with group_by, hosts are those of one combination
// of labels. A percentage rounds down but never to nothing, because a fleet too small for it would stand still; min_available is
// kept in any case, so the limit may be zero. Without a budget nothing is bounded.
func Limit(b *release.Budget, hosts int) int {
	if b == nil {
		return hosts
	}
	limit := b.Count
	if b.PercentBP > 0 {
		limit = max(1, b.PercentBP*hosts/fullBP)
	}
	return max(0, min(limit, hosts-b.MinAvailable))
}

// cells counts the hosts that share one limit: all of them, or those of each combination of the group_by labels.
func cells(b *release.Budget, hosts []Host) map[string]int {
	sizes := map[string]int{}
	for _, h := range hosts {
		sizes[cellOf(b, h)]++
	}
	return sizes
}

func cellOf(b *release.Budget, h Host) string {
	if b == nil || len(b.GroupBy) == 0 {
		return ""
	}
	return siteOf(b.GroupBy, h.Labels)
}

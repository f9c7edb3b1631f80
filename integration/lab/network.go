package lab

import (
	"context"
	"fmt"
)

// CutNetwork pulls the host's cable: it sees the carrier go.
func (h *Host) CutNetwork(ctx context.Context) error {
	return ipAll(ctx, "-n "+h.lab.ns+" link set "+h.link+" down")
}

// DropNetwork loses everything the host sends, silently: connections hang instead of failing.
func (h *Host) DropNetwork(ctx context.Context) error {
	rules := fmt.Sprintf("add table netdev lab\nadd chain netdev lab %[1]s { type filter hook ingress device \"%[1]s\" priority 0; }\n"+
		"add rule netdev lab %[1]s drop\n", h.link)
	_, err := run(ctx, "ip", "netns", "exec", h.lab.ns, "sh", "-c", `printf '%s' "$1" | nft -f -`, "nft", rules)
	return err
}

// RestoreNetwork undoes CutNetwork and DropNetwork.
func (h *Host) RestoreNetwork(ctx context.Context) error {
	_, err := run(ctx, "ip", "netns", "exec", h.lab.ns, "sh", "-c",
		`nft list chain netdev lab "$1" >/dev/null 2>&1 || exit 0; nft flush chain netdev lab "$1" && nft delete chain netdev lab "$1"`,
		"nft", h.link)
	if err != nil {
		return err
	}
	return ipAll(ctx, "-n "+h.lab.ns+" link set "+h.link+" up")
}

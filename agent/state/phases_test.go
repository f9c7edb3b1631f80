package state_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/agent/state"
)

var update = flag.Bool("update", false, "write docs/phases.md anew")

// meaning is what each phase is, in the words of an operator.
var meaning = map[state.Phase]string{
	state.Idle:       "nothing is in flight",
	state.Staging:    "the candidate is being fetched, verified and unpacked",
	state.Waiting:    "the candidate is staged and passed its gates; its turn has not come",
	state.Activating: "the attempt is on disk; `current` may or may not name the new release yet",
	state.Trial:      "`current` names the new release; its health is watched and a revert is armed",
	state.Committed:  "the release is known good; guard and marker are being cleared away",
	state.Reverting:  "going back to the fallback, repeated until it is done",
	state.Stuck:      "the fallback is unhealthy too: a person is needed",
	state.Removing:   "the app is being taken off this host",
}

// after is what a start of the daemon makes of an app found in the phase.
var after = map[state.Phase]string{
	state.Idle:       "looks what is signed",
	state.Staging:    "starts staging anew",
	state.Waiting:    "looks what is signed",
	state.Activating: "before the swap: gives the attempt up; after it: reverts",
	state.Trial:      "goes on within the deadline, else reverts; after a reboot only if it was healthy once and has boots left",
	state.Committed:  "clears away",
	state.Reverting:  "finishes the revert",
	state.Stuck:      "waits for a new deployment or `slipway retry`",
	state.Removing:   "finishes the removal",
}

func drawing() []byte {
	var b bytes.Buffer
	b.WriteString("# Phases of an app\n\nGenerated from `agent/state` by its test (`go test ./agent/state -update`); do not edit.\n\n")
	b.WriteString("```mermaid\nstateDiagram-v2\n    [*] --> idle\n")
	for _, from := range phases {
		for _, to := range state.Next[from] {
			fmt.Fprintf(&b, "    %s --> %s\n", from, to)
		}
	}
	b.WriteString("```\n\n| phase | what it is | leads to | a daemon that starts |\n|---|---|---|---|\n")
	for _, p := range phases {
		var to []string
		for _, next := range state.Next[p] {
			to = append(to, string(next))
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", p, meaning[p], strings.Join(to, ", "), after[p])
	}
	return b.Bytes()
}

func TestTheDrawingOfThePhasesIsTheCodes(t *testing.T) {
	for _, p := range phases {
		if meaning[p] == "" || after[p] == "" {
			t.Errorf("phase %s is not explained", p)
		}
	}
	path := filepath.Join("..", "..", "docs", "phases.md")
	if *update {
		must(t, os.WriteFile(path, drawing(), 0o644))
	}
	data, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(data, drawing()) {
		t.Errorf("docs/phases.md is stale (%v): run `go test ./agent/state -update`", err)
	}
}

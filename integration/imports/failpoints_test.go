package imports

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// crashTables says which package's tests crash at the failpoints of a name's first part. Each of those tables is made from
// durable.Failpoints, so it has every failpoint of the packages that its binary links.
var crashTables = map[string]string{
	"agent":      "agent",
	"durable":    "agent/durable",
	"fleet":      "agent/fleet",
	"repository": "tuf/repository",
	"state":      "agent",
	"store":      "agent/store",
	"tuf":        "tuf/client",
	"units":      "agent",
}

func TestEveryFailpointOfTheCodeHasACrashTable(t *testing.T) {
	declared := regexp.MustCompile(`(?m)^[^/\n]*NewFailpoint\("([^"]+)"\)`)
	found := map[string]int{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := os.ReadFile(path)
		for _, m := range declared.FindAllSubmatch(data, -1) {
			name, _, _ := strings.Cut(string(m[1]), ".")
			if crashTables[name] == "" {
				t.Errorf("%s: failpoint %s is in no crash table", path, m[1])
			}
			found[name]++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, pkg := range crashTables {
		tests, _ := filepath.Glob(filepath.Join("../..", pkg, "crash_test.go"))
		if found[name] == 0 || len(tests) == 0 {
			t.Errorf("failpoints %s.…: %d are declared, and %s has %d crash tables", name, found[name], pkg, len(tests))
		}
	}
}

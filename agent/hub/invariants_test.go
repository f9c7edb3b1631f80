package hub_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestEveryInvariantNamesTestsThatExist(t *testing.T) {
	page := string(must(os.ReadFile("../../docs/fleet-invariants.md")))
	rows := regexp.MustCompile(`(?m)^\| (\d+) \|.*\|$`).FindAllString(page, -1)
	if len(rows) != 25 {
		t.Errorf("the table has %d invariants, not 25", len(rows))
	}
	var code strings.Builder
	for _, dir := range []string{"../../agent", "../../tuf"} {
		err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, "_test.go") {
				code.Write(must(os.ReadFile(path)))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range regexp.MustCompile("`(Test[A-Za-z]+)`").FindAllStringSubmatch(page, -1) {
		if !strings.Contains(code.String(), "func "+name[1]+"(") {
			t.Errorf("%s is no test", name[1])
		}
	}
	checker := string(must(os.ReadFile("sim_check_test.go"))) + string(must(os.ReadFile("sim_test.go")))
	for _, row := range rows {
		number := regexp.MustCompile(`\d+`).FindString(row)
		claims := strings.Contains(row, "sim")
		if covered := map[string]bool{"20": true, "22": true, "23": true, "24": true}; claims && !covered[number] && !strings.Contains(checker, `fail("`+number+": ") {
			t.Errorf("the simulator does not check invariant %s", number)
		}
		if !claims && !strings.Contains(row, "`Test") {
			t.Errorf("nothing proves invariant %s", number)
		}
	}
}

package main

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/config"
)

const top = "../.."

// pages are what people read.
func pages(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(top, "docs", "*.md"))
	if err != nil || len(names) < 5 {
		t.Fatalf("docs: %v, %v", names, err)
	}
	names = append(names, filepath.Join(top, "README.md"), filepath.Join(top, "CHANGELOG.md"))
	out := map[string]string{}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = string(data)
	}
	return out
}

var (
	mdLink    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	mdHeading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	notSlug   = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// anchors are a page's headings as web pages name them.
func anchors(text string) map[string]bool {
	out := map[string]bool{}
	for _, m := range mdHeading.FindAllStringSubmatch(text, -1) {
		out[strings.ReplaceAll(notSlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return out
}

func TestNoLinkOfTheDocumentsIsDead(t *testing.T) {
	seen := 0
	for page, text := range pages(t) {
		for _, m := range mdLink.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			seen++
			file, anchor, _ := strings.Cut(m[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			data, err := os.ReadFile(target)
			if info, serr := os.Stat(target); serr != nil || err != nil && !info.IsDir() {
				t.Errorf("%s links to %s, which is not there", page, m[1])
			} else if anchor != "" && !anchors(string(data))[anchor] {
				t.Errorf("%s links to %s, but %s has no such heading", page, m[1], target)
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d links were found: the test looks at the wrong thing", seen)
	}
}

// references reads the generated pages: the commands there are, with their flags.
func references(t *testing.T) map[string]map[string]bool {
	t.Helper()
	shared := map[string][]string{
		"slipway":      {"config", "socket", "json", "help", "version"},
		"slipway-repo": {"dir", "json", "passphrase-file", "help", "version"},
		"slipway-hub":  {"config", "json", "passphrase-file", "help", "version"},
	}
	flag := regexp.MustCompile(`(?m)^ +(?:-\w, +)?--([a-z-]+)`)
	out := map[string]map[string]bool{
		"slipway": {"completion": true}, "slipway completion": {}, "slipway help": {}, "slipway-repo completion": {}, "slipway-repo help": {},
		"slipway-hub completion": {}, "slipway-hub help": {},
	}
	for _, name := range []string{"cli.md", "cli-repo.md", "cli-hub.md"} {
		data, err := os.ReadFile(filepath.Join(top, "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		for section := range strings.SplitSeq(string(data), "\n## ") {
			head, body, _ := strings.Cut(section, "\n")
			program, _, _ := strings.Cut(head, " ")
			if shared[program] == nil || !strings.Contains(head, " ") {
				continue
			}
			out[head] = map[string]bool{}
			for _, f := range shared[program] {
				out[head][f] = true
			}
			for _, m := range flag.FindAllStringSubmatch(body, -1) {
				out[head][m[1]] = true
			}
		}
	}
	out["slipway rollback"] = out["slipway revert"]
	if len(out) < 30 {
		t.Fatalf("only %d commands were found in the references", len(out))
	}
	return out
}

var (
	codeSpan  = regexp.MustCompile("`([^`\n]+)`")
	codeLine  = regexp.MustCompile(`(?m)^    (.*)$`)
	command   = regexp.MustCompile(`(?:^|[\s;|])(slipway(?:-repo|-hub)?) ([a-z][a-z-]*)((?: [a-z][a-z-]*)?)([^;|#]*)`)
	asUser    = regexp.MustCompile(`-u \S+ `) // a user may be called like a program
	flagInUse = regexp.MustCompile(`--([a-z-]+)`)
)

// TestEveryCommandOfTheDocumentsExists looks at code only: "slipway status" in it must be a command, with the flags it is shown with.
func TestEveryCommandOfTheDocumentsExists(t *testing.T) {
	known, seen := references(t), 0
	for page, text := range pages(t) {
		if strings.HasPrefix(filepath.Base(page), "cli") || strings.HasPrefix(filepath.Base(page), "CHANGELOG") {
			continue // generated, and history
		}
		text = strings.ReplaceAll(text, "\\\n", " ")
		var code []string
		for _, m := range slices.Concat(codeSpan.FindAllStringSubmatch(text, -1), codeLine.FindAllStringSubmatch(text, -1)) {
			code = append(code, m[1])
		}
		for _, line := range code {
			for _, m := range command.FindAllStringSubmatch(asUser.ReplaceAllString(line, ""), -1) {
				name := m[1] + " " + m[2] + m[3]
				if known[name] == nil {
					name = m[1] + " " + m[2]
				}
				flags := known[name]
				if flags == nil && !grouped(known, name) {
					t.Errorf("%s shows %q, but there is no command %q", page, strings.TrimSpace(line), name)
					continue
				}
				seen++
				ours, _, _ := strings.Cut(m[4], " -- ")   // what follows is another program's
				ours, _, _ = strings.Cut(ours, ` "exec:`) // so is this
				for _, f := range flagInUse.FindAllStringSubmatch(ours, -1) {
					if flags != nil && !flags[f[1]] {
						t.Errorf("%s shows %q, but %q has no flag --%s", page, strings.TrimSpace(line), name, f[1])
					}
				}
			}
		}
	}
	if seen < 40 {
		t.Errorf("only %d commands were found: the test looks at the wrong thing", seen)
	}
}

// grouped tells whether a name is a group such as "slipway-repo change".
func grouped(known map[string]map[string]bool, name string) bool {
	for k := range known {
		if strings.HasPrefix(k, name+" ") {
			return true
		}
	}
	return false
}

func TestEveryMakeTargetOfTheDocumentsExists(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(top, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	use := regexp.MustCompile("(?:`|    )make ([a-z ]+)")
	for page, text := range pages(t) {
		for _, m := range use.FindAllStringSubmatch(text, -1) {
			for target := range strings.FieldsSeq(m[1]) {
				if !regexp.MustCompile(`(?m)^` + target + `:`).Match(makefile) {
					t.Errorf("%s shows make %s, which the Makefile does not have", page, target)
				}
			}
		}
	}
}

// noDefault are the options of the sample that show an example because they have no default.
var noDefault = regexp.MustCompile(`^#(host_id|site|proxy|ca_file|client_cert|client_key|auth_header_file|max_bundle_age|metadata|targets|listen|urls|ca|cert|key) = `)

func TestEveryDefaultInTheSampleIsTheDefault(t *testing.T) {
	sample, err := os.ReadFile(filepath.Join(top, "packaging", "slipway.toml"))
	if err != nil {
		t.Fatal(err)
	}
	option, shown := regexp.MustCompile(`^#[a-z_]+ = `), 0
	var lines []string
	for line := range strings.Lines(string(sample)) {
		if option.MatchString(line) && !noDefault.MatchString(line) {
			line, shown = line[1:], shown+1
		}
		lines = append(lines, line)
	}
	load := func(text string) *config.Host {
		t.Helper()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "slipway.toml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		h, err := config.LoadCopy(dir, config.DefaultDir)
		if err != nil {
			t.Fatal(err)
		}
		h.Files = nil
		return h
	}
	got, want := load(strings.Join(lines, "")), load(string(sample))
	want.Clock.MaxStep = 5 * time.Minute // the client's own, which zero stands for
	for _, r := range []*config.Members{&got.Roles.Viewer, &got.Roles.Operator, &got.Roles.Security, &got.Roles.Admin} {
		if len(r.Users) == 0 && len(r.Groups) == 0 {
			*r = config.Members{}
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("with the sample's defaults: %+v\nwithout them: %+v", got, want)
	}
	if shown < 15 {
		t.Errorf("only %d options were found: the test looks at the wrong thing", shown)
	}
}

// TestEveryOptionIsInTheSampleAndInTheDocuments goes by what --check-config prints, which is every option.
func TestEveryOptionIsInTheSampleAndInTheDocuments(t *testing.T) {
	sample, err := os.ReadFile(filepath.Join(top, "packaging", "slipway.toml"))
	if err != nil {
		t.Fatal(err)
	}
	hosts := pages(t)[filepath.Join(top, "docs", "hosts.md")]
	keys := map[string]bool{"host_id": true, "listen": true, "proxy": true, "ca_file": true, "client_cert": true, "client_key": true, "auth_header_file": true,
		"urls": true, "ca": true, "cert": true, "key": true}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "slipway.toml"), sample, 0o644); err != nil {
		t.Fatal(err)
	}
	h, err := config.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	var printed strings.Builder
	if err := config.Print(&printed, h); err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^([a-z_]+) = `).FindAllStringSubmatch(printed.String(), -1) {
		keys[m[1]] = true
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if !regexp.MustCompile(`(?m)^#?` + key + ` = `).Match(sample) {
			t.Errorf("the sample does not show %s", key)
		}
		if !regexp.MustCompile(`[.\x60]` + key + "`").MatchString(hosts) {
			t.Errorf("docs/hosts.md does not explain %s", key)
		}
	}
}

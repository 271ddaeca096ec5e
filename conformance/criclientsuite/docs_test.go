package criclientsuite_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/criclientsuite"
)

const docs = "../../docs/conformance-cri-client.md"

// TestDocs holds the tables of the suite's page to the rules: each stands there once,
// at its level and tier, and no other does.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	levels := map[string]string{}
	row := regexp.MustCompile(`(?m)^\| (CRIC-[A-Z]+-[0-9]{3}) \| ([MSF]) \| ([a-z]+) \| (.*) \|$`)
	titles := map[string]string{}
	for _, cells := range row.FindAllStringSubmatch(string(text), -1) {
		if levels[cells[1]] != "" {
			t.Errorf("%s stands twice", cells[1])
		}
		levels[cells[1]], titles[cells[1]] = cells[2]+" "+cells[3], cells[4]
	}
	rules := criclientsuite.Suite().Rules
	for i := range rules {
		r := &rules[i]
		if got, want := levels[r.ID], letter(r)+" "+r.Tier.String(); got != want {
			t.Errorf("%s stands as %q, want %q", r.ID, got, want)
		}
		if want := strings.TrimSuffix(r.Title, " (de facto)"); titles[r.ID] != want {
			t.Errorf("%s stands as %q, want %q", r.ID, titles[r.ID], want)
		}
		delete(levels, r.ID)
	}
	for rule := range levels {
		t.Errorf("%s is no rule of the suite", rule)
	}
}

func letter(r *conformance.Rule[criclientsuite.Target]) string {
	switch {
	case strings.HasSuffix(r.Title, "(de facto)"):
		return "F"
	case r.Level == conformance.Should:
		return "S"
	}
	return "M"
}

// TestFeatures holds the list of features in the page to the suite's.
func TestFeatures(t *testing.T) {
	text, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(criclientsuite.Suite().Facts["lacks"], ": ")
	if want := "`" + strings.ReplaceAll(list, ", ", "`, `") + "`"; !strings.Contains(plain(string(text)), want) {
		t.Errorf("%s does not say %s", docs, want)
	}
}

// TestSentences holds the rules that quote api.proto to its text.
func TestSentences(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/cri-api").Output()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "pkg/apis/runtime/v1/api.proto"))
	if err != nil {
		t.Fatal(err)
	}
	proto := plain(regexp.MustCompile(`(?m)^\s*//`).ReplaceAllString(string(data), ""))
	rules := criclientsuite.Suite().Rules
	for i := range rules {
		if r := &rules[i]; r.Spec.Document == "CRI" && !strings.Contains(proto, plain(r.Spec.Sentence)) {
			t.Errorf("%s: api.proto does not say %q", r.ID, r.Spec.Sentence)
		}
	}
}

// plain has one space for each white space.
func plain(text string) string { return strings.Join(strings.Fields(text), " ") }

package crisuite_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/crisuite"
)

// TestDocs holds the tables of docs/conformance-cri.md to the rules: each stands there
// once, at its level, and no other does.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/conformance-cri.md")
	if err != nil {
		t.Fatal(err)
	}
	levels := map[string]string{}
	row := regexp.MustCompile(`(?m)^\| (CRI-[A-Z]+-[0-9]{3}) \| ([MSFQ]) \| ([a-z]+) \|`)
	for _, cells := range row.FindAllStringSubmatch(string(text), -1) {
		if levels[cells[1]] != "" {
			t.Errorf("%s stands twice", cells[1])
		}
		levels[cells[1]] = cells[2] + " " + cells[3]
	}
	rules := crisuite.Suite().Rules
	for i := range rules {
		if got, want := levels[rules[i].ID], letter(&rules[i])+" "+rules[i].Tier.String(); got != want {
			t.Errorf("%s stands as %q, want %q", rules[i].ID, got, want)
		}
		delete(levels, rules[i].ID)
	}
	for rule := range levels {
		t.Errorf("%s is no rule of the suite", rule)
	}
}

func letter(r *conformance.Rule[crisuite.Target]) string {
	switch {
	case strings.HasSuffix(r.Title, "(de facto)"):
		return "F"
	case r.Level == conformance.Should:
		return "S"
	case r.Level == conformance.Advisory:
		return "Q"
	}
	return "M"
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
	rules := crisuite.Suite().Rules
	for i := range rules {
		r := &rules[i]
		if r.Spec.Document != "CRI" {
			continue
		}
		for part := range strings.SplitSeq(r.Spec.Sentence, "[...]") {
			if !strings.Contains(proto, plain(part)) {
				t.Errorf("%s: api.proto does not say %q", r.ID, strings.TrimSpace(part))
			}
		}
	}
}

// plain has one space for each white space.
func plain(text string) string { return strings.Join(strings.Fields(text), " ") }

// Package suitepage checks a suite's page in docs against its rules, and the
// sentences that rules quote against the specification. It is for the tests of
// suites.
package suitepage

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
)

// row is a rule in a table: id, level, tier and title.
var row = regexp.MustCompile(`(?m)^\| ([A-Z]+(?:-[A-Z]+)+-[0-9]{3}) \| ([MSFQ]) \| ([a-z]+) \| (.*) \|$`)

// Tables checks the tables of the page against the rules: each rule occurs once, with
// its level, tier and title, and there are no others.
func Tables[T any](t *testing.T, page string, rules []conformance.Rule[T]) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	stands := map[string]string{}
	for _, cells := range row.FindAllStringSubmatch(string(text), -1) {
		if stands[cells[1]] != "" {
			t.Errorf("%s stands twice", cells[1])
		}
		stands[cells[1]] = strings.TrimSuffix(strings.Join(cells[2:], " "), deFacto) // which the letter says, too
	}
	for i := range rules {
		r := &rules[i]
		want := strings.Join([]string{letter(r), r.Tier.String(), strings.TrimSuffix(r.Title, deFacto)}, " ")
		if got := stands[r.ID]; got != want {
			t.Errorf("%s stands as %q, want %q", r.ID, got, want)
		}
		delete(stands, r.ID)
	}
	for rule := range stands {
		t.Errorf("%s is no rule of the suite", rule)
	}
}

// deFacto ends the title of a rule that is not based on a sentence of a
// specification.
const deFacto = " (de facto)"

func letter[T any](r *conformance.Rule[T]) string {
	switch {
	case strings.HasSuffix(r.Title, deFacto):
		return "F"
	case r.Level == conformance.Should:
		return "S"
	case r.Level == conformance.Advisory:
		return "Q"
	}
	return "M"
}

// CRISentences checks the rules that quote the CRI against the text of its api.proto.
// Omissions in a sentence are marked "[...]".
func CRISentences[T any](t *testing.T, rules []conformance.Rule[T]) {
	t.Helper()
	quoted(t, rules, "CRI", "k8s.io/cri-api", "pkg/apis/runtime/v1/api.proto")
}

// NRISentences checks the rules that quote NRI against its README and its api.proto.
func NRISentences[T any](t *testing.T, rules []conformance.Rule[T]) {
	t.Helper()
	quoted(t, rules, "NRI", "github.com/containerd/nri", "README.md", "pkg/api/api.proto")
}

// quoted checks the rules that quote a document against files of a module.
func quoted[T any](t *testing.T, rules []conformance.Rule[T], document, module string, files ...string) {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), file))
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, Plain(regexp.MustCompile(`(?m)^\s*//`).ReplaceAllString(string(data), "")))
	}
	seen := 0
	for i := range rules {
		r := &rules[i]
		if r.Spec.Document != document {
			continue
		}
		seen++
		for part := range strings.SplitSeq(r.Spec.Sentence, "[...]") {
			if !slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, Plain(part)) }) {
				t.Errorf("%s: %q does not stand in %q", r.ID, strings.TrimSpace(part), files)
			}
		}
	}
	if seen == 0 {
		t.Errorf("no rule quotes %s", document)
	}
}

// Plain replaces all white space by single spaces.
func Plain(text string) string { return strings.Join(strings.Fields(text), " ") }

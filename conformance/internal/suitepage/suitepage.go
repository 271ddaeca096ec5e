// Package suitepage holds a suite's page in docs, and the sentences that its rules
// quote, to what is true. It is for the tests of suites.
package suitepage

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
)

// row is a rule in a table: id, level, tier and title.
var row = regexp.MustCompile(`(?m)^\| ([A-Z]+(?:-[A-Z]+)+-[0-9]{3}) \| ([MSFQ]) \| ([a-z]+) \| (.*) \|$`)

// Tables holds the tables of the page to the rules: each stands there once, with its
// level, tier and title, and no other does.
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

// deFacto ends the title of a rule that no sentence of a specification is behind.
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

// CRISentences holds the rules that quote the CRI to the text of its api.proto. What a
// sentence leaves out is "[...]".
func CRISentences[T any](t *testing.T, rules []conformance.Rule[T]) {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/cri-api").Output()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "pkg/apis/runtime/v1/api.proto"))
	if err != nil {
		t.Fatal(err)
	}
	proto := Plain(regexp.MustCompile(`(?m)^\s*//`).ReplaceAllString(string(data), ""))
	for i := range rules {
		r := &rules[i]
		if r.Spec.Document != "CRI" {
			continue
		}
		for part := range strings.SplitSeq(r.Spec.Sentence, "[...]") {
			if !strings.Contains(proto, Plain(part)) {
				t.Errorf("%s: api.proto does not say %q", r.ID, strings.TrimSpace(part))
			}
		}
	}
}

// Plain has one space for each white space.
func Plain(text string) string { return strings.Join(strings.Fields(text), " ") }

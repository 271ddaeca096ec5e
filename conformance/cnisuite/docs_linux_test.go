package cnisuite_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/cnisuite"
)

// TestDocs holds the tables of docs/conformance-cni.md to the rules: each stands
// there, at its level, and no other does.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/conformance-cni.md")
	if err != nil {
		t.Fatal(err)
	}
	tables, _, found := strings.Cut(string(text), "## Retired ids")
	if !found {
		t.Fatal("the page has no retired ids")
	}
	levels := map[string]string{} // letters, by rule
	id, letter := regexp.MustCompile(`CNI-[A-Z]+-[0-9]{3}`), regexp.MustCompile(`^[MSFQ]$`)
	for line := range strings.Lines(tables) {
		cells := strings.Split(line, "|")
		for i, cell := range cells {
			cells[i] = strings.TrimSpace(cell)
		}
		level := slices.IndexFunc(cells, letter.MatchString)
		if level < 1 {
			continue
		}
		ids := cells[level-1] // before the level, or behind it where an item stands before
		if !id.MatchString(ids) {
			ids = cells[level+1]
		}
		for _, rule := range id.FindAllString(ids, -1) {
			levels[rule] += cells[level]
		}
	}
	want := map[conformance.Level]string{conformance.Must: "M", conformance.Should: "SF", conformance.Advisory: "Q"}
	rules := cnisuite.Suite().Rules
	for i := range rules {
		r := &rules[i]
		letters := levels[r.ID]
		if !strings.ContainsAny(letters, want[r.Level]) { // an item of another level may name it too
			t.Errorf("%s is a %s, and stands at the levels %q", r.ID, r.Level, letters)
		}
		if facto := strings.HasSuffix(r.Title, "(de facto)"); r.Level == conformance.Should && facto != strings.Contains(letters, "F") {
			t.Errorf("%s, %q, stands at the levels %q", r.ID, r.Title, letters)
		}
		delete(levels, r.ID)
	}
	for rule := range levels {
		t.Errorf("%s is no rule of the suite", rule)
	}
}

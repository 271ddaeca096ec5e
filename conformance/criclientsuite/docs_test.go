package criclientsuite_test

import (
	"os"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/conformance/criclientsuite"
	"github.com/nodekit-project/nodekit/conformance/internal/suitepage"
)

const docs = "../../docs/conformance-cri-client.md"

func TestDocs(t *testing.T) { suitepage.Tables(t, docs, criclientsuite.Suite().Rules) }

func TestSentences(t *testing.T) { suitepage.CRISentences(t, criclientsuite.Suite().Rules) }

// TestFeatures holds the list of features in the page to the suite's.
func TestFeatures(t *testing.T) {
	text, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(criclientsuite.Suite().Facts["lacks"], ": ")
	if want := "`" + strings.ReplaceAll(list, ", ", "`, `") + "`"; !strings.Contains(suitepage.Plain(string(text)), want) {
		t.Errorf("%s does not say %s", docs, want)
	}
}

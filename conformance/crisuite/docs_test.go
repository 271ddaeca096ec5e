package crisuite_test

import (
	"testing"

	"github.com/nodekit-project/nodekit/conformance/crisuite"
	"github.com/nodekit-project/nodekit/conformance/internal/suitepage"
)

func TestDocs(t *testing.T) {
	suitepage.Tables(t, "../../docs/conformance-cri.md", crisuite.Suite().Rules)
}

func TestSentences(t *testing.T) {
	suitepage.CRISentences(t, crisuite.Suite().Rules)
	suitepage.NRISentences(t, crisuite.Suite().Rules)
}

package conformance

import (
	_ "embed" // for the schema
	"encoding/json"
	"io"
)

//go:embed report.schema.json
var reportSchema string

// JSONSchema returns the JSON schema (draft 2020-12) of what WriteJSON writes.
func JSONSchema() string { return reportSchema }

// WriteJSON writes the report in the format named by Schema.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(r)
}

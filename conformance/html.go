package conformance

import (
	_ "embed" // for the page
	"html/template"
	"io"
)

//go:embed report.html.tmpl
var reportPage string

// htmlRow is what the page shows of one result.
type htmlRow struct {
	Result
	Word, Repeat string
}

// WriteHTML writes the report as one self-contained page that needs no network.
func (r *Report) WriteHTML(w io.Writer) error {
	page, err := template.New("report").Parse(reportPage)
	if err != nil {
		return err
	}
	rows := make([]htmlRow, 0, len(r.Results))
	violations := 0
	for _, result := range r.Results {
		if result.violation() {
			violations++
		}
		row := htmlRow{Result: result, Word: result.word()}
		if result.Status == Fail {
			row.Repeat = r.Repeat(result.ID)
		}
		rows = append(rows, row)
	}
	return page.Execute(w, map[string]any{
		"Report": r, "Rows": rows, "Summary": r.summary(),
		"Passed": r.Count(Pass), "Failed": violations, "Warned": r.Count(Fail) - violations, "Waived": r.Count(Waived), "NA": r.Count(NA),
	})
}

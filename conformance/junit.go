package conformance

import (
	"encoding/xml"
	"fmt"
	"io"
)

// The totals are on both elements: some readers take those of the outer one, some
// those of the inner one, and some refuse a document that lacks any.
type junitSuites struct {
	XMLName xml.Name `xml:"testsuites"`
	junitTotals
	Suite junitSuite `xml:"testsuite"`
}

type junitTotals struct {
	Name     string `xml:"name,attr"`
	Tests    int    `xml:"tests,attr"`
	Failures int    `xml:"failures,attr"`
	Errors   int    `xml:"errors,attr"`
	Skipped  int    `xml:"skipped,attr"`
	Time     string `xml:"time,attr"`
}

type junitSuite struct {
	junitTotals
	Timestamp  string          `xml:"timestamp,attr"`
	Properties []junitProperty `xml:"properties>property"`
	Cases      []junitCase     `xml:"testcase"`
}

type junitProperty struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type junitCase struct {
	Class   string     `xml:"classname,attr"`
	Name    string     `xml:"name,attr"`
	Time    string     `xml:"time,attr"`
	Failure *junitText `xml:"failure,omitempty"`
	Skipped *junitText `xml:"skipped,omitempty"`
}

type junitText struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr,omitempty"` // the rule's level
	Text    string `xml:",chardata"`
}

// WriteJUnit writes the report as JUnit XML. There only a failed Must rule is a
// failure. What is waived, not applicable or not as recommended is skipped, with the
// reason.
func (r *Report) WriteJUnit(w io.Writer) error {
	suite := junitSuite{
		junitTotals: junitTotals{Name: "conformance." + r.Suite, Tests: len(r.Results), Time: fmt.Sprintf("%.3f", r.Seconds())},
		Timestamp:   r.Started.Format("2006-01-02T15:04:05"),
		Properties:  []junitProperty{{"version", r.Version}, {"tier", r.Tier}, {"seed", fmt.Sprint(r.Seed)}, {"command", r.Command}},
	}
	for i := range r.Results {
		result := &r.Results[i]
		c := junitCase{Class: suite.Name, Name: result.ID + " " + result.Title, Time: fmt.Sprintf("%.3f", result.Seconds)}
		switch {
		case result.violation():
			suite.Failures++
			c.Failure = &junitText{Message: result.Message, Type: string(result.Level), Text: r.failure(result)}
		case result.Status == Fail:
			suite.Skipped++
			c.Skipped = &junitText{Message: fmt.Sprintf("%s not met", result.Level), Text: r.failure(result)}
		case result.Status != Pass:
			suite.Skipped++
			c.Skipped = &junitText{Message: result.word() + ": " + result.Message}
		}
		suite.Cases = append(suite.Cases, c)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(junitSuites{junitTotals: suite.junitTotals, Suite: suite}); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

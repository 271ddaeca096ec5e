package conformance

import (
	"fmt"
	"io"
	"regexp"
	"strings"
)

// word returns a status as shown in text. Failures that do not count have a word of
// their own.
func (r *Result) word() string {
	switch {
	case r.violation():
		return "FAIL"
	case r.Status == Fail:
		return "warn"
	}
	return string(r.Status)
}

// cause returns what was seen; rules with the same cause report it once. Lines after
// the first are a plugin's output, which contains times, so digits in them are
// ignored. It is "" if the rule did not fail.
func (r *Result) cause() string {
	if r.Status != Fail {
		return ""
	}
	first, rest, _ := strings.Cut(r.Message, "\n")
	return first + "\n" + digits.ReplaceAllString(rest, "")
}

var digits = regexp.MustCompile(`[0-9]+`)

// line returns the result in one line.
func (r *Result) line() string {
	text := fmt.Sprintf("%-6s  %-16s  %-8s  %6.2fs  %s", r.word(), r.ID, r.Level, r.Seconds, r.Title)
	if r.Message == "" {
		return text
	}
	first, _, _ := strings.Cut(r.Message, "\n")
	return text + ": " + first
}

// failure returns everything that the reader of a failure needs: the duty, what was
// seen, and how to reproduce it.
func (r *Report) failure(result *Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s (%s): %s\n", result.word(), result.ID, result.Level, result.Title)
	fmt.Fprintf(&b, "  spec:   %s\n", result.Spec)
	fmt.Fprintf(&b, "  seen:   %s\n", strings.ReplaceAll(result.Message, "\n", "\n          "))
	fmt.Fprintf(&b, "  repeat: %s\n", r.Repeat(result.ID))
	return b.String()
}

// WriteText writes the report for people: the failures in full, the durations, and a
// summary. The line per rule is the progress of the run, see Options.Progress.
//
// Rules that failed for the same cause, such as a plugin that does not start, are
// named after the first of them.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	alike := map[string][]*Result{}
	for i := range r.Results {
		cause := r.Results[i].cause()
		alike[cause] = append(alike[cause], &r.Results[i])
	}
	for i := range r.Results {
		same := alike[r.Results[i].cause()]
		if r.Results[i].Status != Fail || same[0] != &r.Results[i] {
			continue
		}
		b.WriteString(r.failure(same[0]))
		for n, other := range same[1:] {
			label := "alike:"
			if n > 0 {
				label = ""
			}
			fmt.Fprintf(&b, "  %-6s  %s %s (%s): %s\n", label, other.word(), other.ID, other.Level, other.Title)
		}
		b.WriteByte('\n')
	}
	if err := r.writeLatencies(&b); err != nil {
		return err
	}
	r.writeSizes(&b)
	fmt.Fprintln(&b, r.summary())
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) summary() string {
	verdict := "ok"
	switch {
	case r.Failed():
		verdict = "FAILED"
	case r.cut:
		verdict = "CUT SHORT"
	}
	violations := 0
	for i := range r.Results {
		if r.Results[i].violation() {
			violations++
		}
	}
	text := fmt.Sprintf("%s: suite %s %s (%s, seed %d): %d passed, %d failed", verdict, r.Suite, r.Version, r.Tier, r.Seed,
		r.Count(Pass), violations)
	for _, more := range []struct {
		n    int
		what string
	}{
		{r.Count(Fail) - violations, "not as recommended"},
		{r.Count(Waived), "waived"},
		{r.Count(NA), "not applicable"},
	} {
		if more.n > 0 {
			text += fmt.Sprintf(", %d %s", more.n, more.what)
		}
	}
	return fmt.Sprintf("%s, in %.1f s", text, r.Seconds())
}

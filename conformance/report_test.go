package conformance_test

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/conformance"
)

// mixed returns a report that has each status, and failures of both kinds.
func mixed(t *testing.T, progress *strings.Builder) *conformance.Report {
	t.Helper()
	s := newSuite()
	s.Rules = append(s.Rules, newRule("T-C-001", conformance.Must, conformance.Quick))
	seen := target{
		"T-A-001": errors.New("left <b>eth0</b> behind\nand \x1b[31mveth1"),
		"T-A-002": errors.New("slow"),
		"T-B-001": conformance.NotApplicable("no %s", "IPv6"),
	}
	opts := &conformance.Options{
		Tier: conformance.Crash, Seed: 42, Command: "nodekit conform test ./p",
		Profile: &conformance.Profile{Waivers: map[string]string{"T-C-001": "agreed"}},
	}
	if progress != nil {
		opts.Progress = progress
	}
	report, err := s.Run(t.Context(), seen, opts)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestFailed(t *testing.T) {
	report := mixed(t, nil)
	if !report.Failed() {
		t.Error("a failed MUST did not fail the report")
	}
	report.Result("T-A-001").Status = conformance.Pass
	if report.Failed() {
		t.Error("a failed SHOULD failed the report")
	}
}

func TestStrict(t *testing.T) {
	s := newSuite()
	seen := target{"T-A-002": errors.New("slow")}
	for strict, word := range map[bool]string{false: "warn", true: "FAIL"} {
		var text strings.Builder
		report, err := s.Run(t.Context(), seen, &conformance.Options{Strict: strict})
		if err != nil || report.WriteText(&text) != nil {
			t.Fatal(err)
		}
		if report.Failed() != strict || !strings.Contains(text.String(), word+" T-A-002 (SHOULD)") {
			t.Errorf("strict %v: failed %v\n%s", strict, report.Failed(), text.String())
		}
	}
}

func TestTextAndProgress(t *testing.T) {
	var progress, text strings.Builder
	report := mixed(t, &progress)
	if err := report.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"T 1.0, S: A plugin MUST do T-A-001.", "left <b>eth0</b> behind",
		"nodekit conform test ./p --rule T-A-001 --seed 42", "warn T-A-002",
		"FAILED: suite test 1 (crash, seed 42): 0 passed, 1 failed, 1 not as recommended, 1 waived, 1 not applicable",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("text lacks %q:\n%s", want, text.String())
		}
	}
	if lines := strings.Count(progress.String(), "\n"); lines != len(report.Results) {
		t.Errorf("%d progress lines for %d rules:\n%s", lines, len(report.Results), progress.String())
	}
	if strings.Contains(text.String()+progress.String(), "\x1b") {
		t.Error("a plugin's escape sequence reached the terminal")
	}
}

// TestAlike: what all rules see of a plugin that does not start is told once.
func TestAlike(t *testing.T) {
	s := newSuite()
	s.Rules = append(s.Rules, newRule("T-C-001", conformance.Must, conformance.Quick))
	seen := target{
		"T-A-001": errors.New("it ended before it was ready\nit printed: 10:00:01 no kernel module"),
		"T-A-002": errors.New("it ended before it was ready\nit printed: 10:00:02 no kernel module"),
		"T-B-001": errors.New("it left veth1"),
		"T-C-001": errors.New("it left veth2"),
	}
	var progress, text strings.Builder
	report, err := s.Run(t.Context(), seen, &conformance.Options{Tier: conformance.Crash, Progress: &progress})
	if err != nil || report.WriteText(&text) != nil {
		t.Fatal(err)
	}
	if n := strings.Count(text.String(), "no kernel module"); n != 1 {
		t.Errorf("it is told %d times, want once:\n%s", n, text.String())
	}
	if !regexp.MustCompile(`(?m)^FAIL T-A-001 [\s\S]*\n  alike:  warn T-A-002 \(SHOULD\): `).MatchString(text.String()) {
		t.Errorf("the other rule is not named:\n%s", text.String())
	}
	if !strings.Contains(text.String(), "it left veth1") || !strings.Contains(text.String(), "it left veth2") || !strings.Contains(text.String(), "3 failed, 1 not as recommended") {
		t.Errorf("what differs is gone:\n%s", text.String())
	}
	if !regexp.MustCompile(`T-A-002 .*: the same as T-A-001\n`).MatchString(progress.String()) {
		t.Errorf("progress:\n%s", progress.String())
	}
}

func TestJUnit(t *testing.T) {
	var b strings.Builder
	if err := mixed(t, nil).WriteJUnit(&b); err != nil {
		t.Fatal(err)
	}
	type totals struct {
		Name     string `xml:"name,attr"`
		Tests    int    `xml:"tests,attr"`
		Failures int    `xml:"failures,attr"`
		Errors   *int   `xml:"errors,attr"`
		Skipped  int    `xml:"skipped,attr"`
		Time     string `xml:"time,attr"`
	}
	var got struct {
		totals
		Suite struct {
			totals
			Properties []struct {
				Name string `xml:"name,attr"`
			} `xml:"properties>property"`
			Cases []struct {
				Name    string `xml:"name,attr"`
				Failure *struct {
					Type string `xml:"type,attr"`
					Text string `xml:",chardata"`
				} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal([]byte(b.String()), &got); err != nil {
		t.Fatalf("%v in\n%s", err, b.String())
	}
	if s := got.Suite; s.Tests != 4 || s.Failures != 1 || s.Skipped != 3 || len(s.Cases) != 4 || len(s.Properties) != 4 {
		t.Errorf("suite %+v", s)
	}
	for _, n := range []totals{got.totals, got.Suite.totals} {
		if n.Name != "conformance.test" || n.Tests != 4 || n.Failures != 1 || n.Errors == nil || *n.Errors != 0 || n.Skipped != 3 || n.Time == "" {
			t.Errorf("totals %+v", n)
		}
	}
	if f := got.Suite.Cases[0].Failure; f == nil || f.Type != "MUST" || !strings.Contains(f.Text, "--rule T-A-001 --seed 42") {
		t.Errorf("failure %+v", f)
	}
}

func TestHTML(t *testing.T) {
	var b strings.Builder
	if err := mixed(t, nil).WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	if strings.Contains(page, "<b>eth0") || !strings.Contains(page, "&lt;b&gt;eth0") {
		t.Error("what a plugin printed is not escaped")
	}
	if loads := regexp.MustCompile(`(?i)(src|href)=|@import|url\(`).FindString(page); loads != "" {
		t.Errorf("the page is not self-contained: %q", loads)
	}
	for _, want := range []string{"T-B-001", "no IPv6", "--rule T-A-001 --seed 42", "agreed", `id="T-A-001"`, "1 not as recommended", "flex:1;background:var(--bad)"} {
		if !strings.Contains(page, want) {
			t.Errorf("page lacks %q", want)
		}
	}
}

func TestJSONFollowsSchema(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal([]byte(conformance.JSONSchema()), &schema); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := mixed(t, nil).WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var report map[string]any
	if err := json.Unmarshal([]byte(b.String()), &report); err != nil {
		t.Fatal(err)
	}
	if errs := validate(schema, report, "report"); len(errs) > 0 {
		t.Errorf("a report does not follow the schema: %q", errs)
	}
	for name, spoil := range map[string]func(first map[string]any){
		"status":  func(first map[string]any) { first["status"] = "ok" },
		"missing": func(first map[string]any) { delete(first, "spec") },
		"id":      func(first map[string]any) { first["id"] = "t1" },
		"type":    func(first map[string]any) { first["seconds"] = "1" },
	} {
		if err := json.Unmarshal([]byte(b.String()), &report); err != nil {
			t.Fatal(err)
		}
		spoil(report["results"].([]any)[0].(map[string]any))
		if errs := validate(schema, report, "report"); len(errs) == 0 {
			t.Errorf("%s: the schema allows a spoilt report", name)
		}
	}
}

// validate checks a value against the part of JSON schema that the published
// one uses; an unknown keyword is an error, so that none goes unchecked.
func validate(schema map[string]any, value any, at string) (errs []string) {
	for keyword, want := range schema {
		ok := true
		switch keyword {
		case "$schema", "title", "description", "format":
		case "type":
			ok = hasType(value, want.(string))
		case "const":
			ok = value == want
		case "enum":
			ok = slices.Contains(want.([]any), value)
		case "pattern":
			ok = regexp.MustCompile(want.(string)).MatchString(fmt.Sprint(value))
		case "minLength":
			ok = float64(len(fmt.Sprint(value))) >= want.(float64)
		case "minimum":
			number, is := value.(float64)
			ok = is && number >= want.(float64)
		case "required":
			object, is := value.(map[string]any)
			ok = is && !slices.ContainsFunc(want.([]any), func(k any) bool { return object[k.(string)] == nil })
		case "properties":
			for name, s := range want.(map[string]any) {
				if v, has := value.(map[string]any)[name]; has {
					errs = append(errs, validate(s.(map[string]any), v, at+"."+name)...)
				}
			}
		case "items":
			for i, v := range value.([]any) {
				errs = append(errs, validate(want.(map[string]any), v, fmt.Sprintf("%s[%d]", at, i))...)
			}
		default:
			ok = false
		}
		if !ok {
			errs = append(errs, fmt.Sprintf("%s: %v is against %s %v", at, value, keyword, want))
		}
	}
	return errs
}

func hasType(value any, want string) bool {
	switch v := value.(type) {
	case string:
		return want == "string"
	case float64:
		return want == "number" || (want == "integer" && v == float64(int64(v)))
	case []any:
		return want == "array"
	case map[string]any:
		return want == "object"
	}
	return false
}

func TestLatencies(t *testing.T) {
	s := newSuite()
	s.Rules[0].Check = func(_ context.Context, in *input) error {
		for i := range 10 {
			in.Measure("ADD", time.Duration(10-i)*time.Millisecond)
		}
		in.Measure("DEL", time.Second)
		return nil
	}
	report, err := s.Run(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []conformance.Latency{
		{What: "ADD", Count: 10, Min: 0.001, P50: 0.005, P90: 0.009, Max: 0.010},
		{What: "DEL", Count: 1, Min: 1, P50: 1, P90: 1, Max: 1},
	}
	if diff := cmp.Diff(want, report.Latencies); diff != "" {
		t.Error("-want +got:\n" + diff)
	}
	var text, page, data strings.Builder
	if err := errors.Join(report.WriteText(&text), report.WriteHTML(&page), report.WriteJSON(&data)); err != nil {
		t.Fatal(err)
	}
	for where, found := range map[string]bool{
		"text": regexp.MustCompile(`ADD +10 +1\.0 ms +5\.0 ms +9\.0 ms +10\.0 ms`).MatchString(text.String()),
		"page": strings.Contains(page.String(), "<td>ADD</td><td>10</td><td>1.0 ms</td>"),
		"JSON": strings.Contains(data.String(), `"what": "DEL"`),
	} {
		if !found {
			t.Errorf("the %s has no latencies", where)
		}
	}
}

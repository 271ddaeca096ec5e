package conformance_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodekit-project/nodekit/conformance"
)

// target is what the suite of these tests looks at: what each rule shall see.
type target map[string]error

type (
	rule  = conformance.Rule[target]
	input = conformance.Input[target]
	suite = conformance.Suite[target]
)

func newRule(id string, level conformance.Level, tier conformance.Tier) rule {
	return rule{
		ID: id, Level: level, Tier: tier, Title: "does " + id,
		Spec:  conformance.Spec{Document: "T", Version: "1.0", Section: "S", Sentence: "A plugin MUST do " + id + "."},
		Check: func(_ context.Context, in *input) error { return in.Target[id] },
	}
}

func newSuite() *suite {
	return &suite{Name: "test", Version: "1", Rules: []rule{
		newRule("T-A-001", conformance.Must, conformance.Quick),
		newRule("T-A-002", conformance.Should, conformance.Quick),
		newRule("T-B-001", conformance.Must, conformance.Crash),
		newRule("T-B-002", conformance.Must, conformance.Soak),
	}, Facts: map[string]string{"mtu": "what the links have"}}
}

func unready() *suite {
	s := newSuite()
	s.Prepare = func(context.Context, target) error { return errors.New("no root") }
	return s
}

func statuses(r *conformance.Report) map[string]conformance.Status {
	got := make(map[string]conformance.Status)
	for _, result := range r.Results {
		got[result.ID] = result.Status
	}
	return got
}

func TestRunSelects(t *testing.T) {
	tests := map[string]struct {
		opts *conformance.Options
		want map[string]conformance.Status
	}{
		"nil options": {nil, map[string]conformance.Status{"T-A-001": "pass", "T-A-002": "pass"}},
		"crash includes quick": {
			&conformance.Options{Tier: conformance.Crash},
			map[string]conformance.Status{"T-A-001": "pass", "T-A-002": "pass", "T-B-001": "pass"},
		},
		"a named rule of a later tier": {
			&conformance.Options{Only: []string{"T-B-002"}},
			map[string]conformance.Status{"T-B-002": "pass"},
		},
		"a pattern": {
			&conformance.Options{Only: []string{"T-B-*"}, Tier: conformance.Soak},
			map[string]conformance.Status{"T-B-001": "pass", "T-B-002": "pass"},
		},
		"a pattern of an earlier tier": {
			&conformance.Options{Only: []string{"T-*"}, Tier: conformance.Crash},
			map[string]conformance.Status{"T-A-001": "pass", "T-A-002": "pass", "T-B-001": "pass"},
		},
		"a waiver": {
			&conformance.Options{Profile: &conformance.Profile{Waivers: map[string]string{"T-A-001": "because"}}},
			map[string]conformance.Status{"T-A-001": "waived", "T-A-002": "pass"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			report, err := newSuite().Run(t.Context(), nil, test.opts)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, statuses(report)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRunRefuses(t *testing.T) {
	twice := newSuite()
	twice.Rules = append(twice.Rules, twice.Rules[0])
	tests := map[string]struct {
		suite *suite
		opts  *conformance.Options
		want  string
	}{
		"a later tier":      {newSuite(), &conformance.Options{Only: []string{"T-B-*"}}, `later tier than quick: ask for tier crash`},
		"not ready":         {unready(), nil, `suite "test" cannot start: no root`},
		"unknown rule":      {newSuite(), &conformance.Options{Only: []string{"T-Z-*"}}, `suite "test" has no rule "T-Z-*": nodekit conform rules test lists them`},
		"unknown waiver":    {newSuite(), profile("waivers: {T-Z-001: why}"), `waiver for "T-Z-001": suite "test" has no such rule`},
		"empty reason":      {newSuite(), profile(`waivers: {T-A-001: ""}`), "the reason is missing"},
		"other suite":       {newSuite(), profile("suite: cni"), `profile is for suite "cni", not "test"`},
		"unknown fact":      {newSuite(), profile("facts: {mut: '3'}"), `fact "mut" (did you mean "mtu"?): suite "test" knows ["mtu"]`},
		"duplicate rule id": {twice, nil, `rule "T-A-001" stands twice`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			report, err := test.suite.Run(t.Context(), nil, test.opts)
			if err == nil || !strings.Contains(err.Error(), test.want) || report != nil {
				t.Errorf("report %v, error %v; want an error with %q", report, err, test.want)
			}
		})
	}
}

func profile(yaml string) *conformance.Options {
	p, err := conformance.ParseProfile([]byte(yaml))
	if err != nil {
		panic(err)
	}
	return &conformance.Options{Profile: p}
}

func TestProfileIsStrict(t *testing.T) {
	for name, text := range map[string]string{
		"unknown field": "wavers: {}", "duplicate": "facts: {a: '1', a: '2'}", "not YAML": "\t:", "wrong type": "waivers: [x]",
	} {
		if _, err := conformance.ParseProfile([]byte(text)); err == nil {
			t.Errorf("%s: %q was read without an error", name, text)
		}
	}
	path := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(path, []byte("suite: test\nfacts: {mtu: '1450'}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := conformance.LoadProfile(path)
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := p.Fact("mtu"); v != "1450" || !ok {
		t.Errorf("fact mtu is %q, %v", v, ok)
	}
}

// TestProfileKeyMisplaced: who writes a fact at the top is told where it belongs, and
// who writes something else than a key takes what it takes.
func TestProfileKeyMisplaced(t *testing.T) {
	for text, want := range map[string]string{
		"garbage":                `want a mapping with keys of ["suite" "waivers" "facts"]`,
		"suite: [cni]":           `key "suite": want the name of a suite`,
		"waivers: [{rule: X}]":   `key "waivers": want a mapping of rules to reasons`,
		"waivers: {X: [a]}":      `key "waivers": want a mapping of rules to reasons`,
		"facts: [kind: chained]": `key "facts": want a mapping of names to values`,
		"kind: chained":          `key "kind": at the top are ["suite" "waivers" "facts"], and what is told of the plugin stands below facts`,
		"fact: {a: b}":           `key "fact" (did you mean "facts"?)`,
	} {
		if _, err := conformance.ParseProfile([]byte(text)); err == nil || !strings.HasPrefix(err.Error(), "profile: "+want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// TestRunSurvivesChecks holds that no way of not returning ends the run.
func TestRunSurvivesChecks(t *testing.T) {
	s := newSuite()
	s.Rules = s.Rules[:2]
	for name, test := range map[string]struct {
		check func(context.Context, *input) error
		want  string
	}{
		"panic":    {func(context.Context, *input) error { panic("oh") }, "the check panicked: oh"},
		"nil map":  {func(_ context.Context, in *input) error { in.Target["x"] = nil; return nil }, "assignment to entry in nil map"},
		"goexit":   {func(context.Context, *input) error { runtime.Goexit(); return nil }, "without a result"},
		"too late": {func(ctx context.Context, _ *input) error { <-ctx.Done(); return errors.New("gone") }, "not done after 30s: gone"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s.Rules[0].Check = test.check
				report, err := s.Run(t.Context(), nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				if got := report.Results[0]; got.Status != conformance.Fail || !strings.Contains(got.Message, test.want) {
					t.Errorf("result %+v, want a failure with %q", got, test.want)
				}
				if report.Results[1].Status != conformance.Pass {
					t.Errorf("the rule after it: %+v", report.Results[1])
				}
			})
		})
	}
}

// TestRunGivesUpOnCheck: a check that never stops may still change the
// machine, so nothing may run beside it.
func TestRunGivesUpOnCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSuite()
		release := make(chan struct{})
		s.Rules[0].Check = func(context.Context, *input) error { <-release; return nil }
		start := time.Now()
		report, err := s.Run(t.Context(), nil, &conformance.Options{Timeout: time.Minute})
		if err == nil || len(report.Results) != 1 || report.Results[0].Status != conformance.Fail {
			t.Errorf("report %+v, error %v", report, err)
		}
		if took := time.Since(start); took != 80*time.Second {
			t.Errorf("gave up after %s", took)
		}
		close(release)
	})
}

func TestRunStopsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := newSuite()
	s.Rules[1].Check = func(ctx context.Context, _ *input) error { cancel(); <-ctx.Done(); return ctx.Err() }
	report, err := s.Run(ctx, nil, &conformance.Options{Tier: conformance.Soak})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	want := map[string]conformance.Status{"T-A-001": "pass"}
	if diff := cmp.Diff(want, statuses(report)); diff != "" {
		t.Error(diff)
	}
	var text strings.Builder
	if err := report.WriteText(&text); err != nil || !strings.HasPrefix(text.String(), "CUT SHORT: ") {
		t.Errorf("%v: a run without its end says %q", err, text.String())
	}
}

// TestSeedRepeatsChoices: a rule's choices depend on seed and id alone, not
// on which other rules run.
func TestSeedRepeatsChoices(t *testing.T) {
	s := newSuite()
	seen := make(map[string][]uint64)
	for i := range s.Rules {
		id := s.Rules[i].ID
		s.Rules[i].Check = func(_ context.Context, in *input) error {
			seen[id] = append(seen[id], in.Rand.Uint64())
			return nil
		}
	}
	for _, opts := range []*conformance.Options{{Seed: 7}, {Seed: 7, Only: []string{"T-A-002"}}, {Seed: 8}} {
		if _, err := s.Run(t.Context(), nil, opts); err != nil {
			t.Fatal(err)
		}
	}
	got := seen["T-A-002"]
	if got[0] != got[1] || got[0] == got[2] || got[0] == seen["T-A-001"][0] {
		t.Errorf("choices: %v", seen)
	}
}

func TestTempDirIsRemoved(t *testing.T) {
	s := newSuite()
	var dir string
	s.Rules[0].Check = func(_ context.Context, in *input) error {
		dir = in.TempDir
		return os.WriteFile(filepath.Join(dir, "f"), nil, 0o600)
	}
	if _, err := s.Run(t.Context(), nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); dir == "" || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory %q: %v", dir, err)
	}
}

func TestParseTier(t *testing.T) {
	for _, tier := range []conformance.Tier{conformance.Quick, conformance.Crash, conformance.Soak} {
		if got, err := conformance.ParseTier(tier.String()); got != tier || err != nil {
			t.Errorf("%s: %v, %v", tier, got, err)
		}
	}
	if _, err := conformance.ParseTier("slow"); err == nil {
		t.Error(`"slow" is a tier`)
	}
}

func TestRunsRulesAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSuite()
		s.Concurrent = func(target) bool { return true }
		working, most := 0, 0 // synctest runs one goroutine at a time
		for i := range s.Rules {
			rule := &s.Rules[i]
			pause := time.Duration(len(s.Rules)-i) * time.Second // the first ends last
			rule.Alone = i == 1
			rule.Check = func(context.Context, *input) error {
				working++
				most = max(most, working)
				if rule.Alone && working > 1 {
					t.Errorf("%s runs beside %d others", rule.ID, working-1)
				}
				time.Sleep(pause)
				working--
				return nil
			}
		}
		var progress strings.Builder
		start := time.Now()
		report, err := s.Run(t.Context(), nil, &conformance.Options{Tier: conformance.Soak, Parallel: 3, Progress: &progress})
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); most != 3 || took != 7*time.Second || report.Seconds() != 7 {
			t.Errorf("%d rules ran at a time, in %s, which the report has as %v s; want 3, in the 4 s of the longest and the 3 s of the one alone", most, took, report.Seconds())
		}
		var ids []string
		for _, line := range strings.Split(strings.TrimSpace(progress.String()), "\n") {
			ids = append(ids, strings.Fields(line)[1])
		}
		want := []string{"T-A-001", "T-A-002", "T-B-001", "T-B-002"}
		if diff := cmp.Diff(want, ids); diff != "" {
			t.Error("progress, -want +got:\n" + diff)
		}
		for i := range report.Results {
			if report.Results[i].ID != want[i] {
				t.Errorf("result %d is of %s, want %s", i, report.Results[i].ID, want[i])
			}
		}
	})
}

func TestCutShortBesideOthers(t *testing.T) {
	s := newSuite()
	s.Concurrent = func(target) bool { return true }
	ctx, cancel := context.WithCancel(t.Context())
	s.Rules[1].Check = func(ctx context.Context, _ *input) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	var progress strings.Builder
	report, err := s.Run(ctx, nil, &conformance.Options{Parallel: 1, Tier: conformance.Soak, Progress: &progress})
	if !errors.Is(err, context.Canceled) || len(report.Results) != 1 || report.Results[0].ID != "T-A-001" {
		t.Errorf("got %+v and %v, want the first rule's result and an error", report.Results, err)
	}
	if !strings.Contains(progress.String(), "T-A-001") {
		t.Errorf("progress is %q", progress.String())
	}
}

func TestFactsOfAnyKind(t *testing.T) {
	p, err := conformance.ParseProfile([]byte("facts: {config: {bridge: x, vlans: [1, 2]}, mtu: 1450, kind: chained, own: '{}'}"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"config": `{"bridge":"x","vlans":[1,2]}`, "mtu": "1450", "kind": "chained", "own": "{}"}
	if diff := cmp.Diff(want, p.Facts); diff != "" {
		t.Error("-want +got:\n" + diff)
	}
}

// TestOpen: what checks have in common is made once, before the first, and taken
// back behind the last.
func TestOpen(t *testing.T) {
	var order []string
	s := &conformance.Suite[string]{Name: "test", Version: "1", Rules: []conformance.Rule[string]{
		{
			ID: "T-001", Level: conformance.Must, Title: "a", Spec: conformance.Spec{Document: "T", Version: "1", Section: "S", Sentence: "must"},
			Check: func(_ context.Context, in *conformance.Input[string]) error {
				order = append(order, "check "+in.Target)
				return nil
			},
		},
	}, Open: func(_ context.Context, target string) (string, func(), error) {
		order = append(order, "open "+target)
		return target + " opened", func() { order = append(order, "close") }, nil
	}}
	report, err := s.Run(t.Context(), "it", nil)
	if err != nil || report.Failed() {
		t.Fatal(report, err)
	}
	if diff := cmp.Diff([]string{"open it", "check it opened", "close"}, order); diff != "" {
		t.Error(diff)
	}
	s.Open = func(context.Context, string) (string, func(), error) { return "", nil, errors.New("no room") }
	if report, err := s.Run(t.Context(), "it", nil); report != nil || err == nil || !strings.Contains(err.Error(), "cannot start: no room") {
		t.Errorf("got %v, %v", report, err)
	}
}

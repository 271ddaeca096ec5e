package conformance

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// faulty is a target: the error that its check returns.
type faulty struct{ seen error }

func mutantSuite() *Suite[faulty] {
	spec := Spec{Document: "T", Version: "1", Section: "S", Sentence: "must"}
	check := func(_ context.Context, in *Input[faulty]) error { return in.Target.seen }
	return &Suite[faulty]{Name: "test", Version: "1", Rules: []Rule[faulty]{
		{ID: "T-A-001", Level: Must, Title: "a", Spec: spec, Check: check},
		{ID: "T-A-002", Level: Should, Title: "b", Spec: spec, Check: check},
		{ID: "T-A-003", Level: Must, Tier: Soak, Title: "c", Spec: spec, Check: func(context.Context, *Input[faulty]) error { panic("x") }},
	}}
}

func mutant(rule string, seen error) Mutant[faulty] {
	return Mutant[faulty]{Name: "m", Rule: rule, Target: func(testing.TB) faulty { return faulty{seen} }}
}

func saying(m Mutant[faulty], seen string) Mutant[faulty] {
	m.Seen = seen
	return m
}

func TestMutantsAreCaught(t *testing.T) {
	for name, test := range map[string]struct {
		mutant Mutant[faulty]
		want   string // "" means caught
	}{
		"caught":         {mutant("T-A-001", errors.New("bad")), ""},
		"its fault":      {saying(mutant("T-A-001", errors.New("bad")), "ba"), ""},
		"another fault":  {saying(mutant("T-A-001", errors.New("bad")), "worse"), "not for the mutant's fault"},
		"two reasons":    {mutant("T-A-001", errors.Join(NotApplicable("no"), errors.Join(NotApplicable("nor that")))), "did not catch"},
		"unclean":        {mutant("T-A-001", errors.Join(NotApplicable("no"), errors.New("clean-up failed"))), ""},
		"not caught":     {mutant("T-A-001", nil), "did not catch"},
		"not applicable": {mutant("T-A-002", NotApplicable("no")), "did not catch"},
		"broken check":   {mutant("T-A-003", nil), "the check itself broke"},
	} {
		problem := mutantSuite().catches(t, test.mutant)
		if (test.want == "") != (problem == "") || !strings.Contains(problem, test.want) {
			t.Errorf("%s: problem %q, want %q", name, problem, test.want)
		}
	}
}

func TestEveryRuleNeedsAMutant(t *testing.T) {
	got := mutantSuite().unproven(map[string]bool{"T-A-001": true})
	if diff := cmp.Diff([]string{"T-A-002", "T-A-003"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestGreen runs both drivers as a plugin's own test does.
func TestGreen(t *testing.T) {
	s := mutantSuite()
	s.Rules = s.Rules[:2]
	s.Test(t, faulty{}, &Options{Profile: &Profile{Waivers: map[string]string{"T-A-002": "agreed"}}})
	s.Concurrent = func(faulty) bool { return true }
	s.Rules[0].Alone = true
	s.Test(t, faulty{}, &Options{Parallel: 2, Profile: &Profile{Waivers: map[string]string{"T-A-002": "agreed"}}})
	TestMutants(t, s, []Mutant[faulty]{mutant("T-A-001", errors.New("bad")), mutant("T-A-002", errors.New("odd"))})
}

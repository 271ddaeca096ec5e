package conformance

import (
	"errors"
	"fmt"
	"path"
)

// Validate returns what is wrong with the table itself: a rule without an id, a
// sentence or a check, an id used twice, an unknown level or tier.
func (s *Suite[T]) Validate() error {
	var errs []error
	seen := make(map[string]bool, len(s.Rules))
	for i := range s.Rules {
		r := &s.Rules[i]
		if r.ID == "" {
			errs = append(errs, fmt.Errorf("rule %d has no id", i))
			continue
		}
		if seen[r.ID] {
			errs = append(errs, fmt.Errorf("rule %q stands twice", r.ID))
		}
		seen[r.ID] = true
		if err := r.validate(); err != nil {
			errs = append(errs, fmt.Errorf("rule %q: %w", r.ID, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("suite %q: %w", s.Name, err)
	}
	return nil
}

func (r *Rule[T]) validate() error {
	switch {
	case r.Check == nil:
		return errors.New("no check")
	case r.Spec.Document == "" || r.Spec.Version == "" || r.Spec.Section == "" || r.Spec.Sentence == "":
		return errors.New("no sentence with its place in a specification")
	case r.Title == "":
		return errors.New("no title")
	case r.Level != Must && r.Level != Should && r.Level != Advisory:
		return fmt.Errorf("unknown level %q", r.Level)
	case r.Tier < Quick || r.Tier > Soak:
		return fmt.Errorf("unknown %s", r.Tier)
	}
	return nil
}

// rule returns the rule with an id, or nil.
func (s *Suite[T]) rule(id string) *Rule[T] {
	for i := range s.Rules {
		if s.Rules[i].ID == id {
			return &s.Rules[i]
		}
	}
	return nil
}

// selected returns the rules of a run in the suite's order: those that only names by
// id, whatever their tier, and those up to the tier that match one of its patterns;
// if only is empty, all rules up to the tier. An entry that selects nothing is an
// error.
func (s *Suite[T]) selected(tier Tier, only []string) ([]*Rule[T], error) {
	wanted := make(map[string]bool)
	for _, pattern := range only {
		found, err := s.matching(tier, pattern)
		if err != nil {
			return nil, err
		}
		for _, id := range found {
			wanted[id] = true
		}
	}
	var rules []*Rule[T]
	for i := range s.Rules {
		r := &s.Rules[i]
		if wanted[r.ID] || (len(only) == 0 && r.Tier <= tier) {
			rules = append(rules, r)
		}
	}
	return rules, nil
}

func (s *Suite[T]) matching(tier Tier, pattern string) (ids []string, err error) {
	later := Tier(0) // the first of the tiers of rules that match and are left out
	for i := range s.Rules {
		r := &s.Rules[i]
		ok, err := path.Match(pattern, r.ID)
		switch {
		case err != nil:
			return nil, fmt.Errorf("rule pattern %q: %w", pattern, err)
		case ok && (r.Tier <= tier || pattern == r.ID):
			ids = append(ids, r.ID)
		case ok && (later == 0 || r.Tier < later):
			later = r.Tier
		}
	}
	switch {
	case len(ids) > 0:
		return ids, nil
	case later > 0:
		return nil, fmt.Errorf("the rules %q of suite %q are of a later tier than %s: ask for tier %s, or name them one by one", pattern, s.Name, tier, later)
	}
	return nil, fmt.Errorf("suite %q has no rule %q: nodekit conform rules %s lists them", s.Name, pattern, s.Name)
}

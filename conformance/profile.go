package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/nodekit-project/nodekit/internal/spelling"
)

// Profile is what the author of a plugin declares about it before it is
// tested: which rules do not apply and why, and facts that no wire tells.
//
//	suite: cni
//	waivers:
//	  CNI-CHECK-005: the fabric re-creates routes by itself within a second
//	facts:
//	  kind: chained
//
// The methods accept a nil profile, which declares nothing. A profile must not
// be changed while a run uses it.
type Profile struct {
	// Suite is the name of the suite that the profile is for. Empty means any.
	Suite string `json:"suite,omitempty"`
	// Waivers maps the id of a rule to the reason why it does not apply. A
	// waived rule is not run. An id that the suite does not have and an empty
	// reason are errors.
	Waivers map[string]string `json:"waivers,omitempty"`
	// Facts maps names that the suite knows to values. A value that is not a string
	// in YAML is given as its JSON text.
	Facts map[string]string `json:"facts,omitempty"`
}

// profileKeys are the top-level keys of a profile.
var profileKeys = []string{"suite", "waivers", "facts"}

// UnmarshalJSON accepts facts of any type.
func (p *Profile) UnmarshalJSON(data []byte) error {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(data, &keys); err != nil {
		return fmt.Errorf("want a mapping with keys of %q", profileKeys)
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if !slices.Contains(profileKeys, key) {
			return fmt.Errorf("key %q%s: at the top are %q, and what is told of the plugin stands below facts", key, spelling.Meant(key, profileKeys), profileKeys)
		}
	}
	var facts map[string]json.RawMessage
	for _, key := range []struct {
		name, want string
		into       any
	}{
		{"suite", "the name of a suite", &p.Suite},
		{"waivers", "a mapping of rules to reasons", &p.Waivers},
		{"facts", "a mapping of names to values", &facts},
	} {
		if raw, given := keys[key.name]; given && json.Unmarshal(raw, key.into) != nil {
			return fmt.Errorf("key %q: want %s", key.name, key.want)
		}
	}
	for name, raw := range facts {
		var text string
		if json.Unmarshal(raw, &text) != nil {
			text = string(raw)
		}
		if p.Facts == nil {
			p.Facts = map[string]string{}
		}
		p.Facts[name] = text
	}
	return nil
}

// ParseProfile reads a profile from YAML. Unknown and duplicate fields are
// errors. Whether ids and facts exist is checked when a suite runs with it.
func ParseProfile(data []byte) (*Profile, error) {
	var p Profile
	document, err := yaml.YAMLToJSONStrict(data)
	if err == nil {
		err = json.Unmarshal(document, &p)
	}
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	return &p, nil
}

// LoadProfile reads a profile from a YAML file.
func LoadProfile(path string) (*Profile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading profile: %w", err)
	}
	p, err := ParseProfile(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// Fact returns the declared value of a fact, and whether it is declared.
func (p *Profile) Fact(name string) (value string, declared bool) {
	if p == nil {
		return "", false
	}
	value, declared = p.Facts[name]
	return value, declared
}

// List returns the declared values of a fact that is a list: words separated by
// commas or blanks, or a YAML list. It is empty if the fact is not declared.
func (p *Profile) List(name string) []string {
	text, _ := p.Fact(name)
	return strings.FieldsFunc(text, func(c rune) bool { return strings.ContainsRune(", []\"", c) })
}

// waiver returns the reason why a rule is waived, and whether it is.
func (p *Profile) waiver(id string) (reason string, waived bool) {
	if p == nil {
		return "", false
	}
	reason, waived = p.Waivers[id]
	return reason, waived
}

// CheckProfile checks a profile against the suite: everything in it must mean
// something there. A nil profile, which declares nothing, is valid. Run calls it
// first; callers that act on facts before a run call it before that.
func (s *Suite[T]) CheckProfile(p *Profile) error {
	if p == nil {
		return nil
	}
	var errs []error
	if p.Suite != "" && p.Suite != s.Name {
		errs = append(errs, fmt.Errorf("profile is for suite %q, not %q", p.Suite, s.Name))
	}
	for _, id := range slices.Sorted(maps.Keys(p.Waivers)) {
		if s.rule(id) == nil {
			errs = append(errs, fmt.Errorf("waiver for %q: suite %q has no such rule", id, s.Name))
		}
		if p.Waivers[id] == "" {
			errs = append(errs, fmt.Errorf("waiver for %q: the reason is missing", id))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Facts)) {
		if _, known := s.Facts[name]; !known {
			facts := slices.Sorted(maps.Keys(s.Facts))
			errs = append(errs, fmt.Errorf("fact %q%s: suite %q knows %q", name, spelling.Meant(name, facts), s.Name, facts))
		}
	}
	return errors.Join(errs...)
}

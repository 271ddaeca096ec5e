package conformance

import "fmt"

// String returns the tier's name as ParseTier reads it.
func (t Tier) String() string {
	switch t {
	case Quick:
		return "quick"
	case Crash:
		return "crash"
	case Soak:
		return "soak"
	}
	return fmt.Sprintf("tier(%d)", int(t))
}

// ParseTier reads "quick", "crash" or "soak".
func ParseTier(name string) (Tier, error) {
	for _, t := range []Tier{Quick, Crash, Soak} {
		if t.String() == name {
			return t, nil
		}
	}
	return 0, fmt.Errorf("tier %q: must be quick, crash or soak", name)
}

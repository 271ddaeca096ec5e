// Package cniname holds the rule for names in CNI, which programs that live for
// a millisecond need without the start-up time of a regular expression.
package cniname

// Valid tells whether s may name a network or a container (CNI specification
// 1.1.0, sections 1 and 2): a letter or digit, and on with those, '_', '.' and
// '-'. No such name leads out of a directory.
func Valid(s string) bool {
	for i := range len(s) {
		c := s[i]
		alphanumeric := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alphanumeric && (i == 0 || c != '_' && c != '.' && c != '-') {
			return false
		}
	}
	return s != ""
}

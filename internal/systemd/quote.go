package systemd

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// Quote returns s as one word of a unit file's setting, such as an argument in
// ExecStart: with its % escaped and in quotes if it needs them. What no line can
// contain (control characters, invalid UTF-8) is fault.Invalid.
//
// It does not escape $, so a command line of such words must begin with a colon,
// which disables variable substitution.
func Quote(s string) (string, error) {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return "", fault.Invalid.Errorf("%q cannot stand in a unit file: it holds a control character or is not UTF-8", s)
	}
	s = strings.ReplaceAll(s, "%", "%%")
	plain := func(r rune) bool {
		return unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-_./:=@%+,$", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s, nil
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`, nil
}

// Package cniname holds the rules for names in CNI, which programs that live for
// a millisecond need without the start-up time of a regular expression.
package cniname

import (
	"fmt"
	"strings"
	"unicode"
)

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

// MaxInterfaceName is how many bytes the name of an interface has at most: the
// kernel's IFNAMSIZ without the terminating zero.
const MaxInterfaceName = 15

// InterfaceName says why name cannot be that of a network interface, or returns
// nil. Beyond what the kernel refuses it refuses '%': the kernel takes "eth%d" for
// a pattern and makes an interface of another name. The error quotes the name and
// begins with it, so that callers can say before it whose name that is.
func InterfaceName(name string) error {
	const forbidden = "/:%"
	bad := func(c rune) bool {
		return strings.ContainsRune(forbidden, c) || unicode.IsSpace(c) || unicode.IsControl(c)
	}
	switch {
	case name == "", name == ".", name == "..":
		return fmt.Errorf("%q is no name of an interface", name)
	case len(name) > MaxInterfaceName:
		return fmt.Errorf("%q is no name of an interface: it must not exceed %d bytes", name, MaxInterfaceName)
	case strings.ContainsFunc(name, bad):
		return fmt.Errorf("%q is no name of an interface: it must not contain '/', ':', '%%', blanks or control characters", name)
	}
	return nil
}

// Package cniname holds the rules for names in CNI, for programs that live for a
// millisecond and must avoid the start-up time of a regular expression.
package cniname

import (
	"fmt"
	"strings"
	"unicode"
)

// Valid reports whether s may name a network or a container (CNI specification 1.1.0,
// sections 1 and 2): it begins with a letter or digit and continues with those, '_',
// '.' and '-'. No such name leads out of a directory.
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

// MaxInterfaceName is the maximum length of an interface name in bytes: the kernel's
// IFNAMSIZ without the terminating zero.
const MaxInterfaceName = 15

// InterfaceName returns why name cannot be that of a network interface, or nil. It
// refuses what the kernel refuses, and also '%': the kernel takes "eth%d" for a
// pattern and creates an interface with another name. The error begins with the
// quoted name, so that callers can say before it whose name that is.
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

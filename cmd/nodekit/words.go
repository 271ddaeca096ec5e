package main

import (
	"strings"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// words splits a command line at spaces, as a shell would: quotes keep words together,
// and a backslash escapes the next character. Nothing is expanded.
func words(line string) ([]string, error) {
	var (
		list  []string
		word  strings.Builder
		begun bool
		quote rune
		taken bool // the next character is taken as it is
	)
	for _, c := range line {
		switch {
		case taken:
			word.WriteRune(c)
			taken = false
		case c == '\\' && quote != '\'':
			taken, begun = true, true
		case quote != 0:
			if c == quote {
				quote = 0
			} else {
				word.WriteRune(c)
			}
		case c == '\'' || c == '"':
			quote, begun = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if begun {
				list = append(list, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(c)
			begun = true
		}
	}
	if quote != 0 || taken {
		return nil, fault.Invalid.Errorf("command line %q: a quote is not closed", line)
	}
	if begun {
		list = append(list, word.String())
	}
	return list, nil
}

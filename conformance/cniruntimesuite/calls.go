package cniruntimesuite

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
)

// call is one call of a plugin, as the plugin recorded it.
type call struct {
	event
	verb       string
	begin, end int // line numbers in the log; end is -1 for a call that did not end
	request    map[string]json.RawMessage
}

func (c *call) container() string { return c.Env["CNI_CONTAINERID"] }

func (c *call) String() string { return c.Plugin + " " + c.verb }

// overlaps reports whether two calls ran at the same time. A call that did not
// end was killed at an unknown time, and overlaps none.
func (c *call) overlaps(o *call) bool {
	return c.end >= 0 && o.end >= 0 && c.begin < o.end && o.begin < c.end
}

// calls returns all calls that plugins have recorded so far, in the order in which
// they began.
func (l *lab) calls() (calls, error) {
	content, err := os.ReadFile(logFile(l.log))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var out calls
	open := map[string]*call{}
	for i, line := range bytes.Split(content, []byte("\n")) {
		var e event
		if json.Unmarshal(line, &e) != nil { // the last one is being written
			continue
		}
		if c := open[e.ID]; e.End && c != nil {
			c.end, c.Result, c.Failed = i, e.Result, e.Failed
			continue
		}
		c := &call{event: e, verb: e.Env["CNI_COMMAND"], begin: i, end: -1}
		if err := json.Unmarshal([]byte(e.Stdin), &c.request); err != nil && c.verb != "VERSION" {
			return nil, fmt.Errorf("%v got no JSON object on stdin: %.200q", c, e.Stdin)
		}
		open[e.ID] = c
		out = append(out, c)
	}
	return out, nil
}

type calls []*call

// of returns the calls of this verb to plugins of the suite's network.
func (cs calls) of(verb string) calls {
	var out calls
	for _, c := range cs {
		if c.verb == verb && slices.Contains(chain, c.Plugin) {
			out = append(out, c)
		}
	}
	return out
}

// plugins returns the names of the calls' plugins, in order.
func (cs calls) plugins() string {
	names := make([]string, len(cs))
	for i, c := range cs {
		names[i] = c.Plugin
	}
	return strings.Join(names, " ")
}

func (cs calls) String() string {
	names := make([]string, len(cs))
	for i, c := range cs {
		names[i] = c.String()
	}
	return strings.Join(names, ", ")
}

// last returns the last call of the plugin, or nil.
func (cs calls) last(plugin string) *call {
	for _, c := range slices.Backward(cs) {
		if c.Plugin == plugin {
			return c
		}
	}
	return nil
}

// firsts returns the first call of each plugin: a runtime may repeat a DEL when it
// has forgotten what it did.
func (cs calls) firsts() calls {
	seen := map[string]bool{}
	return slices.DeleteFunc(slices.Clone(cs), func(c *call) bool {
		again := seen[c.Plugin]
		seen[c.Plugin] = true
		return again
	})
}

// sameJSON compares documents by meaning: numbers digit by digit, and an empty value
// equals an absent one.
func sameJSON(a, b []byte) bool {
	return reflect.DeepEqual(meaning(a), meaning(b))
}

func meaning(raw []byte) any {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return nil
	}
	return withoutEmpty(v)
}

func withoutEmpty(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			v[key] = withoutEmpty(value)
		}
		maps.DeleteFunc(v, func(_ string, value any) bool { return value == nil })
		if len(v) == 0 {
			return nil
		}
	case []any:
		for i := range v {
			v[i] = withoutEmpty(v[i])
		}
		if len(v) == 0 {
			return nil
		}
	case string:
		if v == "" {
			return nil
		}
	}
	return v
}

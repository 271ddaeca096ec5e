package cnisuite

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// checkFuzz breaks one thing in each call: a value of the configuration, of the
// arguments, of prevResult. The plugin may answer anything, but it must answer.
func checkFuzz(ctx context.Context, l *lab) error {
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	config, err := l.target.config(l.state())
	if err != nil {
		return err
	}
	commands := slices.DeleteFunc(l.commands(), func(command string) bool { return command == "STATUS" || command == "GC" })
	const rounds = 16
	for range rounds {
		w := l.broken(config)
		command := commands[l.rand.IntN(len(commands))]
		w.what = command + " " + w.what
		out, err := l.call(ctx, command, c, w)
		if err != nil {
			return err
		}
		if err := out.ended(); err != nil {
			return err
		}
		if died(out) {
			return fmt.Errorf("%s: the plugin died: %s", out.what, out)
		}
	}
	return nil
}

// died recognises the crash messages of the languages in which plugins are written.
func died(a *answer) bool {
	last := []string{"\ngoroutine 1 [", "Traceback (most recent call last)", "' panicked at "}
	return a.rc < 0 || a.rc == 2 && len(a.stdout) == 0 ||
		slices.ContainsFunc(last, func(words string) bool { return strings.Contains(string(a.stderr), words) })
}

// odd are values in place of expected ones.
func odd() []any {
	return []any{
		nil, true, -1, json.Number("1e400"), "", strings.Repeat("x", 5000), "\u0000",
		[]any{},
		[]any{nil},
		map[string]any{},
		map[string]any{"": map[string]any{}},
		"10.0.0.1/99", "::/0",
	}
}

// oddResults are results that no plugin returns.
func oddResults() []string {
	return []string{
		`null`, `{}`, `[]`, `"x"`, `{"cniVersion":"0.0.0"}`, `{"cniVersion":"1.1.0","ips":null}`,
		`{"cniVersion":"1.1.0","ips":[{}]}`, `{"cniVersion":"1.1.0","ips":[{"address":"x"}]}`,
		`{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.2/24","interface":99}]}`,
		`{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.2/24","interface":-1}]}`,
		`{"cniVersion":"1.1.0","interfaces":[null],"ips":[null],"routes":[null]}`,
		`{"cniVersion":"1.1.0","interfaces":[{"name":"","mac":"x","sandbox":"/nowhere"}],"routes":[{"dst":"x"}]}`,
	}
}

// broken is a call with one thing wrong.
func (l *lab) broken(config map[string]any) with {
	results, values := oddResults(), odd()
	value := values[l.rand.IntN(len(values))]
	switch l.rand.IntN(5) {
	case 0, 1:
		text := results[l.rand.IntN(len(results))]
		return with{what: "with prevResult " + text, keys: map[string]any{"prevResult": json.RawMessage(text)}}
	case 2:
		key := []string{"runtimeConfig", "args", "dns", "ipam", "capabilities"}[l.rand.IntN(5)]
		return with{what: fmt.Sprintf("with %s of %.60v", key, value), keys: map[string]any{key: value}}
	case 3:
		text := []string{"=", ";", "A", "IP=;MAC=", "A=B;A=C", strings.Repeat("A=B;", 2000)}[l.rand.IntN(6)]
		return with{what: fmt.Sprintf("with CNI_ARGS=%.60q", text), env: map[string]string{"CNI_ARGS": text}}
	}
	keys := slices.Sorted(maps.Keys(config))
	key := keys[l.rand.IntN(len(keys))]
	if value == nil {
		return with{what: "without " + key, keys: map[string]any{key: nil}}
	}
	return with{what: fmt.Sprintf("with %s of %.60v", key, value), keys: map[string]any{key: value}}
}

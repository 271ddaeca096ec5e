package cnisuite

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/conformance"
)

// inputRules are about the document on stdin.
func inputRules() []conformance.Rule[Target] {
	const must, should, advisory = conformance.Must, conformance.Should, conformance.Advisory
	return []conformance.Rule[Target]{
		checked(rule("CNI-INPUT-001", must, "a configuration that is no JSON is an error of code 6 or 5", "Error",
			"6: Failed to decode content. For example, failed to unmarshal network config from bytes or failed to decode version info from string. 5: I/O failure. For example, failed to read network config bytes from stdin."), checkNoJSON),
		checked(rule("CNI-INPUT-002", must, "every command refuses a version that the plugin does not speak, with code 1", "Error",
			"1: Incompatible CNI version"), checkVersionEverywhere),
		checked(rule("CNI-INPUT-003", must, "a network without a valid name is an error of code 7", "Configuration format",
			"name (string): Network name. [...] Must start with an alphanumeric character, optionally followed by any combination of one or more alphanumeric characters, underscore, dot (.) or hyphen (-). Must not contain characters disallowed in file paths."), checkBadName),
		checked(rule("CNI-INPUT-004", should, "a configuration that the plugin cannot use is an error of code 7 that names the key", "Error",
			"7: Invalid network config. If some validations on network configs do not pass, this error will be raised."), checkBadConfigs),
		checked(rule("CNI-INPUT-005", must, "an unknown key is ignored, or refused with code 2 and named with its value", "Error",
			"2: Unsupported field in network configuration. The error message must contain the key and value of the unsupported field."), checkUnknownKey),
		checked(rule("CNI-INPUT-006", must, "keys of the runtime that the plugin does not know do no harm", "Plugin configuration objects",
			"Reserved keys, used by the protocol: [...] runtimeConfig, args, Any keys starting with cni.dev/"), checkRuntimeKeys),
		checked(rule("CNI-INPUT-007", advisory, "large documents and large numbers arrive as they were sent", "Delegated Plugin protocol",
			"Delegated plugins are provided the complete network configuration passed to the \"upper\" plugin."), checkLarge),
	}
}

func checkNoJSON(ctx context.Context, l *lab) error {
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	for _, text := range []string{"{", "", "\xff\xfe"} {
		out, err := l.call(ctx, "ADD", c, with{what: fmt.Sprintf("ADD with %q on stdin", text), stdin: []byte(text)})
		if err != nil {
			return err
		}
		if _, err := out.refused(6, 5); err != nil {
			return err
		}
	}
	return nil
}

func checkVersionEverywhere(ctx context.Context, l *lab) error {
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	for _, command := range l.commands() {
		about := c
		if command == "STATUS" || command == "GC" {
			about = nil
		}
		for _, version := range []string{"9.9.9", "0.0.1"} {
			w := with{what: command + " of cniVersion " + version, keys: map[string]any{"cniVersion": version}}
			if err := l.refusal(ctx, command, about, w, 1); err != nil {
				return err
			}
		}
	}
	return nil
}

// commands returns those of the requests' version, except VERSION.
func (l *lab) commands() []string {
	all := []string{"ADD", "DEL"}
	if l.speaks("0.4.0") {
		all = append(all, "CHECK")
	}
	if l.speaks("1.1.0") {
		all = append(all, "STATUS", "GC")
	}
	return all
}

func checkBadName(ctx context.Context, l *lab) error {
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	for _, name := range []any{nil, "", "a/b", ".x"} {
		w := with{what: fmt.Sprintf("ADD with the name %q", name), keys: map[string]any{"name": name}}
		if name == nil {
			w.what = "ADD without a name"
		}
		if err := l.refusal(ctx, "ADD", c, w, 7); err != nil {
			return err
		}
	}
	return nil
}

func checkBadConfigs(ctx context.Context, l *lab) error {
	bad, err := l.target.badConfigs(l.state())
	if err != nil {
		return err
	}
	if len(bad) == 0 {
		return conformance.NotApplicable("the profile declares no badConfigs")
	}
	good, err := l.target.config(l.state())
	if err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	for i, config := range bad {
		keys := map[string]any{}
		for key := range good {
			keys[key] = nil
		}
		maps.Copy(keys, config)
		out, err := l.call(ctx, "ADD", c, with{what: fmt.Sprintf("ADD with number %d of badConfigs", i+1), keys: keys})
		if err != nil {
			return err
		}
		e, err := out.refused(7, 2)
		if err != nil {
			return err
		}
		wrong := differing(good, config)
		if !slices.ContainsFunc(wrong, func(key string) bool { return strings.Contains(e.Msg+e.Details, key) }) {
			return fmt.Errorf("%s: the error names none of the keys %q: %q, details %q", out.what, wrong, e.Msg, e.Details)
		}
	}
	return nil
}

// differing returns the names of the keys, at any depth, whose values differ between
// the configurations.
func differing(good, bad any) []string {
	g, _ := good.(map[string]any)
	b, ok := bad.(map[string]any)
	if !ok {
		if list, isList := bad.([]any); isList {
			var names []string
			for _, item := range list {
				names = append(names, differing(nil, item)...)
			}
			return names
		}
		return nil
	}
	var names []string
	for key, value := range b {
		if !reflect.DeepEqual(value, g[key]) {
			names = append(append(names, key), differing(g[key], value)...)
		}
	}
	for key := range g {
		if _, has := b[key]; !has {
			names = append(names, key)
		}
	}
	return names
}

func checkUnknownKey(ctx context.Context, l *lab) error {
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	const key, value = "x-unknown", "suite-value"
	out, err := l.call(ctx, "ADD", c, with{what: "ADD with an unknown key", keys: map[string]any{key: value}})
	if err != nil || out.rc == 0 {
		return err
	}
	e, err := out.refused(2)
	if err != nil {
		return err
	}
	return e.names(out.what, key, value)
}

func checkRuntimeKeys(ctx context.Context, l *lab) error {
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	config, err := l.target.config(l.state())
	if err != nil {
		return err
	}
	args, _ := config["runtimeConfig"].(map[string]any)
	args = maps.Clone(args)
	if args == nil {
		args = map[string]any{}
	}
	args["suiteCapability"] = map[string]any{"deep": []any{1}}
	keys := map[string]any{
		"cni.dev/suite": true, "runtimeConfig": args,
		"args": map[string]any{"suite": 1, "cni": map[string]any{"suite": "x", "labels": []any{map[string]any{"key": "app", "value": "web"}}}},
	}
	if _, err := l.addWith(ctx, c, with{what: "ADD with keys of the runtime that nobody knows", keys: keys}); err != nil {
		return err
	}
	return l.delWith(ctx, c, with{what: "DEL with keys of the runtime that nobody knows", keys: keys})
}

// checkLarge sends a number that no float can represent and very long args, and
// checks what reaches the delegate, if there is one.
func checkLarge(ctx context.Context, l *lab) error {
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	const number = "1152921504606846977" // 2^60 + 1
	size := 1 << 20
	if l.target.delegates() {
		size = 1 << 14 // the scripted delegate reads byte by byte
	}
	keys := map[string]any{"args": map[string]any{"cni": map[string]any{
		"suiteNumber": json.Number(number), "suiteText": strings.Repeat("x", size),
	}}}
	if _, err := l.addWith(ctx, c, with{what: "ADD with very long args", keys: keys}); err != nil {
		return err
	}
	if err := l.delWith(ctx, c, with{what: "DEL with very long args", keys: keys}); err != nil {
		return err
	}
	calls, err := l.ipam.calls(c)
	if err != nil {
		return err
	}
	for _, d := range calls {
		if !bytes.Contains(d.stdin, []byte(number)) || len(d.stdin) < size {
			return fmt.Errorf("the delegate's %s got another document than the plugin: %d bytes, in which the number %s is %t",
				d.command, len(d.stdin), number, bytes.Contains(d.stdin, []byte(number)))
		}
	}
	return nil
}

package cniruntimesuite

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/nodekit-project/nodekit/conformance"
)

// requestRules are about a plugin's input: the derived configuration and the
// environment.
func requestRules() []conformance.Rule[Target] {
	const deriving = "3, Deriving request configuration from plugin configuration"
	return []conformance.Rule[Target]{
		rule("CNIRT-030", "the highest version of the configuration that the runtime speaks is selected", "1, Version considerations",
			"CNI runtimes MUST select the highest supported version from the set of network configuration versions given by the cniVersion and cniVersions fields.", highestVersion),
		rule("CNIRT-031", "every request has the network's name and the selected version", deriving,
			"The following fields are always to be inserted into the request configuration by the runtime: cniVersion [...], name.", nameAndVersion),
		rule("CNIRT-032", "a plugin gets the capability arguments that it declares and the runtime has, and no others", "3, Deriving runtimeConfig",
			"any capability supported by the plugin configuration and provided by the runtime should be inserted in the runtimeConfig.", runtimeConfig),
		rule("CNIRT-033", "capabilities are not passed on", deriving,
			"For attachment-specific operations (ADD, DEL, CHECK), [...] capabilities: must not be set.", capabilitiesRemoved),
		rule("CNIRT-034", "a plugin's own fields are passed on unchanged", "1, Plugin configuration objects",
			"The runtime MUST pass through these fields, unchanged, to the invoked plugin, as defined in section 3.", fieldsUnchanged),
		rule("CNIRT-035", "plugins get the list of directories to search", "3, Attachment Parameters",
			"the runtime must be provided a list of paths to search for CNI plugins. This must also be provided to plugins during execution via the CNI_PATH environment variable.", pathGiven),
		rule("CNIRT-036", "plugins run in the runtime's network namespace", "2, Overview",
			"The runtime must execute the plugin in the runtime's networking domain.", runtimesNamespace),
	}
}

// attached returns the calls of a container's life, with CHECK if the runtime has it.
func (l *lab) attached(ctx context.Context, keys object, ports ...Port) (calls, error) {
	if err := l.configure(ctx, keys); err != nil {
		return nil, err
	}
	c, err := l.container()
	if err != nil {
		return nil, err
	}
	c.Ports = ports
	if err := l.mustAdd(ctx, c); err != nil {
		return nil, err
	}
	if l.Check != nil {
		if err := l.Check(ctx, c); err != nil {
			return nil, fmt.Errorf("the runtime does not check the container: %w", err)
		}
	}
	if err := l.mustDel(ctx, c); err != nil {
		return nil, err
	}
	cs, err := l.calls()
	cs = slices.Concat(cs.of("ADD"), cs.of("CHECK"), cs.of("DEL").firsts())
	if err == nil && len(cs) == 0 {
		err = errors.New("no plugin was called")
	}
	return cs, err
}

func highestVersion(ctx context.Context, l *lab) error {
	cs, err := l.attached(ctx, object{"cniVersion": "0.4.0", "cniVersions": []string{"0.3.1", "1.0.0", "99.0.0"}})
	if err != nil {
		return err
	}
	for _, c := range cs {
		if got := string(c.request["cniVersion"]); got != `"1.0.0"` {
			return fmt.Errorf("%v got the cniVersion %s; the configuration supports 0.3.1, 0.4.0, 1.0.0 and 99.0.0", c, got)
		}
	}
	return nil
}

func nameAndVersion(ctx context.Context, l *lab) error {
	cs, err := l.attached(ctx, nil)
	if err != nil {
		return err
	}
	version := string(cs[0].request["cniVersion"])
	for _, c := range cs {
		if got := string(c.request["name"]); got != `"`+network+`"` {
			return fmt.Errorf("%v got the name %s, want %q", c, got, network)
		}
		if got := string(c.request["cniVersion"]); got != version || got == "" {
			return fmt.Errorf("%v got the cniVersion %s, and another call %s", c, got, version)
		}
	}
	return nil
}

// withCapabilities returns a chain whose first plugin declares port mappings, whose
// second switches them off, and whose third does not mention them.
func withCapabilities() object {
	return object{"plugins": []object{
		plugin(chain[0], object{"capabilities": object{"portMappings": true, "suiteNobodyOffers": true}}),
		plugin(chain[1], object{"capabilities": object{"portMappings": false}}),
		plugin(chain[2], nil),
	}}
}

func runtimeConfig(ctx context.Context, l *lab) error {
	if !l.target.Ports {
		return conformance.NotApplicable("the runtime cannot be given port mappings")
	}
	cs, err := l.attached(ctx, withCapabilities(), Port{HostPort: 30080, ContainerPort: 80, Protocol: "tcp"})
	if err != nil {
		return err
	}
	for _, c := range cs {
		var given struct {
			PortMappings []Port           `json:"portMappings"`
			Nobody       *json.RawMessage `json:"suiteNobodyOffers"`
		}
		if raw, ok := c.request["runtimeConfig"]; ok {
			if err := json.Unmarshal(raw, &given); err != nil {
				return fmt.Errorf("%v got the runtimeConfig %s: %w", c, raw, err)
			}
		}
		declares := c.Plugin == chain[0]
		has := slices.Contains(given.PortMappings, Port{30080, 80, "tcp"})
		if has != declares || !declares && len(given.PortMappings) > 0 || given.Nobody != nil {
			return fmt.Errorf("%v declares portMappings: %v, and got the runtimeConfig %s", c, declares, c.request["runtimeConfig"])
		}
	}
	return nil
}

func capabilitiesRemoved(ctx context.Context, l *lab) error {
	cs, err := l.attached(ctx, withCapabilities())
	if err != nil {
		return err
	}
	for _, c := range cs {
		if raw, ok := c.request["capabilities"]; ok {
			return fmt.Errorf("%v got the capabilities %s", c, raw)
		}
	}
	return nil
}

func fieldsUnchanged(ctx context.Context, l *lab) error {
	fields := map[string]json.RawMessage{
		"suiteBig": json.RawMessage(`1152921504606846977`), "suiteFloat": json.RawMessage(`1.10`), "suiteText": json.RawMessage(`"<ä & \"b\">"`),
		"suiteNested": json.RawMessage(`{"list":[1,null,{"deep":9007199254740993}],"no":false}`), "ipam": json.RawMessage(`{"type":"suite-d","subnet":"10.0.0.0/8"}`),
	}
	keys := object{}
	for k, v := range fields {
		keys[k] = v
	}
	cs, err := l.attached(ctx, object{"plugins": []object{plugin(chain[0], keys), plugin(chain[1], nil)}})
	if err != nil {
		return err
	}
	for _, c := range cs {
		for key, want := range fields {
			if c.Plugin == chain[0] && !exactly(c.request[key], want) {
				return fmt.Errorf("%v got %q as %s, and the configuration has %s", c, key, c.request[key], want)
			}
		}
	}
	return nil
}

// exactly compares documents, with nulls, and numbers by exact value: one that lost
// digits in a float differs, one that is only written differently does not.
func exactly(a, b []byte) bool {
	va, aerr := decode(a)
	vb, berr := decode(b)
	return aerr == nil && berr == nil && reflect.DeepEqual(va, vb)
}

func decode(raw []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	err := dec.Decode(&v)
	return exactNumbers(v), err
}

func exactNumbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			v[key] = exactNumbers(value)
		}
	case []any:
		for i := range v {
			v[i] = exactNumbers(v[i])
		}
	case json.Number:
		if r, ok := new(big.Rat).SetString(v.String()); ok {
			return r.RatString()
		}
	}
	return v
}

func pathGiven(ctx context.Context, l *lab) error {
	cs, err := l.attached(ctx, nil)
	if err != nil {
		return err
	}
	return l.givesPath(cs)
}

func (l *lab) givesPath(cs calls) error {
	for _, c := range cs {
		if !slices.Contains(filepath.SplitList(c.Env["CNI_PATH"]), l.dirs.Bin) {
			return fmt.Errorf("%v got CNI_PATH=%q, want %q in it", c, c.Env["CNI_PATH"], l.dirs.Bin)
		}
	}
	return nil
}

func runtimesNamespace(ctx context.Context, l *lab) error {
	host := namespace("/proc/thread-self/ns/net")
	cs, err := l.attached(ctx, nil)
	if err != nil {
		return err
	}
	for _, c := range cs {
		if c.Own != host {
			return fmt.Errorf("%v ran in network namespace %s, and the runtime is in %s", c, c.Own, host)
		}
	}
	return nil
}

package cnisuite

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/conformance"
)

// Kind is what a plugin does, as far as the specification distinguishes plugins.
type Kind string

// The kinds. The empty string means Interface.
const (
	Interface Kind = "interface" // creates the interface that CNI_IFNAME names
	Chained   Kind = "chained"   // adjusts an interface that an earlier plugin created
	IPAM      Kind = "ipam"      // is a delegate that assigns addresses
	Meta      Kind = "meta"      // leaves the work to other plugins
)

// Target is the plugin under test.
type Target struct {
	// Binary is the path of the plugin's executable. Required.
	Binary string
	// Kind decides what the suite prepares and expects. A chained plugin gets an
	// interface and a prevResult that describes it; an IPAM plugin is not expected to
	// create an interface.
	Kind Kind
	// IfName is the interface's name. Empty means "eth0". The plugin is not expected
	// to create or remove "lo", which every network namespace has.
	IfName string
	// Static says that the configuration itself has the addresses, so that two
	// attachments may have the same.
	Static bool
	// Config is the plugin's configuration, a JSON object without cniVersion and
	// name, which the suite sets. If type is missing, it is the binary's name.
	// "${DIR}" in it stands for a directory that each check creates for itself. Empty
	// means an object without keys.
	Config string
	// RuntimeConfig is a JSON object of capability arguments, which every ADD, DEL
	// and CHECK gets as runtimeConfig. Empty means none.
	RuntimeConfig string
	// BadConfigs is a JSON array of configurations, in the form of Config, that the
	// plugin must refuse. Empty means none.
	BadConfigs string
	// Exhaustible is a configuration of an IPAM plugin, in the form of Config, with
	// at most 64 addresses and no delay before an address is reused. If it is empty,
	// the rules on exhaustion do not apply.
	Exhaustible string
	// Requests are the ways in which an IPAM plugin can be asked for an address:
	// "runtimeConfig" (also implied by a Config with the capability ips), "args" and
	// "CNI_ARGS".
	Requests []string
	// Path are further directories of CNI_PATH, for real delegates.
	Path []string
	// Dirs are directories where the plugin keeps state, besides ${DIR}. Files
	// that an attachment leaves there are leaks.
	Dirs []string
	// Shared are names of what may stay when the last attachment is gone: an
	// interface, an nftables table, a file. What is left after the first attachment
	// is gone counts as shared anyway.
	Shared []string
	// Setup and Teardown are shell commands around each check, for a plugin with a
	// daemon: they run in the network namespace that stands for the host, with ${DIR}
	// set. Setup must return when the daemon answers; what it leaves running is
	// killed after Teardown.
	Setup, Teardown string

	known *experiments // what other rules of the suite have found out; may be nil
}

// facts are what a profile may declare.
func facts() map[string]string {
	return map[string]string{
		"kind":          `what the plugin is: "interface" (when nothing is said), "chained", "ipam" or "meta"`,
		"ifName":        `the interface's name (eth0); runtimes call a loopback plugin with "lo"`,
		"addresses":     `"static" when the configuration itself holds the addresses, so that two attachments may have the same`,
		"chained":       `"true" is an older way to say kind: chained`,
		"config":        "the plugin's configuration, a JSON object",
		"runtimeConfig": "sample capability arguments, a JSON object",
		"badConfigs":    "configurations that the plugin must refuse, a JSON array of objects",
		"exhaustible":   "a configuration of an IPAM plugin with at most 64 addresses, a JSON object",
		"requests":      `how an IPAM plugin is asked for an address, separated by commas: "runtimeConfig", "args", "CNI_ARGS"`,
		"path":          "further directories of CNI_PATH, separated by colons",
		"dirs":          "directories where the plugin keeps state, separated by colons",
		"shared":        "names of what may stay after the last attachment, separated by commas",
		"setup":         "a shell command that starts the plugin's daemon in the background; ${DIR} is its directory",
		"teardown":      "a shell command that ends it",
	}
}

// NewTarget returns the target of a command line: the binary, and what a profile,
// which may be nil, declares about it.
func NewTarget(binary string, profile *conformance.Profile) (Target, error) {
	path, err := filepath.Abs(binary)
	if err != nil {
		return Target{}, fmt.Errorf("plugin %q: %w", binary, err)
	}
	fact := func(name string) string {
		value, _ := profile.Fact(name)
		return value
	}
	t := Target{
		Binary: path, Kind: Kind(fact("kind")),
		Config: fact("config"), RuntimeConfig: fact("runtimeConfig"), BadConfigs: fact("badConfigs"),
		Exhaustible: fact("exhaustible"), Requests: words(fact("requests")),
		Path: filepath.SplitList(fact("path")), Dirs: filepath.SplitList(fact("dirs")),
		Shared: words(fact("shared")),
		Setup:  fact("setup"), Teardown: fact("teardown"),
		IfName: fact("ifName"), Static: fact("addresses") == "static",
	}
	if addresses := fact("addresses"); addresses != "" && !t.Static {
		return t, fmt.Errorf("fact addresses: %q is not \"static\"", addresses)
	}
	if t.Kind == "" && fact("chained") == "true" {
		t.Kind = Chained
	}
	return t, t.validate()
}

// ifName is the interface's name.
func (t *Target) ifName() string {
	if t.IfName == "" {
		return "eth0"
	}
	return t.IfName
}

// loopback reports whether the interface is the one that every network namespace has.
func (t *Target) loopback() bool { return t.IfName == loName }

const loName = "lo"

// apart reports whether labs share nothing: neither a daemon's socket nor
// directories.
func (t Target) apart() bool { return t.Setup == "" && len(t.Dirs) == 0 }

func words(list string) []string {
	return strings.FieldsFunc(list, func(c rune) bool { return c == ',' || c == ' ' })
}

// validate finds the mistakes of a profile before a rule runs.
func (t *Target) validate() error {
	var errs []error
	switch t.Kind {
	case "", Interface, Chained, IPAM, Meta:
	default:
		errs = append(errs, fmt.Errorf("fact kind: %q is none of interface, chained, ipam and meta", t.Kind))
	}
	_, err := t.config("/")
	_, badErr := t.badConfigs("/")
	_, smallErr := t.exhaustible("/")
	for _, way := range t.Requests {
		if !slices.Contains(requestWays, way) {
			errs = append(errs, fmt.Errorf("fact requests: %q is none of %v", way, requestWays))
		}
	}
	for fact, dirs := range map[string][]string{"path": t.Path, "dirs": t.Dirs} {
		for _, dir := range dirs {
			if !filepath.IsAbs(dir) {
				errs = append(errs, fmt.Errorf("fact %s: %q is relative, and the plugin runs in /: want an absolute path", fact, dir))
			}
		}
	}
	return errors.Join(append(errs, err, badErr, smallErr)...)
}

// config returns the configuration's keys with ${DIR} substituted.
func (t *Target) config(dir string) (map[string]any, error) {
	out := map[string]any{}
	if t.Config != "" {
		if err := decodeFact("config", t.Config, dir, &out); err != nil {
			return nil, err
		}
	}
	if t.RuntimeConfig != "" {
		args := map[string]any{}
		if err := decodeFact("runtimeConfig", t.RuntimeConfig, dir, &args); err != nil {
			return nil, err
		}
		out = t.named(out)
		out["runtimeConfig"] = args
	}
	return t.named(out), nil
}

// badConfigs returns the configurations that the plugin must refuse.
func (t *Target) badConfigs(dir string) ([]map[string]any, error) {
	var all []map[string]any
	if t.BadConfigs == "" {
		return nil, nil
	}
	if err := decodeFact("badConfigs", t.BadConfigs, dir, &all); err != nil {
		return nil, err
	}
	for i := range all {
		all[i] = t.named(all[i])
	}
	return all, nil
}

// exhaustible returns the configuration with few addresses; nil means none.
func (t *Target) exhaustible(dir string) (config map[string]any, err error) {
	if t.Exhaustible == "" {
		return nil, nil
	}
	if err := decodeFact("exhaustible", t.Exhaustible, dir, &config); err != nil {
		return nil, err
	}
	return t.named(config), nil
}

// named sets the type of the configuration. A nil configuration, from a fact without
// a value, has no keys.
func (t *Target) named(config map[string]any) map[string]any {
	if config == nil {
		config = map[string]any{}
	}
	if config["type"] == nil {
		config["type"] = filepath.Base(t.Binary)
	}
	return config
}

// decodeFact keeps numbers as written: they need not fit a float.
func decodeFact(fact, text, dir string, into any) error {
	if strings.Contains(text, "$DIR") {
		return fmt.Errorf("fact %s of the profile has $DIR: write ${DIR}", fact)
	}
	quoted, err := json.Marshal(dir)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(strings.NewReader(strings.ReplaceAll(text, "${DIR}", strings.Trim(string(quoted), `"`))))
	dec.UseNumber()
	err = dec.Decode(into)
	var misfit *json.UnmarshalTypeError
	switch {
	case errors.As(err, &misfit) && misfit.Type.Kind() == reflect.Slice:
		return fmt.Errorf("fact %s of the profile: want a list, not a JSON %s", fact, misfit.Value)
	case errors.As(err, &misfit) && misfit.Type.Kind() == reflect.Map:
		return fmt.Errorf("fact %s of the profile: want a mapping, not a JSON %s", fact, misfit.Value)
	case err != nil:
		return fmt.Errorf("fact %s of the profile: want YAML keys, or JSON: %w", fact, err)
	}
	return nil
}

// delegates reports whether the configuration names the suite's IPAM plugin, either
// directly or, in a meta plugin's configuration, for another plugin.
func (t *Target) delegates() bool {
	return t.configures(func(key string, value any) bool { return key == "type" && value == spyName })
}

// configures reports whether a key of the configuration, at any depth, matches such.
// An invalid configuration has none: validate reports it.
func (t *Target) configures(such func(key string, value any) bool) bool {
	config, err := t.config("/")
	return err == nil && hasKey(config, such)
}

func hasKey(value any, such func(key string, value any) bool) bool {
	switch value := value.(type) {
	case map[string]any:
		for key, inner := range value {
			if such(key, inner) || hasKey(inner, such) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(value, func(inner any) bool { return hasKey(inner, such) })
	}
	return false
}

// Build builds the program in a folder (a test passes ".") and returns it as a target
// without configuration.
func Build(t testing.TB, dir string) Target {
	t.Helper()
	abs, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), filepath.Base(abs))
	cmd := exec.Command("go", "build", "-o", binary, ".")
	cmd.Dir = abs
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the plugin in %q: %v\n%s", dir, err, out)
	}
	return Target{Binary: binary}
}

package cniruntimesuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodekit-project/nodekit/conformance"
)

// configRules are about the configuration keys meant for the runtime.
func configRules() []conformance.Rule[Target] {
	const format = "1, Configuration format"
	return []conformance.Rule[Target]{
		rule("CNIRT-040", "disableCheck keeps CHECK away from the plugins", format,
			"If disableCheck is true, runtimes must not call CHECK for this network configuration list.", disableCheck),
		rule("CNIRT-041", "loadOnlyInlinedPlugins keeps plugins of other files out", format,
			"If set to true, indicates that valid plugin configuration objects aggregated from sources other than the main network configuration will be ignored.", onlyInlined),
		at(conformance.Advisory, rule("CNIRT-042", "plugins in files of their own follow the inlined ones", format,
			"Any valid plugin configuration objects aggregated from other sources must be appended to the final list of plugins for that network name.", aggregated)),
		at(conformance.Should, rule("CNIRT-043", "DEL sees the configuration that ADD saw", lifecycle,
			"The network configuration should not change between add and delete.", configFixed)),
	}
}

func disableCheck(ctx context.Context, l *lab) error {
	c, err := l.checked(ctx, object{"disableCheck": true})
	if err != nil {
		return err
	}
	if err := l.Check(ctx, c); err != nil {
		return fmt.Errorf("the runtime does not report success of a disabled CHECK: %w", err)
	}
	cs, err := l.calls()
	if err != nil {
		return err
	}
	if len(cs.of("CHECK")) > 0 {
		return fmt.Errorf("CHECK was called: %v", cs)
	}
	return nil
}

// beside writes a plugin's configuration into the network's directory.
func (l *lab) beside() error {
	dir := filepath.Join(l.dirs.Conf, network)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "50-suite.conf"), []byte(`{"type":"suite-d"}`), 0o644)
}

func onlyInlined(ctx context.Context, l *lab) error {
	if err := l.beside(); err != nil {
		return err
	}
	if _, err := l.added(ctx, object{"loadOnlyInlinedPlugins": true}); err != nil {
		return err
	}
	cs, err := l.calls()
	if err != nil {
		return err
	}
	if cs.last("suite-d") != nil {
		return fmt.Errorf("a plugin in a file of its own was called: %v", cs)
	}
	return nil
}

func aggregated(ctx context.Context, l *lab) error {
	if err := l.beside(); err != nil {
		return err
	}
	if _, err := l.added(ctx, nil); err != nil {
		return err
	}
	cs, err := l.calls()
	if err != nil {
		return err
	}
	d, last := cs.last("suite-d"), cs.of("ADD").last(chain[len(chain)-1])
	if d == nil || last == nil || d.begin < last.end {
		return fmt.Errorf("the plugin in %s/ was not called after the others: %v", network, cs)
	}
	return nil
}

// configFixed changes the configuration between ADD and DEL.
func configFixed(ctx context.Context, l *lab) error {
	chainOf := func(mark string, kinds ...string) object {
		var plugins []object
		for _, kind := range kinds {
			plugins = append(plugins, plugin(kind, object{"suiteMark": mark}))
		}
		return object{"plugins": plugins}
	}
	c, err := l.added(ctx, chainOf("old", chain...))
	if err != nil {
		return err
	}
	if err := l.configure(ctx, chainOf("new", chain[0])); err != nil {
		return err
	}
	if err := l.reloaded(ctx); err != nil {
		return err
	}
	if err := l.mustDel(ctx, c); err != nil {
		return err
	}
	cs, err := l.calls()
	if err != nil {
		return err
	}
	var seen []string
	for _, del := range cs.of("DEL") {
		if del.Env["CNI_CONTAINERID"] == cs.of("ADD")[0].Env["CNI_CONTAINERID"] {
			seen = append(seen, del.Plugin+" "+string(del.request["suiteMark"]))
		}
	}
	want := fmt.Sprintf(`%s "old", %s "old", %s "old"`, chain[2], chain[1], chain[0])
	if got := strings.Join(seen, ", "); got != want {
		return fmt.Errorf("after a change of the configuration DEL was called for %s, want %s", got, want)
	}
	return nil
}

// reloaded waits until the runtime uses the changed configuration, so that no rule
// passes only because the runtime had no time to load it.
func (l *lab) reloaded(ctx context.Context) error {
	probe, err := l.container()
	if err != nil {
		return err
	}
	for range 50 {
		if err := l.mustAdd(ctx, probe); err != nil {
			return err
		}
		cs, err := l.calls()
		if err != nil {
			return err
		}
		adds := cs.of("ADD")
		if len(adds) == 0 {
			return errors.New("ADD of no plugin was called")
		}
		if string(adds[len(adds)-1].request["suiteMark"]) == `"new"` {
			return l.mustDel(ctx, probe)
		}
		if err := l.mustDel(ctx, probe); err != nil {
			return err
		}
	}
	return errors.New("the runtime does not see that its configuration changed")
}

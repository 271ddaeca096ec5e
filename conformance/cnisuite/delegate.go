package cnisuite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// delegateRules are about ADD and DEL of a plugin that delegates.
func delegateRules() []conformance.Rule[Target] {
	const must, should, advisory = conformance.Must, conformance.Should, conformance.Advisory
	const again = "If, on ADD, a delegated plugin fails, the \"upper\" plugin should execute again with DEL before returning failure."
	const also = "If a plugin is executed with CNI_COMMAND=CHECK, DEL, or GC, it must also execute any delegated plugins. If any of the delegated plugins return error, error should be returned by the upper plugin."
	const section = "Delegated plugin execution procedure"
	return []conformance.Rule[Target]{
		checked(rule("CNI-DELEGATE-001", must, "the delegate of ADD has the environment and the whole configuration", "Delegated Plugin protocol",
			"The delegated plugin must receive all the same environment variables that were passed in to the CNI plugin. [...] Delegated plugins are provided the complete network configuration passed to the \"upper\" plugin."), checkDelegateInput("ADD")),
		checked(rule("CNI-DELEGATE-002", must, "the delegate of DEL has the environment and the whole configuration", "Delegated Plugin protocol",
			"The delegated plugin must receive all the same environment variables that were passed in to the CNI plugin. [...] Delegated plugins are provided the complete network configuration passed to the \"upper\" plugin."), checkDelegateInput("DEL")),
		checked(rule("CNI-DELEGATE-003", must, "every DEL is delegated", section, also), checkDelegatesEveryDel),
		checked(rule("CNI-DELEGATE-004", must, "ADD fails when the delegate does", "Delegated Plugin protocol",
			"Success is indicated by a zero return code and a Success result type output to stdout."), checkDelegateFails),
		checked(rule("CNI-DELEGATE-005", should, "DEL is delegated when the delegate's ADD failed", section, again), checkDelegateUndone),
		checked(rule("CNI-DELEGATE-006", should, "the delegate's stderr is in the plugin's", section,
			"Ensure that the delegated plugin's stderr is output to the calling plugin's stderr."), checkDelegateStderr),
		checked(rule("CNI-DELEGATE-007", advisory, "the delegate's code and message reach the runtime", "Error",
			"msg: A short message characterizing the error."), checkDelegateMessage),
		checked(rule("CNI-DELEGATE-008", advisory, "ADD fails when the delegate outputs no result", "Delegated Plugin protocol",
			"Success is indicated by a zero return code and a Success result type output to stdout."), checkDelegateGarbage),
		checked(rule("CNI-DELEGATE-009", should, "DEL fails when the delegate does", section, also), checkDelegateDelFails),
		checked(rule("CNI-DELEGATE-010", must, "a DEL after one whose delegate failed leaves nothing", "DEL",
			"delete the interface defined by CNI_IFNAME inside the container at CNI_NETNS, or undo any modifications applied in the plugin's ADD functionality"), checkDelegateDelAgain),
		checked(rule("CNI-DELEGATE-011", advisory, "DEL does its own part when the delegate fails", "DEL",
			"plugins should always complete a DEL action without error to the fullest extent possible, even if some resources or state are missing"), checkDelegateDelOwn),
	}
}

// suiteArgs are args that get lost if a configuration is decoded and encoded by a
// program that knows only part of it.
func suiteArgs() map[string]any {
	return map[string]any{"suite": map[string]any{"number": json.Number("1152921504606846977")}}
}

// checkDelegateInput ignores the configuration of a meta plugin: that builds others
// of its own.
func checkDelegateInput(command string) func(context.Context, *lab) error {
	return func(ctx context.Context, l *lab) error {
		if err := l.asksSpy(); err != nil {
			return err
		}
		if command == "CHECK" {
			if err := l.hasCheck(); err != nil {
				return err
			}
		}
		c, err := l.newContainer()
		if err != nil {
			return err
		}
		w := with{
			env:  map[string]string{"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=suite"},
			keys: map[string]any{"args": suiteArgs()},
		}
		sent, err := l.document("ADD", c, w.keys)
		if err != nil {
			return err
		}
		if _, err := l.addWith(ctx, c, w); err != nil {
			return err
		}
		if command != "ADD" {
			if sent, err = l.document(command, c, w.keys); err != nil {
				return err
			}
			out, err := l.call(ctx, command, c, w)
			if err != nil {
				return err
			}
			if err := out.ok(nil); err != nil {
				return err
			}
		}
		env := l.env(command, c)
		maps.Copy(env, w.env)
		return l.delegatedAs(c, command, env, sent)
	}
}

// delegatedAs expects that the delegate was called for the command with the plugin's
// own input.
func (l *lab) delegatedAs(c *container, command string, env map[string]string, sent []byte) error {
	calls, err := l.ipam.calls(c)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(calls, func(d delegated) bool { return d.command == command })
	if at < 0 {
		return fmt.Errorf("%s was not delegated: the delegate was called for %v", command, commands(calls))
	}
	return l.same(calls[at], env, sent)
}

// asksSpy returns NotApplicable for plugins whose ADD and DEL do not reach the spy.
func (l *lab) asksSpy() error {
	if l.target.Kind == IPAM {
		return conformance.NotApplicable("an IPAM plugin is the delegate")
	}
	return l.spied()
}

// same compares the delegate's input with the plugin's.
func (l *lab) same(got delegated, env map[string]string, sent []byte) error {
	if first := l.ipam.dirs()[0]; got.dir != first {
		return fmt.Errorf("the delegate was executed in %s, the first directory of CNI_PATH that has it is %s", got.dir, first)
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if strings.HasPrefix(name, "CNI_") && got.env[name] != env[name] {
			return fmt.Errorf("%s was %q, the delegate got %q", name, env[name], got.env[name])
		}
	}
	if l.target.Kind == Meta {
		return nil
	}
	var want, have any
	if err := errors.Join(decodeNumbers(sent, &want), decodeNumbers(got.stdin, &have)); err != nil {
		return fmt.Errorf("the delegate's stdin: %w: %s", err, shorten(got.stdin))
	}
	if where := lacks(want, have); where != "" {
		return fmt.Errorf("the delegate's configuration differs from the plugin's at %s: %s", where, shorten(got.stdin))
	}
	return nil
}

func decodeNumbers(text []byte, into any) error {
	dec := json.NewDecoder(strings.NewReader(string(text)))
	dec.UseNumber()
	return dec.Decode(into)
}

// checkDelegatesEveryDel counts calls: the delegate must know what is gone or was
// never there. A meta plugin may no longer know its delegates.
func checkDelegatesEveryDel(ctx context.Context, l *lab) error {
	if err := l.asksSpy(); err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	count := 0
	del := func(w with) error {
		if err := l.delWith(ctx, c, w); err != nil {
			return err
		}
		calls, err := l.ipam.calls(c)
		if err != nil {
			return err
		}
		now := len(slices.DeleteFunc(commands(calls), func(command string) bool { return command != "DEL" }))
		if now <= count {
			return fmt.Errorf("a %s was not delegated: the delegate was called for %v", w.what, commands(calls))
		}
		count = now
		return nil
	}
	if l.target.Kind != Meta {
		if err := del(with{what: "DEL without an ADD"}); err != nil {
			return err
		}
	}
	if _, err := l.add(ctx, c); err != nil {
		return err
	}
	if err := del(with{what: "DEL"}); err != nil || l.target.Kind == Meta {
		return err
	}
	noPrev := map[string]any{"prevResult": nil}
	if err := errors.Join(
		del(with{what: "second DEL"}), del(with{what: "DEL without prevResult", keys: noPrev}),
		del(with{what: "DEL without CNI_NETNS", unset: []string{"CNI_NETNS"}}),
	); err != nil {
		return err
	}
	if err := netns.Remove(c.ns); err != nil {
		return err
	}
	return del(with{what: "DEL with a CNI_NETNS that is gone"})
}

// rejected returns the answer to an ADD whose delegate gives the reply.
func (l *lab) rejected(ctx context.Context, r reply) (*container, *answer, error) {
	if err := l.asksSpy(); err != nil {
		return nil, nil, err
	}
	c, err := l.newContainer()
	if err != nil {
		return nil, nil, err
	}
	if err := l.ipam.answer(c, "ADD", r); err != nil {
		return nil, nil, err
	}
	out, err := l.call(ctx, "ADD", c, with{what: "ADD whose delegate fails"})
	return c, out, err
}

func checkDelegateFails(ctx context.Context, l *lab) error {
	_, out, err := l.rejected(ctx, failing(111, "the suite has no address"))
	if err != nil {
		return err
	}
	return out.failed()
}

func checkDelegateUndone(ctx context.Context, l *lab) error {
	c, _, err := l.rejected(ctx, failing(111, "the suite has no address"))
	if err != nil {
		return err
	}
	return l.released(c)
}

func checkDelegateMessage(ctx context.Context, l *lab) error {
	_, out, err := l.rejected(ctx, failing(111, "the suite has no address"))
	if err != nil {
		return err
	}
	e, err := out.refused(111)
	if err != nil {
		return err
	}
	return e.names(out.what, "the suite has no address")
}

func checkDelegateStderr(ctx context.Context, l *lab) error {
	const line = "a line of the suite's delegate"
	failed := failing(111, "the suite has no address")
	failed.stderr = line
	_, out, err := l.rejected(ctx, failed)
	if err != nil {
		return err
	}
	if !strings.Contains(string(out.stderr), line) {
		return fmt.Errorf("the stderr of a delegate that failed is not in the plugin's: %s", out)
	}
	success := reply{stderr: line, stdout: ipamResult(l.version, "10.123.200.2/16", "10.123.0.1")}
	if _, out, err = l.rejected(ctx, success); err != nil {
		return err
	}
	if !strings.Contains(string(out.stderr), line) {
		return fmt.Errorf("the stderr of a delegate that succeeded is not in the plugin's: %s", out)
	}
	return nil
}

func checkDelegateGarbage(ctx context.Context, l *lab) error {
	for _, garbage := range []struct{ what, text string }{
		{"ADD whose delegate outputs nothing", ""},
		{"ADD whose delegate outputs no JSON", "no result"},
		{"ADD whose delegate outputs no valid address", ipamResult(l.version, "10.123.1.300/16", "")},
	} {
		_, out, err := l.rejected(ctx, reply{stdout: garbage.text})
		if err != nil {
			return err
		}
		out.what = garbage.what
		if err := out.failed(); err != nil {
			return err
		}
	}
	return nil
}

// unreleased is a container after a DEL whose delegate failed.
func (l *lab) unreleased(ctx context.Context) (*container, *answer, error) {
	c, _, err := l.joined(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := l.ipam.answer(c, "DEL", failing(111, "the suite keeps its address")); err != nil {
		return nil, nil, err
	}
	out, err := l.call(ctx, "DEL", c, with{what: "DEL whose delegate fails"})
	if err != nil {
		return nil, nil, err
	}
	return c, out, l.ipam.obey(c, "DEL")
}

func checkDelegateDelFails(ctx context.Context, l *lab) error {
	if err := l.asksSpy(); err != nil {
		return err
	}
	_, out, err := l.unreleased(ctx)
	if err != nil {
		return err
	}
	return out.failed()
}

func checkDelegateDelAgain(ctx context.Context, l *lab) error {
	if err := l.asksSpy(); err != nil {
		return err
	}
	before, err := l.baseline(ctx)
	if err != nil {
		return err
	}
	c, _, err := l.unreleased(ctx)
	if err != nil {
		return err
	}
	if err := l.del(ctx, c, "DEL after one whose delegate failed"); err != nil {
		return err
	}
	return errors.Join(l.released(c), c.empty(), l.clean(ctx, before))
}

func checkDelegateDelOwn(ctx context.Context, l *lab) error {
	if err := l.asksSpy(); err != nil {
		return err
	}
	before, err := l.baseline(ctx)
	if err != nil {
		return err
	}
	c, _, err := l.unreleased(ctx)
	if err != nil {
		return err
	}
	return errors.Join(c.empty(), l.settled(ctx, func() ([]leak.Leak, error) {
		now, err := l.snapshot()
		if err != nil {
			return nil, err
		}
		// A plugin that keeps records needs this one for the DEL that has to follow.
		return slices.DeleteFunc(before.Diff(now), func(left leak.Leak) bool { return left.Kind == leak.File }), nil
	}))
}

package cniruntimesuite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/conformance"
)

// resultRules are about prevResult and the parameters of an attachment.
func resultRules() []conformance.Rule[Target] {
	const (
		deriving = "3, Deriving request configuration from plugin configuration"
		deleting = "3, Deleting an attachment"
		checking = "3, Checking an attachment"
	)
	persistent := rule("CNIRT-024", "the result outlives the runtime's process", "3, Adding an attachment",
		"The runtime must store the result returned by the final plugin persistently, as it is required for check and delete operations.", resultPersists)
	persistent.Tier = conformance.Crash
	return []conformance.Rule[Target]{
		rule("CNIRT-020", "the first plugin's ADD gets no prevResult", deriving,
			"This field must not be set for the first add in a chain.", firstWithoutResult),
		rule("CNIRT-021", "each further plugin's ADD gets the result of the one before", "3, Adding an attachment",
			"For all additional plugins, the previous result is the result of the previous plugins.", resultOfPrevious),
		rule("CNIRT-022", "DEL gets the final result of ADD", deleting,
			"The previous result provided is always the final result of the add operation.", resultOnDel),
		rule("CNIRT-023", "CHECK gets the final result of ADD", checking,
			"the previous result provided is always the final result of the add operation.", resultOnCheck),
		persistent,
		rule("CNIRT-025", "DEL gets the parameters of ADD", "3, Attachment Parameters",
			"there are certain parameters supplied by the container runtime that are per-attachment [...] During execution, always set as the CNI_CONTAINERID parameter.", parametersOnDel),
		rule("CNIRT-026", "CHECK gets the parameters of ADD", checking,
			"The runtime must use the same attachment parameters as it did for the add operation.", parametersOnCheck),
	}
}

// final returns the result of the last plugin's ADD.
func (cs calls) final() (string, error) {
	add := cs.of("ADD").last(chain[len(chain)-1])
	if add == nil || add.Result == "" {
		return "", errors.New("the last plugin's ADD was not called")
	}
	return add.Result, nil
}

func firstWithoutResult(ctx context.Context, l *lab) error {
	if _, err := l.added(ctx, nil); err != nil {
		return err
	}
	cs, err := l.calls()
	if err != nil {
		return err
	}
	first := cs.of("ADD").last(chain[0])
	if first == nil {
		return errors.New("the first plugin's ADD was not called")
	}
	if prev, ok := first.request["prevResult"]; ok {
		return fmt.Errorf("the first plugin's ADD got the prevResult %s", prev)
	}
	return nil
}

func resultOfPrevious(ctx context.Context, l *lab) error {
	if _, err := l.added(ctx, nil); err != nil {
		return err
	}
	cs, err := l.calls()
	if err != nil {
		return err
	}
	var previous *call
	for _, name := range chain {
		add := cs.of("ADD").last(name)
		if add == nil {
			return fmt.Errorf("ADD of %s was not called", name)
		}
		if previous != nil && !sameJSON(add.request["prevResult"], []byte(previous.Result)) {
			return fmt.Errorf("%v got the prevResult %s, want %s", add, add.request["prevResult"], previous.Result)
		}
		previous = add
	}
	return nil
}

// haveFinal reports the call of this verb that did not get the final result.
func (l *lab) haveFinal(verb string) error {
	cs, err := l.calls()
	if err != nil {
		return err
	}
	want, err := cs.final()
	if err != nil {
		return err
	}
	all := cs.of(verb).firsts()
	if len(all) == 0 {
		return fmt.Errorf("%s was not called: %v", verb, cs)
	}
	for _, c := range all {
		if !sameJSON(c.request["prevResult"], []byte(want)) {
			return fmt.Errorf("%v got the prevResult %s, want %s", c, c.request["prevResult"], want)
		}
	}
	return nil
}

func resultOnDel(ctx context.Context, l *lab) error {
	if _, err := l.addedAndDeleted(ctx); err != nil {
		return err
	}
	return l.haveFinal("DEL")
}

func resultOnCheck(ctx context.Context, l *lab) error {
	c, err := l.checked(ctx, nil)
	if err != nil {
		return err
	}
	if err := l.Check(ctx, c); err != nil {
		return fmt.Errorf("the runtime does not check the container: %w", err)
	}
	return l.haveFinal("CHECK")
}

func resultPersists(ctx context.Context, l *lab) error {
	c, err := l.added(ctx, nil)
	if err != nil {
		return err
	}
	if err := need(l.Restart != nil, "restart"); err != nil {
		return err
	}
	if err := l.Restart(ctx); err != nil {
		return fmt.Errorf("restarting the runtime: %w", err)
	}
	if err := l.mustDel(ctx, c); err != nil {
		return err
	}
	return l.haveFinal("DEL")
}

// sameParameters compares the calls of the verb with the ADD of the same plugin. If
// netnsMayGo, a missing CNI_NETNS stands for a namespace that is gone.
func (l *lab) sameParameters(verb string, netnsMayGo bool) error {
	cs, err := l.calls()
	if err != nil {
		return err
	}
	all := cs.of(verb).firsts()
	if len(all) == 0 {
		return fmt.Errorf("%s was not called: %v", verb, cs)
	}
	for _, c := range all {
		add := cs.of("ADD").last(c.Plugin)
		if add == nil {
			return fmt.Errorf("%v was called without an ADD", c)
		}
		for _, key := range []string{"CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS"} {
			if key == "CNI_NETNS" && netnsMayGo && c.Env[key] == "" {
				continue
			}
			if got, want := inAnyOrder(c.Env[key]), inAnyOrder(add.Env[key]); got != want {
				return fmt.Errorf("%v got %s=%q, and ADD had %q", c, key, got, want)
			}
		}
		if got, want := c.request["runtimeConfig"], add.request["runtimeConfig"]; !sameJSON(got, want) {
			return fmt.Errorf("%v got the runtimeConfig %s, and ADD had %s", c, got, want)
		}
	}
	return nil
}

// inAnyOrder sorts the pairs that a variable lists, because they have no order.
func inAnyOrder(value string) string {
	pairs := strings.Split(value, ";")
	slices.Sort(pairs)
	return strings.Join(pairs, ";")
}

func parametersOnDel(ctx context.Context, l *lab) error {
	if _, err := l.addedAndDeleted(ctx); err != nil {
		return err
	}
	return l.sameParameters("DEL", true)
}

func parametersOnCheck(ctx context.Context, l *lab) error {
	c, err := l.checked(ctx, nil)
	if err != nil {
		return err
	}
	if err := l.Check(ctx, c); err != nil {
		return fmt.Errorf("the runtime does not check the container: %w", err)
	}
	return l.sameParameters("CHECK", false)
}

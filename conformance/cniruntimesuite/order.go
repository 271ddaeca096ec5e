package cniruntimesuite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/conformance"
)

// orderRules are about the order of a chain, and where it halts.
func orderRules() []conformance.Rule[Target] {
	return []conformance.Rule[Target]{
		rule("CNIRT-010", "ADD runs the plugins in order", "3, Adding an attachment",
			"For every configuration defined in the plugins key of the network configuration, [...] Execute the plugin binary, with CNI_COMMAND=ADD.", addOrder),
		rule("CNIRT-011", "DEL runs the plugins in reverse order", "3, Deleting an attachment",
			"The list of plugins is executed in reverse order.", delOrder),
		rule("CNIRT-012", "CHECK runs the plugins in order", "3, Checking an attachment",
			"For every plugin defined in the plugins key of the network configuration, [...] Execute the plugin binary, with CNI_COMMAND=CHECK.", checkOrder),
		rule("CNIRT-013", "ADD halts at the first error and returns it", "3, Adding an attachment",
			"If the plugin returns an error, halt execution and return the error to the caller.", addHalts),
		rule("CNIRT-014", "CHECK halts at the first error and returns it", "3, Checking an attachment",
			"If the plugin returns an error, halt execution and return the error to the caller.", checkHalts),
		rule("CNIRT-015", "an error of DEL is returned", "3, Deleting an attachment",
			"If the plugin returns an error, halt execution and return the error to the caller.", delReported),
		rule("CNIRT-016", "a plugin that is not there is an error", "3, Adding an attachment",
			"Look up the executable specified in the type field. If this does not exist, then this is an error.", missingPlugin),
	}
}

func addOrder(ctx context.Context, l *lab) error {
	if _, err := l.added(ctx, nil); err != nil {
		return err
	}
	return l.inOrder("ADD", strings.Join(chain, " "))
}

func (l *lab) inOrder(verb, want string) error {
	cs, err := l.calls()
	if err != nil {
		return err
	}
	if got := cs.of(verb).plugins(); got != want {
		return fmt.Errorf("%s was called for %q, want %q", verb, got, want)
	}
	return cs.of(verb).parallel(func(*call, *call) bool { return true })
}

func delOrder(ctx context.Context, l *lab) error {
	if _, err := l.addedAndDeleted(ctx); err != nil {
		return err
	}
	cs, err := l.calls()
	if err != nil {
		return err
	}
	// A runtime may delete more than once.
	want := slices.Clone(chain)
	slices.Reverse(want)
	dels := cs.of("DEL")
	for i, c := range dels {
		if c.Plugin != want[i%len(want)] {
			return fmt.Errorf("DEL was called for %q, want %q", dels.plugins(), strings.Join(want, " "))
		}
	}
	if len(dels) == 0 || len(dels)%len(want) != 0 {
		return fmt.Errorf("DEL was called for %q, want %q", dels.plugins(), strings.Join(want, " "))
	}
	return dels.parallel(func(*call, *call) bool { return true })
}

// checked is like added, for rules about CHECK.
func (l *lab) checked(ctx context.Context, keys object) (Container, error) {
	if err := l.configure(ctx, keys); err != nil {
		return Container{}, err
	}
	if err := need(l.Check != nil, "CHECK"); err != nil {
		return Container{}, err
	}
	return l.added(ctx, keys)
}

func checkOrder(ctx context.Context, l *lab) error {
	c, err := l.checked(ctx, nil)
	if err != nil {
		return err
	}
	if err := l.Check(ctx, c); err != nil {
		return fmt.Errorf("the runtime does not check the container: %w", err)
	}
	return l.inOrder("CHECK", strings.Join(chain, " "))
}

func addHalts(ctx context.Context, l *lab) error {
	if err := l.configure(ctx, nil); err != nil {
		return err
	}
	if err := l.prepare(chain[1], "ADD", fault{Code: 100, Keep: true}); err != nil {
		return err
	}
	c, err := l.container()
	if err != nil {
		return err
	}
	if err := l.Add(ctx, c); err == nil {
		return errors.New("the runtime adds the container although a plugin's ADD failed")
	}
	return l.notCalled(chain[2], "ADD")
}

func (l *lab) notCalled(plugin, verb string) error {
	cs, err := l.calls()
	if err != nil {
		return err
	}
	if cs.of(verb).last(plugin) != nil {
		return fmt.Errorf("%s was called for %q: %v", verb, plugin, cs)
	}
	return nil
}

func checkHalts(ctx context.Context, l *lab) error {
	c, err := l.checked(ctx, nil)
	if err != nil {
		return err
	}
	if err := l.prepare(chain[1], "CHECK", fault{Code: 100, Keep: true}); err != nil {
		return err
	}
	if err := l.Check(ctx, c); err == nil {
		return errors.New("the runtime says that the container is as it should be although a plugin's CHECK failed")
	}
	return l.notCalled(chain[2], "CHECK")
}

func delReported(ctx context.Context, l *lab) error {
	c, err := l.added(ctx, nil)
	if err != nil {
		return err
	}
	if err := l.prepare(chain[1], "DEL", fault{Code: 100, Keep: true}); err != nil {
		return err
	}
	if err := l.Del(ctx, c); err == nil {
		return errors.New("the runtime says that the container is deleted although a plugin's DEL failed")
	}
	return nil
}

func missingPlugin(ctx context.Context, l *lab) error {
	if err := l.configure(ctx, object{"plugins": []object{plugin(chain[0], nil), plugin("suite-absent", nil)}}); err != nil {
		return err
	}
	c, err := l.container()
	if err != nil {
		return err
	}
	if err := l.Add(ctx, c); err == nil {
		return errors.New("the runtime adds the container although one of its plugins is not there")
	}
	return nil
}

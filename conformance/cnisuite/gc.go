package cnisuite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/leak"
)

// stale is the sentence behind the rules on what GC removes.
const stale = "A plugin SHOULD remove as many stale resources as possible. For example, a plugin should remove any IPAM reservations associated with attachments not in the provided list."

// valid is the sentence behind the rules on what GC keeps.
const valid = "cni.dev/valid-attachments (array of objects): The list of still valid attachments to this network: containerID (string) [...] ifname (string)"

// gcRules are about GC.
func gcRules() []conformance.Rule[Target] {
	const must, should, advisory = conformance.Must, conformance.Should, conformance.Advisory
	return []conformance.Rule[Target]{
		checked(rule("CNI-GC-001", should, "GC removes what belongs to attachments that are not in the list", "GC", stale), checkCollects),
		checked(rule("CNI-GC-002", must, "GC keeps what belongs to attachments that are in the list", "GC", valid), checkKeeps),
		checked(rule("CNI-GC-003", should, "GC tells the attachments of one container apart by interface name", "GC", valid), checkCollectsByName),
		checked(rule("CNI-GC-004", should, "GC with an empty list removes everything of the network", "GC", stale), checkCollectsAll),
		checked(rule("CNI-GC-005", should, "GC without a list removes nothing (de facto)", "GC",
			"The runtime must provide a JSON-serialized plugin configuration object (defined below) on standard in. It contains an additional key; cni.dev/valid-attachments"), checkNoList),
		checked(rule("CNI-GC-006", must, "GC executes the delegate, with the environment and configuration that it got", "GC",
			"Plugins MUST, additionally, forward any GC calls to delegated plugins they are configured to use (see section 4)."), checkGCDelegated),
		checked(rule("CNI-GC-007", should, "GC returns the delegate's error, and does its own part all the same", "GC",
			"If an error is encountered, a plugin should continue; removing as many resources as possible, and report the errors back to the runtime."), checkGCGoesOn),
		checked(rule("CNI-GC-008", must, "GC of one network leaves others alone", "GC",
			"The GC command provides a way for runtimes to specify the expected set of attachments to a network."), checkOtherNetwork),
		checked(rule("CNI-GC-009", advisory, "GC keeps what the attachments of a network share", "GC",
			"The network plugin may then remove any resources related to attachments that do not exist in this set."), checkKeepsShared),
		checked(rule("CNI-GC-010", advisory, "a second GC changes nothing", "GC",
			"Plugins should generally complete a GC action without error."), checkGCTwice),
		checked(rule("CNI-GC-011", must, "GC works with CNI_COMMAND and CNI_PATH alone, before the first ADD", "GC",
			"Required environment parameters: CNI_COMMAND, CNI_PATH"), checkGCAlone),
		checked(rule("CNI-GC-012", must, "GC of a version that has no GC is an error of code 1", "Error",
			"1: Incompatible CNI version"), checkOldGC),
		checked(rule("CNI-GC-013", should, "GC heeds the list under its older key (de facto)", "GC", valid), checkOldKey),
	}
}

// hasGC returns NotApplicable for plugins of older versions.
func (l *lab) hasGC() error {
	if !l.speaks("1.1.0") {
		return conformance.NotApplicable("the plugin speaks %s at most, which has no GC", l.version)
	}
	return nil
}

func checkCollects(ctx context.Context, l *lab) error {
	s, err := l.strand(ctx, l.newContainer)
	if err != nil {
		return err
	}
	if err := l.collect(ctx, s.valid); err != nil {
		return err
	}
	return s.collected(ctx, l)
}

// checkKeeps has a stale attachment of another container, and one of the same
// container.
func checkKeeps(ctx context.Context, l *lab) error {
	if err := l.hasGC(); err != nil {
		return err
	}
	keep, err := l.keep(ctx, with{})
	if err != nil {
		return err
	}
	other, err := l.newContainer()
	if err != nil {
		return err
	}
	second, err := l.beside(keep.c)
	if err != nil {
		return err
	}
	for _, stale := range []*container{other, second} {
		if _, err := l.call(ctx, "ADD", stale, with{}); err != nil { // one that fails leaves a stale attachment, too
			return err
		}
	}
	// Attachments may be older than the plugin's place in the network.
	stranger := &container{id: other.id + "-stranger", ifName: other.ifName}
	if err := l.collect(ctx, keep.c, stranger); err != nil {
		return fmt.Errorf("a GC whose list has a valid attachment that the plugin never saw, %s: %w", stranger.id, err)
	}
	return keep.kept(ctx, l)
}

// keep attaches a container that must keep what it has.
func (l *lab) keep(ctx context.Context, w with) (*holdings, error) {
	c, err := l.newContainer()
	if err != nil {
		return nil, err
	}
	if _, err := l.addWith(ctx, c, w); err != nil {
		return nil, err
	}
	return l.holdings(ctx, c, w)
}

// checkCollectsByName has a stale attachment of a container that continues to exist.
func checkCollectsByName(ctx context.Context, l *lab) error {
	s, err := l.strand(ctx, func() (*container, error) { return l.beside(l.made[len(l.made)-1]) })
	if err != nil {
		return err
	}
	if err := l.collect(ctx, s.valid); err != nil {
		return err
	}
	return s.collected(ctx, l)
}

func checkCollectsAll(ctx context.Context, l *lab) error {
	if err := l.hasGC(); err != nil {
		return err
	}
	if _, err := l.baseline(ctx); err != nil {
		return err
	}
	s, err := l.strandAlone(ctx)
	if err != nil {
		return err
	}
	if err := l.collect(ctx); err != nil {
		return err
	}
	return s.collected(ctx, l)
}

// checkNoList sends what libcni sends for a runtime that names no attachments.
func checkNoList(ctx context.Context, l *lab) error {
	if err := l.hasGC(); err != nil {
		return err
	}
	keep, err := l.keep(ctx, with{})
	if err != nil {
		return err
	}
	// Whether it is an error is the plugin's choice.
	if _, err := l.call(ctx, "GC", nil, with{keys: map[string]any{validKey: nil}}); err != nil {
		return err
	}
	if err := keep.kept(ctx, l); err != nil {
		return fmt.Errorf("GC without the key %s took it for an empty list: %w", validKey, err)
	}
	return nil
}

func checkGCDelegated(ctx context.Context, l *lab) error {
	if err := cmp.Or(l.hasGC(), l.spied()); err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	if _, err := l.add(ctx, c); err != nil {
		return err
	}
	w := with{keys: attachments(c)}
	w.keys["args"] = suiteArgs()
	sent, err := l.document("GC", nil, w.keys)
	if err != nil {
		return err
	}
	out, err := l.call(ctx, "GC", nil, w)
	if err != nil {
		return err
	}
	if err := out.ok(nil); err != nil {
		return err
	}
	return l.delegatedAs(nil, "GC", l.env("GC", nil), sent)
}

func checkGCGoesOn(ctx context.Context, l *lab) error {
	if err := cmp.Or(l.hasGC(), l.spied()); err != nil {
		return err
	}
	s, err := l.strand(ctx, l.newContainer)
	var none *nothingSeen
	if err != nil && !errors.As(err, &none) {
		return err
	}
	if err := l.ipam.answer(nil, "GC", failing(111, "the suite's delegate fails")); err != nil {
		return err
	}
	out, err := l.call(ctx, "GC", nil, with{what: "GC whose delegate fails", keys: attachments(s.valid)})
	if err != nil {
		return err
	}
	if err := out.failed(); err != nil {
		return err
	}
	if none != nil {
		return nil // it has nothing of its own to remove
	}
	return l.sameAsWithout(ctx, s)
}

// sameAsWithout reports whether the delegate's failure is why the plugin did not do
// its own part: a GC that never does its part is left to another rule.
func (l *lab) sameAsWithout(ctx context.Context, s *stranded) error {
	failed := s.collected(ctx, l)
	if failed == nil {
		return nil
	}
	if err := errors.Join(l.ipam.obey(nil, "GC"), l.collect(ctx, s.valid)); err != nil {
		return err
	}
	if s.collected(ctx, l) != nil {
		return conformance.NotApplicable("GC removes nothing at all")
	}
	return fmt.Errorf("GC whose delegate fails did not go on: %w", failed)
}

func checkOtherNetwork(ctx context.Context, l *lab) error {
	if err := l.hasGC(); err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	c.keys = map[string]any{"name": l.network("other")}
	if _, err := l.addWith(ctx, c, with{what: "ADD in another network"}); err != nil {
		return err
	}
	keep, err := l.holdings(ctx, c, with{})
	if err != nil {
		return err
	}
	failed := l.collect(ctx)
	if failed == nil {
		failed = keep.kept(ctx, l)
	}
	return errors.Join(failed, l.del(ctx, c, "DEL in the other network"))
}

func checkKeepsShared(ctx context.Context, l *lab) error {
	if err := l.hasGC(); err != nil {
		return err
	}
	before, err := l.baseline(ctx)
	if err != nil {
		return err
	}
	if err := l.collect(ctx); err != nil {
		return err
	}
	after, err := l.snapshot()
	if err != nil {
		return err
	}
	if gone := slices.DeleteFunc(after.Diff(before), func(found leak.Leak) bool { return !standing(found) }); len(gone) > 0 {
		return fmt.Errorf("GC with an empty list removed what the network's attachments share: %s", list(gone))
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	return l.life(ctx, c)
}

func checkGCTwice(ctx context.Context, l *lab) error {
	if err := l.hasGC(); err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	if _, err := l.add(ctx, c); err != nil {
		return err
	}
	if err := l.collect(ctx, c); err != nil {
		return err
	}
	same, err := l.unchanged(c)
	if err != nil {
		return err
	}
	if err := l.collect(ctx, c); err != nil {
		return err
	}
	if err := same(); err != nil {
		return fmt.Errorf("second GC: %w", err)
	}
	return nil
}

func checkGCAlone(ctx context.Context, l *lab) error {
	if err := l.hasGC(); err != nil {
		return err
	}
	if err := l.collect(ctx); err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	if _, err := l.add(ctx, c); err != nil {
		return err
	}
	return l.collect(ctx, c)
}

func checkOldGC(ctx context.Context, l *lab) error {
	if err := l.hasGC(); err != nil {
		return err
	}
	return l.eachOld(ctx, "GC", "0.4.0", "1.0.0")
}

// eachOld calls a command without attachment in versions that do not have it but that
// the plugin supports.
func (l *lab) eachOld(ctx context.Context, command string, versions ...string) error {
	asked := false
	for _, v := range versions {
		if !l.lists(v) {
			continue
		}
		asked = true
		w := with{what: command + " of cniVersion " + v, keys: map[string]any{"cniVersion": v}}
		if err := l.refusal(ctx, command, nil, w, 1); err != nil {
			return err
		}
	}
	if !asked {
		return conformance.NotApplicable("the plugin speaks none of %v", versions)
	}
	return nil
}

func checkOldKey(ctx context.Context, l *lab) error {
	if err := l.hasGC(); err != nil {
		return err
	}
	keep, err := l.keep(ctx, with{})
	if err != nil {
		return err
	}
	keys := attachments(keep.c)
	keys[validKey] = nil
	out, err := l.call(ctx, "GC", nil, with{what: "GC with the key " + oldValidKey, keys: keys})
	if err != nil {
		return err
	}
	if err := out.ok(nil); err != nil {
		return err
	}
	return keep.kept(ctx, l)
}

package cnisuite

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// rebootRules are about what a plugin must cope with after a restart of the machine:
// runtimes then send the DELs of all containers, and start others.
func rebootRules() []conformance.Rule[Target] {
	const must, should = conformance.Must, conformance.Should
	return []conformance.Rule[Target]{
		checked(rule("CNI-REBOOT-001", must, "DEL succeeds after a reboot", "DEL",
			"Plugins MUST accept multiple DEL calls for the same (CNI_CONTAINERID, CNI_IFNAME) pair, and return success if the interface in question, or any modifications added, are missing"), checkRebootDel),
		checked(rule("CNI-REBOOT-002", should, "after a reboot ADD serves other containers, and DEL of those of before leaves them alone (de facto)", "ADD",
			"create the interface defined by CNI_IFNAME inside the container at CNI_NETNS; adjust the configuration of the interface"), checkRebootAdd),
		checked(rule("CNI-REBOOT-003", should, "DEL after a reboot frees what the attachment had", "DEL", releases), checkRebootFrees),
		checked(rule("CNI-REBOOT-004", should, "GC after a reboot frees what attachments of before had", "GC", stale), checkRebootGC),
	}
}

// reboot restarts the machine as far as a plugin can tell: the network namespaces of
// the host and of all containers are gone with their contents, no process is left,
// and the boot id is different. Files stay, so a daemon finds its own when it is set
// up again. Only the daemon sees the old boot id: in a mount namespace of its own it
// would not see later containers.
func (l *lab) reboot(ctx context.Context) error {
	if err := l.tearDown(ctx); err != nil {
		return err
	}
	l.daemon = 0
	var errs []error
	for _, c := range l.made {
		errs = append(errs, netns.Remove(c.ns))
	}
	if err := errors.Join(append(errs, netns.Remove(l.host), netns.Create(l.host))...); err != nil {
		return err
	}
	l.boot = filepath.Join(l.dir, "boot")
	id := fmt.Appendf(nil, "%08x-0000-4000-8000-%012x\n", l.rand.Uint32(), l.rand.Uint64()>>16)
	if err := os.WriteFile(l.boot, id, 0o600); err != nil {
		return err
	}
	return l.setUp(ctx)
}

// rebooted runs what follows its first argument with the boot id of that file, and
// exits with notRebooted if that is not possible.
const (
	rebooted    = `mount --bind "$1" /proc/sys/kernel/random/boot_id || exit 125; shift; exec "$@"`
	notRebooted = 125
)

// inBoot makes the command see the lab's boot id after a reboot.
func (l *lab) inBoot(cmd *exec.Cmd) {
	if l.boot == "" {
		return
	}
	cmd.Args = []string{"sh", "-c", rebooted, "sh", l.boot, cmd.Path}
	cmd.Path = "/bin/sh"
	ownMounts(cmd.SysProcAttr)
}

// rebootedWith attaches a container before a reboot.
func (l *lab) rebootedWith(ctx context.Context) (*container, error) {
	c, err := l.newContainer()
	if err != nil {
		return nil, err
	}
	if _, err := l.add(ctx, c); err != nil {
		return nil, err
	}
	return c, l.reboot(ctx)
}

func checkRebootDel(ctx context.Context, l *lab) error {
	c, err := l.rebootedWith(ctx)
	if err != nil {
		return err
	}
	if err := l.del(ctx, c, "DEL after a reboot"); err != nil {
		return err
	}
	return l.del(ctx, c, "second DEL after a reboot")
}

func checkRebootAdd(ctx context.Context, l *lab) error {
	old, err := l.rebootedWith(ctx)
	if err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	if _, err := l.addWith(ctx, c, with{what: "ADD after a reboot"}); err != nil {
		return err
	}
	keep, err := l.holdings(ctx, c, with{})
	if err != nil {
		return err
	}
	if err := l.del(ctx, old, "DEL after a reboot"); err != nil {
		return err
	}
	return keep.kept(ctx, l)
}

// checkRebootFrees counts addresses if there are few; otherwise it looks at files and
// at the delegate.
func checkRebootFrees(ctx context.Context, l *lab) error {
	if l.target.Exhaustible != "" {
		return l.drainedAcross(ctx, func(some []lease) error { return l.giveBack(ctx, some...) })
	}
	if _, err := l.baseline(ctx); err != nil {
		return err
	}
	before, err := l.files()
	if err != nil {
		return err
	}
	c, err := l.rebootedWith(ctx)
	if err != nil {
		return err
	}
	if err := l.del(ctx, c, "DEL after a reboot"); err != nil {
		return err
	}
	return errors.Join(l.released(c), l.noMoreFiles(before))
}

func checkRebootGC(ctx context.Context, l *lab) error {
	if err := l.hasGC(); err != nil {
		return err
	}
	if l.target.Exhaustible != "" {
		return l.drainedAcross(ctx, func(some []lease) error { return l.collectWith(ctx, some[0].c.keys) })
	}
	if _, err := l.baseline(ctx); err != nil {
		return err
	}
	before, err := l.files()
	if err != nil {
		return err
	}
	if _, err := l.rebootedWith(ctx); err != nil {
		return err
	}
	if l.noMoreFiles(before) == nil {
		return conformance.NotApplicable("no file of an attachment is left after a reboot: declare dirs if the plugin keeps state")
	}
	if err := l.collectWith(ctx, nil); err != nil {
		return err
	}
	return l.noMoreFiles(before)
}

// collectWith runs a GC after a reboot, when no attachment is valid.
func (l *lab) collectWith(ctx context.Context, keys map[string]any) error {
	w := with{what: "GC after a reboot", keys: attachments()}
	maps.Copy(w.keys, keys)
	out, err := l.call(ctx, "GC", nil, w)
	if err != nil {
		return err
	}
	return out.ok(nil)
}

// drainedAcross takes all of the few addresses, and expects to get some again after a
// reboot and the call that frees them: two, because executions take time, and other
// rules are about every address.
func (l *lab) drainedAcross(ctx context.Context, free func([]lease) error) error {
	all, keys, err := l.drained(ctx)
	if err != nil {
		return err
	}
	some := all[:min(2, len(all))]
	if err := l.reboot(ctx); err != nil {
		return err
	}
	if err := free(some); err != nil {
		return err
	}
	for i := range some {
		got, out, err := l.take(ctx, keys)
		if err != nil {
			return err
		}
		if got.result == nil {
			return fmt.Errorf("after the reboot %d addresses were freed, and %d can be had: %s", len(some), i, out)
		}
	}
	return nil
}

// files returns the files that the plugin keeps.
func (l *lab) files() (*leak.Snapshot, error) { return leak.Take(l.scopeOf(leak.File)) }

// noMoreFiles reports files that were not there before.
func (l *lab) noMoreFiles(before *leak.Snapshot) error {
	now, err := l.files()
	if err != nil {
		return err
	}
	if more := slices.DeleteFunc(before.Diff(now), l.mayStay); len(more) > 0 {
		return fmt.Errorf("files of an attachment of before the reboot stay: %s", list(more))
	}
	return nil
}

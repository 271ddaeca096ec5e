package cnisuite

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// processRules are about the plugin as a process.
func processRules() []conformance.Rule[Target] {
	const must, should, advisory = conformance.Must, conformance.Should, conformance.Advisory
	const errors2 = "A plugin must exit with a return code of 0 on success, and non-zero on failure."
	crash := func(r conformance.Rule[Target], tier conformance.Tier) conformance.Rule[Target] {
		r.Tier = tier
		return r
	}
	return []conformance.Rule[Target]{
		checked(rule("CNI-EXIT-001", must, "the exit status is 0 on success and only then", "Errors", errors2), checkStatus),
		checked(rule("CNI-EXIT-002", must, "stdout never holds a result and an error together", "ADD Success",
			"Plugins must output a JSON object with the following keys upon a successful ADD operation"), checkOneDocument),
		checked(rule("CNI-ERROR-004", should, "every failure is an error object on stdout", "Errors",
			"If the plugin encounters an error, it should output an \"error\" result structure"), checkErrorObjects),
		checked(rule("CNI-ERROR-005", must, "codes below 100 are only those of the specification", "Error",
			"Error codes 0-99 are reserved for well-known errors. Values of 100+ can be freely used for plugin specific errors."), checkCodes),
		checked(rule("CNI-PROCESS-001", should, "it runs with CNI_* and PATH alone, in /, on a read-only root file system (de facto)", "Overview",
			"The CNI protocol is based on execution of binaries invoked by the container runtime."), checkBareRun),
		checked(rule("CNI-PROCESS-002", advisory, "ADD leaves no process, no mount and no reference to the network namespace", "Lifecycle & Ordering",
			"The container runtime is responsible for cleanup of the container's network namespace."), checkNothingRuns),
		checked(rule("CNI-PROCESS-003", advisory, "it never dies of what it is given", "Errors", errors2), checkFuzz),
		crash(checked(rule("CNI-PROCESS-004", advisory, "SIGTERM in the middle of ADD undoes it", "Lifecycle & Ordering",
			"A delete must still be executed even if the add fails."), checkTerminated), conformance.Crash),
		crash(checked(rule("CNI-PROCESS-005", advisory, "SIGTERM ends a plugin that waits for its delegate, and the delegate", "Delegated plugin execution procedure",
			"If, on ADD, a delegated plugin fails, the \"upper\" plugin should execute again with DEL before returning failure."), checkTerminatedDelegate), conformance.Crash),
		crash(checked(rule("CNI-PROCESS-006", advisory, "a delegate that hangs is given up with code 11", "Error",
			"11: Try again later. If the plugin detects some transient condition that should clear up, it can use this code to notify the runtime it should re-try the operation later."), checkHungDelegate), conformance.Soak),
	}
}

func checkStatus(ctx context.Context, l *lab) error {
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	answers, err := found(ctx, l, "ADDs that fail", addInVain)
	if err != nil {
		return err
	}
	for _, out := range answers {
		if err := out.failed(); err != nil {
			return err
		}
	}
	if _, err := l.add(ctx, c); err != nil {
		return err
	}
	return l.del(ctx, c, "DEL")
}

// failures are ADDs that no plugin can serve.
func failures() []with {
	return []with{
		{what: "ADD of cniVersion 9.9.9", keys: map[string]any{"cniVersion": "9.9.9"}},
		{what: "ADD without CNI_CONTAINERID", unset: []string{"CNI_CONTAINERID"}},
		{what: "ADD with half a document on stdin", stdin: []byte(`{"cniVersion":`)},
		{what: "ADD without a name", keys: map[string]any{"name": nil}},
	}
}

// addInVain executes them.
func addInVain(ctx context.Context, l *lab) (answers []*answer, err error) {
	c, err := l.newContainer()
	if err != nil {
		return nil, err
	}
	for _, w := range failures() {
		out, err := l.call(ctx, "ADD", c, w)
		if err != nil {
			return nil, err
		}
		if err := out.ended(); err != nil {
			return nil, err
		}
		answers = append(answers, out)
	}
	return answers, nil
}

// checkOneDocument gives the plugin its own namespace as the container, which some
// notice only after they have answered.
func checkOneDocument(ctx context.Context, l *lab) error {
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	answers, err := found(ctx, l, "ADDs that fail", addInVain)
	if err != nil {
		return err
	}
	for _, out := range answers {
		if err := out.single(); err != nil {
			return err
		}
	}
	if err := l.oneDocument(ctx, c, with{what: "ADD with the plugin's own namespace as CNI_NETNS", env: map[string]string{"CNI_NETNS": l.host}}); err != nil {
		return err
	}
	if !l.target.delegates() {
		return nil
	}
	if err := l.ipam.answer(c, "ADD", failing(111, "the suite's delegate fails")); err != nil {
		return err
	}
	return l.oneDocument(ctx, c, with{what: "ADD whose delegate fails"})
}

func (l *lab) oneDocument(ctx context.Context, c *container, w with) error {
	out, err := l.call(ctx, "ADD", c, w)
	if err != nil {
		return err
	}
	return cmp.Or(out.ended(), out.single())
}

// single reports a result combined with an error.
func (a *answer) single() error {
	seen := a.objects()
	for _, object := range seen {
		_, hasCode := object["code"]
		_, hasResult := object["interfaces"]
		if len(seen) > 1 || hasCode && (hasResult || a.rc == 0) {
			return fmt.Errorf("%s: result and error at once: %s", a.what, a)
		}
	}
	return nil
}

func checkErrorObjects(ctx context.Context, l *lab) error {
	answers, err := found(ctx, l, "failures of every kind", provoke)
	if err != nil {
		return err
	}
	for _, out := range answers {
		if out.rc == 0 {
			continue // another rule is about that
		}
		if _, err := out.failure(); err != nil {
			return err
		}
	}
	return nil
}

// checkCodes looks only at the codes.
func checkCodes(ctx context.Context, l *lab) error {
	answers, err := found(ctx, l, "failures of every kind", provoke)
	if err != nil {
		return err
	}
	known := []int{1, 2, 3, 4, 5, 6, 7, 11, 50, 51}
	for _, out := range answers {
		var e errorObject
		if out.rc == 0 || json.Unmarshal(out.stdout, &e) != nil || e.Code == 0 {
			continue // other rules are about that
		}
		if e.Code < 100 && !slices.Contains(known, e.Code) {
			return fmt.Errorf("code %d is reserved and has no meaning: %s: %q", e.Code, out.what, e.Msg)
		}
	}
	return nil
}

// provoke runs what must or may fail: wrong requests, an existing interface, a
// failing delegate, CHECK of what is gone. A plugin that hangs has not answered.
func provoke(ctx context.Context, l *lab) (answers []*answer, err error) {
	c, err := l.newContainer()
	if err != nil {
		return nil, err
	}
	run := func(command string, w with) error {
		out, err := l.call(ctx, command, c, w)
		if err != nil {
			return err
		}
		answers = append(answers, out)
		return out.ended()
	}
	bad, err := l.target.badConfigs(l.state())
	if err != nil {
		return nil, err
	}
	inVain, err := found(ctx, l, "ADDs that fail", addInVain)
	if err != nil {
		return nil, err
	}
	answers = append(answers, inVain...)
	var cases []with
	for _, config := range bad {
		cases = append(cases, with{what: "ADD with one of badConfigs", keys: config})
	}
	cases = append(cases,
		with{what: "ADD with the plugin's own namespace as CNI_NETNS", env: map[string]string{"CNI_NETNS": l.host}},
		with{what: "ADD with a CNI_NETNS that is not there", env: map[string]string{"CNI_NETNS": "/nowhere/netns"}},
		with{what: "ADD with a file as CNI_NETNS", env: map[string]string{"CNI_NETNS": l.target.Binary}})
	for _, w := range cases {
		if err := run("ADD", w); err != nil {
			return nil, err
		}
	}
	if l.speaks("0.4.0") {
		if err := run("CHECK", with{what: "CHECK without prevResult", keys: map[string]any{"prevResult": nil}}); err != nil {
			return nil, err
		}
	}
	if l.target.delegates() {
		if err := l.ipam.answer(c, "ADD", reply{stdout: "no JSON"}); err != nil {
			return nil, err
		}
		if err := run("ADD", with{what: "ADD whose delegate answers with garbage"}); err != nil {
			return nil, err
		}
	}
	if l.enters() != nil {
		return answers, nil
	}
	if taken, err := c.look(); err != nil || taken == nil {
		if err = errors.Join(err, c.occupy()); err != nil {
			return nil, err
		}
	}
	err = run("ADD", with{what: "ADD for an interface that exists"})
	return answers, err
}

// checkBareRun makes everything read-only except what a plugin may write to. The
// mounts are in a mount namespace of the process's own.
func checkBareRun(ctx context.Context, l *lab) error {
	if _, err := exec.LookPath("mount"); err != nil {
		return conformance.NotApplicable("there is no mount command")
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	writable := append([]string{l.dir, "/run"}, l.target.Dirs...)
	for _, command := range []string{"ADD", "DEL"} {
		config, err := l.document(command, c, nil)
		if err != nil {
			return err
		}
		out, err := l.execReadOnly(ctx, l.env(command, c), config, writable)
		if err != nil {
			return err
		}
		out.what = command + " on a read-only root file system"
		if err := out.ok(nil); err != nil {
			return err
		}
		c.result = out.stdout
	}
	return nil
}

// checkNothingRuns compares, before and after an ADD, what can keep a namespace
// alive.
func checkNothingRuns(ctx context.Context, l *lab) error {
	if _, err := l.baseline(ctx); err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	scope := l.scopeOf(leak.Process, leak.Mount, leak.Namespace)
	before, err := takeIn(l.host, scope)
	if err != nil {
		return err
	}
	if _, err := l.add(ctx, c); err != nil {
		return err
	}
	err = l.settled(ctx, func() ([]leak.Leak, error) {
		now, err := takeIn(l.host, scope)
		if err != nil {
			return nil, err
		}
		return before.Diff(now), nil
	})
	return errors.Join(err, l.del(ctx, c, "DEL"))
}

// termTime is how long a plugin may take to undo an ADD after SIGTERM.
const termTime = 5 * time.Second

// checkTerminated sends SIGTERM only to the plugin, as a runtime that gives up does,
// at random moments of ADD.
func checkTerminated(ctx context.Context, l *lab) error {
	before, err := l.baseline(ctx)
	if err != nil {
		return err
	}
	const rounds = 10
	hits := 0
	for range rounds {
		c, err := l.newContainer()
		if err != nil {
			return err
		}
		after := l.moment("ADD")
		out, err := l.terminate(ctx, c, after)
		if err != nil {
			return err
		}
		if out.rc == 0 && !out.killed {
			if err := l.delWith(ctx, c, with{}); err != nil {
				return err
			}
			continue // it was faster
		}
		hits++
		what := fmt.Sprintf("ADD that got SIGTERM after %s and failed", after)
		if err := errors.Join(l.released(c), c.empty(), l.clean(ctx, before)); err != nil {
			return fmt.Errorf("after an %s: %w: %s", what, err, out)
		}
	}
	return hit(hits, rounds)
}

// checkTerminatedDelegate makes the delegate hang, so that the signal comes while the
// plugin waits for it.
func checkTerminatedDelegate(ctx context.Context, l *lab) error {
	if !l.target.delegates() {
		return conformance.NotApplicable("the configuration does not delegate to %s", spyName)
	}
	before, err := l.baseline(ctx)
	if err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	if err := l.ipam.answer(c, "ADD", reply{hang: true}); err != nil {
		return err
	}
	out, err := l.terminate(ctx, c, l.slowest("ADD")+300*time.Millisecond)
	if err != nil {
		return err
	}
	if out.hung {
		return fmt.Errorf("the plugin did not end within %s of SIGTERM while its delegate hung", termTime)
	}
	if calls, err := l.ipam.calls(c); err != nil || len(calls) == 0 {
		return errors.Join(err, conformance.NotApplicable("the plugin had not called its delegate when the SIGTERM came"))
	}
	if err := errors.Join(l.released(c), l.clean(ctx, before)); err != nil {
		return fmt.Errorf("after a SIGTERM while the delegate hung: %w", err)
	}
	return nil
}

// terminate runs an ADD and sends it SIGTERM after some time.
func (l *lab) terminate(ctx context.Context, c *container, after time.Duration) (*answer, error) {
	config, err := l.document("ADD", c, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, after+termTime, errHangs)
	defer cancel()
	out, err := l.execKilled(ctx, l.env("ADD", c), config, after, syscall.SIGTERM, false)
	if err == nil {
		out.hung = errors.Is(context.Cause(ctx), errHangs)
	}
	return out, err
}

// hangTime is the longest that a runtime waits: the kubelet's own limit for a Pod's
// sandbox is four minutes.
const hangTime = 3 * time.Minute

func checkHungDelegate(ctx context.Context, l *lab) error {
	if !l.target.delegates() {
		return conformance.NotApplicable("the configuration does not delegate to %s", spyName)
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	if err := l.ipam.answer(c, "ADD", reply{hang: true}); err != nil {
		return err
	}
	out, err := l.call(ctx, "ADD", c, with{what: "ADD whose delegate hangs", within: hangTime})
	if err != nil {
		return err
	}
	_, err = out.refused(11)
	return err
}

// readOnly is run by a shell in a mount namespace of its own: the paths in the first
// arguments, up to "--", stay writable.
const readOnly = `mount --make-rprivate / || exit 125
while [ "$1" != -- ]; do if [ -e "$1" ]; then mount --rbind "$1" "$1" || exit 125; fi; shift; done; shift
mount -o remount,bind,ro / || exit 125
cd / && exec "$@"`

// execReadOnly is exec on a read-only root file system.
func (l *lab) execReadOnly(ctx context.Context, env map[string]string, stdin []byte, writable []string) (*answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, errHangs)
	defer cancel()
	plain := l.command(ctx, env, stdin)
	args := append([]string{"-c", readOnly, "sh"}, append(writable, "--", l.target.Binary)...)
	cmd := exec.CommandContext(ctx, "/bin/sh", args...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = plain.Env, plain.Stdin, plain.Stdout, plain.Stderr, plain.WaitDelay
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	ownMounts(cmd.SysProcAttr)
	if err := netns.Do(l.host, cmd.Start); err != nil {
		return nil, fmt.Errorf("executing the plugin: %w", err)
	}
	out, err := collect(ctx, cmd)
	if err == nil && out.rc == 125 {
		return nil, fmt.Errorf("making the root file system read-only: %s", out.stderr)
	}
	return out, err
}

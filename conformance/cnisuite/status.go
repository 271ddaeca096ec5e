package cnisuite

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/nodekit-project/nodekit/conformance"
)

// statusRules are about STATUS.
func statusRules() []conformance.Rule[Target] {
	const must, should, advisory = conformance.Must, conformance.Should, conformance.Advisory
	const delegates = "If a plugin relies on a delegated plugin (e.g. IPAM) to service ADD requests, it must also execute a STATUS request to that plugin when it receives a STATUS request for itself. If the delegated plugin return an error result, the executing plugin should return an error result."
	return []conformance.Rule[Target]{
		checked(rule("CNI-STATUS-001", must, "STATUS succeeds when ADD can be served, before the first ADD and after it", "STATUS",
			"A plugin must exit with a zero (success) return code if the plugin is ready to service ADD requests."), checkReady),
		checked(rule("CNI-STATUS-002", should, "STATUS fails with code 50 or 51", "STATUS",
			"50: The plugin is not available (i.e. cannot service ADD requests) 51: The plugin is not available, and existing containers in the network may have limited connectivity."), checkStatusCode),
		checked(rule("CNI-STATUS-003", must, "STATUS asks the delegate, and fails when the delegate does", "STATUS", delegates), checkStatusDelegates),
		checked(rule("CNI-STATUS-005", should, "STATUS without the delegate's executable is an error of code 50", "STATUS",
			"If the plugin knows that it is not able to service ADD requests, it must exit with a non-zero return code and output an error on standard out"), checkNoDelegate),
		checked(rule("CNI-STATUS-006", must, "STATUS of a version that has no STATUS is an error of code 1", "Error",
			"1: Incompatible CNI version"), checkOldStatus),
		checked(rule("CNI-STATUS-007", advisory, "STATUS changes nothing", "STATUS",
			"Status is purely informational."), checkStatusLooks),
		checked(rule("CNI-STATUS-008", must, "ADD is served although STATUS failed", "STATUS",
			"Plugins should always expect other CNI operations (like ADD, DEL, etc) even if STATUS returns an error. STATUS does not prevent other runtime requests."), checkAddAfterStatus),
		checked(rule("CNI-STATUS-009", should, "STATUS of a plugin that delegates nothing works without CNI_PATH (de facto)", "STATUS",
			"Optional environment parameters: CNI_PATH"), checkStatusNoPath),
		checked(rule("CNI-STATUS-010", should, "STATUS without the daemon that ADD needs is an error of code 50 or 51", "STATUS",
			"if a plugin relies on an external service or daemon, it should return an error to STATUS if that service is unavailable"), checkStatusNoDaemon),
	}
}

// checkStatusNoDaemon kills what the profile's setup left in its process group. ADD
// shows whether the plugin relies on it.
func checkStatusNoDaemon(ctx context.Context, l *lab) error {
	if err := l.hasStatus(); err != nil {
		return err
	}
	if l.daemon == 0 || syscall.Kill(-l.daemon, syscall.SIGKILL) != nil {
		return conformance.NotApplicable("the profile's setup leaves no daemon in its process group")
	}
	l.killed = true
	for deadline := time.Now().Add(settleTime); syscall.Kill(-l.daemon, 0) == nil && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	out, err := l.call(ctx, "STATUS", nil, with{what: "STATUS after the daemon was killed"})
	if err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	served, err := l.call(ctx, "ADD", c, with{what: "ADD after the daemon was killed"})
	if err != nil {
		return err
	}
	if served.failed() != nil {
		return conformance.NotApplicable("ADD is served without what the profile's setup has started")
	}
	if _, err = out.refused(50, 51); err != nil {
		return fmt.Errorf("ADD cannot be served without the daemon: %w", err)
	}
	return nil
}

// hasStatus returns NotApplicable for plugins of older versions.
func (l *lab) hasStatus() error {
	if !l.speaks("1.1.0") {
		return conformance.NotApplicable("the plugin speaks %s at most, which has no STATUS", l.version)
	}
	return nil
}

// spied returns NotApplicable if the suite's delegate is not used.
func (l *lab) spied() error {
	if !l.target.delegates() {
		return conformance.NotApplicable("the configuration does not delegate to %s", spyName)
	}
	return nil
}

func checkReady(ctx context.Context, l *lab) error {
	if err := l.hasStatus(); err != nil {
		return err
	}
	if err := l.ready(ctx, with{what: "STATUS before the first ADD"}); err != nil {
		return err
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	if _, err := l.add(ctx, c); err != nil {
		return err
	}
	if err := l.ready(ctx, with{what: "STATUS after an ADD"}); err != nil {
		return err
	}
	return l.del(ctx, c, "DEL")
}

func (l *lab) ready(ctx context.Context, w with) error {
	out, err := l.call(ctx, "STATUS", nil, w)
	if err != nil {
		return err
	}
	return out.ok(nil)
}

func checkStatusCode(ctx context.Context, l *lab) error {
	if err := cmp.Or(l.hasStatus(), l.spied()); err != nil {
		return err
	}
	if err := l.ipam.answer(nil, "STATUS", failing(50, "the suite's delegate is not available")); err != nil {
		return err
	}
	out, err := l.call(ctx, "STATUS", nil, with{what: "STATUS whose delegate fails with code 50"})
	if err != nil {
		return err
	}
	_, err = out.refused(50, 51)
	return err
}

func checkStatusDelegates(ctx context.Context, l *lab) error {
	if err := cmp.Or(l.hasStatus(), l.spied()); err != nil {
		return err
	}
	if err := l.ready(ctx, with{}); err != nil {
		return err
	}
	calls, err := l.ipam.calls(nil)
	if err != nil {
		return err
	}
	if !slices.Contains(commands(calls), "STATUS") {
		return fmt.Errorf("the delegate was called for %v and not for STATUS", commands(calls))
	}
	if err := l.ipam.answer(nil, "STATUS", failing(111, "the suite's delegate fails")); err != nil {
		return err
	}
	out, err := l.call(ctx, "STATUS", nil, with{what: "STATUS whose delegate fails"})
	if err != nil {
		return err
	}
	return out.failed()
}

func checkNoDelegate(ctx context.Context, l *lab) error {
	if err := l.hasStatus(); err != nil {
		return err
	}
	why, err := l.delegation()
	if err != nil {
		return err
	}
	if why == "" || l.target.Kind == Meta {
		return conformance.NotApplicable("the configuration does not delegate to an IPAM plugin")
	}
	empty := filepath.Join(l.dir, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		return err
	}
	out, err := l.call(ctx, "STATUS", nil, with{what: "STATUS with a CNI_PATH that has no delegate", env: map[string]string{"CNI_PATH": empty}})
	if err != nil {
		return err
	}
	_, err = out.refused(50, 51)
	return err
}

func checkOldStatus(ctx context.Context, l *lab) error {
	if err := l.hasStatus(); err != nil {
		return err
	}
	return l.eachOld(ctx, "STATUS", "0.4.0", "1.0.0")
}

func checkStatusLooks(ctx context.Context, l *lab) error {
	if err := l.hasStatus(); err != nil {
		return err
	}
	if _, err := l.baseline(ctx); err != nil {
		return err
	}
	same, err := l.unchanged(nil)
	if err != nil {
		return err
	}
	if err := l.ready(ctx, with{}); err != nil {
		return err
	}
	if err := same(); err != nil {
		return fmt.Errorf("STATUS: %w", err)
	}
	return nil
}

// checkAddAfterStatus makes the delegate fail only STATUS, and with it the plugin's.
func checkAddAfterStatus(ctx context.Context, l *lab) error {
	if err := cmp.Or(l.hasStatus(), l.spied()); err != nil {
		return err
	}
	if err := l.ipam.answer(nil, "STATUS", failing(50, "the suite's delegate is not available")); err != nil {
		return err
	}
	out, err := l.call(ctx, "STATUS", nil, with{})
	if err != nil {
		return err
	}
	if out.rc == 0 {
		return conformance.NotApplicable("STATUS does not fail when the delegate's does")
	}
	c, err := l.newContainer()
	if err != nil {
		return err
	}
	if err := l.life(ctx, c); err != nil {
		return fmt.Errorf("after a STATUS that failed: %w", err)
	}
	return nil
}

func checkStatusNoPath(ctx context.Context, l *lab) error {
	if err := l.hasStatus(); err != nil {
		return err
	}
	why, err := l.delegation()
	if err != nil {
		return err
	}
	if why != "" {
		return conformance.NotApplicable("%s", why)
	}
	return l.ready(ctx, with{what: "STATUS without CNI_PATH", unset: []string{"CNI_PATH"}})
}

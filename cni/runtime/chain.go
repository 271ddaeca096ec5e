package runtime

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/netns"
)

// runAdd runs the chain in order, each plugin with the result of the one before,
// and returns the final result, or with an error the last there was. begun is how
// many plugins may have done something: all that ran, without a last one that was
// not there to run, or says it knows no such container (CNI 1.1.0, Error, code 3), which
// spares the runtime its DEL.
func (n *Network) runAdd(ctx context.Context, r *record) (result json.RawMessage, begun int, err error) {
	for i, p := range r.List.Plugins {
		stdin, err := request(r, p, result)
		if err != nil {
			return result, i, err
		}
		out, err := n.call(ctx, p, n.env(cni.CmdAdd, r.Attachment), stdin)
		if unknownContainer(err) || notRun(err) {
			return result, i, err
		}
		if err != nil {
			return result, i + 1, err
		}
		next, err := inVersion(out, r.List.Version)
		if err != nil {
			return result, i + 1, fmt.Errorf("plugin %q, ADD: what it wrote to stdout is no result: %w: %s", p.kind(), err, excerpt(out))
		}
		result = next
		// For the DELs that are due if this process is killed. An undo by this
		// process does not need it.
		if last := i == len(r.List.Plugins)-1; !last && n.config.Builtin[p.kind()] == nil {
			if err := n.records.keepProgress(r.Attachment.key(), result); err != nil {
				return result, i + 1, err
			}
		}
	}
	return result, len(r.List.Plugins), nil
}

// inVersion returns a result in the version in which the network's plugins are
// called. A result in another version is converted, because many plugins refuse such
// a prevResult; one without a version is taken to be in this version and returned
// unchanged.
func inVersion(raw json.RawMessage, version string) (json.RawMessage, error) {
	result, err := cni.DecodeResult(raw, version)
	if err != nil {
		return nil, err
	}
	var is struct {
		CNIVersion string `json:"cniVersion"`
	}
	if err := json.Unmarshal(raw, &is); err != nil || is.CNIVersion == "" || is.CNIVersion == version {
		return raw, err
	}
	return cni.EncodeResult(result, version)
}

// excerpt quotes the beginning of what a plugin wrote.
func excerpt(text []byte) string {
	const most = 200
	if len(text) > most {
		return fmt.Sprintf("%q...", text[:most])
	}
	return fmt.Sprintf("%q", text)
}

// runDel runs the chain in reverse order with the final result of ADD or, if there is
// none, with the last one that a plugin returned before another failed: the upstream
// firewall plugin removes nothing without. A plugin that does not support the version
// needs no DEL, unless the chain's ADD is recorded. The specification's text stops at
// the first error; continuing leaves less behind, and plugins must accept a DEL that
// has nothing to do. A plugin may fail the DEL of its failed ADD because its IPAM
// plugin never existed: no address was assigned then, and the DEL would fail for as
// long as the list is recorded.
func (n *Network) runDel(ctx context.Context, r *record) error {
	a := r.Attachment
	if gone(a.NetNS) { // with the sandbox: call DEL without it
		a.NetNS = ""
	}
	var errs []error
	for _, p := range slices.Backward(r.List.Plugins) {
		stdin, err := request(r, p, r.Result)
		if err == nil {
			err = n.insist(ctx, p, n.env(cni.CmdDel, a), stdin)
		}
		if unknownContainer(err) || !r.recorded && n.refusesVersion(ctx, p, r.List.Version, err) { // there is nothing to clean up
			continue
		}
		if !r.recorded && slices.Contains(r.Lacked, p.ipam()) && !n.has(p.ipam()) && misses(err, p.ipam()) {
			n.config.Logger.Warn("a failed attachment is forgotten: its IPAM plugin never was there", "container", a.ContainerID, "interface", a.IfName, "err", err)
			continue
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// misses reports whether a plugin answered that this delegate does not exist. Any
// other error may pass, for example if the plugin implements the type itself.
func misses(err error, delegate string) bool {
	e, answered := errors.AsType[*cni.Error](err)
	return answered && !notRun(err) && !passes(err) && strings.Contains(e.Error(), strconv.Quote(delegate))
}

// gone reports whether there is no network namespace at the path any more: either
// nothing, or the empty file on which it was mounted, which stays on a disk when the
// machine restarts. Upstream plugins fail a DEL with such a file, forever.
func gone(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return true
	}
	if !info.Mode().IsRegular() || info.Size() > 0 {
		return false
	}
	ns, err := netns.Open(path)
	if err == nil {
		_ = ns.Close()
	}
	return errors.Is(err, fault.Invalid)
}

// runCheck runs CHECK of the plugins from index from on. It stops at the first error
// and returns the index of the plugin that returned it.
func (n *Network) runCheck(ctx context.Context, r *record, from int) (failed int, err error) {
	for i, p := range r.List.Plugins[from:] {
		stdin, err := request(r, p, r.Result)
		if err == nil {
			err = n.insist(ctx, p, n.env(cni.CmdCheck, r.Attachment), stdin)
		}
		if err != nil {
			return from + i, err
		}
	}
	return -1, nil
}

// call runs one plugin, in process or by executing it, and observes the call.
func (n *Network) call(ctx context.Context, p plugin, env map[string]string, stdin []byte) (stdout []byte, err error) {
	return n.observed(ctx, p.kind(), env["CNI_COMMAND"], env, func(ctx context.Context) ([]byte, error) {
		caller, done := n.caller(p.kind(), env)
		defer done()
		if n.config.Builtin[p.kind()] != nil {
			return n.strays.bounded(ctx, strayOf(p.kind(), env["CNI_COMMAND"], env), func(ctx context.Context) ([]byte, error) {
				return caller.Invoke(ctx, p.kind(), env, stdin)
			})
		}
		file, err := cni.Find(p.kind(), n.config.BinDirs)
		if err != nil {
			return nil, &nowhere{err}
		}
		started := false
		out, err := cni.Exec(ctx, file, env, stdin, &cni.ExecOptions{Stderr: caller.Stderr, Started: func() { started = true }})
		if err != nil && !started {
			err = &nowhere{err}
		}
		return out, err
	})
}

// observed runs one step of one plugin with its deadline and its span, and reports it
// to the observer, whose context carries the span.
func (n *Network) observed(ctx context.Context, name, method string, env map[string]string, step func(context.Context) ([]byte, error)) (stdout []byte, err error) {
	if span := call.TraceFrom(ctx).Child(); span.Parent != "" {
		ctx = call.WithTrace(ctx, span)
		env["TRACEPARENT"] = span.Parent
		if span.State != "" {
			env["TRACESTATE"] = span.State
		}
	}
	ctx, cancel := context.WithTimeout(ctx, n.timeout(name))
	defer cancel()
	this := n.config.Observe.Begin(ctx, call.Call{Family: "cni", Plugin: name, Method: method})
	stdout, err = step(ctx)
	if err != nil && cni.CodeOf(err) == cni.CodeTryAgain && !outOfTime(ctx) {
		err = &transient{err}
	}
	if err != nil {
		err = fmt.Errorf("plugin %q, %s%s: %w", name, method, codeIn(err), err)
	}
	this.Done(ctx, err)
	n.logCall(ctx, this.Call(), env, err)
	return stdout, err
}

// codeIn returns the code of a plugin's own error, for the message.
func codeIn(err error) string {
	if e, ok := errors.AsType[*cni.Error](err); ok {
		return fmt.Sprintf(", code %d", e.Code)
	}
	return ""
}

// logCall logs what the observer is notified of, for people who look for it.
func (n *Network) logCall(ctx context.Context, c call.Call, env map[string]string, err error) {
	if !n.config.Logger.Enabled(ctx, slog.LevelDebug) {
		return
	}
	attrs := []any{"family", c.Family, "method", c.Method, "plugin", c.Plugin, "pod", call.PodFrom(ctx)}
	if id := env["CNI_CONTAINERID"]; id != "" {
		attrs = append(attrs, "container", id, "interface", env["CNI_IFNAME"])
	}
	n.config.Logger.DebugContext(ctx, "call", append(attrs, "dur", time.Since(c.Start), "err", err)...)
}

// outOfTime reports whether ctx has ended or is about to: the SDK's own timer for the
// same instant may have fired first.
func outOfTime(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// timeout returns the plugin's deadline. If the SDK has a shorter one for a built-in
// plugin, that applies, so that a timeout is never mistaken for code 11.
func (n *Network) timeout(name string) time.Duration {
	d := n.config.PluginTimeout
	if own := n.config.Timeouts[name]; own > 0 {
		d = own
	}
	if p := n.config.Builtin[name]; p != nil {
		d = min(d, cmp.Or(p.Timeout, cni.DefaultTimeout))
	}
	return d
}

// insist runs a plugin again if it answers that it may work later.
func (n *Network) insist(ctx context.Context, p plugin, env map[string]string, stdin []byte) error {
	return retry(ctx, func() error {
		_, err := n.call(ctx, p, env, stdin)
		return err
	})
}

// transient is an error of code 11 that the plugin itself returned, other than one
// that stands for its timeout.
type transient struct{ err error }

func (t *transient) Error() string { return t.err.Error() }
func (t *transient) Unwrap() error { return t.err }

// nowhere is the error of a plugin that was not found, or could not be started, and so
// did not run.
type nowhere struct{ err error }

func (w *nowhere) Error() string { return w.err.Error() }
func (w *nowhere) Unwrap() error { return w.err }

func notRun(err error) bool {
	_, ok := errors.AsType[*nowhere](err)
	return ok
}

// settled is an error that is not retried, whatever it wraps.
type settled struct{ err error }

func (s *settled) Error() string { return s.err.Error() }
func (s *settled) Unwrap() error { return s.err }

// retryPauses are the pauses before an operation that a plugin put off is retried
// (CNI 1.1.0, Error, code 11). After the last one the caller gets the error, as
// fault.Unavailable, and may retry itself.
var retryPauses = [...]time.Duration{50 * time.Millisecond, 200 * time.Millisecond, 800 * time.Millisecond}

// retry calls f until its error is nil or not transient, the pauses are used up, or
// ctx ends.
func retry(ctx context.Context, f func() error) error {
	err := f()
	for _, pause := range retryPauses {
		if !passes(err) {
			break
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		err = f()
	}
	return err
}

// passes reports whether the operation may succeed if it is retried.
func passes(err error) bool {
	_, again := errors.AsType[*transient](err)
	_, not := errors.AsType[*settled](err)
	return again && !not
}

// unknownContainer reports whether a plugin answered with code 3.
func unknownContainer(err error) bool { return answered(err, cni.CodeUnknownContainer) }

// refusesVersion reports whether a plugin answered with code 1 (CNI 1.1.0, Error) and
// does not list the version among those it supports: the code alone may be its
// delegate's. Such a plugin refuses every verb, so it did nothing for an ADD in the
// same version, unless its file was replaced during that ADD.
func (n *Network) refusesVersion(ctx context.Context, p plugin, version string, err error) bool {
	if !answered(err, cni.CodeVersion) {
		return false
	}
	stdin, err := encode(map[string]string{"cniVersion": version})
	if err != nil {
		return false
	}
	out, err := n.call(ctx, p, n.env(cni.CmdVersion, Attachment{}), stdin)
	if err != nil {
		return false
	}
	speaks, err := (&cniversion.PluginDecoder{}).Decode(out)
	return err == nil && !slices.Contains(speaks.SupportedVersions(), version)
}

func answered(err error, code uint) bool {
	e, ok := errors.AsType[*cni.Error](err)
	return ok && e.Code == code
}

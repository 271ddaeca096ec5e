package cni

import (
	"cmp"
	"context"
	"errors"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/internal/panics"
)

// handle prepares the request and runs its verb.
func (c *invocation) handle(ctx context.Context, r *Request) ([]byte, error) {
	defer r.close()
	if err := c.guard(ctx, r, func(context.Context, *Request) error { return c.prepare(r) }); err != nil {
		return nil, err
	}
	switch r.Command {
	case CmdAdd:
		return c.add(ctx, r)
	case CmdDel:
		return nil, c.del(ctx, r)
	case CmdCheck:
		if c.repairs {
			return nil, c.repair(ctx, r)
		}
		return nil, c.check(ctx, r)
	case CmdGC:
		return nil, c.collect(ctx, r)
	}
	return nil, c.status(ctx, r)
}

// add runs the ADD handler and, if it or a later step fails, the rollback stack. An
// ADD that succeeds after its context has ended fails too: the caller has gone.
func (c *invocation) add(ctx context.Context, r *Request) (stdout []byte, err error) {
	if err := c.refuseTaken(r); err != nil {
		return nil, err
	}
	if err := c.begin(ctx, r); err != nil {
		return nil, err
	}
	exited := true // unless the handler returns
	defer func() {
		if exited {
			_ = c.undo(ctx, r, errExited) // there is no caller left to return it to
		}
	}()
	err = c.guard(ctx, r, func(ctx context.Context, r *Request) (err error) {
		var result *Result
		if c.plugin.Add != nil {
			result, err = c.plugin.Add(ctx, r)
		}
		if err == nil {
			stdout, err = encodeAdd(r, result)
		}
		return err
	})
	exited = false
	if err == nil && ctx.Err() != nil {
		err = Errorf(CodeTryAgain, "the ADD was told to end: %w", context.Cause(ctx))
	}
	if err == nil {
		err = r.confirm(stdout)
	}
	if err == nil {
		return stdout, nil
	}
	return nil, c.undo(ctx, r, err)
}

// undo rolls back a failed ADD, and removes its record if all steps succeeded.
func (c *invocation) undo(ctx context.Context, r *Request, cause error) error {
	undone := c.rollBack(ctx, r, cause)
	if undone == cause { //nolint:errorlint // Run returns the very same error when all is undone
		undone = errors.Join(cause, r.forget())
	}
	return undone
}

// rollBack runs the rollback stack. If the process is about to exit, a step that
// ignores its context is abandoned, as a handler is.
func (c *invocation) rollBack(ctx context.Context, r *Request, cause error) error {
	if !c.lastCall {
		return r.undo.Run(ctx, cause)
	}
	done := apart(func() error { return r.undo.Run(ctx, cause) })
	select {
	case err := <-done:
		if err == errExited { //nolint:errorlint // it is apart's own
			return Errorf(CodeOf(cause), "%w\nundoing it: %w", cause, err)
		}
		return err
	case <-time.After(undoTime + delegateGrace + time.Second): // within Grace
		return Errorf(CodeOf(cause), "%w\nundoing it was told to end and did not", cause)
	}
}

// refuseTaken refuses an interface name that exists in the container, unless an
// earlier plugin of the chain created the interface (CNI 1.1.0, ADD).
func (c *invocation) refuseTaken(r *Request) error {
	if c.plugin.Adjusts || c.plugin.Add == nil {
		return nil
	}
	if r.PrevResult != nil && slices.ContainsFunc(r.PrevResult.Interfaces, func(i *Interface) bool { return i.Name == r.IfName }) {
		return nil
	}
	found, err := r.exists()
	if err != nil {
		return err
	}
	if found {
		return Errorf(CodeExists, "interface %q (CNI_IFNAME) exists in the container already", r.IfName)
	}
	return nil
}

func encodeAdd(r *Request, result *Result) ([]byte, error) {
	if result != nil {
		return EncodeResult(result, r.Version)
	}
	if r.PrevResult == nil {
		return nil, Errorf(CodeConfig, "there is no prevResult to pass on: this plugin adjusts what an earlier plugin of the chain made")
	}
	return r.input.fields["prevResult"], nil
}

// del runs the handler and then, even if it failed, the delegate's DEL: addresses are
// released last, when nothing uses them any more.
func (c *invocation) del(ctx context.Context, r *Request) error {
	if err := c.both(ctx, r, c.plugin.Del, Delegate.Del); err != nil {
		return err
	}
	return r.forget()
}

// both calls the handler and then the delegate, even if the handler fails or ends its
// goroutine.
func (c *invocation) both(ctx context.Context, r *Request, handler func(context.Context, *Request) error, verb func(Delegate, context.Context) error) (err error) {
	defer func() { err = errors.Join(err, c.delegate(ctx, r, verb)) }()
	return c.guard(ctx, r, handler)
}

func (c *invocation) check(ctx context.Context, r *Request) error {
	if err := c.guard(ctx, r, c.plugin.Check); err != nil {
		return err
	}
	return c.delegate(ctx, r, Delegate.Check)
}

func (c *invocation) collect(ctx context.Context, r *Request) error {
	return errors.Join(c.collectRecords(ctx, r), c.both(ctx, r, c.plugin.GC, Delegate.GC))
}

func (c *invocation) status(ctx context.Context, r *Request) error {
	if r.kept.store != nil {
		if err := r.kept.store.Check(); err != nil {
			return Errorf(CodeUnavailable, "%w", err)
		}
	}
	if err := c.guard(ctx, r, c.plugin.Status); err != nil {
		return err
	}
	return c.delegate(ctx, r, Delegate.Status)
}

func (c *invocation) repair(ctx context.Context, r *Request) error {
	if err := c.guard(ctx, r, c.plugin.Repair); err != nil {
		return err
	}
	return c.delegate(ctx, r, Delegate.repair)
}

// delegate calls the recorded delegates, last one first, and then the IPAM plugin
// that the configuration names, if any. In an IPAM plugin that type is its own.
func (c *invocation) delegate(ctx context.Context, r *Request, verb func(Delegate, context.Context) error) error {
	return c.guard(ctx, r, func(ctx context.Context, r *Request) error {
		var errs []error
		if r.kept.record != nil {
			for _, noted := range slices.Backward(r.kept.record.Delegates) {
				errs = append(errs, verb(r.noted(noted), ctx))
			}
		}
		_, name := ipamOf(r.Config)
		if name == "" || c.plugin.IPAM {
			return errors.Join(errs...)
		}
		if c.strictness(r.Command) == lenient && r.isSelf(name) { // every ADD was refused, so there is nothing to remove
			r.Log.Warn("the plugin is named as its own IPAM plugin, and not called again", "plugin", name)
			return errors.Join(errs...)
		}
		return errors.Join(append(errs, verb(r.Delegate(name), ctx))...)
	})
}

// ipamOf returns the key of the configuration's field of type IPAM, and the type
// named there. Either may be "".
func ipamOf(config any) (key, name string) {
	v := reflect.ValueOf(config)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return "", ""
	}
	for _, f := range visibleFields(v.Elem().Type()) {
		if f.Type == reflect.TypeFor[IPAM]() && f.IsExported() {
			key, _, _ = strings.Cut(f.Tag.Get("json"), ",")
			if field, err := v.Elem().FieldByIndexErr(f.Index); err == nil { // else the field is in a nil embedded pointer
				name = field.Interface().(IPAM).Type
			}
			return cmp.Or(key, f.Name), name
		}
	}
	return "", ""
}

// abandonTime is how long a handler may keep running after its context has ended, if
// the process exits with it: longer than the grace of a delegate that it waits for.
const abandonTime = 3 * time.Second

// guard calls a handler and turns a panic into an error that says where it happened;
// the stack goes to the log. If the process is about to exit, a handler that ignores
// its context is abandoned, and one that ends its goroutine has failed. Otherwise
// handlers run on the caller's goroutine, because its thread may be in another
// namespace; a handler that ends it leaves the answer to whoever waits for that
// goroutine.
func (c *invocation) guard(ctx context.Context, r *Request, handler func(context.Context, *Request) error) error {
	if handler == nil {
		return nil
	}
	if !c.lastCall {
		return protect(ctx, r, handler)
	}
	done := apart(func() error { return protect(ctx, r, handler) })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(abandonTime):
		return Errorf(CodeTryAgain, "the plugin was told to end and did not: %w", context.Cause(ctx))
	}
}

// errExited is the error of a function that ended its goroutine.
var errExited = Errorf(CodePanic, "the plugin ended without a result (runtime.Goexit)")

// apart calls f on a goroutine of its own, which f may end (runtime.Goexit, which
// t.FailNow calls); the error is then errExited.
func apart(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() {
		err := errExited // unless f returns
		defer func() { done <- err }()
		deepen()
		err = f()
	}()
	return done
}

// deepen gives the goroutine in one step the stack that a handler needs. From a new
// goroutine's 2 KiB it would be doubled again and again, and each time the runtime looks
// up every frame in tables that a process executed for one call has not touched yet:
// a twentieth of an ADD (docs/decisions/008).
//
//go:noinline
func deepen() {
	var frame [16 << 10]byte
	runtime.KeepAlive(&frame)
}

func protect(ctx context.Context, r *Request, handler func(context.Context, *Request) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			place := panics.Of(p)
			r.Log.Error("plugin panicked", "command", r.Command, "panic", place.Value, "stack", place.Stack())
			err = Errorf(CodePanic, "the plugin panicked at %s: %v", place.Place(), place.Value)
		}
	}()
	return handler(ctx, r)
}

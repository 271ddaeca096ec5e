package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// undoTime bounds the rollback of a failed ADD, which runs on although the
// call's context may have ended.
const undoTime = 10 * time.Second

// Invoke calls the plugin inside this process with the documents of the
// execution protocol: the environment's CNI_* variables, the configuration on
// stdin and what the plugin would write to stdout, which is a result or an error
// object or nothing, and never two of them. The error, a *Error, stands for the
// exit status. Delegates are found on CNI_PATH and executed with env.
//
// It may be called concurrently for different containers.
func Invoke(ctx context.Context, p *Plugin, env map[string]string, stdin []byte) (stdout []byte, err error) {
	return Set{p.Name: p}.Invoke(ctx, p.Name, env, stdin)
}

// Set is plugins, by type, that find each other as delegates inside one
// process. What is not in the set is looked for on CNI_PATH and executed.
type Set map[string]*Plugin

// Invoke calls one plugin of the set as the function Invoke does.
func (s Set) Invoke(ctx context.Context, name string, env map[string]string, stdin []byte) (stdout []byte, err error) {
	p := s[name]
	if p == nil {
		return nil, Errorf(CodeIO, "no plugin %q is built in", name)
	}
	c := &invocation{
		plugin: p,
		peers:  func(name string, _ []string) (*Plugin, string) { return s[name], "" },
		log:    slog.New(slog.DiscardHandler),
	}
	return c.run(ctx, env, stdin)
}

// peers finds a delegate: inside the process, else (nil) as an executable; an
// empty file is looked up on the path.
type peers func(name string, path []string) (p *Plugin, file string)

// invocation is one run of one plugin.
type invocation struct {
	plugin *Plugin
	peers  peers
	log    *slog.Logger
}

// run turns the documents of a call into those of its answer.
func (c *invocation) run(ctx context.Context, env map[string]string, stdin []byte) (stdout []byte, err error) {
	command := env["CNI_COMMAND"]
	if command == CmdVersion {
		return answerVersion(stdin)
	}
	r := &Request{Command: command, Log: c.log, input: input{raw: stdin, env: env, peers: c.peers}}
	stdout, err = c.handle(ctx, r)
	if err == nil {
		return stdout, nil
	}
	return fail(object(err, command, r.Version))
}

// fail returns the error object and its document.
func fail(e *Error) ([]byte, error) {
	stdout, err := json.Marshal(e)
	if err != nil { // strings and a number: it cannot be
		panic(err)
	}
	return stdout, e
}

func (c *invocation) handle(ctx context.Context, r *Request) ([]byte, error) {
	if err := guard(ctx, r, func(context.Context, *Request) error { return c.prepare(r) }); err != nil {
		return nil, err
	}
	switch r.Command {
	case CmdAdd:
		return c.add(ctx, r)
	case CmdDel:
		return nil, guard(ctx, r, c.plugin.Del)
	case CmdCheck:
		return nil, guard(ctx, r, c.plugin.Check)
	case CmdGC:
		return nil, guard(ctx, r, c.plugin.GC)
	}
	return nil, guard(ctx, r, c.plugin.Status)
}

// prepare reads and checks everything before a handler can touch anything.
func (c *invocation) prepare(r *Request) (err error) {
	if err := r.readEnv(r.input.env); err != nil {
		return err
	}
	if r.input.fields, err = decodeInput(r.input.raw); err != nil {
		return err
	}
	if err := r.readBase(); err != nil {
		return err
	}
	if c.plugin.NewConfig != nil {
		r.Config = c.plugin.NewConfig()
	}
	if err := r.input.readConfig(r.Config, c.strictness(r.Command)); err != nil {
		return err
	}
	if !c.plugin.IPAM && (r.Command == CmdAdd || r.Command == CmdCheck) {
		return verifyNetNS(r.NetNS)
	}
	return nil
}

func (c *invocation) strictness(command string) strictness {
	switch {
	case command == CmdDel || command == CmdGC:
		return lenient
	case c.plugin.IPAM:
		return strictBelow
	}
	return strict
}

// add runs the ADD handler and, when it or the encoding of its result fails,
// the rollback stack.
func (c *invocation) add(ctx context.Context, r *Request) (stdout []byte, err error) {
	err = guard(ctx, r, func(ctx context.Context, r *Request) (err error) {
		var result *Result
		if c.plugin.Add != nil {
			result, err = c.plugin.Add(ctx, r)
		}
		if err == nil {
			stdout, err = encodeAdd(r, result)
		}
		return err
	})
	if err != nil {
		return nil, r.rollBack(ctx, err)
	}
	return stdout, nil
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

// guard calls a handler and turns a panic into an error. The place of the panic
// goes to the log, not to the runtime.
func guard(ctx context.Context, r *Request, handler func(context.Context, *Request) error) (err error) {
	if handler == nil {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			r.Log.Error("plugin panicked", "command", r.Command, "panic", p, "stack", string(debug.Stack()))
			err = Errorf(CodePanic, "the plugin panicked: %v", p)
		}
	}()
	return handler(ctx, r)
}

type undoStep struct {
	what string
	fn   func(context.Context) error
}

// Undo puts a step onto the rollback stack of an ADD: call it right after (or,
// where undoing nothing is harmless, right before) the act that fn undoes. If
// ADD fails or panics, the steps run in the reverse order with a context that
// has not ended, each although others failed. The other verbs ignore it.
func (r *Request) Undo(what string, fn func(ctx context.Context) error) {
	r.undo = append(r.undo, undoStep{what, fn})
}

func (r *Request) rollBack(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	errs := []error{cause}
	for i := len(r.undo) - 1; i >= 0; i-- {
		step := r.undo[i]
		err := guard(ctx, r, func(ctx context.Context, _ *Request) error { return step.fn(ctx) })
		if err != nil {
			errs = append(errs, fmt.Errorf("undoing %s: %w", step.what, err))
		}
	}
	if len(errs) == 1 {
		return cause
	}
	return Errorf(CodeOf(cause), "%w", errors.Join(errs...))
}

// answerVersion echoes the version of the request (CNI 1.1.0, VERSION). An empty
// document counts as the newest version.
func answerVersion(stdin []byte) ([]byte, error) {
	in := struct {
		CNIVersion string `json:"cniVersion"`
	}{Newest}
	if len(stdin) > 0 {
		if err := json.Unmarshal(stdin, &in); err != nil {
			return fail(object(Errorf(CodeDecode, "decoding version request: %w", err), CmdVersion, ""))
		}
	}
	return json.Marshal(struct {
		CNIVersion        string   `json:"cniVersion"`
		SupportedVersions []string `json:"supportedVersions"`
	}{in.CNIVersion, Versions()})
}

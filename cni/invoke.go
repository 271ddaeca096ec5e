package cni

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"os"
	"time"
)

// DefaultTimeout bounds a call of a plugin with a zero Timeout.
const DefaultTimeout = time.Minute

// Invoke calls one plugin as Caller.Invoke does. The plugin's log is discarded.
func Invoke(ctx context.Context, p *Plugin, env map[string]string, stdin []byte) (stdout []byte, err error) {
	return Set{p.Name: p}.Invoke(ctx, p.Name, env, stdin)
}

// Set maps types to plugins that find each other as delegates in process. Delegates not
// in the set are looked up on CNI_PATH and executed.
type Set map[string]*Plugin

// Invoke calls one plugin of the set as Caller.Invoke does. The plugin's log is
// discarded.
func (s Set) Invoke(ctx context.Context, name string, env map[string]string, stdin []byte) (stdout []byte, err error) {
	return (&Caller{Plugins: s}).Invoke(ctx, name, env, stdin)
}

// Repair calls one plugin of the set as Caller.Repair does. The plugin's log is
// discarded.
func (s Set) Repair(ctx context.Context, name string, env map[string]string, stdin []byte) error {
	return (&Caller{Plugins: s}).Repair(ctx, name, env, stdin)
}

// Caller calls plugins in process, for a runtime that has them built in. It is
// stateless: it may be created anew for every call.
type Caller struct {
	Plugins Set
	// Logger receives what handlers log (Request.Log). Nil discards it.
	Logger *slog.Logger
	// Stderr receives what executed delegates write to stderr, concurrently if a
	// handler calls several at once. Nil means the process's own stderr.
	Stderr io.Writer
}

// Invoke calls the plugin of the given type. Its arguments and results are those of the
// execution protocol: env has the CNI_* variables, stdin the configuration, and stdout
// is what the plugin would write: one result, one error object, or nothing. The error,
// always an *Error, stands for the exit status. Delegates are looked up in Plugins
// first; others are found on CNI_PATH and executed with env.
//
// Invoke may be called concurrently for different containers. It returns when the
// plugin does. The end of ctx, or of the plugin's Timeout, asks the plugin to stop,
// which it may ignore: see Grace. A handler that ends its goroutine (runtime.Goexit,
// which t.FailNow calls) ends Invoke's goroutine as well, after the rollback.
func (c *Caller) Invoke(ctx context.Context, name string, env map[string]string, stdin []byte) (stdout []byte, err error) {
	return c.Plugins.invoke(ctx, name, env, stdin, c.output())
}

// Repair restores what CHECK would find missing of an attachment, as far as the plugin
// can: a lost rule, an address of the gateway, a port of the bridge. It is not a verb
// of the specification and has no wire form: a runtime calls it in process after a
// failed CHECK, with the documents of that CHECK, and then checks again. A plugin
// without Repair does nothing. Errors are those of Invoke.
func (c *Caller) Repair(ctx context.Context, name string, env map[string]string, stdin []byte) error {
	check := maps.Clone(env)
	check["CNI_COMMAND"] = CmdCheck
	i, err := c.Plugins.invocation(name, c.output())
	if err != nil {
		return object(err, CmdCheck, "")
	}
	i.repairs = true
	_, err = i.run(ctx, check, stdin)
	return err
}

func (c *Caller) output() output {
	out := output{c.Logger, c.Stderr}
	if out.log == nil {
		out.log = slog.New(slog.DiscardHandler)
	}
	if out.stderr == nil {
		out.stderr = os.Stderr
	}
	return out
}

func (s Set) invoke(ctx context.Context, name string, env map[string]string, stdin []byte, out output) ([]byte, error) {
	c, err := s.invocation(name, out)
	if err != nil {
		return fail(object(err, env["CNI_COMMAND"], ""))
	}
	return c.run(ctx, env, stdin)
}

func (s Set) invocation(name string, out output) (*invocation, error) {
	p := s[name]
	if p == nil {
		return nil, Errorf(CodeIO, "no plugin %q is built in", name)
	}
	return &invocation{
		plugin: p,
		peers:  func(name string, _ []string) (*Plugin, string) { return s[name], "" },
		output: out,
	}, nil
}

// peers finds a delegate: a plugin in this process or, if p is nil, an executable. An
// empty file means that CNI_PATH is to be searched.
type peers func(name string, path []string) (p *Plugin, file string)

// output is where everything outside the protocol goes: the plugin's log and the
// stderr of the delegates that it executes.
type output struct {
	log    *slog.Logger
	stderr io.Writer
}

// invocation is one run of one plugin.
type invocation struct {
	plugin *Plugin
	peers  peers
	output
	// lastCall is set if the process exits after the call.
	lastCall bool
	// repairs makes CHECK call Repair instead. It is not a CNI_COMMAND of its own, so
	// that nothing outside the process can request it.
	repairs bool
}

// run answers one call of the execution protocol.
func (c *invocation) run(ctx context.Context, env map[string]string, stdin []byte) (stdout []byte, err error) {
	command := env["CNI_COMMAND"]
	if command == CmdVersion {
		return answerVersion(stdin)
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.plugin.Timeout, DefaultTimeout))
	defer cancel()
	log := c.log
	if trace := traceOf(env); trace != "" {
		log = log.With("traceparent", trace)
	}
	r := &Request{Command: command, Log: log, Trace: traceOf(env), input: input{raw: stdin, env: env, self: c.plugin.Name, peers: c.peers, stderr: c.stderr}}
	stdout, err = c.handle(ctx, r)
	if err == nil {
		return stdout, nil
	}
	return fail(object(err, command, r.Version))
}

// fail returns the error object and its encoding.
func fail(e *Error) ([]byte, error) {
	stdout, err := json.Marshal(e)
	if err != nil { // strings and a number always marshal
		panic(err)
	}
	return stdout, e
}

// prepare reads and checks everything before a handler can touch anything.
func (c *invocation) prepare(r *Request) (err error) {
	fields, undecoded := decodeInput(r.input.raw)
	r.input.fields = fields
	_ = json.Unmarshal(fields["cniVersion"], &r.Version) // so that even the first error has it; readBase checks it
	if err := r.readEnv(r.input.env); err != nil {
		return err
	}
	if undecoded != nil {
		return undecoded
	}
	if err := r.readBase(); err != nil {
		return err
	}
	if err := c.configure(r); err != nil {
		return err
	}
	if !c.plugin.IPAM {
		if err := r.openNetNS(); err != nil {
			return err
		}
	}
	if err := c.findRecord(r); err != nil {
		return err
	}
	r.dropForeignNetNS()
	return c.recall(r)
}

// configure decodes the plugin's configuration.
func (c *invocation) configure(r *Request) error {
	if c.plugin.NewConfig == nil {
		return r.input.readConfig(nil, c.strictness(r.Command), r.Log)
	}
	r.Config = c.plugin.NewConfig()
	s := c.strictness(r.Command)
	if err := r.input.readConfig(r.Config, s, r.Log); err != nil {
		return err
	}
	return r.input.readParams(r.Config, r.Args, s)
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

// answerVersion echoes the version of the request (CNI 1.1.0, VERSION). An empty
// document counts as the newest version.
func answerVersion(stdin []byte) ([]byte, error) {
	in := struct {
		CNIVersion string `json:"cniVersion"`
	}{Newest}
	if len(stdin) > 0 {
		if err := json.Unmarshal(stdin, &in); err != nil {
			return fail(object(Errorf(CodeDecode, "decoding version request: %w", inWords(err)), CmdVersion, ""))
		}
	}
	return json.Marshal(struct {
		CNIVersion        string   `json:"cniVersion"`
		SupportedVersions []string `json:"supportedVersions"`
	}{in.CNIVersion, Versions()})
}

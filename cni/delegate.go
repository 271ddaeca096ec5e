package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodekit-project/nodekit/internal/spelling"
)

// Delegate is another plugin, usually an IPAM plugin, that a plugin calls with its own
// environment and configuration (CNI 1.1.0, section 4) or with a different
// configuration (see DelegateWith). For the plugin named by a configuration's IPAM
// field, handlers call only ADD; the SDK calls the other verbs after the handlers.
type Delegate struct {
	r    *Request
	name string
	own  map[string]json.RawMessage // its configuration; nil means the request's
	err  error                      // why it cannot be called; every verb returns it

	ifName string          // CNI_IFNAME; "" means the request's
	result json.RawMessage // of its ADD, if ifName is set and the result is on record
}

// Delegate returns the plugin of the given type as the request sees it: built into the
// same process, or else the first executable of that name on CNI_PATH.
func (r *Request) Delegate(name string) Delegate { return Delegate{r: r, name: name} }

// Add runs the delegate's ADD and returns its result. If the calling handler then
// returns an error, whether this one or a later one, the SDK runs the delegate's DEL.
func (d Delegate) Add(ctx context.Context) (*Result, error) {
	if err := d.named(); err != nil {
		return nil, err
	}
	p, file, err := d.lookup()
	if err != nil {
		return nil, err // nothing has run: there is nothing to undo
	}
	noteResult, err := d.note()
	if err != nil {
		return nil, err
	}
	d.r.Undo("ADD of "+d.name, d.Del)
	stdout, err := d.run(ctx, CmdAdd, p, file)
	if err != nil {
		return nil, err
	}
	result, err := DecodeResult(stdout, d.r.Version)
	if err != nil {
		return nil, Errorf(CodeDelegate, "delegate %q, ADD: what it wrote to stdout is no result: %w: %.200q", d.name, err, stdout)
	}
	if err := noteResult(stdout); err != nil {
		return nil, err
	}
	return result, nil
}

// named rejects an invalid plugin type before there is anything to undo.
func (d Delegate) named() error {
	if d.err != nil {
		return d.err
	}
	key, ipam := ipamOf(d.r.Config)
	if d.name != "" || key == "" || ipam != "" {
		return checkType(d.name)
	}
	return Errorf(CodeConfig, "configuration key %q is missing: it names the plugin that gives the addresses", key+".type")
}

// Del runs the delegate's DEL.
func (d Delegate) Del(ctx context.Context) error { return d.verb(ctx, CmdDel) }

// Check runs the delegate's CHECK.
func (d Delegate) Check(ctx context.Context) error { return d.verb(ctx, CmdCheck) }

// GC runs the delegate's GC. In a plugin with State, a delegate with a configuration of
// its own keeps both the attachments in Request.Valid and those that As derived from
// them.
func (d Delegate) GC(ctx context.Context) error { return d.verb(ctx, CmdGC) }

// Status runs the delegate's STATUS.
func (d Delegate) Status(ctx context.Context) error { return d.verb(ctx, CmdStatus) }

// repair runs the delegate's Repair if the delegate is in this process.
func (d Delegate) repair(ctx context.Context) error {
	p, _ := d.r.input.peers(d.name, d.r.Path)
	if p == nil || d.r.isSelf(d.name) || d.err != nil {
		return nil
	}
	stdin, err := d.stdin()
	if err != nil {
		return err
	}
	c := d.invocation(p)
	c.repairs = true
	_, err = c.run(ctx, d.env(CmdCheck), stdin)
	return err
}

// isSelf reports whether the named delegate would be the plugin that the request is
// for. A delegate gets the plugin's configuration unchanged, so such a plugin would
// call itself until memory runs out.
func (r *Request) isSelf(name string) bool {
	var kind string // the type by which the runtime calls the plugin, whatever its own name
	_ = json.Unmarshal(r.input.fields["type"], &kind)
	return name != "" && (name == kind || name == r.input.self)
}

func (d Delegate) verb(ctx context.Context, command string) error {
	_, err := d.call(ctx, command)
	return err
}

// lookup returns the delegate, in this process or as a file. It refuses the plugin
// itself.
func (d Delegate) lookup() (p *Plugin, file string, err error) {
	if d.err != nil {
		return nil, "", d.err
	}
	if d.r.isSelf(d.name) {
		return nil, "", Errorf(CodeConfig, "plugin %q cannot be its own delegate, which would call itself for ever: name an IPAM plugin, such as \"host-local\"", d.name)
	}
	p, file = d.r.input.peers(d.name, d.r.Path)
	if p == nil && file == "" {
		file, err = Find(d.name, d.r.Path)
	}
	return p, file, err
}

func (d Delegate) call(ctx context.Context, command string) ([]byte, error) {
	p, file, err := d.lookup()
	if err != nil {
		return nil, err
	}
	return d.run(ctx, command, p, file)
}

// run calls what lookup found. Its error names the delegate, whose own words do not say
// who speaks.
func (d Delegate) run(ctx context.Context, command string, p *Plugin, file string) ([]byte, error) {
	stdin, err := d.stdin()
	if err != nil {
		return nil, err
	}
	var stdout []byte
	if p != nil {
		stdout, err = d.invocation(p).run(ctx, d.env(command), stdin)
	} else {
		stdout, err = Exec(ctx, file, d.env(command), stdin, &ExecOptions{Stderr: d.r.input.stderr, Grace: delegateGrace})
	}
	var e *Error
	if errors.As(err, &e) {
		err = &Error{CNIVersion: e.CNIVersion, Code: e.Code, Msg: fmt.Sprintf("delegate %q, %s: %s", d.name, command, e.Msg), Details: e.Details}
	}
	return stdout, err
}

func (d Delegate) invocation(p *Plugin) *invocation {
	in := d.r.input
	return &invocation{plugin: p, peers: in.peers, output: output{d.r.Log.With("delegate", d.name), in.stderr}}
}

func (d Delegate) env(command string) map[string]string {
	env := maps.Clone(d.r.input.env)
	env["CNI_COMMAND"] = command
	if d.ifName != "" && env["CNI_IFNAME"] != "" { // GC and STATUS have none
		env["CNI_IFNAME"] = d.ifName
	}
	return env
}

// Find returns the path of the first executable with the given name in dirs.
func Find(name string, dirs []string) (string, error) {
	if err := checkType(name); err != nil {
		return "", err
	}
	for _, dir := range dirs {
		file := filepath.Join(dir, name)
		if fi, err := os.Stat(file); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", Errorf(CodeDelegate, "plugin %q is in none of the directories %q%s", name, dirs, nearly(name, dirs))
}

// nearly describes the likely mistake: a file of that name that is not executable, or
// a similar name that was probably meant.
func nearly(name string, dirs []string) string {
	var names []string
	for _, dir := range dirs {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if e.Name() == name && e.Type().IsRegular() {
				return fmt.Sprintf(": %q is no executable file: chmod +x makes a program one", filepath.Join(dir, name))
			}
			names = append(names, e.Name())
		}
	}
	return spelling.Meant(name, names)
}

func checkType(name string) error {
	if name == "" || strings.ContainsAny(name, "/\\") {
		return Errorf(CodeConfig, "%q is no plugin type", name)
	}
	return nil
}

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/cni/state"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/spelling"
)

// Delegate is another plugin, usually an IPAM plugin, that a plugin calls with
// its own environment and configuration (CNI 1.1.0, section 4), or another one (see
// DelegateWith). Of the plugin that a configuration's IPAM field names, handlers call ADD
// alone; the SDK calls the other verbs behind the handlers.
type Delegate struct {
	r    *Request
	name string
	own  map[string]json.RawMessage // its configuration; nil is the request's
	err  error                      // why there is none, which every verb returns

	ifName string          // CNI_IFNAME; "" is the request's
	result json.RawMessage // of its ADD, where ifName is set and that is on record
}

// Delegate returns the plugin of that type as the request sees it: built into
// the same process, or the first of that name on CNI_PATH.
func (r *Request) Delegate(name string) Delegate { return Delegate{r: r, name: name} }

// DelegateWith returns the plugin that the configuration names by its "type", to be
// called with that configuration and not the plugin's own, as plugins do that have others
// make the network. config is what encoding/json makes an object of, a json.RawMessage for
// one. What belongs to the call comes from the request: cniVersion and the keys "cni.dev/"
// always, name, args, runtimeConfig and prevResult where config has none.
//
// In a plugin with State, Add puts the configuration on record before the delegate runs,
// and the SDK calls the delegate's DEL, CHECK and Repair behind the handlers, with what is on
// record: the DEL of the last one first, each although others failed, also of attachments that
// GC finds not to be valid. A plugin without State calls DEL and CHECK in its handlers,
// with a configuration that it makes again. So does every plugin with GC and STATUS,
// which belong to no attachment. Several may be called at once.
func (r *Request) DelegateWith(config any) Delegate {
	d := Delegate{r: r}
	raw, err := json.Marshal(config)
	if err == nil {
		err = json.Unmarshal(raw, &d.own)
	}
	if err == nil && d.own == nil {
		err = errors.New("it is null")
	}
	if err == nil && d.own["type"] != nil {
		err = json.Unmarshal(d.own["type"], &d.name)
	}
	switch {
	case err != nil:
		d.err = Errorf(CodeConfig, "the configuration for a delegate: %w", inWords(err))
	case d.name == "":
		d.err = Errorf(CodeConfig, "the configuration for a delegate has no \"type\", which names the plugin")
	}
	return d
}

// As returns the delegate to be called with that name of an interface (CNI_IFNAME) in place
// of the request's, as plugins do that give one container several. To the delegate it
// is another attachment, which begins with it: it gets no prevResult of the request. Its
// CHECK and DEL get the result of its own ADD, which is on record in a plugin with State;
// one without puts it into the configuration, as "prevResult". A name that is no
// interface's is an error of every verb.
func (d Delegate) As(ifName string) Delegate {
	switch err := checkIfName(ifName); {
	case d.err != nil:
	case d.own == nil:
		d.err = Errorf(CodeInternal, "delegate %q has the plugin's own configuration and so its interface: use DelegateWith", d.name)
	case err != nil:
		d.err = Errorf(CodeConfig, "the interface for delegate %q: %w", d.name, err)
	}
	d.ifName = ifName
	return d
}

// noted returns a delegate that is on record.
func (r *Request) noted(noted state.Delegate) Delegate {
	d := r.DelegateWith(noted.Config)
	d.ifName, d.result = noted.IfName, noted.Result
	return d
}

// stdin is the document that the delegate gets.
func (d Delegate) stdin() ([]byte, error) {
	if d.own == nil {
		return d.r.input.raw, nil
	}
	given, err := d.given()
	if err != nil {
		return nil, err
	}
	config := maps.Clone(d.own)
	for key, value := range given {
		_, has := config[key]
		switch {
		case key == "cniVersion", strings.HasPrefix(key, runtimePrefix):
			config[key] = value
		case !has && (key == "name" || key == "prevResult" || slices.Contains(opaque, key)):
			config[key] = value
		}
	}
	return json.Marshal(config)
}

// given is what the request has, as it is for this delegate.
func (d Delegate) given() (map[string]json.RawMessage, error) {
	given := d.r.input.fields
	if d.ifName != "" {
		given = maps.Clone(given)
		delete(given, "prevResult")
		if d.result != nil {
			given["prevResult"] = d.result
		}
	}
	if d.r.Command != CmdGC {
		return given, nil
	}
	valid, err := d.r.validOfDelegates()
	if err != nil {
		return nil, err
	}
	given = maps.Clone(given)
	for _, key := range validKeys {
		delete(given, key)
	}
	given[validKeys[0]], err = json.Marshal(valid)
	return given, err
}

// validOfDelegates is what GC keeps, with the attachments that delegates have for it under
// names of their own. One whose record is damaged may have any, so nothing may go.
func (r *Request) validOfDelegates() ([]Attachment, error) {
	valid := slices.Clone(r.Valid)
	if r.kept.store == nil {
		return valid, nil
	}
	for _, a := range r.Valid {
		record, err := r.kept.store.Get(r.Network, a.ContainerID, a.IfName)
		if errors.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("what delegates have for attachment %q is not known: %w", a, err)
		}
		for _, noted := range record.Delegates {
			if noted.IfName != "" {
				valid = append(valid, Attachment{a.ContainerID, noted.IfName})
			}
		}
	}
	return valid, nil
}

// note records the delegate before its ADD, and returns how the ADD's result is added.
func (d Delegate) note() (add func(result []byte) error, err error) {
	none := func([]byte) error { return nil }
	if d.own == nil || d.r.kept.record == nil || d.r.Command != CmdAdd {
		return none, nil
	}
	config, err := json.Marshal(d.own)
	if err != nil {
		return nil, err
	}
	place := 0
	err = d.r.kept.change(func(rec *state.Record) {
		place = len(rec.Delegates)
		rec.Delegates = append(rec.Delegates, state.Delegate{Config: config, IfName: d.ifName})
	})
	if d.ifName == "" {
		return none, err
	}
	return func(result []byte) error {
		return d.r.kept.change(func(rec *state.Record) { rec.Delegates[place].Result = result })
	}, err
}

// Add runs the delegate's ADD and returns its result. When the handler that
// calls it returns an error, this one or a later one, the SDK runs the
// delegate's DEL.
func (d Delegate) Add(ctx context.Context) (*Result, error) {
	if err := d.named(); err != nil {
		return nil, err
	}
	p, file, err := d.lookup()
	if err != nil {
		return nil, err // nothing runs, and there is nothing to undo
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
		return nil, Errorf(CodeDelegate, "%s: %w", d.name, err)
	}
	if err := noteResult(stdout); err != nil {
		return nil, err
	}
	return result, nil
}

// named refuses what cannot be a plugin's type, before there is anything to undo.
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

// GC runs the delegate's GC. One with a configuration of its own keeps, in a plugin with
// State, the attachments that Request.Valid names and what As called for them.
func (d Delegate) GC(ctx context.Context) error { return d.verb(ctx, CmdGC) }

// Status runs the delegate's STATUS.
func (d Delegate) Status(ctx context.Context) error { return d.verb(ctx, CmdStatus) }

// repair runs the delegate's Repair, where the delegate is in this process.
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

// isSelf reports whether a delegate of that type would be the plugin that the request
// is for. A delegate gets the plugin's configuration unchanged, and so would call itself
// again, until the memory is used up.
func (r *Request) isSelf(name string) bool {
	var kind string // as which the runtime knows the plugin, whatever its own name is
	_ = json.Unmarshal(r.input.fields["type"], &kind)
	return name != "" && (name == kind || name == r.input.self)
}

func (d Delegate) verb(ctx context.Context, command string) error {
	_, err := d.call(ctx, command)
	return err
}

// lookup returns the delegate, in this process or as a file. The plugin itself is none.
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

// run calls what lookup found.
func (d Delegate) run(ctx context.Context, command string, p *Plugin, file string) ([]byte, error) {
	stdin, err := d.stdin()
	if err != nil {
		return nil, err
	}
	if p != nil {
		return d.invocation(p).run(ctx, d.env(command), stdin)
	}
	return Exec(ctx, file, d.env(command), stdin, &ExecOptions{Stderr: d.r.input.stderr, Grace: delegateGrace})
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

// Find returns the first executable of that name in the directories.
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

// nearly says what there is in place of the plugin: a file that cannot be
// executed, or one whose name was probably meant.
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

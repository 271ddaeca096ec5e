package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/nodekit-project/nodekit/cni/state"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// keeping is the record of a request's attachment, if the plugin has State.
type keeping struct {
	store  *state.Store
	record *state.Record // nil if there is none
	mu     sync.Mutex    // held while the record is changed and stored, which delegates do concurrently
}

// change changes the record and makes it durable.
func (k *keeping) change(how func(*state.Record)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	how(k.record)
	return k.store.Put(k.record)
}

// Save stores v, as JSON, in the record of the attachment. When Save returns, v is on
// disk, and Load finds it in every later request, whatever happens to this one. Save is
// for ADD of a plugin with State; otherwise it returns an error.
func (r *Request) Save(v any) error {
	if r.kept.record == nil || r.Command != CmdAdd {
		return fault.FailedPrecondition.Errorf("saving state: only an ADD of a plugin with State has a record")
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("saving state: %w", err)
	}
	return r.kept.change(func(rec *state.Record) { rec.Data = data })
}

// Load reads what Save stored into v and reports whether there was anything. It returns
// false and no error in a DEL whose ADD never ran or did not reach Save, in the second
// of two DELs, and if the record is damaged: then only what can be found by name needs
// undoing. It is an error if the data cannot be unmarshaled into v.
func (r *Request) Load(v any) (bool, error) {
	if r.kept.record == nil || r.kept.record.Data == nil {
		return false, nil
	}
	if err := json.Unmarshal(r.kept.record.Data, v); err != nil {
		return false, fmt.Errorf("loading state: %w", err)
	}
	return true, nil
}

// findRecord opens the plugin's store and, for the verbs of an attachment, reads its
// record. A damaged record is an error, except for DEL, which uses what can be read
// of it.
func (c *invocation) findRecord(r *Request) error {
	if c.plugin.State == nil {
		return nil
	}
	dir := c.plugin.State(r.Config)
	if dir == "" {
		return nil
	}
	r.kept.store = state.Open(dir)
	if r.ContainerID == "" {
		return nil
	}
	record, err := r.kept.store.Get(r.Network, r.ContainerID, r.IfName)
	switch {
	case errors.Is(err, fault.NotFound):
		return nil
	case r.Command == CmdDel && record != nil && err != nil:
		r.Log.Warn("deleting with a damaged record", "err", err)
		err = nil
	case record != nil && err != nil: // not a fault of the configuration
		return Errorf(CodeIO, "%w", err)
	case err == nil && record.Plugin != c.plugin.Name:
		return fault.FailedPrecondition.Errorf("the record of %q in %q is that of plugin %q: give each a directory of its own", r.Attachment, dir, record.Plugin)
	}
	r.kept.record = record
	return err
}

// begin records an ADD before it acts. An attachment that is already recorded must
// first get its DEL; if its ADD was in an earlier boot of the machine, begin runs
// that DEL now.
func (c *invocation) begin(ctx context.Context, r *Request) error {
	if r.kept.store == nil {
		return nil
	}
	boot, err := state.Boot()
	if err != nil {
		return err
	}
	if old := r.kept.record; old != nil {
		if old.Boot == boot {
			return Errorf(CodeExists, "an ADD of %q is recorded already: DEL removes it", r.Attachment)
		}
		if err := c.delRecorded(ctx, r, old); err != nil {
			return fmt.Errorf("removing what is left of %q from before the machine's restart: %w", r.Attachment, err)
		}
	}
	r.kept.record = &state.Record{
		Network: r.Network, ContainerID: r.ContainerID, IfName: r.IfName, Plugin: c.plugin.Name,
		Boot: boot, NetNS: r.NetNS, Args: r.input.env["CNI_ARGS"], Config: r.input.raw,
	}
	r.kept.record.NetNSID, r.kept.record.NetNSCookie = r.netnsID()
	return r.kept.store.Put(r.kept.record)
}

// confirm records that the ADD has succeeded.
func (r *Request) confirm(result []byte) error {
	if r.kept.record == nil {
		return nil
	}
	return r.kept.change(func(rec *state.Record) { rec.Done, rec.Result = true, result })
}

// forget removes the record.
func (r *Request) forget() error {
	if r.kept.store == nil {
		return nil
	}
	return r.kept.store.Delete(r.Network, r.ContainerID, r.IfName)
}

// recall completes a DEL with what its ADD was given: the result and, because
// runtimes most often omit them, the values of runtimeConfig, args and CNI_ARGS.
// Delegates get these too.
func (c *invocation) recall(r *Request) error {
	rec := r.kept.record
	if r.Command != CmdDel || rec == nil {
		return nil
	}
	result, args := r.recallResult(rec), r.recallArgs(rec)
	keys := r.recallKeys(rec)
	if !result && !args && !keys {
		return nil
	}
	var err error
	if r.input.raw, err = json.Marshal(r.input.fields); err != nil {
		return err
	}
	return c.configure(r)
}

func (r *Request) recallResult(rec *state.Record) (changed bool) {
	if r.PrevResult != nil || rec.Result == nil {
		return false
	}
	prev, err := DecodeResult(rec.Result, r.Version)
	if err != nil {
		r.Log.Warn("ignoring the recorded result", "err", err)
		return false
	}
	r.PrevResult, r.input.fields["prevResult"] = prev, rec.Result
	return true
}

func (r *Request) recallArgs(rec *state.Record) (changed bool) {
	if r.input.env["CNI_ARGS"] != "" || rec.Args == "" {
		return false
	}
	args, err := parseArgs(rec.Args)
	if err != nil { // damaged, but still valid JSON
		r.Log.Warn("ignoring the recorded CNI_ARGS", "err", err)
		return false
	}
	r.Args, r.input.env = args, maps.Clone(r.input.env)
	r.input.env["CNI_ARGS"] = rec.Args
	return true
}

func (r *Request) recallKeys(rec *state.Record) (changed bool) {
	var config map[string]json.RawMessage
	if rec.Config == nil || json.Unmarshal(rec.Config, &config) != nil {
		return false
	}
	for _, key := range opaque {
		if r.input.fields[key] == nil && config[key] != nil {
			r.input.fields[key], changed = config[key], true
		}
	}
	return changed
}

// collectRecords runs the DEL of every recorded attachment that is not valid (CNI
// 1.1.0, GC), continuing past errors.
func (c *invocation) collectRecords(ctx context.Context, r *Request) error {
	if r.kept.store == nil {
		return nil
	}
	keep := map[Attachment]bool{}
	for _, a := range r.Valid {
		keep[a] = true
	}
	records, unread := r.kept.store.List(r.Network)
	errs := []error{r.kept.store.Clean(r.Network)}
	if unread != nil { // mostly damaged records, whose names are in the list nevertheless
		r.Log.Warn("collecting damaged records", "err", unread)
	}
	for _, rec := range records {
		mine := rec.Plugin == c.plugin.Name || rec.Plugin == ""
		if !mine || keep[Attachment{rec.ContainerID, rec.IfName}] {
			continue
		}
		if err := c.delRecorded(ctx, r, rec); err != nil {
			errs = append(errs, fmt.Errorf("container %q, interface %q: %w", rec.ContainerID, rec.IfName, err))
		}
	}
	if unread != nil { // what no DEL has removed
		_, err := r.kept.store.List(r.Network)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// delRecorded runs the DEL of a recorded attachment with the configuration and
// environment of its ADD, or with the request's configuration if the record is
// damaged.
func (c *invocation) delRecorded(ctx context.Context, r *Request, rec *state.Record) error {
	env := maps.Clone(r.input.env)
	env["CNI_COMMAND"], env["CNI_CONTAINERID"], env["CNI_IFNAME"] = CmdDel, rec.ContainerID, rec.IfName
	env["CNI_NETNS"], env["CNI_ARGS"] = rec.NetNS, rec.Args
	fields := map[string]json.RawMessage{}
	if rec.Config == nil || json.Unmarshal(rec.Config, &fields) != nil {
		fields = maps.Clone(r.input.fields)
	}
	maps.DeleteFunc(fields, func(key string, _ json.RawMessage) bool {
		return strings.HasPrefix(key, runtimePrefix) || key == "prevResult"
	})
	if rec.Result != nil {
		fields["prevResult"] = rec.Result
	}
	stdin, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	_, err = (&invocation{plugin: c.plugin, peers: c.peers, output: c.output}).run(ctx, env, stdin)
	return err
}

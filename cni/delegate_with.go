package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nodekit-project/nodekit/cni/state"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// DelegateWith returns the plugin named by the "type" key of config, to be called with
// config in place of the plugin's own configuration. It is for plugins that have other
// plugins set up the network. config is any value that encoding/json marshals to an
// object, such as a json.RawMessage. The request supplies the keys that belong to the
// call: cniVersion and "cni.dev/" keys always; name, args, runtimeConfig and prevResult
// if config lacks them.
//
// In a plugin with State, Add records the configuration before the delegate runs, and
// the SDK calls the delegate's DEL, CHECK and Repair after the handlers, with the
// recorded configuration. It calls delegates in reverse order of their ADD, continues
// past errors, and calls DEL also for the attachments that GC removes. A plugin without
// State calls DEL and CHECK in its own handlers, with a configuration that it builds
// again. Every plugin calls GC and STATUS itself, because they belong to no attachment.
// Delegates may be called concurrently.
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

// As returns the delegate with ifName as its CNI_IFNAME in place of the request's, for
// plugins that give one container several interfaces. To the delegate this is an
// attachment of its own and the first plugin of its chain: it does not get the
// request's prevResult. Its CHECK and DEL get the result of its own ADD, which a plugin
// with State has on record; a plugin without State puts that result into the
// configuration as "prevResult". With an invalid interface name, every verb returns an
// error.
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

// noted returns a recorded delegate.
func (r *Request) noted(noted state.Delegate) Delegate {
	d := r.DelegateWith(noted.Config)
	d.ifName, d.result = noted.IfName, noted.Result
	return d
}

// stdin returns the configuration for the delegate.
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

// given returns the request's keys as this delegate may inherit them.
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

// validOfDelegates returns the attachments that GC must keep, including those that
// delegates have under interface names of their own. A damaged record may hide such
// names, so its error must stop GC from removing anything.
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

// note records the delegate before its ADD and returns a function that adds the
// result.
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

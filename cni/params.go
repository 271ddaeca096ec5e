package cni

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
)

// paramTag marks a configuration field that callers set at run time. Its value has
// the names that the conventions define: first that of the capability, which is also
// its name in args.cni, then that in CNI_ARGS.
const paramTag = "cni"

// readParams fills the configuration fields that have the tag, such as
//
//	MAC string   `json:"-" cni:"mac,MAC"`
//	IPs []string `json:"-" cni:"ips,IP"`
//
// from runtimeConfig, else from args.cni, else from CNI_ARGS (CONVENTIONS.md of
// containernetworking/cni). The first one present supplies the whole value. If s is
// lenient, values of the wrong type are ignored.
func (in *input) readParams(into any, args map[string]string, s strictness) error {
	t := reflect.TypeOf(into).Elem()
	if t.Kind() != reflect.Struct {
		return nil
	}
	var given map[string]json.RawMessage
	var conventional struct {
		CNI map[string]json.RawMessage `json:"cni"`
	}
	loaded := false
	for _, f := range visibleFields(t) {
		tag := f.Tag.Get(paramTag)
		if tag == "" {
			continue
		}
		if !loaded {
			loaded = true
			if err := in.decodeParams(&given, &conventional); err != nil && s != lenient {
				return err
			}
		}
		name, arg, _ := strings.Cut(tag, ",")
		raw, from := given[name], "runtimeConfig."+name
		if raw == nil {
			raw, from = conventional.CNI[name], "args.cni."+name
		}
		field := reflect.ValueOf(into).Elem().FieldByIndex(f.Index)
		if value, ok := args[arg]; raw == nil && ok && arg != "" {
			raw, from = argument(value, field.Type()), "CNI_ARGS "+arg
		}
		if raw == nil {
			continue
		}
		if err := json.Unmarshal(raw, field.Addr().Interface()); err != nil && s != lenient {
			return Errorf(CodeConfig, "%s (value %s): %w", from, shorten(raw), inWords(err))
		}
	}
	return nil
}

func (in *input) decodeParams(runtimeConfig, args any) error {
	for key, into := range map[string]any{"runtimeConfig": runtimeConfig, "args": args} {
		if raw, ok := in.fields[key]; ok {
			if err := json.Unmarshal(raw, into); err != nil {
				return Errorf(CodeConfig, "configuration key %q: %w", key, inWords(err))
			}
		}
	}
	return nil
}

// argument returns a value of CNI_ARGS as JSON for a field of type t: a string for
// strings and for types that unmarshal from text, such as addresses; an array, from a
// comma-separated list, for slices; true and false also for 1 and 0, as in
// IgnoreUnknown=1; for anything else the value as it is, such as a number.
func argument(value string, t reflect.Type) json.RawMessage {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var out any = json.RawMessage(value)
	switch kind := t.Kind(); {
	case kind == reflect.String, reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		out = value
	case kind == reflect.Slice:
		out = strings.Split(value, ",")
	case kind == reflect.Bool && (value == "1" || value == "0"):
		out = value == "1"
	}
	raw, err := json.Marshal(out)
	if err != nil { // not JSON: the decoder reports that, with the text itself
		return json.RawMessage(value)
	}
	return raw
}

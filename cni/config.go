package cni

import (
	"bytes"
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/nodekit-project/nodekit/internal/cniname"
	"github.com/nodekit-project/nodekit/internal/spelling"
)

// IPAM is the configuration field of a plugin that delegates to an IPAM plugin. The
// plugin itself reads only the type; the other keys belong to the delegate, which
// receives the whole configuration.
type IPAM struct {
	Type string
}

// UnmarshalJSON reads the type and ignores the other keys, which are the delegate's.
func (i *IPAM) UnmarshalJSON(data []byte) error {
	var head struct {
		Type string `json:"type"`
	}
	err := json.Unmarshal(data, &head)
	i.Type = head.Type
	return err
}

// known are the keys that the specification and the runtime define for every plugin
// (CNI 1.1.0, sections 1 and 3). Keys with runtimePrefix are known too.
var known = []string{"cniVersion", "name", "type", "capabilities", "runtimeConfig", "args", "prevResult"}

// runtimePrefix is the prefix of the keys that belong to the runtime.
const runtimePrefix = "cni.dev/"

// opaque keys hold objects that callers may extend freely: an unknown key inside them
// is not a mistake of the configuration's author.
var opaque = []string{"runtimeConfig", "args"}

// input is the document on stdin.
type input struct {
	raw    []byte
	fields map[string]json.RawMessage
	env    map[string]string
	self   string // the plugin's name
	peers  peers
	stderr io.Writer // of executed delegates
}

func decodeInput(stdin []byte) (map[string]json.RawMessage, error) {
	var fields map[string]json.RawMessage
	dec := json.NewDecoder(bytes.NewReader(stdin))
	if err := dec.Decode(&fields); err != nil {
		return nil, Errorf(CodeDecode, "decoding network configuration: %w", inWords(err))
	}
	if fields == nil {
		return nil, Errorf(CodeDecode, "decoding network configuration: it is null, not an object")
	}
	if rest := bytes.TrimSpace(stdin[dec.InputOffset():]); len(rest) > 0 {
		return nil, Errorf(CodeDecode, "decoding network configuration: %.20q follows the document", rest)
	}
	return fields, nil
}

// strictness says which unknown keys are errors.
type strictness int

const (
	lenient     strictness = iota // none
	strictBelow                   // those below a key that the plugin knows
	strict                        // all
)

// readConfig fills into from the plugin's keys. An unknown key that s makes an error
// has code 2. If s is lenient, a value of the wrong type is ignored as well, with a
// warning.
func (in *input) readConfig(into any, s strictness, log *slog.Logger) error {
	var fields map[string]reflect.StructField
	if into != nil {
		fields = keysOf(reflect.TypeOf(into).Elem())
	}
	for _, key := range sortedKeys(in.fields) {
		value := in.fields[key]
		field, ok := fields[key]
		switch {
		case ok:
			deep := s >= strictBelow && !slices.Contains(opaque, key)
			err := readField(into, field, value, deep)
			if err != nil {
				err = readKey(into, key, value, deep)
			}
			if err != nil && s != lenient {
				return err
			}
			if err != nil {
				log.Warn("ignoring a part of the configuration", "err", err)
			}
		case slices.Contains(known, key), strings.HasPrefix(key, runtimePrefix):
		case s == strict:
			return Errorf(CodeUnsupportedField, "configuration key %q (value %s) is not supported%s",
				key, shorten(value), spelling.Meant(key, slices.Sorted(maps.Keys(fields))))
		}
	}
	return nil
}

// readField decodes the value directly, without building readKey's object around it.
// Its error does not say where in the configuration the value is: readKey's does.
func readField(into any, f reflect.StructField, value json.RawMessage, strict bool) error {
	if _, own := into.(json.Unmarshaler); own {
		return errors.New("the configuration decodes itself")
	}
	field, err := reflect.ValueOf(into).Elem().FieldByIndexErr(f.Index)
	if err != nil { // the field is in a nil embedded pointer
		return err
	}
	if _, options, _ := strings.Cut(f.Tag.Get("json"), ","); options != "" && options != "omitempty" && options != "omitzero" {
		return errors.New("the field has options") // that only the decoder of a whole object honors
	}
	if !strict || value[0] != '{' && value[0] != '[' {
		return json.Unmarshal(value, field.Addr().Interface())
	}
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.DisallowUnknownFields()
	return dec.Decode(field.Addr().Interface())
}

// readKey decodes an object that has only this key.
func readKey(into any, key string, value json.RawMessage, strict bool) error {
	one, err := json.Marshal(map[string]json.RawMessage{key: value})
	if err != nil {
		return Errorf(CodeDecode, "decoding configuration key %q: %w", key, err)
	}
	dec := json.NewDecoder(bytes.NewReader(one))
	if strict {
		dec.DisallowUnknownFields()
	}
	err = dec.Decode(into)
	if err == nil {
		return nil
	}
	// encoding/json has no type for this error.
	if inner, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return Errorf(CodeUnsupportedField, "configuration key %s below %q (value %s) is not supported%s",
			inner, key, shorten(value), spelling.Meant(strings.Trim(inner, `"`), namesBelow(reflect.TypeOf(into).Elem(), key)))
	}
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return Errorf(CodeConfig, "configuration %w", inWords(err))
	}
	return Errorf(CodeConfig, "configuration key %q: %w", key, err)
}

// inWords says which part of a document has the wrong type, without Go's type names.
// It returns other errors unchanged.
func inWords(err error) error {
	typed, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return err
	}
	where := ""
	if typed.Field != "" {
		where = fmt.Sprintf("key %q: ", typed.Field)
	}
	return fmt.Errorf("%sits type is %s, and must be %s", where, typed.Value, wordFor(typed.Type))
}

// wordFor returns the JSON name of the type.
func wordFor(t reflect.Type) string {
	switch kind := t.Kind(); {
	case kind == reflect.Pointer:
		return wordFor(t.Elem())
	case reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return "string"
	case kind == reflect.Bool:
		return "bool"
	case kind == reflect.Struct, kind == reflect.Map:
		return "object"
	case kind == reflect.Slice, kind == reflect.Array:
		return "array"
	}
	return t.Kind().String() // a string, or a numeric type, which may be too small for the value
}

// keysOf returns a struct's fields by their JSON names, including those of embedded
// structs. The map is shared and must not be changed.
func keysOf(t reflect.Type) map[string]reflect.StructField {
	if known, ok := keysOfType.Load(t); ok {
		return known.(map[string]reflect.StructField)
	}
	keys := map[string]reflect.StructField{}
	if t.Kind() == reflect.Struct {
		for _, f := range visibleFields(t) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if f.Anonymous && name == "" || !f.IsExported() || name == "-" {
				continue
			}
			name = cmp.Or(name, f.Name)
			if outer, ok := keys[name]; !ok || len(f.Index) < len(outer.Index) {
				keys[name] = f
			}
		}
	}
	keysOfType.Store(t, keys)
	return keys
}

var keysOfType sync.Map // map[string]reflect.StructField by reflect.Type

// namesBelow returns the JSON names of all fields below the given key, at any depth:
// the decoder does not report the depth of an unknown key.
func namesBelow(t reflect.Type, key string) []string {
	for _, f := range visibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name == key || name == "" && f.Name == key {
			return collectNames(f.Type, map[reflect.Type]bool{})
		}
	}
	return nil
}

func collectNames(t reflect.Type, seen map[reflect.Type]bool) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || seen[t] {
		return nil
	}
	seen[t] = true
	names := slices.Sorted(maps.Keys(keysOf(t)))
	for _, f := range visibleFields(t) {
		names = append(names, collectNames(f.Type, seen)...)
	}
	return names
}

func sortedKeys(m map[string]json.RawMessage) []string {
	return slices.Sorted(maps.Keys(m))
}

func shorten(value []byte) string {
	const most = 60
	if len(value) > most {
		return string(value[:most]) + "..."
	}
	return string(value)
}

// readBase reads the keys common to all plugins. The runtime always inserts
// cniVersion (CNI 1.1.0, section 3), so a missing one is an error.
// containernetworking's decoder takes it for 0.1.0; the caller would then get a
// result in a format that nobody asked for.
func (r *Request) readBase() error {
	if raw, ok := r.input.fields["cniVersion"]; ok {
		if err := json.Unmarshal(raw, &r.Version); err != nil {
			return Errorf(CodeDecode, "decoding cniVersion: %w", inWords(err))
		}
	}
	if r.Version == "" {
		return Errorf(CodeVersion, "cniVersion is missing: the network's configuration has to say one of %s", strings.Join(Versions(), ", "))
	}
	if !supported(r.Version) {
		return Errorf(CodeVersion, "cniVersion %q is not supported: this plugin speaks %s", r.Version, strings.Join(Versions(), ", "))
	}
	if first := since(r.Command); !AtLeast(r.Version, first) {
		return Errorf(CodeVersion, "there is no %s in cniVersion %q: it came with %s", r.Command, r.Version, first)
	}
	if raw, ok := r.input.fields["name"]; ok {
		if err := json.Unmarshal(raw, &r.Network); err != nil {
			return Errorf(CodeDecode, "decoding name: %w", inWords(err))
		}
	}
	if !cniname.Valid(r.Network) {
		return Errorf(CodeConfig, "the network's name is %q: it must begin with a letter or digit and go on with those, '_', '.' and '-'", r.Network)
	}
	if r.Command == CmdGC {
		return r.readValid()
	}
	return r.readPrevResult()
}

func (r *Request) readPrevResult() error {
	raw, ok := r.input.fields["prevResult"]
	if !ok || string(raw) == "null" {
		if r.Command == CmdCheck {
			return Errorf(CodeConfig, "CHECK needs prevResult")
		}
		return nil
	}
	prev, err := DecodeResult(raw, r.Version)
	switch {
	case err == nil:
		r.PrevResult = prev
	case r.Command == CmdDel: // best effort: an unreadable result counts as absent
		r.Log.Warn("ignoring prevResult", "err", err)
	default:
		return Errorf(CodeDecode, "reading prevResult: %w", err)
	}
	return nil
}

// validKeys are the keys of GC's list of valid attachments.
var validKeys = []string{runtimePrefix + "valid-attachments", runtimePrefix + "attachments"}

// readValid reads the attachments that GC keeps. Without the key nothing may be
// removed: an empty list and no list are very different requests. The second key
// comes from drafts of the specification.
func (r *Request) readValid() error {
	for _, key := range validKeys {
		raw, ok := r.input.fields[key]
		if !ok {
			continue
		}
		if err := json.Unmarshal(raw, &r.Valid); err != nil {
			return Errorf(CodeDecode, "decoding %s: %w", key, inWords(err))
		}
		if r.Valid == nil {
			r.Valid = []Attachment{}
		}
		return nil
	}
	return Errorf(CodeConfig, "GC needs cni.dev/valid-attachments, if only an empty list")
}

// visibleFields caches reflect.VisibleFields, which walks the type each time it is
// called; a daemon calls it for every request.
func visibleFields(t reflect.Type) []reflect.StructField {
	if known, ok := fieldsOf.Load(t); ok {
		return known.([]reflect.StructField)
	}
	fields := reflect.VisibleFields(t)
	fieldsOf.Store(t, fields)
	return fields
}

var fieldsOf sync.Map // []reflect.StructField by reflect.Type

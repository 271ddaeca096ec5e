// Package protofill creates odd messages for fuzz tests, by reflection, so that no
// field is forgotten.
package protofill

import (
	"math"
	"math/rand/v2"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Filler fills messages with values that no client should send, and with sensible
// ones. Its output is determined by its seed.
type Filler struct {
	*rand.Rand
	below string
	known map[protoreflect.Name][]string
}

// New returns a filler. known has good values by field name, so that many requests
// pass the first checks. Odd paths to which a CRI server writes are below the given
// directory, because a test may run as root.
func New(seed uint64, below string, known map[protoreflect.Name][]string) Filler {
	return Filler{rand.New(rand.NewPCG(seed, 1)), below, known}
}

// Fill sets most fields of the message.
func (f Filler) Fill(m protoreflect.ProtoMessage) { f.fill(m.ProtoReflect(), 0) }

// Change sets or clears one field somewhere in the message.
func (f Filler) Change(m protoreflect.ProtoMessage) { f.change(m.ProtoReflect()) }

func (f Filler) fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		d := fields.Get(i)
		if f.IntN(8) == 0 || depth > 6 {
			continue // not set; a message is nil
		}
		switch {
		case d.IsMap():
			for range f.IntN(3) {
				m.Mutable(d).Map().Set(f.value(d.MapKey()).MapKey(), f.value(d.MapValue()))
			}
		case d.IsList():
			for range f.IntN(3) {
				if d.Kind() == protoreflect.MessageKind {
					f.fill(m.Mutable(d).List().AppendMutable().Message(), depth+1)
					continue
				}
				m.Mutable(d).List().Append(f.value(d))
			}
		case d.Kind() == protoreflect.MessageKind:
			f.fill(m.Mutable(d).Message(), depth+1)
		default:
			m.Set(d, f.value(d))
		}
	}
}

func (f Filler) change(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	if fields.Len() == 0 {
		return
	}
	d := fields.Get(f.IntN(fields.Len()))
	switch {
	case f.IntN(10) == 0:
		m.Clear(d)
	case d.IsMap():
		m.Mutable(d).Map().Set(f.value(d.MapKey()).MapKey(), f.value(d.MapValue()))
	case d.IsList() && d.Kind() == protoreflect.MessageKind:
		f.change(m.Mutable(d).List().AppendMutable().Message())
	case d.IsList():
		m.Mutable(d).List().Append(f.value(d))
	case d.Kind() == protoreflect.MessageKind:
		f.change(m.Mutable(d).Message())
	default:
		m.Set(d, f.value(d))
	}
}

func (f Filler) value(d protoreflect.FieldDescriptor) protoreflect.Value {
	number := []int64{0, 1, -1, -2, 2, 80, 65536, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64}[f.IntN(11)]
	switch d.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(f.IntN(2) == 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum([]protoreflect.EnumNumber{0, 1, 2, 3, 99, -1}[f.IntN(6)])
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(number))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(number))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(number)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(number))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64([]float64{0, -1, math.NaN(), math.Inf(1)}[f.IntN(4)])
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte([]string{f.text(d.Name()), "\xff\xfe"}[f.IntN(2)]))
	case protoreflect.MessageKind:
		panic("a map of messages: teach the filler")
	}
	return protoreflect.ValueOfString(f.text(d.Name()))
}

func (f Filler) text(field protoreflect.Name) string {
	if good := f.known[field]; len(good) > 0 && f.IntN(4) > 0 {
		return good[f.IntN(len(good))]
	}
	root := ""
	switch field {
	case "log_directory", "log_path", "location", "output_path", "checkpoint_path":
		root = f.below
	}
	odd := []string{
		"", ".", "..", root + "/", "../../etc/passwd", root + "/etc/passwd", "a/../..", "a//b/", "a\x00b", "=", "\n", "%s%n", "ü", "-1", "10.0.0.1/99",
		strings.Repeat("x", 300), root + strings.Repeat("/y", 3000),
	}
	return odd[f.IntN(len(odd))]
}

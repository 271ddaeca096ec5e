package validate

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// plain refuses, anywhere in the message, enum values that this version of the CRI does
// not define, and strings with a NUL byte, at which the kernel would cut them.
func plain(m proto.Message) error { return plainMessage(m.ProtoReflect()) }

func plainMessage(m protoreflect.Message) (err error) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Name() == "annotations" || f.Name() == "labels":
			// They belong to whoever wrote them, and are returned unchanged.
		case f.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				if err = plainValue(f.MapKey(), k.Value()); err == nil {
					err = plainValue(f.MapValue(), v)
				}
				return err == nil
			})
		case f.IsList():
			for i := 0; err == nil && i < v.List().Len(); i++ {
				err = plainValue(f, v.List().Get(i))
			}
		default:
			err = plainValue(f, v)
		}
		return err == nil
	})
	return err
}

func plainValue(f protoreflect.FieldDescriptor, v protoreflect.Value) error {
	switch f.Kind() {
	case protoreflect.EnumKind:
		if f.Enum().Values().ByNumber(v.Enum()) == nil {
			return fault.Invalid.Errorf("%s: the value %d is unknown", f.Name(), v.Enum())
		}
	case protoreflect.StringKind:
		if strings.Contains(v.String(), "\x00") {
			return fault.Invalid.Errorf("%s: it has a NUL byte", f.Name())
		}
	case protoreflect.MessageKind:
		return plainMessage(v.Message())
	}
	return nil
}

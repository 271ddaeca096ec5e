package csi

import (
	"context"
	"log/slog"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// logRequests logs each request at debug level, without its secrets.
func logRequests(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if m, ok := req.(proto.Message); ok {
			log.DebugContext(ctx, "request", "method", info.FullMethod, "request", redacted{m})
		}
		return next(ctx, req)
	}
}

// redacted logs a CSI message without its sensitive fields: those that the
// specification marks csi_secret, and mount_flags, which it calls sensitive without
// marking them. The message is formatted only if a handler wants the line.
type redacted struct{ message proto.Message }

// LogValue implements slog.LogValuer.
func (r redacted) LogValue() slog.Value {
	m := proto.Clone(r.message)
	clearSecrets(m.ProtoReflect())
	return slog.StringValue(protojson.MarshalOptions{}.Format(m))
}

func clearSecrets(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case secret(f):
			m.Clear(f)
		case f.IsMap() || f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				clearSecrets(v.List().Get(i).Message())
			}
		default:
			clearSecrets(v.Message())
		}
		return true
	})
}

func secret(f protoreflect.FieldDescriptor) bool {
	if f.Name() == "mount_flags" {
		return true
	}
	o, ok := f.Options().(*descriptorpb.FieldOptions)
	return ok && proto.GetExtension(o, spec.E_CsiSecret) == true
}

package object

import (
	"encoding/json"
	"fmt"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// MaxSize is the maximum size of one object as JSON, in bytes: the limit of the store
// of a Kubernetes API (etcd.io/docs, "System limits"), so that what works on a node
// works in a cluster.
const MaxSize = 3 << 19

// Encode returns the object's JSON, or fault.Exhausted if it is larger than MaxSize.
func Encode(o Object) ([]byte, error) {
	data, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", Name(o), err)
	}
	if len(data) > MaxSize {
		return nil, fault.Exhausted.Errorf("%s is too large: it takes %.1f MiB, and one object may take %.1f MiB: split it, or put what is large into a volume",
			Name(o), float64(len(data))/(1<<20), float64(MaxSize)/(1<<20))
	}
	return data, nil
}

package deviceplugin

import (
	"log/slog"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/nodekit-project/nodekit/internal/fault"
)

// warnList is the size of a list, in bytes, above which the operator is warned that it
// is close to the kubelet's limit.
const warnList = 1 << 20

// inventory is the current list of devices. Every watcher waits for a list that differs
// from the one it has, so watchers cannot take updates from each other, and a slow one
// sees only the latest state. It is safe for concurrent use.
type inventory struct {
	log *slog.Logger

	mu      sync.Mutex
	list    *api.ListAndWatchResponse // nil until the first update; never changed, only replaced
	changed chan struct{}             // closed when list is replaced
}

func newInventory(log *slog.Logger) *inventory {
	return &inventory{log: log, changed: make(chan struct{})}
}

// update replaces the list. Plugin.Watch gets it as its argument.
func (v *inventory) update(devices []Device) error {
	list, err := listOf(devices)
	if err != nil {
		v.log.Error("keeping the list of devices before this one", "err", err)
		return err
	}
	if size := proto.Size(list); size > warnList {
		v.log.Warn("the list of devices is long", "devices", len(devices), "bytes", size, "limit", maxList)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.list != nil && proto.Equal(v.list, list) {
		return nil
	}
	v.list = list
	close(v.changed)
	v.changed = make(chan struct{})
	return nil
}

// get returns the list, nil before the first update, and a channel that is
// closed when it is replaced.
func (v *inventory) get() (*api.ListAndWatchResponse, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.list, v.changed
}

// known returns the ids, sorted and without duplicates. It fails if one of them is not
// in the list or, if healthy is set, is unhealthy.
func (v *inventory) known(ids []string, healthy bool) ([]string, error) {
	list, _ := v.get()
	health := map[string]string{}
	for _, d := range list.GetDevices() {
		health[d.GetID()] = d.GetHealth()
	}
	for _, id := range ids {
		switch h, ok := health[id]; {
		case !ok:
			return nil, fault.NotFound.Errorf("there is no device %q", id)
		case healthy && h != api.Healthy:
			return nil, fault.FailedPrecondition.Errorf("device %q is unhealthy", id)
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(ids))), nil
}

package device

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/fault"
)

const ledgerVersion = 1

// grant is what a slot holds. A grant without an answer is a reservation: its plugin is
// being asked, and it is not on disk.
type grant struct {
	ids      []string
	answer   *api.ContainerAllocateResponse
	preStart bool // the plugin requires PreStart
}

// ledger records which Pod holds which devices, in memory and on disk. It is safe for
// concurrent use.
type ledger struct {
	path string

	mu      sync.Mutex
	pods    map[types.UID]map[slot]*grant
	version uint64 // counts changes

	saving sync.Mutex // held while the file is written
	saved  uint64     // the version on disk; guarded by saving
}

// document is the ledger's file.
type document struct {
	Version int      `json:"version"`
	Grants  []record `json:"grants"`
}

type record struct {
	Pod       types.UID       `json:"pod"`
	Container string          `json:"container"`
	Resource  string          `json:"resource"`
	IDs       []string        `json:"ids"`
	Answer    json.RawMessage `json:"answer"` // a ContainerAllocateResponse as protojson
	PreStart  bool            `json:"preStart,omitempty"`
}

// openLedger reads the file at path. A missing file is an empty ledger.
func openLedger(path string) (*ledger, error) {
	l := &ledger{path: path, pods: map[types.UID]map[slot]*grant{}}
	if err := atomicfile.Clean(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("reading the device allocations: %w", err)
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the device allocations: %w", err)
	}
	var d document
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, fault.FailedPrecondition.Errorf("reading the device allocations from %q: %w: end the Pods that use devices and remove the file", path, err)
	}
	if d.Version != ledgerVersion {
		return nil, fault.FailedPrecondition.Errorf("reading the device allocations from %q: it has version %d and this program reads %d: use the one that wrote it",
			path, d.Version, ledgerVersion)
	}
	for _, r := range d.Grants {
		g := &grant{ids: r.IDs, preStart: r.PreStart, answer: &api.ContainerAllocateResponse{}}
		if err := protojson.Unmarshal(r.Answer, g.answer); err != nil {
			return nil, fault.FailedPrecondition.Errorf("reading the device allocations from %q: Pod %q: %w", path, r.Pod, err)
		}
		l.put(r.Pod, slot{r.Container, r.Resource}, g)
	}
	l.saved = l.version
	return l, nil
}

// put sets what a slot holds, or removes it if the grant is nil. The caller holds mu or
// is the only user.
func (l *ledger) put(uid types.UID, s slot, g *grant) {
	l.version++
	if g == nil {
		delete(l.pods[uid], s)
		if len(l.pods[uid]) == 0 {
			delete(l.pods, uid)
		}
		return
	}
	if l.pods[uid] == nil {
		l.pods[uid] = map[slot]*grant{}
	}
	l.pods[uid][s] = g
}

// held returns the ids that the Pod's slots hold, including reserved ones.
func (l *ledger) held(uid types.UID) map[slot][]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[slot][]string{}
	for s, g := range l.pods[uid] {
		out[s] = g.ids
	}
	return out
}

// of returns the grants of the Pod's slots.
func (l *ledger) of(uid types.UID) map[slot]grant {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[slot]grant{}
	for s, g := range l.pods[uid] {
		if g.answer != nil {
			out[s] = *g
		}
	}
	return out
}

// uids returns the Pods that hold devices, sorted.
func (l *ledger) uids() []types.UID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.pods))
}

// inUse returns the ids in use, by resource.
func (l *ledger) inUse() map[string]map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.usedBut("")
}

// usedBut returns the ids that Pods other than uid hold. The caller holds mu.
func (l *ledger) usedBut(uid types.UID) map[string]map[string]bool {
	out := map[string]map[string]bool{}
	for holder, slots := range l.pods {
		if holder == uid {
			continue
		}
		for s, g := range slots {
			if out[s.resource] == nil {
				out[s.resource] = map[string]bool{}
			}
			for _, id := range g.ids {
				out[s.resource][id] = true
			}
		}
	}
	return out
}

// reserve reserves the chosen ids for the Pod, all or none: it returns false if another
// Pod has taken one in the meantime.
func (l *ledger) reserve(uid types.UID, chosen map[slot][]string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	used := l.usedBut(uid)
	for s, ids := range chosen {
		if slices.ContainsFunc(ids, func(id string) bool { return used[s.resource][id] }) {
			return false
		}
	}
	for s, ids := range chosen {
		l.put(uid, s, &grant{ids: ids})
	}
	return true
}

// grant records the plugin's answer for a reserved slot.
func (l *ledger) grant(uid types.UID, s slot, answer *api.ContainerAllocateResponse, preStart bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g := l.pods[uid][s]; g != nil {
		l.put(uid, s, &grant{ids: g.ids, answer: answer, preStart: preStart})
	}
}

// drop removes the slots from the Pod.
func (l *ledger) drop(uid types.UID, slots map[slot][]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range slots {
		l.put(uid, s, nil)
	}
}

// save returns when everything granted before the call is on disk. Concurrent calls
// share one write.
func (l *ledger) save() error {
	l.mu.Lock()
	mine := l.version
	l.mu.Unlock()
	l.saving.Lock()
	defer l.saving.Unlock()
	if l.saved >= mine {
		return nil
	}
	raw, version, err := l.marshal()
	if err == nil {
		err = atomicfile.Write(l.path, raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("saving the device allocations: %w", err)
	}
	l.saved = version
	return nil
}

func (l *ledger) marshal() ([]byte, uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := document{Version: ledgerVersion, Grants: []record{}}
	for uid, slots := range l.pods {
		for s, g := range slots {
			if g.answer == nil {
				continue
			}
			answer, err := protojson.Marshal(g.answer)
			if err != nil {
				return nil, 0, err
			}
			d.Grants = append(d.Grants, record{uid, s.container, s.resource, g.ids, answer, g.preStart})
		}
	}
	raw, err := json.MarshalIndent(d, "", " ")
	return raw, l.version, err
}

package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// LibcniResults is the directory in which runtimes that use libcni keep their results.
const LibcniResults = "/var/lib/cni/results"

// Import takes over attachments that another runtime made with libcni, from its results
// directory. From then on they belong to this network, with their original
// configuration and arguments, and Detach, Check, Watch and GC know them. It returns
// those that were not known before.
//
// Files that are empty, damaged or in a format without the configuration, as crashes
// and old versions leave them, are skipped and reported in the joined error, and so is
// the second network of an interface that is known; they never prevent the import of
// others. The files stay in place: whoever retires the other runtime removes them.
// Import may be called again.
func (n *Network) Import(ctx context.Context, dir string) ([]cni.Attachment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("importing attachments: %w", err)
	}
	var imported []cni.Attachment
	var errs []error
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		key, fresh, err := n.importFile(ctx, filepath.Join(dir, e.Name()))
		if err != nil {
			errs = append(errs, fmt.Errorf("importing attachment from %q: %w", filepath.Join(dir, e.Name()), err))
		} else if fresh {
			imported = append(imported, key)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return imported, errors.Join(errs...)
}

func (n *Network) importFile(ctx context.Context, file string) (key cni.Attachment, fresh bool, err error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return key, false, err
	}
	r, err := decodeLibcni(content, besides(n.config.ConfDir))
	if err != nil {
		return key, false, err
	}
	key = r.Attachment.key()
	if want := r.List.Name + "-" + key.ContainerID + "-" + key.IfName; filepath.Base(file) != want {
		return key, false, fault.Invalid.Errorf("it is about %q", want)
	}
	_, leave, err := n.enter(ctx, r.Attachment)
	if err != nil {
		return key, false, err
	}
	defer leave()
	known, err := n.known(key)
	if err == nil && known != nil && known.List.Name != r.List.Name {
		err = fault.AlreadyExists.Errorf("%q is attached to network %q already: the DEL of this one is due from the runtime that made it", key, known.List.Name)
	}
	if err != nil || known != nil {
		return key, false, err
	}
	if err := n.records.put(r); err != nil {
		return key, false, err
	}
	return key, true, errors.Join(atomicfile.Sync(n.records.path(key))...)
}

// libcniRecord is libcni's file for an attachment.
type libcniRecord struct {
	Kind           string                     `json:"kind"`
	ContainerID    string                     `json:"containerId"`
	Config         []byte                     `json:"config"` // the list, or the single plugin, as it was read
	IfName         string                     `json:"ifName"`
	NetworkName    string                     `json:"networkName"`
	NetNS          string                     `json:"netns"`
	Args           [][2]string                `json:"cniArgs"`
	CapabilityArgs map[string]json.RawMessage `json:"capabilityArgs"`
	Result         json.RawMessage            `json:"result"`
}

// libcniKind is the only format that libcni ever gave a name; the earlier one was a
// bare result, without the configuration that a DEL needs.
const libcniKind = "cniCacheV1"

func decodeLibcni(content []byte, besides func(string) ([]plugin, error)) (*record, error) {
	if len(content) == 0 {
		return nil, fault.Invalid.Errorf("it is empty")
	}
	var in libcniRecord
	if err := json.Unmarshal(content, &in); err != nil {
		return nil, fault.Invalid.Errorf("it is damaged: %w", err)
	}
	if in.Kind != libcniKind {
		return nil, fault.Invalid.Errorf("its kind is %q, and only %q tells the configuration", in.Kind, libcniKind)
	}
	l, err := parse(in.Config, besides)
	if err != nil {
		return nil, fault.Invalid.Errorf("its configuration: %w", err)
	}
	if l.Name != in.NetworkName {
		return nil, fault.Invalid.Errorf("its network is %q, and that of its configuration %q", in.NetworkName, l.Name)
	}
	result := in.Result
	if len(result) == 0 || string(result) == "null" { // there is none, and none is made up
		result = nil
	} else if result, err = inVersion(result, l.Version); err != nil {
		return nil, fault.Invalid.Wrap(err)
	}
	r := &record{Version: recordVersion, List: l, Result: result, Attachment: Attachment{
		ContainerID: in.ContainerID, NetNS: in.NetNS, IfName: in.IfName,
		Args: in.Args, CapabilityArgs: in.CapabilityArgs, Pod: podOf(in.Args),
	}}
	return r, r.Attachment.validate()
}

// podOf returns the Pod that Kubernetes runtimes put into CNI_ARGS.
func podOf(args [][2]string) (p call.Pod) {
	for _, pair := range args {
		switch pair[0] {
		case "K8S_POD_NAMESPACE":
			p.Namespace = pair[1]
		case "K8S_POD_NAME":
			p.Name = pair[1]
		case "K8S_POD_UID":
			p.UID = pair[1]
		}
	}
	return p
}

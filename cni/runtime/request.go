package runtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/cniname"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// env returns the environment of a call. Executed plugins get nothing else but PATH,
// which those that run other programs need.
func (n *Network) env(command string, a Attachment) map[string]string {
	env := map[string]string{
		"CNI_COMMAND": command,
		"CNI_PATH":    strings.Join(n.config.BinDirs, string(filepath.ListSeparator)),
		"PATH":        os.Getenv("PATH"),
	}
	if command == cni.CmdGC || command == cni.CmdStatus {
		return env
	}
	env["CNI_CONTAINERID"], env["CNI_IFNAME"], env["CNI_NETNS"] = a.ContainerID, a.IfName, a.NetNS
	if args := a.args(); args != "" {
		env["CNI_ARGS"] = args
	}
	return env
}

// args returns the attachment's CNI_ARGS.
func (a Attachment) args() string {
	pairs := a.Args
	if len(pairs) == 0 && !a.Pod.IsZero() {
		// The convention of Kubernetes runtimes, which many plugins rely on.
		pairs = [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", a.Pod.Namespace},
			{"K8S_POD_NAME", a.Pod.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", a.ContainerID},
			{"K8S_POD_UID", a.Pod.UID},
		}
	}
	words := make([]string, len(pairs))
	for i, p := range pairs {
		words[i] = p[0] + "=" + p[1]
	}
	return strings.Join(words, ";")
}

// capabilityArgs returns all capability arguments of the attachment.
func (a Attachment) capabilityArgs() (map[string]json.RawMessage, error) {
	if len(a.PortMappings) == 0 {
		return a.CapabilityArgs, nil
	}
	all := map[string]json.RawMessage{}
	maps.Copy(all, a.CapabilityArgs)
	var err error
	all["portMappings"], err = json.Marshal(a.PortMappings)
	return all, err
}

// validate refuses what cannot be passed to any plugin.
func (a Attachment) validate() error {
	if !cniname.Valid(a.ContainerID) {
		return fault.Invalid.Errorf("container id %q is not valid", a.ContainerID)
	}
	if err := cniname.InterfaceName(a.IfName); err != nil {
		return fault.Invalid.Wrap(err)
	}
	if len(a.PortMappings) > 0 && a.CapabilityArgs["portMappings"] != nil {
		return fault.Invalid.Errorf("port mappings are given twice: as such and among the capability arguments")
	}
	for name, value := range a.CapabilityArgs {
		if !json.Valid(value) {
			return fault.Invalid.Errorf("the argument of capability %q is no JSON", name)
		}
	}
	for _, pair := range a.Args {
		if pair[0] == "" || strings.ContainsAny(pair[0], "=;") || strings.Contains(pair[1], ";") {
			return fault.Invalid.Errorf("argument %q=%q does not fit into CNI_ARGS", pair[0], pair[1])
		}
	}
	return nil
}

// request derives a plugin's request from its configuration (CNI 1.1.0, section
// 3, "Deriving request configuration").
func request(r *record, p plugin, prev json.RawMessage) ([]byte, error) {
	config, err := base(r.List, p)
	if err != nil {
		return nil, err
	}
	offered, err := r.Attachment.capabilityArgs()
	if err != nil {
		return nil, err
	}
	given := map[string]json.RawMessage{}
	for name, wanted := range p.capabilities() {
		if value, ok := offered[name]; ok && wanted {
			given[name] = value
		}
	}
	if len(given) > 0 {
		if config["runtimeConfig"], err = encode(given); err != nil {
			return nil, err
		}
	}
	if len(prev) > 0 {
		config["prevResult"] = prev
	}
	return encode(config)
}

// base is the part of the request that all verbs share: the configuration with the
// network's name and version, without the keys that belong to the runtime.
func base(l *list, p plugin) (plugin, error) {
	config := maps.Clone(p)
	maps.DeleteFunc(config, func(key string, _ json.RawMessage) bool {
		return key == "capabilities" || key == "runtimeConfig" || key == "prevResult" || strings.HasPrefix(key, "cni.dev/")
	})
	var err, nerr error
	config["cniVersion"], err = json.Marshal(l.Version)
	config["name"], nerr = json.Marshal(l.Name)
	return config, errors.Join(err, nerr)
}

// encode encodes values unchanged: json.Marshal would escape some characters.
func encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encoding: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// runAdd runs the chain in order, each plugin with the result of the one before,
// and returns the final result.
func (n *Network) runAdd(ctx context.Context, r *record) (result json.RawMessage, err error) {
	for _, p := range r.List.Plugins {
		stdin, err := request(r, p, result)
		if err != nil {
			return nil, err
		}
		result, err = n.call(ctx, p, n.env(cni.CmdAdd, r.Attachment), stdin)
		if err != nil {
			return nil, err
		}
		if _, err := cni.DecodeResult(result, r.List.Version); err != nil {
			return nil, fmt.Errorf("plugin %q: %w", p.kind(), err)
		}
	}
	return result, nil
}

// runDel runs the chain in reverse order with the final result of ADD, if there
// is one. The specification's text halts at the first error; going on leaves
// less behind, and plugins must accept a DEL that has nothing to do.
func (n *Network) runDel(ctx context.Context, r *record) error {
	a := r.Attachment
	if _, err := os.Stat(a.NetNS); err != nil {
		a.NetNS = "" // gone with the sandbox: DEL does without
	}
	var errs []error
	for _, p := range slices.Backward(r.List.Plugins) {
		stdin, err := request(r, p, r.Result)
		if err == nil {
			_, err = n.call(ctx, p, n.env(cni.CmdDel, a), stdin)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// call runs one plugin, in process or by executing it, and observes the call.
func (n *Network) call(ctx context.Context, p plugin, env map[string]string, stdin []byte) (stdout []byte, err error) {
	name := p.kind()
	ctx, cancel := context.WithTimeout(ctx, n.config.PluginTimeout)
	defer cancel()
	done := call.Call{Family: "cni", Plugin: name, Method: env["CNI_COMMAND"], Start: time.Now()}
	defer func() { n.config.Observe.Done(ctx, done, err) }()
	if n.config.Builtin[name] != nil {
		stdout, err = cni.Set(n.config.Builtin).Invoke(ctx, name, env, stdin)
	} else {
		var file string
		if file, err = cni.Find(name, n.config.BinDirs); err == nil {
			stdout, err = cni.Exec(ctx, file, env, stdin, nil)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("plugin %q, %s: %w", name, env["CNI_COMMAND"], err)
	}
	return stdout, nil
}

// env is the environment of a call. Executed plugins get nothing else but PATH,
// which those that run tools need.
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
	if a.Pod.IsZero() {
		return env
	}
	// The conventions of Kubernetes' runtimes, which many plugins read.
	env["CNI_ARGS"] = fmt.Sprintf("IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_INFRA_CONTAINER_ID=%s;K8S_POD_UID=%s",
		a.Pod.Namespace, a.Pod.Name, a.ContainerID, a.Pod.UID)
	return env
}

// request derives a plugin's request from its configuration (CNI 1.1.0, section
// 3, "Deriving request configuration").
func request(r *record, p plugin, prev json.RawMessage) ([]byte, error) {
	config, err := base(r.List, p)
	if err != nil {
		return nil, err
	}
	offered := map[string]any{}
	if len(r.Attachment.PortMappings) > 0 {
		offered["portMappings"] = r.Attachment.PortMappings
	}
	given := map[string]any{}
	for name, wanted := range p.capabilities() {
		if value, ok := offered[name]; ok && wanted {
			given[name] = value
		}
	}
	if len(given) > 0 {
		if config["runtimeConfig"], err = json.Marshal(given); err != nil {
			return nil, err
		}
	}
	if len(prev) > 0 {
		config["prevResult"] = prev
	}
	return json.Marshal(config)
}

// base is the part of the request that all verbs share: the configuration with
// the network's name and version, without what belongs to the runtime.
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

// Check asks every plugin in order whether the attachment is as ADD left it, with
// the parameters and the configuration of that ADD. It stops at the first error;
// an attachment that is not there is fault.NotFound. With disableCheck, or before
// version 0.4.0 of the configuration, there is nothing to ask.
func (n *Network) Check(ctx context.Context, a Attachment) error {
	ctx, unlock, err := n.enter(ctx, a)
	if err != nil {
		return fmt.Errorf("checking %q: %w", a.key(), err)
	}
	defer unlock()
	r, err := n.records.get(a.key())
	if err != nil {
		return fmt.Errorf("checking %q: %w", a.key(), err)
	}
	if r.List.DisableCheck || !cni.AtLeast(r.List.Version, "0.4.0") {
		return nil
	}
	for _, p := range r.List.Plugins {
		stdin, err := request(r, p, r.Result)
		if err == nil {
			_, err = n.call(ctx, p, n.env(cni.CmdCheck, r.Attachment), stdin)
		}
		if err != nil {
			return fmt.Errorf("checking %q: %w", a.key(), err)
		}
	}
	return nil
}

// Status reports whether the network can serve an Attach now: a valid
// configuration is there and, from version 1.1.0 on, STATUS of every plugin
// succeeds. No configuration is fault.Unavailable, with what is wrong with the
// files that there are.
func (n *Network) Status(ctx context.Context) error {
	l, _, err := loadDir(n.config.ConfDir)
	if err != nil {
		return err
	}
	for _, p := range l.Plugins {
		if name := p.kind(); n.config.Builtin[name] == nil {
			if _, err := cni.Find(name, n.config.BinDirs); err != nil {
				return fault.Unavailable.Wrap(err)
			}
		}
		if !cni.AtLeast(l.Version, "1.1.0") {
			continue
		}
		config, err := base(l, p)
		if err != nil {
			return err
		}
		stdin, err := json.Marshal(config)
		if err != nil {
			return err
		}
		if _, err := n.call(ctx, p, n.env(cni.CmdStatus, Attachment{}), stdin); err != nil {
			return err
		}
	}
	return nil
}

// GC removes every attachment that is not in valid: those that this network
// recorded get their DEL, and then, from version 1.1.0 on and unless the
// configuration says disableGC, GC of every plugin frees what nobody recorded.
// It goes on past errors and joins them, and it waits for running operations
// and holds new ones back.
func (n *Network) GC(ctx context.Context, valid []Attachment) error {
	n.gc.Lock()
	defer n.gc.Unlock()
	keep := map[cni.Attachment]bool{}
	list := make([]cni.Attachment, 0, len(valid))
	for _, a := range valid {
		keep[a.key()] = true
		list = append(list, a.key())
	}
	records, err := n.records.all()
	errs := []error{err}
	n.mu.Lock()
	for _, i := range n.intents { // ADDs whose DEL failed
		records = append(records, i.record)
	}
	n.mu.Unlock()
	for _, r := range records {
		if !keep[r.Attachment.key()] {
			errs = append(errs, n.detach(call.WithPod(ctx, r.Attachment.Pod), r))
		}
	}
	errs = append(errs, n.collect(ctx, list))
	return errors.Join(errs...)
}

func (n *Network) collect(ctx context.Context, valid []cni.Attachment) error {
	l, _, err := loadDir(n.config.ConfDir)
	if err != nil || l.DisableGC || !cni.AtLeast(l.Version, "1.1.0") {
		return err
	}
	list, err := json.Marshal(valid)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range l.Plugins {
		config, err := base(l, p)
		if err != nil {
			return err
		}
		config["cni.dev/valid-attachments"] = list
		stdin, err := json.Marshal(config)
		if err == nil {
			_, err = n.call(ctx, p, n.env(cni.CmdGC, Attachment{}), stdin)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

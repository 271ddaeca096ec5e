package cni_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/state"
)

// A plugin that stays on containernetworking's skel package takes three rungs: a
// rollback stack, records that survive a crash, and the specification's error
// codes. Each works without the others.
func Example_skel() {
	records := state.Open("/var/lib/cni/my-plugin")

	add := func(args *skel.CmdArgs) error {
		var conf types.NetConf
		if err := json.Unmarshal(args.StdinData, &conf); err != nil {
			return cni.TypesError(cni.Errorf(cni.CodeDecode, "decoding network configuration: %w", err))
		}
		record := &state.Record{Network: conf.Name, ContainerID: args.ContainerID, IfName: args.IfName, Plugin: conf.Type, Config: args.StdinData}
		if err := records.Put(record); err != nil { // before anything is made
			return cni.TypesError(err)
		}
		var undo cni.Rollback
		undo.Push("the record", func(context.Context) error { return records.Delete(conf.Name, args.ContainerID, args.IfName) })
		if err := connect(args, &undo); err != nil {
			return cni.TypesError(undo.Run(context.Background(), err))
		}
		record.Done = true
		return records.Put(record)
	}

	skel.PluginMainFuncs(skel.CNIFuncs{Add: add}, version.All, "my-plugin")
}

func connect(args *skel.CmdArgs, undo *cni.Rollback) error {
	undo.Push("an interface", func(context.Context) error { return nil })
	return cni.Errorf(cni.CodeExhausted, "nothing is left for %s", args.ContainerID)
}

// ExampleRollback shows what a step that fails itself does to the error.
func ExampleRollback() {
	var undo cni.Rollback
	undo.Push("the interface", func(context.Context) error { return nil })
	undo.Push("the rule", func(context.Context) error { return errors.New("nftables is busy") })

	err := undo.Run(context.Background(), cni.Errorf(cni.CodeExhausted, "no address is left"))
	fmt.Println(cni.TypesError(err).Code, err)
	// Output:
	// 101 no address is left
	// undoing the rule: nftables is busy
}

// A meta plugin has another one make the network, with a configuration that it makes for each
// container. With State the SDK keeps that, and calls the other's DEL and CHECK by itself.
func ExampleRequest_DelegateWith() {
	type config struct {
		Subnets map[string]string `json:"subnets"` // by the Pod's namespace
	}
	cni.Main(cni.New("subnets", cni.Handlers[config]{
		State: func(*config) string { return "/var/lib/cni/subnets" },
		Add: func(ctx context.Context, r *cni.Request, c *config) (*cni.Result, error) {
			subnet, ok := c.Subnets[r.Args["K8S_POD_NAMESPACE"]]
			if !ok {
				return nil, cni.Errorf(cni.CodeConfig, "there is no subnet for namespace %q", r.Args["K8S_POD_NAMESPACE"])
			}
			return r.DelegateWith(map[string]any{
				"type": "bridge", "bridge": "subnets0", "isGateway": true,
				"ipam": map[string]any{"type": "host-local", "subnet": subnet},
			}).Add(ctx)
		},
	}))
}

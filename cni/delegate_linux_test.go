package cni_test

import (
	"context"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// TestOwnDelegate names a plugin as its own IPAM plugin, under its name or under that which
// the runtime knows it by. Each would call itself until the memory is used up.
func TestOwnDelegate(t *testing.T) {
	testenv.Require(t, testenv.Root)
	ns := netnstest.New(t)
	for kind, ipam := range map[string]string{"p": "p", "renamed": "p", "other": "other"} {
		calls := 0
		count := func(context.Context, *cni.Request, *config) error {
			if calls++; calls > 10 { // or the test would take the memory, too
				t.Fatalf("%q with ipam.type %q calls itself", kind, ipam)
			}
			return nil
		}
		p := cni.New("p", cni.Handlers[config]{
			Add: func(ctx context.Context, r *cni.Request, c *config) (*cni.Result, error) {
				if err := count(ctx, r, c); err != nil {
					return nil, err
				}
				return r.Delegate(c.IPAM.Type).Add(ctx)
			},
			Del: count, Check: count, GC: count, Status: count,
		})
		p.Adjusts = true
		set := cni.Set{"p": p, "renamed": p, "other": p}
		for _, command := range []string{cni.CmdAdd, cni.CmdCheck, cni.CmdStatus, cni.CmdDel, cni.CmdGC} {
			calls = 0
			stdin := `{"cniVersion":"1.1.0","name":"n","type":"` + kind + `","ipam":{"type":"` + ipam + `"},"prevResult":{"cniVersion":"1.1.0"},"cni.dev/valid-attachments":[]}`
			e := env(command)
			e["CNI_NETNS"] = ns
			_, err := set.Invoke(t.Context(), kind, e, []byte(stdin))
			refused := cni.CodeOf(err) == cni.CodeConfig && strings.Contains(err.Error(), "cannot be its own delegate")
			if removes := command == cni.CmdDel || command == cni.CmdGC; calls != 1 || removes != (err == nil) || !removes && !refused {
				t.Errorf("%s of %q with ipam.type %q: %d calls, %v", command, kind, ipam, calls, err)
			}
		}
	}
}

package cni_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
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

// TestDelegateWithoutAResult: a delegate that exits as if it had succeeded, and gives no
// result, has failed, or the plugin would go on with no addresses.
func TestDelegateWithoutAResult(t *testing.T) {
	p := cni.New("p", cni.Handlers[config]{Add: func(ctx context.Context, r *cni.Request, c *config) (*cni.Result, error) {
		return r.Delegate(c.IPAM.Type).Add(ctx)
	}})
	p.Adjusts, p.IPAM = true, true // which needs no namespace
	for name, c := range map[string]struct {
		writes, says string
	}{
		"error":           {`{"cniVersion":"1.1.0","code":7,"msg":"no subnet"}`, "no subnet"},
		"strange-version": {`{"cniVersion":"9.0.0","code":7,"msg":"no subnet"}`, "an error object, of code 7"},
		"nothing":         {"", "unexpected end"},
		"null":            {"null", "not a JSON object"},
		"words":           {"no subnet", "no subnet"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			script := fmt.Sprintf("#!/bin/sh\necho $CNI_COMMAND >>%s/calls\n[ $CNI_COMMAND != ADD ] || echo '%s'\n", dir, c.writes)
			if err := os.WriteFile(filepath.Join(dir, "leaf"), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			e := env(cni.CmdAdd)
			e["CNI_PATH"], e["PATH"] = dir, os.Getenv("PATH")
			out, err := cni.Invoke(t.Context(), p, e, []byte(request(`,"ipam":{"type":"leaf"}`)))
			if cni.CodeOf(err) != cni.CodeDelegate || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), `"leaf", ADD: `) {
				t.Errorf("%v, %s", err, out)
			}
			if calls, err := os.ReadFile(dir + "/calls"); string(calls) != "ADD\nDEL\n" {
				t.Errorf("calls %q, %v", calls, err)
			}
		})
	}
}

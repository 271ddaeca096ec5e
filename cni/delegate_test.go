package cni_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
)

func TestFind(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	for file, mode := range map[string]os.FileMode{
		filepath.Join(one, "plain"): 0o644, filepath.Join(one, "host-local"): 0o755,
		filepath.Join(two, "plain"): 0o644, filepath.Join(two, "host-local"): 0o755, filepath.Join(two, "mine"): 0o755,
	} {
		if err := os.WriteFile(file, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	dirs := []string{filepath.Join(one, "absent"), one, two}
	for name, want := range map[string]string{"host-local": one, "mine": two} {
		if got, err := cni.Find(name, dirs); err != nil || got != filepath.Join(want, name) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, want := range map[string]string{
		"hostlocal": ` (did you mean "host-local"?)`,
		"Mine":      ` (did you mean "mine"?)`,
		"firewall":  "]",
		"plain":     ": chmod +x makes a program one",
		"../mine":   `is no plugin type`,
	} {
		if _, err := cni.Find(name, dirs); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v, want an error that ends with %s", name, err, want)
		}
	}
}

// TestErrorOfADelegate: the error has the delegate's code, says who speaks, and keeps its
// details apart.
func TestErrorOfADelegate(t *testing.T) {
	inner := &cni.Plugin{Name: "inner", IPAM: true, Add: func(context.Context, *cni.Request) (*cni.Result, error) {
		return nil, &cni.Error{Code: 111, Msg: "no address is left", Details: "in 10.0.0.0/29"}
	}}
	outer := &cni.Plugin{Name: "outer", IPAM: true, Add: func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
		return r.Delegate("inner").Add(ctx)
	}}
	e := env(cni.CmdAdd)
	e["CNI_NETNS"] = "/nowhere"
	_, err := cni.Set{"inner": inner, "outer": outer}.Invoke(t.Context(), "outer", e, []byte(`{"cniVersion":"1.1.0","name":"n","type":"outer"}`))
	var got *cni.Error
	want := cni.Error{CNIVersion: "1.1.0", Code: 111, Msg: `delegate "inner", ADD: no address is left`, Details: "in 10.0.0.0/29"}
	if !errors.As(err, &got) || *got != want {
		t.Errorf("%+v, want %+v", err, want)
	}
}

package cni_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
)

// meta is a plugin that has two others make the network, and what those were called with.
type meta struct {
	*testing.T
	calls  []string
	fail   error // of the plugin's ADD, after the delegates'
	config any   // of the second delegate
}

type metaConfig struct {
	Dir string `json:"dir"`
}

func (m *meta) set() cni.Set {
	set := cni.Set{"meta": cni.New("meta", cni.Handlers[metaConfig]{
		State: func(c *metaConfig) string { return c.Dir },
		Add: func(ctx context.Context, r *cni.Request, _ *metaConfig) (*cni.Result, error) {
			first := map[string]any{"type": "one", "name": "mine", "cniVersion": "0.4.0", "colour": "red"}
			if _, err := r.DelegateWith(first).Add(ctx); err != nil {
				return nil, err
			}
			result, err := r.DelegateWith(m.config).Add(ctx)
			return result, errors.Join(err, m.fail)
		},
	})}
	set["meta"].IPAM = true // which needs no namespace
	for _, name := range []string{"one", "two"} {
		note := func(_ context.Context, r *cni.Request) error {
			prev := ""
			if r.PrevResult != nil {
				prev = r.PrevResult.DNS.Domain
			}
			c := r.Config.(*delegateConfig)
			m.calls = append(m.calls, fmt.Sprintf("%s %s %s %s %s %s mac=%s prev=%s", name, r.Command, r.ContainerID, r.Network, r.Version, c.Colour, c.MAC, prev))
			return nil
		}
		set[name] = &cni.Plugin{
			Name: name, IPAM: true, NewConfig: func() any { return &delegateConfig{} }, Del: note, Check: note, Repair: note,
			Add: func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
				result := &cni.Result{}
				result.DNS.Domain = "of-" + name
				return result, note(ctx, r)
			},
		}
	}
	return set
}

type delegateConfig struct {
	Colour string `json:"colour"`
	MAC    string `json:"-" cni:"mac,MAC"`
}

func (m *meta) invoke(dir, command, container, extra string) error {
	m.calls = nil
	e := env(command)
	e["CNI_CONTAINERID"] = container
	stdin := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"n","type":"meta","dir":%q%s}`, dir, extra)
	_, err := m.set().Invoke(m.Context(), "meta", e, []byte(stdin))
	return err
}

func (m *meta) expect(err error, calls ...string) {
	m.Helper()
	if err != nil || !slices.Equal(m.calls, calls) {
		m.Errorf("%v, calls\n%s, want\n%s", err, strings.Join(m.calls, "\n"), strings.Join(calls, "\n"))
	}
}

// TestDelegateWith: delegates get their own configuration and what belongs to the call,
// and their other verbs follow from what is on record.
func TestDelegateWith(t *testing.T) {
	m := &meta{T: t, config: json.RawMessage(`{"type":"two","colour":"blue","runtimeConfig":{"mac":"own"}}`)}
	dir := t.TempDir() + "/state"
	const given, prev = `,"runtimeConfig":{"mac":"given"}`, `,"prevResult":{"cniVersion":"1.1.0","dns":{"domain":"final"}}`
	m.expect(m.invoke(dir, "ADD", "a", given),
		"one ADD a mine 1.1.0 red mac=given prev=", "two ADD a n 1.1.0 blue mac=own prev=")
	m.expect(m.invoke(dir, "CHECK", "a", given+prev),
		"two CHECK a n 1.1.0 blue mac=own prev=final", "one CHECK a mine 1.1.0 red mac=given prev=final")
	m.expect(m.invoke(dir, "DEL", "a", ""), // the runtime forgot
		"two DEL a n 1.1.0 blue mac=own prev=of-two", "one DEL a mine 1.1.0 red mac=given prev=of-two")
	m.expect(m.invoke(dir, "DEL", "a", ""))

	m.expect(m.invoke(dir, "ADD", "b", ""), "one ADD b mine 1.1.0 red mac= prev=", "two ADD b n 1.1.0 blue mac=own prev=")
	m.expect(m.invoke(dir, "GC", "", `,"cni.dev/valid-attachments":[]`),
		"two DEL b n 1.1.0 blue mac=own prev=of-two", "one DEL b mine 1.1.0 red mac= prev=of-two")

	m.fail = errors.New("in the end")
	if err := m.invoke(dir, "ADD", "c", ""); cni.CodeOf(err) != cni.CodeInternal {
		t.Error(err)
	}
	m.expect(nil, "one ADD c mine 1.1.0 red mac= prev=", "two ADD c n 1.1.0 blue mac=own prev=",
		"two DEL c n 1.1.0 blue mac=own prev=", "one DEL c mine 1.1.0 red mac= prev=")
	m.expect(m.invoke(dir, "DEL", "c", ""))
}

// TestDelegateWithABadConfiguration: nothing runs, and what ran is undone.
func TestDelegateWithABadConfiguration(t *testing.T) {
	for want, config := range map[string]any{
		`has no "type"`:        struct{}{},
		`type is number, and`:  map[string]any{"type": 7},
		`is null`:              nil,
		`type is array, and`:   []string{},
		`unsupported type`:     func() {},
		`"a/b" is no plugin`:   map[string]string{"type": "a/b"},
		`cannot be its own`:    map[string]string{"type": "meta"},
		`is in none of the di`: map[string]string{"type": "absent"},
	} {
		m := &meta{T: t, config: config}
		err := m.invoke(t.TempDir()+"/state", "ADD", "a", "")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %s", config, err, want)
		}
		m.expect(nil, "one ADD a mine 1.1.0 red mac= prev=", "one DEL a mine 1.1.0 red mac= prev=")
	}
}

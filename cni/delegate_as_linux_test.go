package cni_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/state"
)

// several is a plugin that gives a container interfaces with the delegate "leaf", at once, and
// what that was called with.
type several struct {
	*testing.T
	dir string

	mu    sync.Mutex
	calls []string
}

func (s *several) set(names ...string) cni.Set {
	note := func(_ context.Context, r *cni.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		prev := "none"
		if r.PrevResult != nil {
			prev = r.PrevResult.DNS.Domain
		}
		s.calls = append(s.calls, fmt.Sprintf("%s %s/%s prev=%s valid=%v", r.Command, r.ContainerID, r.IfName, prev, r.Valid))
		return nil
	}
	config := map[string]any{"type": "leaf", "name": "other"}
	outer := cni.New("outer", cni.Handlers[metaConfig]{
		State: func(c *metaConfig) string { return c.Dir },
		Add: func(ctx context.Context, r *cni.Request, _ *metaConfig) (*cni.Result, error) {
			errs := make([]error, len(names))
			var all sync.WaitGroup
			for i, name := range names {
				all.Go(func() { _, errs[i] = r.DelegateWith(config).As(name).Add(ctx) })
			}
			all.Wait()
			return &cni.Result{}, errors.Join(errs...)
		},
		GC: func(ctx context.Context, r *cni.Request, _ *metaConfig) error {
			return r.DelegateWith(config).GC(ctx)
		},
	})
	outer.IPAM = true // which needs no namespace
	return cni.Set{"outer": outer, "leaf": {
		Name: "leaf", IPAM: true, Del: note, Check: note, GC: note,
		Add: func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
			result := &cni.Result{}
			result.DNS.Domain = "of-" + r.IfName
			return result, note(ctx, r)
		},
	}}
}

func (s *several) invoke(set cni.Set, command, container, extra string) error {
	s.calls = nil
	e := env(command)
	e["CNI_CONTAINERID"] = container
	stdin := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"n","type":"outer","dir":%q%s}`, s.dir, extra)
	_, err := set.Invoke(s.Context(), "outer", e, []byte(stdin))
	return err
}

func (s *several) expect(err error, calls ...string) {
	s.Helper()
	slices.Sort(s.calls)
	if err != nil || !slices.Equal(s.calls, calls) {
		s.Errorf("%v, calls\n%s, want\n%s", err, strings.Join(s.calls, "\n"), strings.Join(calls, "\n"))
	}
}

// TestDelegateAs: each delegate is an attachment of its own, with the result of its own.
func TestDelegateAs(t *testing.T) {
	s := &several{T: t, dir: t.TempDir() + "/state"}
	set := s.set("net1", "net2")
	const prev = `,"prevResult":{"cniVersion":"1.1.0","dns":{"domain":"of-the-chain"}}`
	s.expect(s.invoke(set, "ADD", "a", prev), "ADD a/net1 prev=none valid=[]", "ADD a/net2 prev=none valid=[]")
	s.expect(s.invoke(set, "CHECK", "a", prev), "CHECK a/net1 prev=of-net1 valid=[]", "CHECK a/net2 prev=of-net2 valid=[]")
	s.expect(s.invoke(set, "ADD", "b", ""), "ADD b/net1 prev=none valid=[]", "ADD b/net2 prev=none valid=[]")

	// GC removes b's, and the delegate's own GC keeps what a has under other names.
	s.invokeGC(set)
	want := []string{"DEL b/net1 prev=of-net1 valid=[]", "DEL b/net2 prev=of-net2 valid=[]"}
	kept := slices.IndexFunc(s.calls, func(c string) bool { return strings.HasPrefix(c, "GC") })
	if kept < 0 || !strings.Contains(s.calls[kept], "a/eth0") || !strings.Contains(s.calls[kept], "a/net1") || !strings.Contains(s.calls[kept], "a/net2") {
		t.Errorf("GC is not told of all that stays: %q", s.calls)
	} else {
		s.calls = slices.Delete(s.calls, kept, kept+1)
	}
	s.expect(nil, want...)

	s.expect(s.invoke(set, "DEL", "a", prev), "DEL a/net1 prev=of-net1 valid=[]", "DEL a/net2 prev=of-net2 valid=[]")
	s.expect(s.invoke(set, "DEL", "a", prev))
}

func (s *several) invokeGC(set cni.Set) {
	s.Helper()
	if err := s.invoke(set, "GC", "", `,"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]`); err != nil {
		s.Error(err)
	}
}

// TestManyDelegatesAtOnce: none of them is missing on record.
func TestManyDelegatesAtOnce(t *testing.T) {
	s := &several{T: t, dir: t.TempDir()}
	var names, want []string
	for i := range 40 {
		names = append(names, fmt.Sprintf("net%02d", i))
		want = append(want, fmt.Sprintf("DEL a/net%02d prev=of-net%02d valid=[]", i, i))
	}
	set := s.set(names...)
	if err := s.invoke(set, "ADD", "a", ""); err != nil {
		t.Fatal(err)
	}
	s.expect(s.invoke(set, "DEL", "a", ""), want...)
}

// TestDelegateAsAfterACrash: what was begun gets its DEL, of the names on record.
func TestDelegateAsAfterACrash(t *testing.T) {
	s := &several{T: t, dir: t.TempDir()}
	leaf := json.RawMessage(`{"type":"leaf","name":"other"}`)
	record := &state.Record{Network: "n", ContainerID: "a", IfName: "eth0", Plugin: "outer", Delegates: []state.Delegate{
		{Config: leaf, IfName: "net1", Result: json.RawMessage(`{"cniVersion":"1.1.0","dns":{"domain":"of-net1"}}`)},
		{Config: leaf, IfName: "net2"},
	}}
	if err := state.Open(s.dir).Put(record); err != nil {
		t.Fatal(err)
	}
	s.expect(s.invoke(s.set(), "DEL", "a", ""), "DEL a/net1 prev=of-net1 valid=[]", "DEL a/net2 prev=none valid=[]")
}

// TestDelegateGCOfADamagedRecord: nobody knows which names it has, so the delegate is not called.
func TestDelegateGCOfADamagedRecord(t *testing.T) {
	s := &several{T: t, dir: t.TempDir()}
	set := s.set("net1")
	if err := s.invoke(set, "ADD", "a", ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "n", "a@eth0.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := s.invoke(set, "GC", "", `,"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]`)
	if err == nil || !strings.Contains(err.Error(), `attachment "a/eth0" is not known`) || len(s.calls) != 0 {
		t.Errorf("%v, calls %q", err, s.calls)
	}
}

// TestDelegateAsNoInterface: nothing runs.
func TestDelegateAsNoInterface(t *testing.T) {
	for want, name := range map[string]string{"CNI_IFNAME is missing": "", "a/b": "a/b"} {
		s := &several{T: t, dir: t.TempDir()}
		if err := s.invoke(s.set(name), "ADD", "a", ""); cni.CodeOf(err) != cni.CodeConfig || !strings.Contains(err.Error(), want) || len(s.calls) != 0 {
			t.Errorf("%q: %v, calls %q", name, err, s.calls)
		}
	}
}

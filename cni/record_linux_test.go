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
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/state"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/netns"
	"github.com/nodekit-project/nodekit/internal/netnstest"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

type statefulConfig struct {
	Dir  string   `json:"dir"`
	IPAM cni.IPAM `json:"ipam"`
	MAC  string   `json:"-" cni:"mac,MAC"`
}

// stateful is a plugin with records, and what became of its calls.
type stateful struct {
	*testing.T
	dir   string
	fail  error
	save  string
	calls []string
}

func (s *stateful) plugin() *cni.Plugin {
	note := func(_ context.Context, r *cni.Request, c *statefulConfig) error {
		var loaded string
		if _, err := r.Load(&loaded); err != nil {
			s.Error(err)
		}
		prev := ""
		if r.PrevResult != nil {
			prev = r.PrevResult.DNS.Domain
		}
		s.calls = append(s.calls, fmt.Sprintf("%s %s data=%q mac=%q prev=%q", r.Command, r.Attachment, loaded, c.MAC, prev))
		return s.fail
	}
	p := cni.New("p", cni.Handlers[statefulConfig]{
		State: func(c *statefulConfig) string { return c.Dir },
		Add: func(ctx context.Context, r *cni.Request, c *statefulConfig) (*cni.Result, error) {
			if s.save != "" {
				if err := r.Save(s.save); err != nil {
					s.Error(err)
				}
			}
			result := &cni.Result{}
			result.DNS.Domain = "of-" + r.ContainerID
			return result, note(ctx, r, c)
		},
		Del: note, GC: note,
	})
	p.IPAM = true // which needs no namespace
	return p
}

func (s *stateful) invoke(command, container, extra string) error {
	e := env(command)
	e["CNI_CONTAINERID"] = container
	s.calls = nil
	_, err := cni.Invoke(s.Context(), s.plugin(), e, []byte(request(fmt.Sprintf(`,"dir":%q%s`, s.dir, extra))))
	return err
}

func (s *stateful) expect(err error, calls ...string) {
	s.Helper()
	if err != nil || !slices.Equal(s.calls, calls) {
		s.Errorf("%v, calls %q, want %q", err, s.calls, calls)
	}
}

func (s *stateful) file(container string) string {
	return filepath.Join(s.dir, "n", container+"@eth0.json")
}

func newStateful(t *testing.T) *stateful {
	return &stateful{T: t, dir: filepath.Join(t.TempDir(), "state")}
}

// TestRecordCompletesDel: the runtime forgets the result and the arguments.
func TestRecordCompletesDel(t *testing.T) {
	s := newStateful(t)
	s.save = "inner"
	err := s.invoke(cni.CmdAdd, "a", `,"runtimeConfig":{"mac":"m"}`)
	s.expect(err, `ADD a/eth0 data="inner" mac="m" prev=""`)
	if err := s.invoke(cni.CmdAdd, "a", ""); cni.CodeOf(err) != cni.CodeExists || len(s.calls) != 0 {
		t.Errorf("second ADD: %v, %q", err, s.calls)
	}
	s.expect(s.invoke(cni.CmdDel, "a", ""), `DEL a/eth0 data="inner" mac="m" prev="of-a"`)
	s.expect(s.invoke(cni.CmdDel, "a", ""), `DEL a/eth0 data="" mac="" prev=""`)
	if _, err := os.Stat(s.file("a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record is still there: %v", err)
	}
}

// TestRecordCompletesDelegates: what the runtime forgot reaches the handler and its
// delegate by CNI_ARGS and stdin.
func TestRecordCompletesDelegates(t *testing.T) {
	var got []string
	note := func(_ context.Context, r *cni.Request) error {
		domain := ""
		if r.PrevResult != nil {
			domain = r.PrevResult.DNS.Domain
		}
		got = append(got, fmt.Sprintf("%s prev=%q args=%v", r.Command, domain, r.Args))
		return nil
	}
	dir := t.TempDir()
	p := cni.New("p", cni.Handlers[statefulConfig]{
		State: func(*statefulConfig) string { return dir },
		Add: func(context.Context, *cni.Request, *statefulConfig) (*cni.Result, error) {
			result := &cni.Result{}
			result.DNS.Domain = "d"
			return result, nil
		},
		Del: func(ctx context.Context, r *cni.Request, c *statefulConfig) error {
			got = append(got, "mac="+c.MAC)
			return errors.Join(note(ctx, r), r.Delegate("ipam").Del(ctx))
		},
	})
	p.IPAM = true // which needs no namespace, and so calls its delegate itself
	set := cni.Set{"p": p, "ipam": &cni.Plugin{Name: "ipam", IPAM: true, Del: note}}
	for _, c := range []struct{ given, mac, want string }{
		{"", "m", "map[MAC:m]"},
		{"X=1", "", "map[X:1]"}, // not forgotten
	} {
		for _, call := range [][2]string{{cni.CmdAdd, "MAC=m"}, {cni.CmdDel, c.given}} {
			e := env(call[0])
			e["CNI_ARGS"], got = call[1], nil
			if _, err := set.Invoke(t.Context(), "p", e, []byte(request(""))); err != nil {
				t.Fatal(err)
			}
		}
		inner := `DEL prev="d" args=` + c.want
		if want := []string{"mac=" + c.mac, inner, inner}; !slices.Equal(got, want) {
			t.Errorf("DEL with CNI_ARGS %q: %q, want %q", c.given, got, want)
		}
	}
}

func TestRecordOfFailedCalls(t *testing.T) {
	s := newStateful(t)
	s.fail = errors.New("no")
	if err := s.invoke(cni.CmdAdd, "a", ""); err == nil {
		t.Error("ADD succeeded")
	}
	if _, err := os.Stat(s.file("a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an ADD that was undone left a record: %v", err)
	}
	s.fail = nil
	if err := s.invoke(cni.CmdAdd, "a", ""); err != nil {
		t.Fatal(err)
	}
	s.fail = errors.New("no")
	if err := s.invoke(cni.CmdDel, "a", ""); err == nil {
		t.Error("DEL succeeded")
	}
	if _, err := os.Stat(s.file("a")); err != nil {
		t.Errorf("a DEL that failed took the record: %v", err)
	}
}

func TestGCFromRecords(t *testing.T) {
	s := newStateful(t)
	for _, id := range []string{"a", "b", "c"} {
		if err := s.invoke(cni.CmdAdd, id, ""); err != nil {
			t.Fatal(err)
		}
	}
	damage(t, s.file("c"))
	other := state.Open(s.dir)
	for _, r := range []*state.Record{
		{Network: "n", ContainerID: "theirs", IfName: "eth0", Plugin: "q"},
		{Network: "other", ContainerID: "x", IfName: "eth0", Plugin: "p"},
	} {
		if err := other.Put(r); err != nil {
			t.Fatal(err)
		}
	}
	err := s.invoke(cni.CmdGC, "", `,"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]`)
	s.expect(err, `DEL b/eth0 data="" mac="" prev="of-b"`, `DEL c/eth0 data="" mac="" prev=""`, `GC / data="" mac="" prev=""`)
	left, err := other.List("n")
	if err != nil || len(left) != 2 || left[0].ContainerID != "a" || left[1].ContainerID != "theirs" {
		t.Errorf("left %v, %v", left, err)
	}
	if _, err := other.Get("other", "x", "eth0"); err != nil {
		t.Errorf("GC of network n reached into network other: %v", err)
	}
}

// TestGCOfUnreadRecords: GC says what it could not read and no DEL has removed.
func TestGCOfUnreadRecords(t *testing.T) {
	s := newStateful(t)
	if err := s.invoke(cni.CmdAdd, "a", ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.file("unreadable"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := s.invoke(cni.CmdGC, "", `,"cni.dev/valid-attachments":[]`)
	if err == nil || !strings.Contains(err.Error(), "unreadable") {
		t.Errorf("GC: %v", err)
	}
	s.expect(nil, `DEL a/eth0 data="" mac="" prev="of-a"`, `GC / data="" mac="" prev=""`) // which it has gone past
}

// TestRecordAfterReboot: what is recorded of an earlier boot gets its DEL before
// the new ADD.
func TestRecordAfterReboot(t *testing.T) {
	s := newStateful(t)
	if err := s.invoke(cni.CmdAdd, "a", ""); err != nil {
		t.Fatal(err)
	}
	r, err := state.Open(s.dir).Get("n", "a", "eth0")
	if err != nil {
		t.Fatal(err)
	}
	r.Boot = "an earlier one"
	if err := state.Open(s.dir).Put(r); err != nil {
		t.Fatal(err)
	}
	s.expect(s.invoke(cni.CmdAdd, "a", ""), `DEL a/eth0 data="" mac="" prev="of-a"`, `ADD a/eth0 data="" mac="" prev=""`)
}

func TestDamagedRecord(t *testing.T) {
	s := newStateful(t)
	if err := s.invoke(cni.CmdAdd, "a", ""); err != nil {
		t.Fatal(err)
	}
	damage(t, s.file("a"))
	for _, verb := range []string{cni.CmdAdd, cni.CmdCheck} {
		err := s.invoke(verb, "a", `,"prevResult":{"cniVersion":"1.1.0"}`)
		if cni.CodeOf(err) != cni.CodeIO || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), "DEL") {
			t.Errorf("%s over a damaged record: %v", verb, err)
		}
	}
	s.expect(s.invoke(cni.CmdDel, "a", ""), `DEL a/eth0 data="" mac="" prev=""`)
	if _, err := os.Stat(s.file("a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("DEL left the damaged record: %v", err)
	}
}

func TestRecordOfAnotherPlugin(t *testing.T) {
	s := newStateful(t)
	if err := state.Open(s.dir).Put(&state.Record{Network: "n", ContainerID: "a", IfName: "eth0", Plugin: "q"}); err != nil {
		t.Fatal(err)
	}
	if err := s.invoke(cni.CmdAdd, "a", ""); !strings.Contains(fmt.Sprint(err), `plugin "q"`) {
		t.Errorf("a directory that two plugins share: %v", err)
	}
}

func TestStatusOfReadOnlyState(t *testing.T) {
	s := newStateful(t)
	s.expect(s.invoke(cni.CmdStatus, "", ""))
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("STATUS made the directory: %v", err)
	}
	s.dir = "/proc/1/nothing"
	if err := s.invoke(cni.CmdStatus, "", ""); cni.CodeOf(err) != cni.CodeUnavailable {
		t.Errorf("STATUS with a directory that cannot be made: %v", err)
	}
}

// TestDelegatesAreCalled: the verbs that handlers do not delegate.
func TestDelegatesAreCalled(t *testing.T) {
	testenv.Require(t, testenv.Root)
	ns := netnstest.New(t)
	inside := func(command string) map[string]string {
		e := env(command)
		e["CNI_NETNS"] = ns
		return e
	}
	var calls []string
	note := func(_ context.Context, r *cni.Request) error { calls = append(calls, r.Command); return nil }
	ipam := &cni.Plugin{Name: "ipam", IPAM: true, Del: note, Check: note, GC: note, Status: note}
	ipam.Repair = func(_ context.Context, r *cni.Request) error {
		calls = append(calls, "repair by "+r.Command)
		return nil
	}
	fail := func(context.Context, *cni.Request, *config) error { return errors.New("no") }
	for name, c := range map[string]struct {
		handlers cni.Handlers[config]
		want     string
	}{
		"nil":  {cni.Handlers[config]{}, "DEL CHECK GC STATUS repair by CHECK"},
		"fail": {cni.Handlers[config]{Del: fail, Check: fail, GC: fail, Status: fail, Repair: fail}, "DEL GC"},
	} {
		calls = nil
		set := cni.Set{"p": cni.New("p", c.handlers), "ipam": ipam}
		stdin := []byte(request(`,"ipam":{"type":"ipam"},"cni.dev/valid-attachments":[],"prevResult":{"cniVersion":"1.1.0"}`))
		for _, verb := range []string{"DEL", "CHECK", "GC", "STATUS"} {
			if _, err := set.Invoke(t.Context(), "p", inside(verb), stdin); (err != nil) != (name == "fail") {
				t.Errorf("%s: %v", verb, err)
			}
		}
		_ = set.Repair(t.Context(), "p", inside("CHECK"), stdin)
		if got := strings.Join(calls, " "); got != c.want {
			t.Errorf("%s: delegated %q, want %q", name, got, c.want)
		}
	}
	if out, err := (cni.Set{"p": ipam}).Invoke(t.Context(), "p", env("(repair)"), []byte(request(""))); cni.CodeOf(err) != cni.CodeEnvironment {
		t.Errorf("Repair is on the wire: %s, %v", out, err)
	}
}

func damage(t *testing.T, file string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(`{"version":1,"netw`), 0o600); err != nil {
		t.Fatal(err)
	}
}

// FuzzState: no content of a state file panics, loses the name of its owner or
// survives its DEL.
func FuzzState(f *testing.F) {
	whole, err := json.Marshal(&state.Record{Version: 1, Network: "n", ContainerID: "a", IfName: "eth0", Plugin: "p", Config: []byte(`{"dir":7}`), Result: []byte(`{"ips":[null]}`)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(""))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		s := newStateful(t)
		if err := os.MkdirAll(filepath.Dir(s.file("a")), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.file("a"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		records, lerr := state.Open(s.dir).List("n")
		_, err := state.Open(s.dir).Get("n", "a", "eth0")
		if errors.Is(err, fault.FailedPrecondition) {
			return // a newer program's, which must stay
		}
		if len(records) != 1 || (lerr == nil) != (err == nil) {
			t.Errorf("%d records, %v and %v", len(records), lerr, err)
		}
		derr := s.invoke(cni.CmdDel, "a", "")
		if _, err := os.Stat(s.file("a")); err == nil && derr == nil {
			t.Errorf("DEL left the record: %v", err)
		}
	})
}

// TestForeignNamespace changes what is recorded of the ADD's namespace, and then
// lets the kernel give the very numbers of it to another.
func TestForeignNamespace(t *testing.T) {
	testenv.Require(t, testenv.Root)
	ns := filepath.Join(t.TempDir(), "ns")
	if err := netns.Create(ns); err != nil {
		t.Fatal(err)
	}
	defer netns.Remove(ns)
	dir := t.TempDir()
	given := map[string]string{} // by plugin
	container, inside := "c", false
	ipam := &cni.Plugin{Name: "ipam", IPAM: true, Del: func(_ context.Context, r *cni.Request) error {
		given["ipam"] = r.NetNS
		return nil
	}}
	p := cni.New("p", cni.Handlers[statefulConfig]{
		State: func(*statefulConfig) string { return dir },
		Add: func(context.Context, *cni.Request, *statefulConfig) (*cni.Result, error) {
			return &cni.Result{}, nil
		},
		Del: func(_ context.Context, r *cni.Request, _ *statefulConfig) error {
			given["p"] = r.NetNS
			return r.InNetNS(func() error { inside = true; return nil })
		},
	})
	set := cni.Set{"p": p, "ipam": ipam}
	call := func(command string) *state.Record {
		t.Helper()
		e := env(command)
		e["CNI_NETNS"], e["CNI_CONTAINERID"], inside = ns, container, false
		if _, err := set.Invoke(t.Context(), "p", e, []byte(request(`,"ipam":{"type":"ipam"},"cni.dev/valid-attachments":[]`))); err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		r, err := state.Open(dir).Get("n", container, "eth0")
		if err != nil && !errors.Is(err, fault.NotFound) {
			t.Fatal(err)
		}
		return r
	}
	expect := func(what string, in bool) {
		t.Helper()
		want := map[bool]string{true: ns}[in]
		if inside != in || given["p"] != want || given["ipam"] != want {
			t.Errorf("%s: entered %v, want %v; CNI_NETNS was %q", what, inside, in, given)
		}
	}
	for what, c := range map[string]struct {
		change func(*state.Record)
		in     bool
	}{
		"the same":                     {func(*state.Record) {}, true},
		"a record of an older program": {func(r *state.Record) { r.NetNSCookie = 0 }, true},
		"nothing known of it":          {func(r *state.Record) { r.NetNSCookie, r.NetNSID = 0, "" }, true},
		"another file":                 {func(r *state.Record) { r.NetNSCookie, r.NetNSID = 0, "1:2" }, false},
		"another cookie":               {func(r *state.Record) { r.NetNSCookie++ }, false},
		"another boot":                 {func(r *state.Record) { r.Boot = "earlier" }, false},
	} {
		for _, command := range []string{cni.CmdDel, cni.CmdGC} {
			r := call(cni.CmdAdd)
			c.change(r)
			if err := state.Open(dir).Put(r); err != nil {
				t.Fatal(err)
			}
			call(command)
			expect(command+" with "+what, c.in)
		}
	}
	owners := map[netns.ID]string{}
	// A number is free when the kernel has taken its namespace down, in its own time.
	for i, deadline := 0, time.Now().Add(30*time.Second); time.Now().Before(deadline); i++ {
		if err := errors.Join(netns.Remove(ns), netns.Create(ns)); err != nil {
			t.Fatal(err)
		}
		id := fileID(t, ns)
		if owner := owners[id]; owner != "" {
			container = owner
			call(cni.CmdDel)
			expect("DEL after the kernel gave the numbers again", false)
			return
		}
		container = fmt.Sprint("c", i)
		owners[id] = container
		call(cni.CmdAdd)
	}
	t.Error("the kernel never gave numbers again")
}

func fileID(t *testing.T, path string) netns.ID {
	t.Helper()
	h, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	id, err := h.ID()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

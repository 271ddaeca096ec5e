package cniruntimesuite_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/conformance/cniruntimesuite"
	"github.com/nodekit-project/nodekit/internal/netns"
)

type container = cniruntimesuite.Container

// fake is a runtime that does everything right but for one fault. What it keeps
// in memory under disk stands for files: it outlives a restart.
type fake struct {
	fault string
	own   bool // makes the namespaces
	dirs  cniruntimesuite.Dirs

	gc    sync.RWMutex
	mu    sync.Mutex
	locks map[string]*sync.Mutex
	disk  map[string]*attachment
	ever  map[string]bool // what was on disk at some time
	alive context.Context
	kill  context.CancelFunc
}

type attachment struct {
	container
	list   *conflist
	result json.RawMessage
}

type conflist struct {
	Version  string   `json:"cniVersion"`
	Versions []string `json:"cniVersions"`
	Name     string
	NoCheck  bool                         `json:"disableCheck"`
	NoGC     bool                         `json:"disableGC"`
	Inlined  bool                         `json:"loadOnlyInlinedPlugins"`
	Plugins  []map[string]json.RawMessage `json:"plugins"`
}

// faulty returns the fake as a target; "" is no fault.
func faulty(fault string, own bool) cniruntimesuite.Target {
	return cniruntimesuite.Target{OwnNetNS: own, Ports: true, Open: func(_ context.Context, d cniruntimesuite.Dirs) (*cniruntimesuite.Runtime, error) {
		f := &fake{fault: fault, own: own, dirs: d, locks: map[string]*sync.Mutex{}, disk: map[string]*attachment{}, ever: map[string]bool{}}
		f.alive, f.kill = context.WithCancel(context.Background())
		return &cniruntimesuite.Runtime{Add: f.add, Del: f.del, Check: f.check, GC: f.collect, Status: f.status, Restart: f.restart, Close: f.close}, nil
	}}
}

func (f *fake) has(fault string) bool { return f.fault == fault }

func (f *fake) lock(c container) func() {
	if f.has("parallel") {
		return func() {}
	}
	f.mu.Lock()
	l := f.locks[c.ID]
	if l == nil {
		l = &sync.Mutex{}
		f.locks[c.ID] = l
	}
	f.mu.Unlock()
	l.Lock()
	if f.has("gc-beside") {
		return l.Unlock
	}
	f.gc.RLock()
	return func() { f.gc.RUnlock(); l.Unlock() }
}

func (f *fake) load() (*conflist, error) {
	content, err := os.ReadFile(filepath.Join(f.dirs.Conf, "10-suite.conflist"))
	if err != nil {
		return nil, err
	}
	l := &conflist{}
	if err := json.Unmarshal(content, l); err != nil {
		return nil, err
	}
	if f.has("version") {
		return l, nil
	}
	for _, v := range l.Versions {
		if cni.AtLeast(v, l.Version) && cni.AtLeast("1.1.0", v) {
			l.Version = v
		}
	}
	files, err := filepath.Glob(filepath.Join(f.dirs.Conf, l.Name, "*.conf"))
	if err != nil || l.Inlined && !f.has("not-inlined") || f.has("no-aggregation") {
		return l, err
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var p map[string]json.RawMessage
		if err := json.Unmarshal(content, &p); err != nil {
			return nil, err
		}
		l.Plugins = append(l.Plugins, p)
	}
	return l, nil
}

func kindOf(p map[string]json.RawMessage) string { return strings.Trim(string(p["type"]), `"`) }

// request derives a configuration.
func (f *fake) request(a *attachment, p map[string]json.RawMessage, prev json.RawMessage, verb string) []byte {
	out := maps.Clone(p)
	if !f.has("capabilities") {
		delete(out, "capabilities")
	}
	out["cniVersion"], out["name"] = quote(a.list.Version), quote(a.list.Name)
	if f.has("name") && verb == cni.CmdDel {
		delete(out, "name")
	}
	if f.has("numbers") {
		for key, value := range out {
			var v any
			if json.Unmarshal(value, &v) == nil {
				out[key], _ = json.Marshal(v)
			}
		}
	}
	var declared map[string]bool
	_ = json.Unmarshal(p["capabilities"], &declared)
	if (declared["portMappings"] || f.has("all-capabilities")) && len(a.Ports) > 0 && !f.has("no-capabilities") {
		out["runtimeConfig"] = json.RawMessage(a.CapabilityArgs())
	}
	if f.has("odd") && out["runtimeConfig"] == nil {
		out["runtimeConfig"] = json.RawMessage("{}")
	}
	if len(prev) > 0 {
		out["prevResult"] = prev
	}
	raw, err := json.Marshal(out)
	if err != nil {
		panic(err)
	}
	return raw
}

func quote(s string) json.RawMessage {
	raw, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return raw
}

func (f *fake) exec(ctx context.Context, a *attachment, p map[string]json.RawMessage, verb string, stdin []byte) ([]byte, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	f.mu.Lock()
	defer context.AfterFunc(f.alive, stop)()
	f.mu.Unlock()
	file, err := cni.Find(kindOf(p), []string{f.dirs.Bin})
	if err != nil {
		if f.has("skips-missing") {
			return a.result, nil
		}
		return nil, err
	}
	env := map[string]string{"CNI_COMMAND": verb, "CNI_PATH": f.dirs.Bin, "PATH": "/usr/bin:/bin"}
	if f.has("gc-of-one") && verb == cni.CmdGC {
		env["CNI_CONTAINERID"], env["CNI_IFNAME"] = "suite-1", "eth0"
	}
	if verb != cni.CmdGC && verb != cni.CmdStatus {
		env["CNI_CONTAINERID"], env["CNI_IFNAME"], env["CNI_NETNS"] = a.ID, a.IfName, a.NetNS
		env["CNI_ARGS"] = "A=" + a.ID
	}
	switch {
	case f.has("odd"): // pairs have no order, and other variables are nobody's business
		pairs := []string{"A=" + a.ID, "Z=1"}
		if verb == cni.CmdDel {
			slices.Reverse(pairs)
		}
		env["CNI_ARGS"], env["OTHER"] = strings.Join(pairs, ";"), "1"
	case f.has("no-path"), verb == cni.CmdGC && f.has("gc-no-path"):
		delete(env, "CNI_PATH")
	case f.has("args-" + verb):
		env["CNI_ARGS"] = "B=c"
	}
	run := func() error {
		var err error
		stdin, err = cni.Exec(ctx, file, env, stdin, nil)
		return err
	}
	if f.has("inside") {
		err = netns.Do(a.NetNS, run)
	} else {
		err = run()
	}
	return stdin, err
}

func (f *fake) add(ctx context.Context, c container) error {
	defer f.lock(c)()
	l, err := f.load()
	if err != nil {
		return err
	}
	a := &attachment{container: c, list: l}
	if err := f.makeNetNS(a); err != nil {
		return err
	}
	key := c.ID + "/" + c.IfName
	if !f.has("forgets-begun") {
		f.put(key, a)
	}
	f.mu.Lock()
	life := f.alive // of the process that adds
	f.mu.Unlock()
	result, err := f.addChain(ctx, a)
	if err != nil {
		if f.has("second-add") || f.has("no-del") {
			f.put(key, nil)
			return err
		}
		if life.Err() == nil {
			return errors.Join(err, f.delChain(context.WithoutCancel(ctx), key, a))
		}
		return err
	}
	a.result = result
	f.put(key, a)
	return nil
}

func (f *fake) addChain(ctx context.Context, a *attachment) (json.RawMessage, error) {
	plugins := a.list.Plugins
	if f.has("add-order") {
		plugins = slices.Clone(plugins)
		slices.Reverse(plugins[1:])
	}
	var prev json.RawMessage
	if f.has("first-result") {
		prev = json.RawMessage(`{"cniVersion":"` + a.list.Version + `"}`)
	}
	var first json.RawMessage
	for i, p := range plugins {
		if f.has("result-of-first") && i > 1 {
			prev = first
		}
		out, err := f.exec(ctx, a, p, cni.CmdAdd, f.request(a, p, prev, cni.CmdAdd))
		if err != nil && !f.has("ignores-errors") {
			return nil, err
		}
		if err == nil {
			prev = out
		}
		if i == 0 {
			first = prev
		}
	}
	return prev, nil
}

func (f *fake) delChain(ctx context.Context, key string, a *attachment) error {
	plugins := slices.Clone(a.list.Plugins)
	if f.has("new-config") {
		l, err := f.load()
		if err != nil {
			return err
		}
		plugins = l.Plugins
	}
	if !f.has("del-order") {
		slices.Reverse(plugins)
	}
	result := a.result
	if f.has("del-result") {
		result = nil
	}
	for _, p := range plugins {
		_, err := f.exec(ctx, a, p, cni.CmdDel, f.request(a, p, result, cni.CmdDel))
		var e *cni.Error
		if errors.As(err, &e) && e.Code == cni.CodeUnknownContainer && !f.has("code-3") || f.has("ignores-del-errors") {
			continue
		}
		if err != nil {
			return err
		}
	}
	if f.has("odd") && a.result != nil { // once more, with all forgotten
		return f.delChain(ctx, key, &attachment{container: container{ID: a.ID, IfName: a.IfName}, list: a.list})
	}
	f.put(key, nil)
	if f.own && !f.has("keeps-netns") {
		return netns.Remove(a.NetNS)
	}
	return nil
}

func (f *fake) del(ctx context.Context, c container) error {
	defer f.lock(c)()
	key := c.ID + "/" + c.IfName
	a := f.get(key)
	if a == nil {
		return nil
	}
	return f.delChain(ctx, key, a)
}

func (f *fake) check(ctx context.Context, c container) error {
	defer f.lock(c)()
	a := f.get(c.ID + "/" + c.IfName)
	before := !f.had(c.ID + "/" + c.IfName)
	if a == nil && (before && f.has("check-before-add") || !before && f.has("check-after-del")) {
		l, err := f.load()
		if err != nil {
			return err
		}
		a = &attachment{container: c, list: l}
	}
	if a == nil {
		return errors.New("no such container")
	}
	if a.list.NoCheck && !f.has("check-disabled") {
		return nil
	}
	result, plugins := a.result, slices.Clone(a.list.Plugins)
	if f.has("check-result") {
		result = nil
	}
	if f.has("check-order") {
		slices.Reverse(plugins)
	}
	var errs []error
	for _, p := range plugins {
		_, err := f.exec(ctx, a, p, cni.CmdCheck, f.request(a, p, result, cni.CmdCheck))
		if err != nil && !f.has("check-goes-on") {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (f *fake) collect(ctx context.Context, valid []container) error {
	if !f.has("gc-beside") {
		f.gc.Lock()
		defer f.gc.Unlock()
	}
	keep := map[string]bool{}
	list := []cni.Attachment{}
	for _, c := range valid {
		keep[c.ID+"/"+c.IfName] = true
		list = append(list, cni.Attachment{ContainerID: c.ID, IfName: c.IfName})
	}
	f.mu.Lock()
	held := maps.Clone(f.disk)
	f.mu.Unlock()
	for key := range held {
		if a := f.get(key); a != nil && !keep[key] && !f.has("gc-for-del") {
			if err := f.delChain(ctx, key, a); err != nil {
				return err
			}
		}
	}
	l, err := f.load()
	if err != nil || l.NoGC && !f.has("gc-disabled") {
		return err
	}
	switch {
	case f.has("gc-list"):
		list = list[:min(1, len(list))]
	case f.has("gc-of-old"):
		for key := range f.ever {
			id, ifName, _ := strings.Cut(key, "/")
			list = append(list, cni.Attachment{ContainerID: id, IfName: ifName})
		}
	}
	if f.has("gc-order") {
		slices.Reverse(l.Plugins)
	}
	var errs []error
	for _, p := range l.Plugins {
		in := maps.Clone(p)
		raw, err := json.Marshal(list)
		if err != nil {
			return err
		}
		if len(list) > 0 || !f.has("gc-without-list") {
			in["cni.dev/valid-attachments"] = raw
		}
		a := &attachment{list: l}
		if _, err := f.exec(ctx, a, p, cni.CmdGC, f.request(a, in, nil, cni.CmdGC)); err != nil {
			if f.has("gc-halts") {
				return err
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (f *fake) status(ctx context.Context) error {
	l, err := f.load()
	if err != nil || f.has("no-status") {
		return err
	}
	a := &attachment{list: l}
	for _, p := range l.Plugins {
		if _, err := f.exec(ctx, a, p, cni.CmdStatus, f.request(a, p, nil, cni.CmdStatus)); err != nil {
			return err
		}
	}
	return nil
}

// makeNetNS does it where the runtime's own namespaces are asked for.
func (f *fake) makeNetNS(a *attachment) error {
	if !f.own {
		return nil
	}
	a.NetNS = filepath.Join(f.dirs.State, "ns-"+a.ID)
	if f.has("no-netns") {
		return os.WriteFile(a.NetNS, nil, 0o600)
	}
	return netns.Create(a.NetNS)
}

// restart ends what runs, as the death of a process does.
func (f *fake) restart(context.Context) error {
	f.kill()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.alive, f.kill = context.WithCancel(context.Background())
	for _, a := range f.disk {
		if f.has("result-in-memory") {
			a.result = nil
		}
	}
	return nil
}

func (f *fake) put(key string, a *attachment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a == nil {
		delete(f.disk, key)
	} else {
		f.disk[key], f.ever[key] = a, true
	}
}

func (f *fake) had(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ever[key]
}

func (f *fake) get(key string) *attachment {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.disk[key]
}

func (f *fake) close(ctx context.Context) error {
	f.kill()
	if !f.own {
		return nil
	}
	entries, err := os.ReadDir(f.dirs.State)
	errs := []error{err, ctx.Err()}
	for _, e := range entries {
		errs = append(errs, netns.Remove(filepath.Join(f.dirs.State, e.Name())))
	}
	return errors.Join(errs...)
}

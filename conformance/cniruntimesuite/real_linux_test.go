package cniruntimesuite_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/conformance"
	"github.com/nodekit-project/nodekit/conformance/cniruntimesuite"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// Runtimes that are not made for these tests.

func attachmentOf(c container) runtime.Attachment {
	a := runtime.Attachment{ContainerID: c.ID, IfName: c.IfName, NetNS: c.NetNS}
	_ = json.Unmarshal([]byte(c.CapabilityArgs()), &a.CapabilityArgs) // it is JSON
	return a
}

func configOf(d cniruntimesuite.Dirs) runtime.Config {
	return runtime.Config{ConfDir: d.Conf, BinDirs: []string{d.Bin}, StateDir: d.State}
}

// ours drives a Network of package cni/runtime.
type ours struct{ *runtime.Network }

func (o ours) add(ctx context.Context, c container) error {
	_, err := o.Attach(ctx, attachmentOf(c))
	return err
}

func (o ours) del(ctx context.Context, c container) error   { return o.Detach(ctx, attachmentOf(c)) }
func (o ours) check(ctx context.Context, c container) error { return o.Check(ctx, attachmentOf(c)) }

func (o ours) gc(ctx context.Context, valid []container) error {
	var list []runtime.Attachment
	for _, c := range valid {
		list = append(list, attachmentOf(c))
	}
	return o.GC(ctx, list)
}

func TestOurs(t *testing.T) {
	testenv.Require(t, testenv.Root)
	open := func(_ context.Context, d cniruntimesuite.Dirs) (*cniruntimesuite.Runtime, error) {
		n, err := runtime.Open(configOf(d))
		if err != nil {
			return nil, err
		}
		o := ours{n}
		return &cniruntimesuite.Runtime{
			Add: o.add, Del: o.del, Check: o.check, GC: o.gc, Status: n.Status,
			Close: func(context.Context) error { return n.Close() },
		}, nil
	}
	cniruntimesuite.Test(t, cniruntimesuite.Target{Open: open, Ports: true})
}

// runVerb is a runtime without a daemon: a process for each verb, which waits
// while another has the state directory.
func runVerb(verb string) int {
	c := container{ID: os.Getenv("ID"), IfName: os.Getenv("IFNAME"), NetNS: os.Getenv("NETNS")}
	n, err := runtime.Open(configOf(cniruntimesuite.Dirs{Conf: os.Getenv("CONF_DIR"), Bin: os.Getenv("BIN_DIR"), State: os.Getenv("STATE_DIR")}))
	for errors.Is(err, fault.AlreadyExists) {
		time.Sleep(5 * time.Millisecond)
		n, err = runtime.Open(configOf(cniruntimesuite.Dirs{Conf: os.Getenv("CONF_DIR"), Bin: os.Getenv("BIN_DIR"), State: os.Getenv("STATE_DIR")}))
	}
	if err == nil {
		o, ctx := ours{n}, context.Background()
		switch verb {
		case "add":
			err = o.add(ctx, c)
		case "del":
			err = o.del(ctx, c)
		case "check":
			err = o.check(ctx, c)
		case "gc":
			var valid []cni.Attachment
			var list []container
			err = json.Unmarshal([]byte(os.Getenv("VALID_ATTACHMENTS")), &valid)
			for _, v := range valid {
				list = append(list, container{ID: v.ContainerID, IfName: v.IfName})
			}
			err = errors.Join(err, o.gc(ctx, list))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestCommands drives the runtime without a daemon by command lines.
func TestCommands(t *testing.T) {
	testenv.Require(t, testenv.Root)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	verb := func(name string) string { return self + " runtime-verb " + name }
	target := cniruntimesuite.Commands{
		Add: verb("add"), Del: verb("del"), Check: verb("check"), GC: verb("gc"),
	}.Target()
	expect(t, target, map[string]conformance.Status{
		"CNIRT-001": conformance.NA, "CNIRT-003": conformance.Pass, "CNIRT-005": conformance.Pass, "CNIRT-009": conformance.NA,
		"CNIRT-013": conformance.Pass, "CNIRT-023": conformance.Pass, "CNIRT-024": conformance.Pass, "CNIRT-053": conformance.Pass,
	})
}

func expect(t *testing.T, target cniruntimesuite.Target, results map[string]conformance.Status) {
	t.Helper()
	var only []string
	for id := range results {
		only = append(only, id)
	}
	report, err := cniruntimesuite.Suite().Run(t.Context(), target, &conformance.Options{Only: only})
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range results {
		if got := report.Result(id); got.Status != want {
			t.Errorf("%s: %s, want %s: %s", id, got.Status, want, got.Message)
		}
	}
}

// TestNothingAtAll: a runtime that calls no plugin fails by what it does not do, and one that
// adds nothing is not blamed for verbs that it does not have.
func TestNothingAtAll(t *testing.T) {
	testenv.Require(t, testenv.Root)
	commands := cniruntimesuite.Commands{Add: "true", Del: "true"}
	report, err := cniruntimesuite.Suite().Run(t.Context(), commands.Target(), &conformance.Options{Only: []string{"CNIRT-043"}})
	if err != nil {
		t.Fatal(err)
	}
	if r := report.Result("CNIRT-043"); r.Status != conformance.Fail || !strings.Contains(r.Message, "no plugin was called") {
		t.Errorf("%s: %s", r.Status, r.Message)
	}
	commands.Add = "false"
	expect(t, commands.Target(), map[string]conformance.Status{"CNIRT-012": conformance.NA, "CNIRT-051": conformance.NA, "CNIRT-054": conformance.NA})
}

// A daemon is started and killed, and one that ends is said to.
func TestDaemon(t *testing.T) {
	testenv.Require(t, testenv.Root)
	commands := cniruntimesuite.Commands{Add: "false", Del: "true", Serve: "sleep 60", Ready: "true"}
	expect(t, commands.Target(), map[string]conformance.Status{"CNIRT-010": conformance.Fail})
	commands.Serve, commands.Ready = "sh -c 'echo it is broken; exit 3'", "false"
	report, err := cniruntimesuite.Suite().Run(t.Context(), commands.Target(), &conformance.Options{Only: []string{"CNIRT-010"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := report.Result("CNIRT-010"); got.Status != conformance.Fail || !strings.Contains(got.Message, "it is broken") {
		t.Errorf("%s: %s", got.Status, got.Message)
	}
}

// TestLibcni drives the library as most runtimes do. It must pass what it is
// known to do well, and be caught where its faults are known.
func TestLibcni(t *testing.T) {
	testenv.Require(t, testenv.Root)
	target := cniruntimesuite.Target{Ports: true, Open: func(_ context.Context, d cniruntimesuite.Dirs) (*cniruntimesuite.Runtime, error) {
		l := library{libcni.NewCNIConfigWithCacheDir([]string{d.Bin}, d.State, nil), d}
		return &cniruntimesuite.Runtime{Add: l.add, Del: l.del, Check: l.check, GC: l.gc}, nil
	}}
	expect(t, target, map[string]conformance.Status{
		"CNIRT-003": conformance.Fail, // it leaves exclusion to its callers
		"CNIRT-033": conformance.Fail, // capabilities are passed on
		"CNIRT-034": conformance.Fail, // numbers go through a float
		"CNIRT-011": conformance.Pass, "CNIRT-021": conformance.Pass, "CNIRT-022": conformance.Pass, "CNIRT-023": conformance.Pass,
		"CNIRT-030": conformance.Pass, "CNIRT-032": conformance.Pass, "CNIRT-041": conformance.Pass, "CNIRT-042": conformance.Pass,
		"CNIRT-052": conformance.Pass,
	})
}

type library struct {
	*libcni.CNIConfig
	dirs cniruntimesuite.Dirs
}

func (l library) with(c container, do func(*libcni.NetworkConfigList, *libcni.RuntimeConf) error) error {
	list, err := libcni.NetworkConfFromFile(filepath.Join(l.dirs.Conf, "10-suite.conflist"))
	if err != nil {
		return err
	}
	conf := &libcni.RuntimeConf{ContainerID: c.ID, IfName: c.IfName, NetNS: c.NetNS}
	if err := json.Unmarshal([]byte(c.CapabilityArgs()), &conf.CapabilityArgs); err != nil {
		return err
	}
	return do(list, conf)
}

func (l library) add(ctx context.Context, c container) error {
	return l.with(c, func(list *libcni.NetworkConfigList, conf *libcni.RuntimeConf) error {
		_, err := l.AddNetworkList(ctx, list, conf)
		return err
	})
}

func (l library) del(ctx context.Context, c container) error {
	return l.with(c, func(list *libcni.NetworkConfigList, conf *libcni.RuntimeConf) error {
		return l.DelNetworkList(ctx, list, conf)
	})
}

func (l library) check(ctx context.Context, c container) error {
	return l.with(c, func(list *libcni.NetworkConfigList, conf *libcni.RuntimeConf) error {
		return l.CheckNetworkList(ctx, list, conf)
	})
}

func (l library) gc(ctx context.Context, valid []container) error {
	return l.with(container{}, func(list *libcni.NetworkConfigList, _ *libcni.RuntimeConf) error {
		args := &libcni.GCArgs{}
		for _, c := range valid {
			args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: c.ID, IfName: c.IfName})
		}
		return l.GCNetworkList(ctx, list, args)
	})
}

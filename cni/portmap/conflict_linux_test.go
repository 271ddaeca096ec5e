package portmap_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/portmap"
	"github.com/nodekit-project/nodekit/internal/netnstest"
)

// elements returns the owners of all elements, in order. They have no blank, as the
// comment of our rules has.
func elements(t testing.TB) []string {
	t.Helper()
	return slices.Sorted(slices.Values(regexp.MustCompile(`comment "[^" ]+"`).FindAllString(rules(t), -1)))
}

// bare returns a container without a network of its own, for tests that send
// nothing.
func bare(t testing.TB, ns, id, ip string) *pod {
	return &pod{id: id, ns: ns, ip: ip, prev: result(ns, ip+"/24", "fd55::"+strings.ReplaceAll(ip, ".", ":")+"/64"), config: map[string]any{}}
}

func TestConflicts(t *testing.T) {
	newBridge(t)
	ns := netnstest.New(t)
	a, b := bare(t, ns, "a", "10.55.0.2"), bare(t, ns, "b", "10.55.0.3")
	b.config["name"] = "another" // networks share the host's ports
	for _, c := range []struct {
		name        string
		first, then portmap.Mapping
		refused     bool
	}{
		{"the same", portmap.Mapping{HostPort: 80}, portmap.Mapping{HostPort: 80}, true},
		{"another protocol", portmap.Mapping{HostPort: 80}, portmap.Mapping{HostPort: 80, Protocol: "udp"}, false},
		{"sctp and udp", portmap.Mapping{HostPort: 80, Protocol: "sctp"}, portmap.Mapping{HostPort: 80, Protocol: "udp"}, false},
		{"sctp twice", portmap.Mapping{HostPort: 80, Protocol: "sctp"}, portmap.Mapping{HostPort: 80, Protocol: "SCTP"}, true},
		{"one of all", portmap.Mapping{HostPort: 80}, portmap.Mapping{HostPort: 80, HostIP: "192.0.2.1"}, true},
		{"all of one", portmap.Mapping{HostPort: 80, HostIP: "192.0.2.1"}, portmap.Mapping{HostPort: 80}, true},
		{"all of localhost", portmap.Mapping{HostPort: 80, HostIP: "127.0.0.1"}, portmap.Mapping{HostPort: 80}, true},
		{"two addresses", portmap.Mapping{HostPort: 80, HostIP: "192.0.2.1"}, portmap.Mapping{HostPort: 80, HostIP: "192.0.2.2"}, false},
		{"one address", portmap.Mapping{HostPort: 80, HostIP: "192.0.2.1"}, portmap.Mapping{HostPort: 80, HostIP: "::ffff:192.0.2.1"}, true},
		{"families", portmap.Mapping{HostPort: 80, HostIP: "0.0.0.0"}, portmap.Mapping{HostPort: 80, HostIP: "::"}, false},
		{"all of a family", portmap.Mapping{HostPort: 80, HostIP: "::"}, portmap.Mapping{HostPort: 80}, true},
		{"a family of all", portmap.Mapping{HostPort: 80}, portmap.Mapping{HostPort: 80, HostIP: "::"}, true},
		{"one of IPv6 of IPv4", portmap.Mapping{HostPort: 80, HostIP: "0.0.0.0"}, portmap.Mapping{HostPort: 80, HostIP: "fd00::1"}, false},
		{"one of IPv6", portmap.Mapping{HostPort: 80}, portmap.Mapping{HostPort: 80, HostIP: "fd00::1"}, true},
	} {
		c.first.ContainerPort, c.then.ContainerPort = 8080, 8080
		a.add(t, c.first)
		before := elements(t)
		_, err := b.portmap("ADD", c.then)
		if c.refused {
			wantCode(t, c.name, err, cni.CodeExists, "host port 80/", `"pm/a/eth0"`)
			if after := elements(t); !slices.Equal(before, after) {
				t.Errorf("%s: %q became %q", c.name, before, after)
			}
		} else if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		a.add(t, c.first) // one's own is no conflict
		a.del(t, c.first)
		b.del(t, c.then)
	}
	if left := elements(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestOwnPortHidesNoConflict: of two addresses that a port is mapped for one is
// another container's, whichever the kernel lists last.
func TestOwnPortHidesNoConflict(t *testing.T) {
	newBridge(t)
	ns := netnstest.New(t)
	a, b := bare(t, ns, "a", "10.55.0.2"), bare(t, ns, "b", "10.55.0.3")
	at := func(host int) portmap.Mapping {
		return portmap.Mapping{HostPort: 80, ContainerPort: 8080, HostIP: fmt.Sprintf("192.0.2.%d", host)}
	}
	for foreign := range 8 { // the order follows from a hash
		b.add(t, at(foreign))
		for own := range 8 {
			if own != foreign {
				a.add(t, at(own))
			}
		}
		_, err := a.portmap("ADD", portmap.Mapping{HostPort: 80, ContainerPort: 8080})
		wantCode(t, "a port of every address", err, cni.CodeExists, "host port 80/tcp", `"pm/b/eth0"`)
		a.del(t)
		b.del(t)
	}
}

// TestNetworksOfOneContainer: each gets the same mappings from the runtime.
func TestNetworksOfOneContainer(t *testing.T) {
	newBridge(t)
	ns := netnstest.New(t)
	first, second, other := bare(t, ns, "a", "10.55.0.2"), bare(t, ns, "a", "10.55.0.3"), bare(t, ns, "b", "10.55.0.4")
	second.config["name"], other.config["name"] = "pm2", "pm2"
	for name, mapping := range map[string]portmap.Mapping{
		"every address": {HostPort: 80, ContainerPort: 8080},
		"one address":   {HostPort: 80, ContainerPort: 8080, HostIP: "192.0.2.1"},
	} {
		for _, snat := range []bool{true, false} {
			first.config["snat"], second.config["snat"] = snat, snat
			first.add(t, mapping)
			second.add(t, mapping)
			if table := rules(t); !strings.Contains(table, ": 10.55.0.2 . 8080") || strings.Contains(table, ": 10.55.0.3 . 8080") {
				t.Errorf("%s: the port is not the first's: %s", name, table)
			}
			_, err := other.portmap("ADD", mapping)
			wantCode(t, name+" of another container", err, cni.CodeExists, "host port 80/tcp")
			for _, p := range []*pod{first, second} {
				if _, err := p.portmap("CHECK", mapping); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			first.del(t, mapping)
			if _, err := second.portmap("CHECK", mapping); err == nil {
				t.Errorf("%s: CHECK finds nothing wrong without the port", name)
			}
			if err := second.repair(mapping); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := second.portmap("CHECK", mapping); err != nil {
				t.Errorf("%s: after Repair: %v", name, err)
			}
			second.del(t, mapping)
			if left := elements(t); len(left) > 0 {
				t.Errorf("%s: left %q", name, left)
			}
		}
	}
}

// TestConflictOfProcesses has several processes ask for one port at once, half
// of them for every address and half for the same one, which the kernel keeps in
// different maps.
func TestConflictOfProcesses(t *testing.T) {
	newBridge(t)
	const processes, rounds = 6, 4
	ns := netnstest.New(t)
	var pods []*pod
	for i := range processes {
		pods = append(pods, bare(t, ns, string(rune('a'+i)), "10.55.0."+string(rune('2'+i))))
	}
	for round := range rounds {
		outs := make([]bytes.Buffer, processes)
		var running sync.WaitGroup
		for i, p := range pods {
			m := portmap.Mapping{HostPort: 80, ContainerPort: 8080}
			if i%2 == round%2 {
				m.HostIP = "192.0.2.1"
			}
			cmd := exec.Command("/proc/self/exe")
			cmd.Env, cmd.Stdin, cmd.Stdout = os.Environ(), bytes.NewReader(p.document(nil, m)), &outs[i]
			for k, v := range p.env("ADD") {
				cmd.Env = append(cmd.Env, k+"="+v)
			}
			running.Go(func() { _ = cmd.Run() })
		}
		running.Wait()
		winner := ""
		for i := range outs {
			var answer cni.Error
			if err := json.Unmarshal(outs[i].Bytes(), &answer); err != nil {
				t.Fatalf("%s: %v", &outs[i], err)
			}
			switch {
			case answer.Code == 0 && winner == "":
				winner = pods[i].id
			case answer.Code == 0:
				t.Errorf("both %s and %s have the port", winner, pods[i].id)
			case answer.Code != cni.CodeExists:
				t.Errorf("%s: %+v", pods[i].id, answer)
			}
		}
		if winner == "" {
			t.Error("nobody has the port")
		}
		for _, owner := range elements(t) {
			if !strings.Contains(owner, "/"+winner+"/") {
				t.Errorf("%s lost, and left an element", owner)
			}
		}
		for _, p := range pods {
			p.del(t)
		}
	}
}

// TestManyAtOnce: attachments that want different ports never hinder each other,
// from the first on, which makes the table.
func TestManyAtOnce(t *testing.T) {
	newBridge(t)
	const many = 40
	ns := netnstest.New(t)
	run := func(fn func(p *pod, m portmap.Mapping) error) {
		var running sync.WaitGroup
		for i := range many {
			p := bare(t, ns, fmt.Sprintf("c%d", i), fmt.Sprintf("10.55.0.%d", 10+i))
			m := portmap.Mapping{HostPort: 8000 + i, ContainerPort: 80}
			if i%2 == 0 {
				m.HostIP = "192.0.2.1"
			}
			running.Go(func() {
				if err := fn(p, m); err != nil {
					t.Errorf("%s: %v", p.id, err)
				}
			})
		}
		running.Wait()
	}
	run(func(p *pod, m portmap.Mapping) error { _, err := p.portmap("ADD", m); return err })
	run(func(p *pod, m portmap.Mapping) error { _, err := p.portmap("CHECK", m); return err })
	run(func(p *pod, m portmap.Mapping) error {
		if p.id[len(p.id)-1]%3 == 0 {
			m = portmap.Mapping{} // looked for by its owner
		}
		_, err := p.portmap("DEL", m)
		return err
	})
	if left := elements(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

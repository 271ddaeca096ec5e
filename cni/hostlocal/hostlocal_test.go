package hostlocal_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/hostlocal"
)

// pool is a network under test.
type pool struct {
	t    testing.TB
	dir  string
	ipam map[string]any
	more map[string]any
	args string

	plugin *cni.Plugin
}

func newPool(t testing.TB, ranges string) *pool { return newPoolIn(t, t.TempDir(), ranges) }

func newPoolIn(t testing.TB, dir, ranges string) *pool {
	p := &pool{t: t, dir: dir, more: map[string]any{}, plugin: hostlocal.Plugin()}
	p.ipam = map[string]any{"type": "host-local", "dataDir": p.dir, "ranges": json.RawMessage(ranges)}
	return p
}

func (p *pool) call(command, id string) ([]byte, error) {
	return cni.Invoke(context.Background(), p.plugin, p.env(command, id), p.stdin())
}

func (p *pool) env(command, id string) map[string]string {
	return map[string]string{
		"CNI_COMMAND": command, "CNI_CONTAINERID": id, "CNI_IFNAME": "eth0", "CNI_NETNS": "/none", "CNI_ARGS": p.args,
	}
}

func (p *pool) stdin() []byte {
	config := map[string]any{
		"cniVersion": "1.1.0", "name": "n", "type": "bridge", "isGateway": true,
		"prevResult": map[string]any{"cniVersion": "1.1.0"}, "ipam": p.ipam,
	}
	for key, value := range p.more {
		config[key] = value
	}
	stdin, err := json.Marshal(config)
	if err != nil {
		p.t.Fatal(err)
	}
	return stdin
}

// add returns the addresses, or the error's text.
func (p *pool) add(id string) string {
	out, err := p.call("ADD", id)
	if err != nil {
		return fmt.Sprintf("code %d", cni.CodeOf(err))
	}
	r, err := cni.DecodeResult(out, "")
	if err != nil {
		p.t.Fatal(err)
	}
	var ips []string
	for _, ip := range r.IPs {
		ips = append(ips, fmt.Sprintf("%s via %s", &ip.Address, ip.Gateway))
	}
	return strings.Join(ips, ", ")
}

func (p *pool) del(id string) {
	p.t.Helper()
	if out, err := p.call("DEL", id); err != nil || len(out) > 0 {
		p.t.Errorf("DEL %s: %v, %s", id, err, out)
	}
}

// reserved returns the reservations on disk.
func (p *pool) reserved() string {
	files, _ := filepath.Glob(filepath.Join(p.dir, "n", "[0-9a-f]*[.:]*"))
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	return strings.Join(files, " ")
}

func TestOrderAndExhaustion(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/29","rangeStart":"10.0.0.2","rangeEnd":"10.0.0.4"}]]`)
	for i, want := range []string{"10.0.0.2/29 via 10.0.0.1", "10.0.0.3/29 via 10.0.0.1", "10.0.0.4/29 via 10.0.0.1", "code 101"} {
		if got := p.add(fmt.Sprint("c", i)); got != want {
			t.Errorf("c%d got %s, want %s", i, got, want)
		}
	}
	if got := p.add("c1"); got != "10.0.0.3/29 via 10.0.0.1" {
		t.Errorf("asking again, c1 got %s", got)
	}
	if _, err := p.call("STATUS", ""); cni.CodeOf(err) != cni.CodeUnavailable {
		t.Errorf("STATUS of an exhausted pool: %v", err)
	}
	p.del("c1")
	p.del("c1")
	p.del("c0")
	// The search goes on behind the last address, so that one that was freed just
	// now comes last.
	if got := p.add("new"); got != "10.0.0.2/29 via 10.0.0.1" {
		t.Errorf("after a release: %s", got)
	}
	if got := p.reserved(); got != "10.0.0.2 10.0.0.4" {
		t.Errorf("reserved: %s", got)
	}
}

func TestEveryUsableAddressOnce(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/28"},{"subnet":"10.1.0.0/29","gateway":"10.1.0.3"}]]`)
	seen := map[string]bool{}
	for i := 0; ; i++ {
		got := p.add(fmt.Sprint("c", i))
		if got == "code 101" {
			break
		}
		seen[strings.Split(got, "/")[0]] = true
	}
	if len(seen) != 13+5 {
		t.Errorf("%d addresses: %v", len(seen), seen)
	}
	for _, never := range []string{"10.0.0.0", "10.0.0.1", "10.0.0.15", "10.1.0.0", "10.1.0.3", "10.1.0.7"} {
		if seen[never] {
			t.Errorf("%s was handed out", never)
		}
	}
}

func TestDualStackIsAllOrNothing(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/24"}],[{"subnet":"fd00::/126","rangeStart":"fd00::2","rangeEnd":"fd00::2"}]]`)
	if got := p.add("a"); got != "10.0.0.2/24 via 10.0.0.1, fd00::2/126 via fd00::1" {
		t.Errorf("a got %s", got)
	}
	if got := p.add("b"); got != "code 101" {
		t.Errorf("b got %s", got)
	}
	if got := p.reserved(); got != "10.0.0.2 fd00::2" {
		t.Errorf("reserved: %s", got)
	}
}

// TestToldToEnd: an ADD that is told to end when it has reserved gives back what it has
// reserved, and what the container had before stays.
func TestToldToEnd(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.1.0.0/24"}]]`)
	had := p.add("had")
	add := p.plugin.Add
	for _, id := range []string{"new", "had"} {
		ctx, cancel := context.WithCancel(t.Context())
		p.plugin.Add = func(ctx context.Context, r *cni.Request) (*cni.Result, error) {
			defer cancel()
			return add(ctx, r)
		}
		if out, err := cni.Invoke(ctx, p.plugin, p.env("ADD", id), p.stdin()); cni.CodeOf(err) != cni.CodeTryAgain {
			t.Errorf("%s: %s, %v", id, out, err)
		}
	}
	p.plugin.Add = add
	if left, err := filepath.Glob(filepath.Join(p.dir, "n", "10.*")); err != nil || len(left) != 1 {
		t.Errorf("reserved are %q, %v", left, err)
	}
	if got := p.add("had"); got != had {
		t.Errorf("the container that had %q has %q now", had, got)
	}
}

// TestUpstreamFiles begins with what upstream's plugin, in several versions,
// and its crashes leave on disk.
func TestUpstreamFiles(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/24"}]]`)
	dir := filepath.Join(p.dir, "n")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"10.0.0.2": "theirs\r\neth0", "10.0.0.3": "old", "10.0.0.4": "",
		"last_reserved_ip.0": "10.0.0.2", "lock": "", ".tmp-10.0.0.9": "half",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := p.add("new"); got != "10.0.0.4/24 via 10.0.0.1" {
		t.Errorf("new got %s: the empty file is no reservation", got)
	}
	if content, _ := os.ReadFile(filepath.Join(dir, "10.0.0.4")); string(content) != "new\r\neth0" {
		t.Errorf("the reservation reads %q", content)
	}
	if got := p.add("theirs"); got != "10.0.0.2/24 via 10.0.0.1" {
		t.Errorf("theirs got %s", got)
	}
	p.more["cni.dev/valid-attachments"] = []cni.Attachment{{ContainerID: "old", IfName: "eth7"}, {ContainerID: "new", IfName: "eth0"}}
	if _, err := p.call("GC", ""); err != nil {
		t.Error(err)
	}
	if got := p.reserved(); got != "10.0.0.3 10.0.0.4" {
		t.Errorf("after GC: %s", got)
	}
	p.del("old")
	p.del("new")
	if got := p.reserved(); got != "" {
		t.Errorf("after DEL: %s", got)
	}
	if half, _ := filepath.Glob(filepath.Join(dir, ".tmp*")); len(half) > 0 {
		t.Errorf("left of a torn write: %s", half)
	}
}

// TestWithoutSpread: the files are the same where they cannot be spread over the disk.
func TestWithoutSpread(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/29"}]]`)
	if err := os.WriteFile(filepath.Join(p.dir, ".spread"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		p.add(fmt.Sprint("c", i))
	}
	p.del("c1")
	if got := p.reserved(); got != "10.0.0.2 10.0.0.4" {
		t.Errorf("reserved: %s", got)
	}
	if text, err := os.ReadFile(filepath.Join(p.dir, "n", "10.0.0.4")); string(text) != "c2\r\neth0" || err != nil {
		t.Errorf("it has %q, %v", text, err)
	}
	if left, _ := filepath.Glob(filepath.Join(p.dir, "n", ".tmp-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestLastAddressGetsShorter: upstream's plugin reads the whole file as one address.
func TestLastAddressGetsShorter(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.9","rangeEnd":"10.0.0.10"}]]`)
	p.add("a")
	p.add("b")
	p.del("a")
	if got := p.add("c"); got != "10.0.0.9/24 via 10.0.0.1" {
		t.Errorf("c got %s", got)
	}
	if last, _ := os.ReadFile(filepath.Join(p.dir, "n", "last_reserved_ip.0")); string(last) != "10.0.0.9" {
		t.Errorf("the last address reads %q", last)
	}
}

func TestParallel(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/22"}]]`)
	const many = 200
	got := make([]string, many)
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() { got[i] = p.add(fmt.Sprint("c", i)) })
	}
	wg.Wait()
	slices.Sort(got)
	if n := len(slices.Compact(got)); n != many {
		t.Errorf("%d different addresses for %d containers", n, many)
	}
}

func TestNothingIsMadeForDel(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/24"}]]`)
	p.del("x")
	if _, err := p.call("STATUS", ""); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(p.dir); len(entries) > 0 {
		t.Errorf("made %v", entries)
	}
}

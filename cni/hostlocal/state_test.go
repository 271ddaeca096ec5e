package hostlocal_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/hostlocal"
)

const pool3 = `[[{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.2","rangeEnd":"10.0.0.4"}]]`

func (p *pool) path(name string) string { return filepath.Join(p.dir, "n", name) }

func (p *pool) write(name, content string) {
	p.t.Helper()
	if err := os.MkdirAll(p.path(""), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(p.path(name), []byte(content), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// logged calls a verb without what the SDK does around it, and returns its log.
func (p *pool) logged(verb func(*cni.Plugin, *cni.Request) error) (log string, err error) {
	p.t.Helper()
	stdin, err := json.Marshal(map[string]any{"ipam": p.ipam})
	if err != nil {
		p.t.Fatal(err)
	}
	var out bytes.Buffer
	r := &cni.Request{
		Network: "n", Version: "1.1.0", Config: p.plugin.NewConfig(), PrevResult: &cni.Result{},
		Log: slog.New(slog.NewTextHandler(&out, nil)),
	}
	if err := json.Unmarshal(stdin, r.Config); err != nil {
		p.t.Fatal(err)
	}
	err = verb(p.plugin, r)
	return out.String(), err
}

func (p *pool) status() (log string, err error) {
	return p.logged(func(plugin *cni.Plugin, r *cni.Request) error { return plugin.Status(p.t.Context(), r) })
}

func (p *pool) list(verb string, args ...string) string {
	p.t.Helper()
	var out, stderr bytes.Buffer
	if err := hostlocal.Command(p.t.Context(), append([]string{verb, "--data-dir", p.dir}, args...), &out, &stderr); err != nil {
		p.t.Fatalf("%v, %s", err, &stderr)
	}
	return out.String()
}

func (p *pool) reboot(id string) {
	p.plugin = hostlocal.PluginIn(id, time.Now(), time.Minute)
}

func TestReboot(t *testing.T) {
	p := newPool(t, pool3)
	p.reboot("first")
	for _, id := range []string{"a", "b", "c"} {
		p.add(id)
	}
	if got := p.add("d"); got != "code 101" {
		t.Fatalf("a fourth of three: %s", got)
	}
	p.reboot("second")
	if _, err := p.status(); err != nil {
		t.Errorf("STATUS after the reboot: %v", err)
	}
	if got := p.reserved(); got != "10.0.0.2 10.0.0.3 10.0.0.4" {
		t.Errorf("STATUS changed the reservations to %s", got)
	}
	// b comes back and has its address, also from those that need one.
	if got := p.add("b"); got != "10.0.0.3/24 via 10.0.0.1" {
		t.Errorf("b came back to %s", got)
	}
	p.more["runtimeConfig"] = map[string]any{"ips": []string{"10.0.0.4"}}
	if got := p.add("d"); got != "10.0.0.4/24 via 10.0.0.1" {
		t.Errorf("asking for an address of the earlier boot: %s", got)
	}
	delete(p.more, "runtimeConfig")
	if got := p.add("e"); got != "10.0.0.2/24 via 10.0.0.1" {
		t.Errorf("e got %s", got)
	}
	if got := p.add("f"); got != "code 101" {
		t.Errorf("f got %s", got)
	}
	if _, err := p.status(); cni.CodeOf(err) != cni.CodeUnavailable {
		t.Errorf("STATUS of the full pool: %v", err)
	}
}

// TestRebootWithUpstreamsFiles: without a stamp the file's time decides, and an
// address whose file may be of this boot is never taken.
func TestRebootWithUpstreamsFiles(t *testing.T) {
	p := newPool(t, pool3)
	p.reboot("now")
	p.write("10.0.0.2", "old\r\neth0")
	p.write("10.0.0.3", "new\r\neth0")
	p.write("10.0.0.4", "ahead\r\neth0")
	for name, age := range map[string]time.Duration{"10.0.0.2": time.Hour, "10.0.0.3": 0, "10.0.0.4": -time.Hour} {
		at := time.Now().Add(-age)
		if err := os.Chtimes(p.path(name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	p.plugin = hostlocal.PluginIn("now", time.Now().Add(-time.Minute), time.Minute)
	if got := p.add("x"); got != "10.0.0.2/24 via 10.0.0.1" {
		t.Errorf("x got %s", got)
	}
	if got := p.add("y"); got != "code 101" {
		t.Errorf("y got %s", got)
	}
}

func TestReuseDelay(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.2","rangeEnd":"10.0.0.5"}]]`)
	at := func(uptime time.Duration) { p.plugin = hostlocal.PluginIn("boot", time.Time{}, uptime) }
	at(time.Minute)
	for _, id := range []string{"a", "b", "c"} {
		p.add(id)
	}
	p.del("a")
	p.add("d")
	p.del("b")
	at(time.Minute + 29*time.Second)
	p.del("c") // 2, 3, 4 are free now, and rest
	p.ipam["reuseDelay"] = "1m"
	p.del("d") // and 5 rests longest, but a block has one time for all
	for i, want := range []string{"2", "3", "4", "5"} {
		if got := p.add(fmt.Sprint("new", i)); got != "10.0.0."+want+"/24 via 10.0.0.1" {
			t.Errorf("with nothing but resting addresses: %s, want %s", got, want)
		}
	}
	p.del("new0")
	p.del("new2")
	at(10 * time.Minute) // 2 and 4 have rested
	p.del("new1")
	for _, want := range []string{"2", "4", "3"} {
		if got := p.add("late" + want); got != "10.0.0."+want+"/24 via 10.0.0.1" {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestDamage: whatever a file holds, its address is either free or kept back,
// and somebody is told.
func TestDamage(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		old     bool
		free    bool
	}{
		"empty":                   {"", false, true},
		"zeroes of a power loss":  {strings.Repeat("\x00", 20), false, true},
		"binary":                  {"\xff\xfe\x01", false, false},
		"binary of earlier boot":  {"\xff\xfe\x01", true, true},
		"too many lines":          {"a\r\neth0\r\nmore", false, false},
		"too long":                {strings.Repeat("a", 5000), false, false},
		"an id with a path in it": {"../../x\r\neth0", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, pool3)
			p.write("10.0.0.2", c.content)
			if c.old {
				at := time.Now().Add(-10000 * time.Hour)
				if err := os.Chtimes(p.path("10.0.0.2"), at, at); err != nil {
					t.Fatal(err)
				}
			}
			if log, err := p.status(); err != nil || !strings.Contains(log, "10.0.0.2") {
				t.Errorf("STATUS: %v, log %s", err, log)
			}
			if log, err := p.status(); err != nil || !strings.Contains(log, "10.0.0.2") {
				t.Errorf("STATUS again: %v, log %s", err, log)
			}
			if got := p.list("list"); !strings.Contains(got, "10.0.0.2") || !strings.Contains(got, "damaged") {
				t.Errorf("list: %s", got)
			}
			want := "10.0.0.3/24 via 10.0.0.1"
			if c.free {
				want = "10.0.0.2/24 via 10.0.0.1"
			}
			if got := p.add("x"); got != want {
				t.Errorf("x got %s, want %s", got, want)
			}
			p.add("y")
			full := p.add("z")
			if (full == "code 101") == c.free {
				t.Errorf("z got %s", full)
			}
			if _, err := p.status(); cni.CodeOf(err) != cni.CodeUnavailable || strings.Contains(err.Error(), "keep back 10.0.0.2") == c.free {
				t.Errorf("STATUS of the full pool: %v", err)
			}
			p.more["cni.dev/valid-attachments"] = []cni.Attachment{}
			if _, err := p.call("GC", ""); err != nil {
				t.Error(err)
			}
			if entries, _ := filepath.Glob(p.path("*10.0.0*")); len(entries) > 0 {
				t.Errorf("left after GC: %v", entries)
			}
		})
	}
}

func TestCheckNamesTheDamage(t *testing.T) {
	p := newPool(t, pool3)
	p.add("x")
	p.more["prevResult"] = json.RawMessage(`{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"},{"address":"192.168.0.1/24"}]}`)
	if _, err := p.call("CHECK", "x"); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	for _, c := range []struct{ content, says string }{{"\xff", "its reservation is damaged"}, {"y\r\neth0", "10.0.0.2 is not reserved"}} {
		p.write("10.0.0.2", c.content)
		if _, err := p.call("CHECK", "x"); cni.CodeOf(err) != cni.CodeNotAsExpected || !strings.Contains(err.Error(), c.says) {
			t.Errorf("CHECK with %q: %v", c.content, err)
		}
	}
	// Whose address it is now keeps it.
	p.del("x")
	if got := p.add("y"); got != "10.0.0.2/24 via 10.0.0.1" {
		t.Errorf("y has %s", got)
	}
}

func TestRepair(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/24"}],[{"subnet":"fd00::/64"}]]`)
	p.add("x")
	p.add("y")
	result := json.RawMessage(`{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"},{"address":"fd00::2/64"}]}`)
	repair := func() error {
		p.more["prevResult"] = result
		defer delete(p.more, "prevResult")
		return cni.Set{"host-local": p.plugin}.Repair(t.Context(), "host-local", p.env("CHECK", "x"), p.stdin())
	}
	for what, breaks := range map[string]func(){
		"lost":    func() { os.Remove(p.path("10.0.0.2")) },
		"damaged": func() { p.write("fd00::2", "\xff") },
		"both":    func() { os.Remove(p.path("fd00::2")); p.write("10.0.0.2", "\xff") },
		"neither": func() {},
		"all":     func() { os.RemoveAll(p.path("")) },
	} {
		breaks()
		if err := repair(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		p.more["prevResult"] = result
		if _, err := p.call("CHECK", "x"); err != nil {
			t.Errorf("%s: CHECK after the repair: %v", what, err)
		}
		delete(p.more, "prevResult")
	}
	p.del("x")
	p.more["runtimeConfig"] = map[string]any{"ips": []string{"10.0.0.2"}}
	p.add("z")
	if err := repair(); cni.CodeOf(err) != cni.CodeExhausted {
		t.Errorf("the address is z's now: %v", err)
	}
}

// TestListChangesNothing: neither in a network that a crash left untidy nor in the
// directory around it.
func TestListChangesNothing(t *testing.T) {
	p := newPool(t, pool3)
	p.add("x")
	p.write(".tmp-10.0.0.3", "half")
	p.write("10.0.0.3", "")
	p.write("10.0.0.4", "\xff")
	tree := func() (out string) {
		err := filepath.Walk(p.dir, func(path string, fi os.FileInfo, err error) error {
			if err == nil {
				out += fmt.Sprintln(path, fi.Mode(), fi.Size(), fi.ModTime().UnixNano())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := tree()
	got := p.list("list")
	for _, want := range []string{"x          eth0", "free, damaged", "kept back, damaged"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in the list:\n%s", want, got)
		}
	}
	for _, args := range [][]string{{"n"}, {"unused"}, {".."}, {"."}} {
		var out bytes.Buffer
		_ = hostlocal.Command(t.Context(), append([]string{"list", "--data-dir", p.dir}, args...), &out, &out) // some are errors
	}
	if after := tree(); after != before {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
}

func TestCommand(t *testing.T) {
	p := newPool(t, `[[{"subnet":"10.0.0.0/24"}],[{"subnet":"fd00::/64"}]]`)
	p.add("x")
	p.add("y")
	p.write("10.0.0.9", "")
	got := p.list("list")
	if lines := strings.Split(got, "\n"); len(lines) != 7 || !strings.Contains(lines[1], "n        10.0.0.2  x          eth0") {
		t.Errorf("list:\n%s", got)
	}
	for _, c := range []struct{ what, want string }{
		{"x", "released 10.0.0.2 of x\nreleased fd00::2 of x\n"},
		{"fd00::3", "released fd00::3 of y\n"},
		{"10.0.0.9", "released 10.0.0.9 of -\n"},
	} {
		var out, stderr bytes.Buffer
		if err := hostlocal.Command(t.Context(), []string{"release", "--data-dir", p.dir, "n", c.what}, &out, &stderr); err != nil || out.String() != c.want {
			t.Errorf("release %s: %v, %s", c.what, err, &out)
		}
	}
	if got := p.reserved(); got != "10.0.0.3" {
		t.Errorf("left: %s", got)
	}
	p.write("10.0.0.9", "\xff")
	for _, args := range [][]string{
		{},
		{"lst"},
		{"release", "n"},
		{"list", "../n"},
		{"list", ".."},
		{"list", ""},
		{"release", "..", "x"},
		{"release", "n", ""},
		{"release", "--data-dir", p.dir, "n", ""},
		{"release", "--data-dir", p.dir, "n", "nobody"},
		{"list", "--what"},
	} {
		var out bytes.Buffer
		if err := hostlocal.Command(t.Context(), args, &out, &out); err == nil {
			t.Errorf("%q: %s", args, &out)
		}
	}
}

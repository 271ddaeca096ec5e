package cnisuite_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nodekit-project/nodekit/cni"
)

// exchange is one call of a plugin that stands in front of the good one.
type exchange struct {
	env   map[string]string
	stdin []byte
}

func (x *exchange) command() string { return x.env["CNI_COMMAND"] }

// good passes the call on.
func (x *exchange) good() (stdout string, rc int) {
	out, err := cni.Invoke(context.Background(), good(), x.env, x.stdin)
	if err != nil {
		return string(out), 1
	}
	return string(out), 0
}

// set replaces a key of the configuration.
func (x *exchange) set(key string, value any) {
	config := x.config()
	if config == nil {
		return
	}
	config[key] = value
	x.stdin, _ = json.Marshal(config)
}

func (x *exchange) config() (config map[string]any) {
	_ = json.Unmarshal(x.stdin, &config) // what is broken stays broken
	return config
}

// state is the file of that name in the plugin's directory.
func (x *exchange) state(name string) string {
	dir, _ := x.config()["state"].(string)
	return filepath.Join(dir, name)
}

func refuse(code int, text string) (string, int) {
	return fmt.Sprintf(`{"cniVersion":"1.1.0","code":%d,"msg":%q}`, code, text), 1
}

// raw makes an executable of what answers an exchange.
func raw(answer func(*exchange) (string, int)) func() int {
	return func() int {
		x := &exchange{env: map[string]string{}}
		for _, kv := range os.Environ() {
			key, value, _ := strings.Cut(kv, "=")
			x.env[key] = value
		}
		x.stdin, _ = io.ReadAll(os.Stdin)
		out, rc := answer(x)
		fmt.Print(out)
		return rc
	}
}

// rewritten is the good plugin with one text in its answers to failing calls, or
// in those to one command, replaced.
func rewritten(command, old, with string) func() int {
	return raw(func(x *exchange) (string, int) {
		out, rc := x.good()
		if rc != 0 && (command == "" || command == x.command()) {
			out = strings.ReplaceAll(out, old, with)
		}
		return out, rc
	})
}

// unlessGood refuses what the condition says and is good otherwise.
func unlessGood(bad func(*exchange) bool) func() int {
	return raw(func(x *exchange) (string, int) {
		if bad(x) {
			return refuse(100, "no")
		}
		return x.good()
	})
}

// speaksOldest knows no version that has lists of interfaces.
func speaksOldest(x *exchange) (string, int) {
	version := x.config()["cniVersion"]
	switch {
	case x.command() == "VERSION":
		out, _ := json.Marshal(map[string]any{"cniVersion": version, "supportedVersions": []string{"0.1.0", "0.2.0"}})
		return string(out), 0
	case version != "0.1.0" && version != "0.2.0":
		return refuse(1, "only 0.1.0 and 0.2.0 are spoken")
	}
	return x.good()
}

// deaf answers one command without doing anything.
func deaf(command string) func() int {
	return raw(func(x *exchange) (string, int) {
		if x.command() == command {
			return "", 0
		}
		return x.good()
	})
}

// ofAnyVersion takes every version for the newest, in one command.
func ofAnyVersion(command string) func() int {
	return raw(func(x *exchange) (string, int) {
		if x.command() == command {
			x.set("cniVersion", cni.Newest)
		}
		return x.good()
	})
}

// exchanges are plugins with one fault in what they take or answer.
func exchanges() map[string]func() int {
	return map[string]func() int{
		"forgets-names":       rewritten("", "CNI_", ""),
		"garbage-is-config":   rewritten("", `"code":6`, `"code":7`),
		"code-999-for-config": rewritten("", `"code":7`, `"code":999`),
		"unknown-is-internal": rewritten("", `"code":2`, `"code":100`),
		"errs-in-newest": raw(func(x *exchange) (string, int) {
			out, rc := x.good()
			if old, _ := x.config()["cniVersion"].(string); rc != 0 && old != "" {
				out = strings.ReplaceAll(out, `"cniVersion":"`+old+`"`, `"cniVersion":"1.1.0"`)
			}
			return out, rc
		}),
		"errs-without-version": raw(func(x *exchange) (string, int) {
			out, rc := x.good()
			if x.config()["cniVersion"] == nil {
				out = strings.ReplaceAll(out, `"cniVersion":"1.1.0",`, "")
			}
			return out, rc
		}),
		"code-8":             rewritten("", `"code":4`, `"code":8`),
		"status-is-internal": rewritten("STATUS", `"code":50`, `"code":999`),
		"status-alone":       deaf("STATUS"),
		"check-alone":        deaf("CHECK"),
		"status-of-any-age":  ofAnyVersion("STATUS"),
		"check-of-any-age":   ofAnyVersion("CHECK"),
		"needs-path":         unlessGood(func(x *exchange) bool { return x.env["CNI_PATH"] == "" }),
		"jealous-of-interfaces": unlessGood(func(x *exchange) bool {
			return x.command() == "CHECK" && strings.Contains(string(x.stdin), `"later0"`)
		}),
		"jealous-of-dns": unlessGood(func(x *exchange) bool {
			return x.command() == "CHECK" && strings.Contains(string(x.stdin), `"suite.example"`)
		}),
		"knows-all": unlessGood(func(x *exchange) bool {
			return x.command() == "GC" && strings.Contains(string(x.stdin), "-stranger")
		}),
		"shim": unlessGood(func(x *exchange) bool { // STATUS does not ask for the daemon
			text, _ := os.ReadFile(x.state("pid"))
			pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
			return x.command() == "ADD" && (err != nil || syscall.Kill(pid, 0) != nil)
		}),
		"checks-newest": unlessGood(func(x *exchange) bool {
			return x.command() == "CHECK" && x.config()["cniVersion"] != cni.Newest
		}),
		"speaks-0.2.0": raw(speaksOldest),
		"makes-nothing-in-0.2.0": raw(func(x *exchange) (string, int) {
			if x.command() == "ADD" && x.config()["cniVersion"] == "0.2.0" {
				return `{"cniVersion":"0.2.0","ip4":{"ip":"10.123.1.2/16"}}`, 0
			}
			return speaksOldest(x)
		}),
		"splits-args":          unlessGood(func(x *exchange) bool { return strings.Contains(x.env["CNI_ARGS"], "==") }),
		"refuses-runtime-keys": unlessGood(func(x *exchange) bool { return strings.Contains(string(x.stdin), "cni.dev/suite") }),
		"version-needs-stdin":  unlessGood(func(x *exchange) bool { return len(x.stdin) == 0 }),
		"check-needs-ipam":     unlessGood(func(x *exchange) bool { return x.command() == "CHECK" && x.config()["ipam"] == nil }),
		"lists-too-much": unlessGood(func(x *exchange) bool {
			return x.command() == "ADD" && x.config()["cniVersion"] == "0.3.1"
		}),
		"lists-the-oldest": unlessGood(func(x *exchange) bool {
			return x.command() == "ADD" && x.config()["cniVersion"] == "0.1.0"
		}),
		"any-name":          raw(func(x *exchange) (string, int) { x.set("name", "suite"); return x.good() }),
		"floats":            raw(func(x *exchange) (string, int) { x.set("cni.dev/x", 1); return x.good() }),
		"always-0":          raw(func(x *exchange) (string, int) { out, _ := x.good(); return out, 0 }),
		"result-and-error":  raw(resultAndError),
		"plain-text":        raw(plainText),
		"careless":          raw(careless),
		"dies-of-errors":    raw(diesOfErrors),
		"writes-to-root":    raw(writesToRoot),
		"leaves-a-process":  raw(leavesProcess),
		"leaves-a-stranger": raw(leavesStranger),
		"hangs-in-del":      raw(hangsInDel),
		"dies-at-once":      raw(func(x *exchange) (string, int) { return x.good() }),
		"dawdles": raw(func(x *exchange) (string, int) {
			out, rc := x.good()
			time.Sleep(100 * time.Millisecond)
			return out, rc
		}),
		"slow":           raw(func(x *exchange) (string, int) { time.Sleep(1100 * time.Millisecond); return x.good() }),
		"odd-versions":   onVersion(`{"cniVersion":"1.0.0","supportedVersions":["1.1.0","0.5.0"]}`),
		"hides-versions": onVersion(`{"cniVersion":"1.0.0","supportedVersions":["1.1.0"]}`),
		"version-makes-links": raw(func(x *exchange) (string, int) {
			if x.command() == "VERSION" {
				attrs := netlink.NewLinkAttrs()
				attrs.Name = fmt.Sprintf("v%d", os.Getpid())
				_ = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
			}
			return x.good()
		}),
		"status-decides":   raw(statusDecides),
		"check-needs-no":   raw(checksNothing),
		"check-by-heart":   raw(checksByHeart),
		"deaf-to-delegate": raw(func(x *exchange) (string, int) { out, rc := x.good(); return clear(x, out, rc) }),
		"names-nothing":    raw(namesNothing),
		"gives-up-wrongly": raw(givesUp),
	}
}

func clear(x *exchange, out string, rc int) (string, int) {
	if x.command() == "CHECK" {
		return "", 0
	}
	return out, rc
}

func onVersion(text string) func() int {
	return raw(func(x *exchange) (string, int) {
		if x.command() == "VERSION" {
			return text, 0
		}
		return x.good()
	})
}

func resultAndError(x *exchange) (string, int) {
	out, rc := x.good()
	if rc != 0 && x.command() == "ADD" {
		out = `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0"}]}` + "\n" + out
	}
	return out, rc
}

func plainText(x *exchange) (string, int) {
	out, rc := x.good()
	if rc != 0 {
		return "it did not work\n", rc
	}
	return out, rc
}

// careless is odd but legal: an error object is what a plugin should give, and of
// most commands nobody says that they must be silent.
// What it adds to its delegate's configuration does no harm.
func careless(x *exchange) (string, int) {
	var config map[string]json.RawMessage
	if json.Unmarshal(x.stdin, &config) == nil && config != nil {
		config["cni.dev/careless"] = json.RawMessage("true")
		x.stdin, _ = json.Marshal(config)
	}
	out, rc := plainText(x)
	if rc == 0 && out == "" {
		out = `{"cniVersion":"1.1.0"}`
	}
	return out, rc
}

func diesOfErrors(x *exchange) (string, int) {
	out, rc := x.good()
	if rc != 0 {
		return "", 2
	}
	return out, rc
}

func writesToRoot(x *exchange) (string, int) {
	f, err := os.CreateTemp("/", "nodekit-suite-mutant")
	if err != nil {
		return refuse(5, err.Error())
	}
	f.Close()
	_ = os.Remove(f.Name())
	return x.good()
}

func leavesProcess(x *exchange) (string, int) {
	if x.command() == "ADD" {
		cmd := exec.Command("sleep", "6")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return refuse(100, err.Error())
		}
	}
	return x.good()
}

// leavesStranger has nothing of the call in what it leaves: no environment, no
// argument, no parent.
func leavesStranger(x *exchange) (string, int) {
	if x.command() == "ADD" {
		stranger := exec.Command("setsid", "sleep", "6")
		stranger.Env = []string{}
		if err := stranger.Start(); err != nil {
			return refuse(100, err.Error())
		}
	}
	return x.good()
}

// hangsInDel leaves somebody behind who holds its stdout, with the plugin's name
// as its own, and notes where its lab is.
func hangsInDel(x *exchange) (string, int) {
	if x.command() == "DEL" {
		holder := exec.Command("sleep")
		holder.Args, holder.Stdout, holder.Env = []string{os.Args[0], "60"}, os.Stdout, []string{}
		holder.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		_ = holder.Start()
		_ = os.WriteFile(filepath.Join(filepath.Dir(os.Args[0]), "lab"), []byte(filepath.Dir(x.env["CNI_NETNS"])), 0o600)
		time.Sleep(time.Hour)
	}
	return x.good()
}

// statusDecides remembers a STATUS that failed.
func statusDecides(x *exchange) (string, int) {
	down := x.state("down")
	if _, err := os.Stat(down); err == nil && x.command() == "ADD" {
		return refuse(50, "STATUS has failed")
	}
	out, rc := x.good()
	if rc != 0 && x.command() == "STATUS" {
		_ = os.WriteFile(down, nil, 0o600)
	}
	return out, rc
}

func checksNothing(x *exchange) (string, int) {
	if x.command() == "CHECK" {
		return "", 0
	}
	return x.good()
}

// checksByHeart does without a prevResult, and heeds one. It is legal.
func checksByHeart(x *exchange) (string, int) {
	if x.command() == "CHECK" && x.config()["prevResult"] == nil {
		return "", 0
	}
	return x.good()
}

func namesNothing(x *exchange) (string, int) {
	if out, rc := x.good(); rc == 0 || x.command() != "CHECK" {
		return out, rc
	}
	return refuse(103, "something is missing")
}

func givesUp(x *exchange) (string, int) {
	p := good()
	p.Timeout = 200 * time.Millisecond
	out, err := cni.Invoke(context.Background(), p, x.env, x.stdin)
	if err != nil {
		return strings.ReplaceAll(string(out), `"code":11`, `"code":100`), 1
	}
	return string(out), 0
}

package cniruntimesuite

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodekit-project/nodekit/internal/netns"
)

// RecorderArg is the argument that turns a program that calls Main into a plugin.
const RecorderArg = "cni-runtime-suite-plugin"

// Main acts as a recording plugin and exits if the arguments (those after the
// program's name) say so, and does nothing otherwise.
func Main(args []string) {
	if len(args) == 3 && args[0] == RecorderArg {
		os.Exit(Record(args[1], args[2]))
	}
}

// Record acts once as the plugin of that name: it takes CNI's environment and stdin,
// records the call in the directory, does what was prepared there and returns the
// exit code.
func Record(dir, name string) int {
	stdin, err := io.ReadAll(os.Stdin)
	if err != nil {
		return complain(err)
	}
	r := recorder{dir: dir, name: name, id: fmt.Sprintf("%d-%d", os.Getpid(), time.Now().UnixNano())}
	if os.Getenv("CNI_COMMAND") == "VERSION" {
		fmt.Println(`{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}`)
		return 0
	}
	if err := r.note(event{Plugin: name, Env: environment(), Stdin: string(stdin), Own: namespace("/proc/thread-self/ns/net"), Target: namespace(os.Getenv("CNI_NETNS"))}); err != nil {
		return complain(err)
	}
	f, err := r.claim(os.Getenv("CNI_COMMAND"))
	if err != nil {
		return complain(err)
	}
	if err := r.hold(f); err != nil {
		return complain(err)
	}
	answer, code := r.answer(stdin, f)
	if err := r.note(event{End: true, Result: answer, Failed: code != 0}); err != nil {
		return complain(err)
	}
	fmt.Print(answer)
	return code
}

func complain(err error) int {
	fmt.Printf(`{"cniVersion":"1.0.0","code":5,"msg":%q}`, "the suite's plugin: "+err.Error())
	return 1
}

// fault is what a plugin does instead of succeeding at once.
type fault struct {
	Code uint // answer with this error code; 0 is success
	Hold bool // do not answer before the lab releases the command
	Keep bool // at every call; otherwise once
}

// event is a line of the log: the beginning of a call, or its end.
type event struct {
	ID     string
	End    bool              `json:",omitempty"`
	Plugin string            `json:",omitempty"`
	Env    map[string]string `json:",omitempty"`
	Stdin  string            `json:",omitempty"`
	// Own is the network namespace that the plugin ran in, Target the one that
	// CNI_NETNS named, or "" if it named none.
	Own, Target string `json:",omitempty"`
	Result      string `json:",omitempty"` // stdout
	Failed      bool   `json:",omitempty"`
}

type recorder struct{ dir, name, id string }

func logFile(dir string) string { return filepath.Join(dir, "calls") }

// note appends a line in one write, which keeps the lines of several plugins separate
// and in the true order.
func (r recorder) note(e event) error {
	e.ID = r.id
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(logFile(r.dir), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// releaseFile exists once held calls of the command may answer.
func releaseFile(dir, command string) string { return filepath.Join(dir, "release-"+command) }

// hold waits until the lab releases the command. It also ends when the lab's directory
// is removed, and after a time limit, because a killed suite leaves its directory.
func (r recorder) hold(f fault) error {
	const longest = 3 * time.Minute // more than any rule has
	for deadline := time.Now().Add(longest); f.Hold; {
		_, err := os.Stat(releaseFile(r.dir, os.Getenv("CNI_COMMAND")))
		if err == nil {
			return nil
		}
		if _, gone := os.Stat(r.dir); gone != nil {
			return gone
		}
		if time.Now().After(deadline) {
			return errors.New("the suite did not let it answer")
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

func faultFile(dir, plugin, command string, n int) string {
	return filepath.Join(dir, fmt.Sprintf("%s.%s.%03d", plugin, command, n))
}

// claim takes the next fault prepared for the plugin and the verb.
func (r recorder) claim(command string) (f fault, err error) {
	files, err := filepath.Glob(filepath.Join(r.dir, r.name+"."+command+".*"))
	if err != nil {
		return f, err
	}
	for _, file := range files { // sorted
		content, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return f, err
		}
		if err := json.Unmarshal(content, &f); err != nil {
			return f, err
		}
		if f.Keep || os.Remove(file) == nil { // only one call can remove it
			return f, nil
		}
	}
	return fault{}, nil
}

// answer returns what the plugin prints, and its exit code.
func (r recorder) answer(stdin []byte, f fault) (string, int) {
	var in struct {
		CNIVersion string         `json:"cniVersion"`
		PrevResult map[string]any `json:"prevResult"`
	}
	if err := json.Unmarshal(stdin, &in); err != nil && f.Code == 0 {
		f.Code = 6
	}
	var out any
	code := 0
	switch {
	case f.Code != 0:
		out, code = map[string]any{"cniVersion": in.CNIVersion, "code": f.Code, "msg": r.name + " does as it was told"}, 1
	case os.Getenv("CNI_COMMAND") == "ADD":
		out = r.result(in.CNIVersion, in.PrevResult)
	default:
		return "", 0
	}
	raw, err := json.Marshal(out)
	if err != nil { // impossible: it was decoded from JSON
		panic(err)
	}
	return string(raw), code
}

// result returns the previous result plus an interface that shows that the plugin ran;
// without one, the interface and address of the first plugin.
func (r recorder) result(version string, prev map[string]any) map[string]any {
	if prev == nil {
		ip := map[string]any{"address": fmt.Sprintf("10.124.%d.%d/16", os.Getpid()>>8&255, os.Getpid()&255), "interface": 0}
		if strings.HasPrefix(version, "0.") {
			ip["version"] = "4"
		}
		return map[string]any{
			"cniVersion": version,
			"interfaces": []any{map[string]any{"name": os.Getenv("CNI_IFNAME"), "sandbox": os.Getenv("CNI_NETNS")}},
			"ips":        []any{ip},
		}
	}
	list, _ := prev["interfaces"].([]any)
	prev["interfaces"] = append(list, map[string]any{"name": r.name})
	return prev
}

func environment() map[string]string {
	env := map[string]string{}
	for _, kv := range os.Environ() {
		key, value, _ := strings.Cut(kv, "=")
		env[key] = value
	}
	return env
}

// namespace returns the identity of the network namespace at the path, or "".
func namespace(path string) string {
	h, err := netns.Open(path)
	if err != nil {
		return ""
	}
	defer h.Close()
	id, err := h.ID()
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%+v", id)
}

package cnisuite

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// answer is the outcome of one execution.
type answer struct {
	what   string // the call in words
	rc     int
	stdout []byte
	stderr []byte
	took   time.Duration
	hung   bool // it ran until its deadline, and was killed
	killed bool // by a signal from the rule
}

func (a *answer) String() string {
	return fmt.Sprintf("exit status %d, stdout %s, stderr %s", a.rc, shorten(a.stdout), shorten(a.stderr))
}

// shorten quotes a plugin's output, which may be long.
func shorten(text []byte) string {
	const most = 1000
	if len(text) > most {
		return fmt.Sprintf("%q... (%d bytes)", text[:most], len(text))
	}
	return fmt.Sprintf("%q", text)
}

func (a *answer) ended() error {
	if a.hung {
		return fmt.Errorf("%s did not end within %s", a.what, a.took.Round(time.Second))
	}
	return nil
}

// ok expects exit status 0 and, if into is given, one JSON document.
func (a *answer) ok(into any) error {
	if err := a.ended(); err != nil {
		return err
	}
	if a.rc != 0 {
		return fmt.Errorf("%s failed: %s", a.what, a)
	}
	if into == nil {
		return nil
	}
	return a.document(into)
}

// document decodes the single JSON document on stdout.
func (a *answer) document(into any) error {
	dec := json.NewDecoder(bytes.NewReader(a.stdout))
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("%s: stdout is no JSON document: %w: %s", a.what, err, a)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: stdout has more than one JSON document: %s", a.what, a)
	}
	return nil
}

// objects returns the JSON objects with which stdout begins, whatever else follows.
func (a *answer) objects() (all []map[string]any) {
	dec := json.NewDecoder(bytes.NewReader(a.stdout))
	for {
		var next map[string]any
		if dec.Decode(&next) != nil {
			return all
		}
		all = append(all, next)
	}
}

// failed expects a non-zero exit status.
func (a *answer) failed() error {
	if err := a.ended(); err != nil {
		return err
	}
	if a.rc == 0 {
		return fmt.Errorf("%s succeeded: %s", a.what, a)
	}
	return nil
}

// errorObject is the specification's error.
type errorObject struct {
	CNIVersion string `json:"cniVersion"`
	Code       int    `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details"`
}

// failure expects a non-zero exit status and one error object.
func (a *answer) failure() (*errorObject, error) {
	if err := a.failed(); err != nil {
		return nil, err
	}
	var e errorObject
	if err := a.document(&e); err != nil {
		return nil, fmt.Errorf("%s failed without one error object on stdout: %s", a.what, a)
	}
	if e.Code == 0 || e.Msg == "" {
		return nil, fmt.Errorf("%s failed with an error object that lacks code or msg: %s", a.what, a)
	}
	return &e, nil
}

// refused expects an error object with one of the codes; none means any.
func (a *answer) refused(codes ...int) (*errorObject, error) {
	e, err := a.failure()
	if err != nil {
		return nil, err
	}
	if len(codes) > 0 && !slices.Contains(codes, e.Code) {
		return nil, fmt.Errorf("%s gave code %d instead of %s: %q", a.what, e.Code, either(codes), e.Msg)
	}
	return e, nil
}

func either(codes []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(codes), " ", " or "), "[]")
}

// names expects the words in the message or details.
func (e *errorObject) names(what string, words ...string) error {
	for _, word := range words {
		if !strings.Contains(e.Msg+"\n"+e.Details, word) {
			return fmt.Errorf("%s: the error does not name %q: %q, details %q", what, word, e.Msg, e.Details)
		}
	}
	return nil
}

// note records how long the commands took, which rules ask for later. It may be
// called concurrently.
func (l *lab) note(command string, a *answer) {
	l.notes.Lock()
	defer l.notes.Unlock()
	l.took[command] = append(l.took[command], a.took)
}

// calls returns the number of calls of a command.
func (l *lab) calls(command string) int {
	l.notes.Lock()
	defer l.notes.Unlock()
	return len(l.took[command])
}

// slowest returns the longest duration of a command so far.
func (l *lab) slowest(command string) time.Duration {
	l.notes.Lock()
	defer l.notes.Unlock()
	return slices.Max(append([]time.Duration{time.Millisecond}, l.took[command]...))
}

// median returns the duration that half of a command's calls did not exceed.
func (l *lab) median(command string) time.Duration {
	l.notes.Lock()
	defer l.notes.Unlock()
	took := slices.Sorted(slices.Values(l.took[command]))
	if len(took) == 0 {
		return time.Millisecond
	}
	return took[len(took)/2]
}

// moment draws when to interrupt a command: until a little after half of its calls
// have ended. Based on the slowest call, which on a busy machine means little, most
// interruptions would come too late.
func (l *lab) moment(command string) time.Duration {
	took := l.median(command)
	// A fraction, so that the same seed draws the same, however long calls take.
	return time.Duration(l.rand.Float64() * float64(took+took/4))
}

// result is what the rules read of a result.
type result struct {
	CNIVersion string       `json:"cniVersion"`
	Interfaces []iface      `json:"interfaces"`
	IPs        []ipEntry    `json:"ips"`
	Routes     []routeEntry `json:"routes"`
}

type ipEntry struct {
	Address   string `json:"address"`
	Gateway   string `json:"gateway"`
	Interface *int   `json:"interface"`
}

type routeEntry struct {
	Dst string `json:"dst"`
	GW  string `json:"gw"`
}

type iface struct {
	Name       string `json:"name"`
	Mac        string `json:"mac"`
	Sandbox    string `json:"sandbox"`
	SocketPath string `json:"socketPath,omitempty"`
	PCIID      string `json:"pciID,omitempty"`
}

// elsewhere reports whether the kernel need not have the interface: it ends at a
// process's socket, or is a device that a guest's driver may own.
func (i iface) elsewhere() bool { return i.SocketPath != "" || i.PCIID != "" }

// sameMAC compares a result's hardware address with the kernel's. A result without
// one, or with zeros where the kernel has none, is correct.
func sameMAC(told, have string) bool {
	return told == "" || strings.EqualFold(told, have) || have == "" && strings.Trim(told, "0:") == ""
}

// inside returns the index of the container's interface of that name.
func (r *result) inside(name, sandbox string) int {
	return slices.IndexFunc(r.Interfaces, func(i iface) bool { return i.Name == name && i.Sandbox == sandbox })
}

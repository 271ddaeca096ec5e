package cnisuite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// spyName is the type of the scripted IPAM plugin.
const spyName = "suite-ipam"

// spy is an IPAM plugin that records every call and answers as prepared. It is a
// shell script that uses only builtin commands, so it needs no PATH and is not killed
// in the middle of a record.
type spy struct{ dir string }

// spyScript records each call in files of its own, by attachment and number: the
// command and the directory in which it was found, the environment, and stdin. The
// first existing one of the prepared answers is run as part of the script.
const spyScript = `#!/bin/sh
here=%s
found=%s
who="${CNI_CONTAINERID:-network}.$CNI_IFNAME"
n=1
set -C
while ! printf '%%s %%s\n' "$CNI_COMMAND" "$found" 2>/dev/null >"$here/$who.$n.call"; do n=$((n+1)); [ $n -gt 9999 ] && exit 9; done
set +C
export -p >"$here/$who.$n.env"
while IFS= read -r line; do printf '%%s\n' "$line"; line=; done >"$here/$who.$n.stdin"
[ -n "$line" ] && printf '%%s' "$line" >>"$here/$who.$n.stdin"
[ -r "$here/$who.$CNI_COMMAND" ] && . "$here/$who.$CNI_COMMAND"
[ -r "$here/any.$CNI_COMMAND" ] && . "$here/any.$CNI_COMMAND"
case "$CNI_COMMAND" in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}' ;;
ADD) while read -r line; do printf '%%s\n' "$line"; done < "$here/$who.result" ;;
esac
exit 0
`

// dirs are the parts of CNI_PATH, in order: the script is in both, and a plugin must
// use the first.
func (s spy) dirs() []string {
	return []string{filepath.Join(s.dir, "first"), filepath.Join(s.dir, "second")}
}

func (s spy) fifo() string { return filepath.Join(s.dir, "never") }

func (s spy) install() error {
	for _, dir := range s.dirs() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		script := fmt.Appendf(nil, spyScript, shellQuote(s.dir), shellQuote(dir))
		if err := os.WriteFile(filepath.Join(dir, spyName), script, 0o755); err != nil {
			return err
		}
	}
	return unix.Mkfifo(s.fifo(), 0o600)
}

// wake lets hanging spies end.
func (s spy) wake() error {
	for range 100 {
		fd, err := unix.Open(s.fifo(), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENOENT) {
			return nil // nobody waits
		}
		if err != nil {
			return err
		}
		unix.Close(fd)
		time.Sleep(time.Millisecond)
	}
	return errors.New("the suite's IPAM plugin does not end")
}

// reply is the spy's answer instead of success.
type reply struct {
	stdout, stderr string
	rc             int
	hang           bool // forever, before anything else
}

// failing is the reply of a delegate that fails with an error object.
func failing(code int, msg string) reply {
	return reply{rc: 1, stdout: fmt.Sprintf(`{"cniVersion":"1.1.0","code":%d,"msg":%q}`, code, msg)}
}

// answer makes the spy give the reply to every call of the command for the container
// or, if c is nil, for all containers and for calls without one.
func (s spy) answer(c *container, command string, r reply) error {
	text := fmt.Sprintf("printf %%s %s >&2\nprintf %%s %s\nexit %d\n", shellQuote(r.stderr), shellQuote(r.stdout), r.rc)
	if r.hang {
		text = "read -r line < " + shellQuote(s.fifo()) + "\n" + text
	}
	return os.WriteFile(s.prepared(c, command), []byte(text), 0o644)
}

// obey removes the answer that was prepared for a command: the spy then succeeds
// again.
func (s spy) obey(c *container, command string) error { return os.Remove(s.prepared(c, command)) }

func (s spy) prepared(c *container, command string) string {
	if c == nil {
		return filepath.Join(s.dir, "any."+command)
	}
	return s.file(c, command)
}

func shellQuote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// file returns the name of a file about a container; nil is for calls without one.
func (s spy) file(c *container, kind string) string {
	who := "network."
	if c != nil {
		who = c.id + "." + c.ifName
	}
	return filepath.Join(s.dir, who+"."+kind)
}

// prepare sets the address that the container will get.
func (s spy) prepare(c *container, version string, number int) error {
	return s.result(c, ipamResult(version, fmt.Sprintf("10.123.%d.%d/16", 1+number/250, 1+number%250), "10.123.0.1"))
}

// ipamResult is a delegate's result in the version's format (CNI 0.2.0, 0.3.1, 1.0.0:
// Result).
func ipamResult(version, address, gateway string) string {
	switch version {
	case "0.1.0", "0.2.0":
		return fmt.Sprintf(`{"cniVersion":%q,"ip4":{"ip":%q,"gateway":%q}}`, version, address, gateway)
	case "0.3.0", "0.3.1", "0.4.0":
		return fmt.Sprintf(`{"cniVersion":%q,"ips":[{"version":"4","address":%q,"gateway":%q}]}`, version, address, gateway)
	}
	return fmt.Sprintf(`{"cniVersion":%q,"ips":[{"address":%q,"gateway":%q}]}`, version, address, gateway)
}

// result sets the answer of ADD for the container; text is one line.
func (s spy) result(c *container, text string) error {
	return os.WriteFile(s.file(c, "result"), []byte(text+"\n"), 0o644)
}

// delegated is one call that the plugin delegated.
type delegated struct {
	command string
	dir     string // where the plugin found the delegate
	env     map[string]string
	stdin   []byte
}

// calls returns the calls that the plugin delegated for the container or, if c is
// nil, without one (STATUS, GC), in order.
func (s spy) calls(c *container) ([]delegated, error) {
	var all []delegated
	for n := 1; ; n++ {
		part := func(kind string) string { return s.file(c, strconv.Itoa(n)+"."+kind) }
		note, err := os.ReadFile(part("call"))
		if errors.Is(err, os.ErrNotExist) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		var d delegated
		d.command, d.dir, _ = strings.Cut(strings.TrimSpace(string(note)), " ")
		if d.command == "" {
			continue // killed before it did anything
		}
		// A spy that was killed may have only the first of these.
		env, err := os.ReadFile(part("env"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		d.env = exported(string(env))
		if d.stdin, err = os.ReadFile(part("stdin")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		all = append(all, d)
	}
}

// commands are those of calls.
func commands(calls []delegated) []string {
	var all []string
	for _, d := range calls {
		all = append(all, d.command)
	}
	return all
}

// shellOwn are variables that a shell sets by itself.
var shellOwn = []string{"PWD", "OLDPWD", "SHLVL", "_"}

// exported parses the output of `export -p` (POSIX, export): assignments in words
// quoted for the shell.
func exported(text string) map[string]string {
	env := map[string]string{}
	for text != "" {
		word, rest := shellWord(text)
		text = rest
		if name, value, ok := strings.Cut(word, "="); ok && !slices.Contains(shellOwn, name) {
			env[name] = value
		}
	}
	return env
}

// shellWord returns the first word of a text, without its quotes.
func shellWord(text string) (word, rest string) {
	var out strings.Builder
	quote := byte(0)
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case c == quote:
			quote = 0
		case c == '\\' && quote != '\'' && i+1 < len(text):
			i++
			out.WriteByte(text[i])
		case quote == 0 && (c == ' ' || c == '\n'):
			return out.String(), text[i+1:]
		default:
			out.WriteByte(c)
		}
	}
	return out.String(), ""
}

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// command is one of podtool's commands.
type command struct {
	name, args, help string
	run              func(t *tool, ctx context.Context, args []string) error
}

// commands is the table of all commands, in the order of the help text.
func commands() []command {
	return []command{
		{"do", "STEP...", "run steps in order, each one a quoted command; stop at the first that fails or exits", runDo},
		{
			"serve", "[--address IP] [--port 8080] [--text TEXT] [--ready-after D] [--requests N]",
			"HTTP server: / says TEXT, /healthz is 503 until ready; end with 0 after N requests for /", runServe,
		},
		{"serve-udp", "[--address IP] [--port 8080] [--text TEXT]", "answer each UDP packet with TEXT", runServeUDP},
		{"get", "[--count 1] [--retry D] [--interval D] URL", "request URL, print what it answers; try again for up to D", runGet},
		{"write", "FILE TEXT", "write TEXT and a newline to FILE", runWrite},
		{"append", "FILE TEXT", "append TEXT and a newline to FILE", runAppend},
		{"cat", "FILE...", "print files", runCat},
		{"print", "FILE...", "same as cat", runCat},
		{"check-file", "FILE WANT", "fail unless the content of FILE, without space around it, is WANT", runCheckFile},
		{"wait-file", "[--timeout 30s] FILE", "wait until FILE is there", runWaitFile},
		{"ls", "PATH...", "list files and directories: mode, uid:gid, size, name", runLs},
		{"stat-device", "FILE", "print \"character MAJOR:MINOR\" or \"block MAJOR:MINOR\"; fail when FILE is no device", runStatDevice},
		{"echo", "[--stderr] TEXT...", "print a line", runEcho},
		{"lines", "[--interval D] N", "print the numbers 1 to N, one a line; 0 prints for ever", runLines},
		{"pieces", "[--interval D] TEXT...", "print a line in pieces, with pauses between them", runPieces},
		{"copy-stdin", "", "print what comes on standard input", runCopyStdin},
		{"env", "[NAME...]", "print the environment, or the values of variables; fail when one is not set", runEnv},
		{"id", "", "print user, group and supplementary groups", runID},
		{"hostname", "", "print the host's name", runHostname},
		{"sleep", "D|forever", "wait; D is 1.5 (seconds) or 300ms, 2m", runSleep},
		{"exit", "CODE", "end with CODE", runExit},
		{"pause", "", "wait for SIGTERM or SIGINT and end with 0; as little as a process can be", runPause},
		{"trap", "[--delay D] [--signal TERM] CODE", "wait for SIGTERM, HUP, USR1 or WINCH, then, after D, end with CODE", runTrap},
		{"ignore-term", "[D]", "ignore SIGTERM for D, or for ever", runIgnoreTerm},
		{"eat", "[--hold D] BYTES", "take memory (64Mi, 1Gi, ...) and hold it for D, or for ever", runEat},
		{"burn", "D", "keep a processor busy for D, or for ever", runBurn},
		{"fill", "BYTES", "print BYTES times x, without a newline", runFill},
		{"window", "", "print the terminal's size, and again whenever it changes", runWindow},
		{"count", "PORT", "TCP server that reads a connection to its end and then says how many bytes came", runCount},
		{"mkdir", "PATH", "make a directory", runMkdir},
		{"open", "FILE", "open FILE for reading and writing", runOpen},
		{"bind", "SOURCE TARGET", "make a bind mount", runBind},
		{"leave", "COMMAND [ARGUMENTS]", "start podtool in a child process with the same streams, and do not wait for it", runLeave},
		{"child", "COMMAND [ARGUMENTS]", "run podtool in a child process and end as it did, with 128+n for signal n", runChild},
		{"help", "", "print this", runHelp},
	}
}

// execute runs one command line.
func (t *tool) execute(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return misuse("no command given: podtool help lists them")
	}
	all := commands()
	i := slices.IndexFunc(all, func(c command) bool { return c.name == args[0] })
	if i < 0 {
		return misuse("no command %q: podtool help lists them", args[0])
	}
	if err := all[i].run(t, ctx, args[1:]); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return nil
}

func runHelp(t *tool, _ context.Context, _ []string) error {
	fmt.Fprint(t.stdout, "podtool COMMAND [ARGUMENTS]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(t.stdout, "  %s\n        %s\n", strings.TrimSpace(c.name+" "+c.args), c.help)
	}
	return nil
}

// runDo runs each step as a command line of its own.
func runDo(t *tool, ctx context.Context, steps []string) error {
	if len(steps) == 0 {
		return misuse("no steps given")
	}
	for _, step := range steps {
		words, err := split(step)
		if err != nil {
			return err
		}
		if err := t.execute(ctx, words); err != nil {
			return err
		}
	}
	return nil
}

// split splits a step into words at white space. Quotes of both kinds keep a word
// together, and a backslash outside single quotes escapes the next character.
func split(step string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	started, escaped := false, false
	for _, r := range step {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, started = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, started = r, true
		case strings.ContainsRune(" \t\n", r):
			if started {
				words = append(words, word.String())
			}
			word.Reset()
			started = false
		default:
			word.WriteRune(r)
			started = true
		}
	}
	if quote != 0 || escaped {
		return nil, misuse("step %q ends inside a quotation", step)
	}
	if started {
		words = append(words, word.String())
	}
	return words, nil
}

// flags parses args and returns the positional ones. There must be want of them or, if
// want is -1, one or more. The flags that define registers may be before and after
// them. Without define everything is positional, including what begins with a dash.
func flags(args []string, want int, define func(*flag.FlagSet)) ([]string, error) {
	rest := args
	if define != nil {
		var err error
		if rest, err = parseFlags(args, define); err != nil {
			return nil, err
		}
	}
	if want >= 0 && len(rest) != want {
		return nil, misuse("takes %d arguments, was given %d: podtool help shows them", want, len(rest))
	}
	if want < 0 && len(rest) == 0 {
		return nil, misuse("takes at least one argument: podtool help shows it")
	}
	return rest, nil
}

func parseFlags(args []string, define func(*flag.FlagSet)) (rest []string, err error) {
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	define(fs)
	for len(args) > 0 {
		if err := fs.Parse(args); err != nil {
			return nil, usageError{err.Error()}
		}
		args = fs.Args()
		if len(args) > 0 {
			rest, args = append(rest, args[0]), args[1:]
		}
	}
	return rest, nil
}

// wait waits for d. If ctx ends first, it returns the context's error. A negative d
// means forever.
func wait(ctx context.Context, d time.Duration) error {
	if d < 0 {
		<-ctx.Done()
		return context.Canceled
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Canceled
	}
}

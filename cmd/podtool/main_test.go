package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary be podtool, so that signals and process 1 can
// be tested from outside.
func TestMain(m *testing.M) {
	if os.Getenv("PODTOOL_TEST_RUN") != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestCommands(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PODTOOL_TEST_VALUE", "a value")
	t.Setenv("PODTOOL_TEST_RUN", "1") // for children
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, c := range []struct {
		name   string
		args   []string
		code   int
		stdout string // what it contains
		stderr string
	}{
		{"nothing", nil, 2, "", "no command given"},
		{"unknown", []string{"fly"}, 2, "", `no command "fly"`},
		{"help", []string{"help"}, 0, "serve [--address IP] [--port 8080]", ""},
		{"cat", []string{"cat", in("file"), in("link")}, 0, "content\ncontent\n", ""},
		{"print", []string{"print", in("file")}, 0, "content\n", ""},
		{"cat nothing", []string{"cat"}, 2, "", "at least one argument"},
		{"cat missing", []string{"cat", in("none")}, 1, "", "no such file"},
		{"write", []string{"do", "write " + in("w") + " one", "append " + in("w") + " '-two \"2\"'", "cat " + in("w")}, 0, "one\n-two \"2\"\n", ""},
		{"write to nowhere", []string{"write", in("no/where"), "x"}, 1, "", "no such file"},
		{"check", []string{"check-file", in("file"), "content"}, 0, "", ""},
		{"check differs", []string{"check-file", in("file"), "other"}, 1, "", `has "content", want "other"`},
		{"pieces", []string{"pieces", "--interval", "1ms", "one", "two"}, 0, "onetwo\n", ""},
		{"wait-file", []string{"wait-file", in("file")}, 0, "", ""},
		{"wait-file in vain", []string{"wait-file", "--timeout", "20ms", in("none")}, 1, "", "not there after 20ms"},
		{"ls", []string{"ls", dir}, 0, "-rw-r----- " + strconv.Itoa(os.Getuid()) + ":" + strconv.Itoa(os.Getgid()) + " 8 file\n", ""},
		{"ls link", []string{"ls", in("link")}, 0, "link -> file\n", ""},
		{"device", []string{"stat-device", "/dev/null"}, 0, "character 1:3\n", ""},
		{"no device", []string{"stat-device", in("file")}, 1, "", "is no device"},
		{"child", []string{"child", "do", "echo a", "exit 7"}, 7, "a\n", ""},
		{"child of nothing", []string{"child"}, 2, "", "at least one argument"},
		{"echo", []string{"echo", "a", "b"}, 0, "a b\n", ""},
		{"echo to stderr", []string{"echo", "--stderr", "a"}, 0, "", "a\n"},
		{"lines", []string{"lines", "3"}, 0, "1\n2\n3\n", ""},
		{"lines of words", []string{"lines", "three"}, 2, "", "no number"},
		{"burn", []string{"burn", "10ms"}, 0, "", ""},
		{"fill", []string{"fill", "100"}, 0, strings.Repeat("x", 100), ""},
		{"window of no terminal", []string{"window"}, 1, "", "terminal's size"},
		{"mkdir", []string{"do", "mkdir " + in("d"), "ls " + in("d")}, 0, "", ""},
		{"mkdir again", []string{"mkdir", in("file")}, 1, "", "file exists"},
		{"open", []string{"open", in("file")}, 0, "", ""},
		{"open missing", []string{"open", in("none")}, 1, "", "no such file"},
		{"bind nothing", []string{"bind", in("none"), dir}, 1, "", "no such file"},
		{"leave", []string{"leave", "exit", "7"}, 0, "", ""},
		{"trap of nothing", []string{"trap", "--signal", "FOO", "0"}, 2, "", "no signal"},
		{"count on no port", []string{"count", "x"}, 2, "", "no port"},
		{"stdin", []string{"copy-stdin"}, 0, "from stdin", ""},
		{"env", []string{"env"}, 0, "PODTOOL_TEST_VALUE=a value\n", ""},
		{"env of one", []string{"env", "PODTOOL_TEST_VALUE"}, 0, "a value\n", ""},
		{"env unset", []string{"env", "PODTOOL_TEST_NONE"}, 1, "", "PODTOOL_TEST_NONE is not set"},
		{"id", []string{"id"}, 0, "uid=" + strconv.Itoa(os.Geteuid()) + " gid=", ""},
		{"hostname", []string{"hostname"}, 0, "\n", ""},
		{"sleep", []string{"sleep", "0.01"}, 0, "", ""},
		{"sleep badly", []string{"sleep", "-1"}, 2, "", "no duration"},
		{"exit", []string{"exit", "7"}, 7, "", ""},
		{"exit out of range", []string{"exit", "256"}, 2, "", "no exit code"},
		{"eat", []string{"eat", "--hold", "0", "64Ki"}, 0, "holding 65536 bytes", ""},
		{"eat nothing", []string{"eat", "much"}, 2, "", "no number of bytes"},
		{"ignore-term", []string{"ignore-term", "10ms"}, 0, "", ""},
		{"trap badly", []string{"trap", "x"}, 2, "", "no exit code"},
		{"get nothing", []string{"get", "http://127.0.0.1:1/"}, 1, "", "refused"},
		{"do nothing", []string{"do"}, 2, "", "no steps"},
		{"do stops at a failure", []string{"do", "exit 4", "echo unreached"}, 4, "", ""},
		{"do stops at exit 0", []string{"do", "echo reached", "exit 0", "exit 1"}, 0, "reached\n", ""},
		{"do with an open quote", []string{"do", "echo 'a"}, 2, "", "inside a quotation"},
		{"unknown flag", []string{"serve", "--fast"}, 2, "", "-fast"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(c.args, strings.NewReader("from stdin"), &stdout, &stderr)
			if code != c.code {
				t.Errorf("exit code %d, want %d; stderr %q", code, c.code, stderr.String())
			}
			if !strings.Contains(stdout.String(), c.stdout) || (c.stdout == "" && stdout.Len() > 0) {
				t.Errorf("stdout %q, want %q in it", stdout.String(), c.stdout)
			}
			if !strings.Contains(stderr.String(), c.stderr) || (c.stderr == "" && stderr.Len() > 0) {
				t.Errorf("stderr %q, want %q in it", stderr.String(), c.stderr)
			}
		})
	}
}

func TestSplit(t *testing.T) {
	for step, want := range map[string][]string{
		"":                       nil,
		"  a\tb\n":               {"a", "b"},
		`a "b c" 'd "e"'`:        {"a", "b c", `d "e"`},
		`a ""`:                   {"a", ""},
		`a\ b \\ '\'`:            {"a b", `\`, `\`},
		`serve --text="hello x"`: {"serve", "--text=hello x"},
	} {
		got, err := split(step)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("split(%q) = %q, %v; want %q", step, got, err, want)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add(`do "a b" 'c' \d`)
	f.Fuzz(func(t *testing.T, step string) {
		words, err := split(step)
		if err != nil {
			return
		}
		var quoted []string
		for _, w := range words {
			quoted = append(quoted, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
		}
		again, err := split(strings.Join(quoted, " "))
		if err != nil || !slices.Equal(again, words) {
			t.Errorf("split(%q) = %q, and that quoted splits into %q, %v", step, words, again, err)
		}
	})
}

func TestDeviceNumber(t *testing.T) {
	for dev, want := range map[uint64][2]uint64{
		0x0103:         {1, 3},
		0xc3fe:         {195, 254},
		0x100fff00:     {4095, 65536},
		0x100000000005: {4096, 5},
	} {
		if major, minor := deviceNumber(dev); [2]uint64{major, minor} != want {
			t.Errorf("deviceNumber(%#x) = %d:%d, want %v", dev, major, minor, want)
		}
	}
}

// The end mark is the last line of both streams, also of a program that fails, and no
// program that podtool starts prints it, too.
func TestEndMark(t *testing.T) {
	for _, args := range [][]string{{"env", "PODTOOL_END"}, {"child", "echo", "x"}} {
		t.Setenv("PODTOOL_TEST_RUN", "1")
		t.Setenv("PODTOOL_END", "the end")
		var stdout, stderr bytes.Buffer
		run(args, strings.NewReader(""), &stdout, &stderr)
		if n := strings.Count(stdout.String(), "the end\n"); n != 1 || !strings.HasSuffix(stdout.String(), "the end\n") || !strings.HasSuffix(stderr.String(), "the end\n") {
			t.Errorf("%q printed %q and %q", args, stdout.String(), stderr.String())
		}
	}
}

func TestParse(t *testing.T) {
	for s, want := range map[string]time.Duration{"2": 2 * time.Second, "0.5": time.Second / 2, "3m": 3 * time.Minute, "forever": -1} {
		if got, err := parseDuration(s); got != want || err != nil {
			t.Errorf("parseDuration(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for s, want := range map[string]int{"1": 1, "4Ki": 4096, "64Mi": 64 << 20, "1Gi": 1 << 30} {
		if got, err := parseBytes(s); got != want || err != nil {
			t.Errorf("parseBytes(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
}
